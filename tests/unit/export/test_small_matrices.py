"""What stands for functions that ONNX has no operators for, against PyTorch's own."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - as users write it

from kspacesr_rt.export.module_graph import FUNCTIONS

ROWS = (1, 2, 3, 8)
TYPES = (torch.float32, torch.complex64)


def stand_in(function, *given, **named):
    return FUNCTIONS[function](*given, **named)


def matrices(n, dtype, m=None, batch=20):
    """Return matrices whose largest pivots are anywhere, none of them nearly singular."""
    generator = torch.Generator().manual_seed(n)
    made = torch.randn(batch, n, m or n, dtype=dtype, generator=generator)
    return made if m else 0.2 * made + 2.0 * torch.eye(n).flip(0)


def definite(n, dtype):
    return matrices(n, dtype) @ matrices(n, dtype).mH + torch.eye(n)


def of_types(value):
    return value if isinstance(value, tuple) else (value,)


def require_same(function, *given, **named):
    found, expected = stand_in(function, *given, **named), function(*given, **named)
    for one, other in zip(of_types(found), of_types(expected), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", ROWS)
def test_elimination_solves_as_pytorch_does(n, dtype):
    matrix, beside = matrices(n, dtype), matrices(n, dtype, 2)
    require_same(torch.linalg.inv, matrix)
    require_same(torch.inverse, matrix)
    require_same(torch.linalg.solve, matrix, beside)
    require_same(torch.linalg.solve, matrix, beside[..., 0])
    require_same(torch.linalg.solve, matrix, beside[:1])
    require_same(torch.linalg.solve, matrix[0], beside[0, :, 0])
    require_same(torch.linalg.solve, matrix, beside.mT, left=False)
    require_same(torch.linalg.matrix_power, matrix, -2)
    require_same(torch.linalg.matrix_power, matrix * 0.3, 5)
    require_same(torch.linalg.matrix_power, matrix, 0)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", ROWS)
def test_determinants_have_the_sign_of_the_rows_that_changed_places(n, dtype):
    require_same(torch.linalg.det, matrices(n, dtype))
    require_same(torch.det, matrices(n, dtype))
    sign, logarithm = stand_in(torch.linalg.slogdet, matrices(n, dtype))
    expected = torch.linalg.slogdet(matrices(n, dtype))
    torch.testing.assert_close(sign, expected.sign, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logarithm, expected.logabsdet, atol=1e-5, rtol=1e-5)


def test_a_singular_matrix_has_no_determinant_and_no_logarithm():
    assert stand_in(torch.linalg.det, torch.ones(2, 2)) == 0
    assert stand_in(torch.logdet, -torch.eye(3)).isnan()
    require_same(torch.logdet, matrices(3, torch.float32))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("upper", [False, True])
def test_factors_and_triangular_solutions(n, dtype, upper):
    beside = matrices(n, dtype, 2)
    factor = torch.linalg.cholesky(definite(n, dtype), upper=upper)
    require_same(torch.linalg.cholesky, definite(n, dtype), upper=upper)
    require_same(torch.cholesky_solve, beside, factor, upper)
    require_same(torch.linalg.solve_triangular, factor, beside, upper=upper)
    require_same(torch.linalg.solve_triangular, factor, beside.mT, upper=upper, left=False)
    unit = 0.1 * factor
    require_same(torch.linalg.solve_triangular, unit, beside, upper=upper, unitriangular=True)


@pytest.mark.parametrize("dtype", TYPES)
def test_covariances(dtype):
    for rows in (matrices(3, dtype, 9)[0], matrices(3, dtype, 9)[0, 0]):
        require_same(torch.cov, rows)
        require_same(torch.cov, rows, correction=0)
        require_same(torch.corrcoef, rows)


@pytest.mark.parametrize("name", ["i0", "i0e", "i1", "i1e"])
def test_bessel_functions_in_fp32_to_their_last_digits(name):
    """2.8e-7 of the value, on either side of where the two polynomials meet."""
    places = torch.linspace(-30.0, 30.0, 6001)
    function = getattr(torch.special, name)
    exact = function(places.double())
    error = (stand_in(function, places) - exact).abs()
    assert (error <= 3e-7 * exact.abs()).all()


def test_the_inverse_error_function_to_its_ends():
    places = torch.cat([torch.linspace(-1.0, 1.0, 4001), torch.tensor([0.9999999, -1e-30, 1.5])])
    require_same(torch.erfinv, places)
    require_same(torch.special.ndtri, torch.linspace(0.0, 1.0, 401))


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("length", [1, 2, 9, 64])
def test_kaiser_windows(length, periodic):
    for beta in (0.0, 3.0, 12.0, 50.0):
        require_same(torch.kaiser_window, length, periodic, beta)


def test_the_slope_of_rrelu_is_the_mean_one():
    values = torch.linspace(-2.0, 2.0, 41)
    require_same(F.rrelu, values)
    require_same(F.rrelu, values, 0.1, 0.2)
    with pytest.raises(NotImplementedError, match="which draws numbers"):
        stand_in(F.rrelu, values, training=True)


def test_order_statistics_of_what_is_a_number():
    values = torch.randint(0, 4, (6, 9), generator=torch.Generator().manual_seed(1)).float()
    values[0, :3] = values[1] = float("nan")
    assert torch.equal(stand_in(torch.nanmedian, values), torch.nanmedian(values))
    for keepdim in (False, True):
        found = stand_in(torch.nanmedian, values, -1, keepdim)[0]
        torch.testing.assert_close(found, values.nanmedian(-1, keepdim)[0], equal_nan=True)
        for dim in (0, 1):
            require_same(torch.mode, values[2:], dim, keepdim)
