"""Linear algebra of small matrices, such as over coils, by elimination written out row by row.

ONNX has no inverse and no solver, so that each step becomes operators of its own, and the number
of rows must be a number: that of coils, not that of the image. Written with torch operators, so
that complex matrices need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST_ROWS = 32
"""Rows that are eliminated one by one, each in some 15 operators; 32 is a head coil's channels."""


class SignAndLogarithm(NamedTuple):
    """What `torch.linalg.slogdet` returns."""

    sign: Tensor
    logabsdet: Tensor


def _rows(value: Tensor, what: str) -> int:
    """Return how many rows a square matrix has, a number."""
    rows, columns = value.shape[-2:]
    if not isinstance(rows, int) or not isinstance(columns, int) or rows > MOST_ROWS:
        raise NotImplementedError(
            f"{what} of matrices as large as the image, or of more than {MOST_ROWS} rows: "
            "write it for small ones, over coils or channels, or as steps of an iteration"
        )
    if rows != columns:
        raise NotImplementedError(f"{what} of matrices that are not square")
    return rows


class _Elimination:
    """A matrix and what stands beside it, brought to the identity column by column.

    In each column the row with the largest modulus is the pivot, as LAPACK takes it.
    """

    def __init__(self, matrix: Tensor, beside: Tensor | None, what: str) -> None:
        self._n = _rows(matrix, what)
        self.left = matrix if beside is None else torch.cat([matrix, beside], dim=-1)
        self.pivots: list[Tensor] = []
        self.swaps: list[Tensor] = []
        """Whether a column's pivot stood in another row."""
        for at in range(self._n):
            self._eliminate(at)

    def _eliminate(self, at: int) -> None:
        """Bring the first column that is left to that of the identity, and leave it out."""
        above, below = self.left[..., :at, :], self.left[..., at:, :]
        if at < self._n - 1:
            moduli = below[..., 0].abs()
            largest = moduli.argmax(dim=-1, keepdim=True)
            chosen = (torch.arange(self._n - at) == largest).unsqueeze(-1)
            pivot = torch.where(chosen, below, torch.zeros_like(below)).sum(-2, keepdim=True)
            below = torch.where(chosen, below[..., :1, :], below)[..., 1:, :]
            self.swaps.append(largest[..., 0] > 0)
        else:
            pivot, below = below, below[..., 1:, :]
        self.pivots.append(pivot[..., 0, 0])
        scaled = pivot[..., 1:] / pivot[..., :1]
        parts = [
            part[..., 1:] - part[..., :1] * scaled
            for part, rows in ((above, at), (below, self._n - at - 1))
            if rows
        ]
        parts.insert(1 if at else 0, scaled)
        self.left = torch.cat(parts, dim=-2) if len(parts) > 1 else scaled

    def sign(self) -> Tensor:
        """Return 1, or -1 where an odd number of rows changed places."""
        result = torch.ones_like(self.pivots[0].abs())
        for swap in self.swaps:
            result = torch.where(swap, -result, result)
        return result


def _solved(matrix: Tensor, beside: Tensor, what: str) -> Tensor:
    shape = torch.broadcast_shapes(  # type: ignore[no-untyped-call]  # untyped in torch's stubs
        matrix.shape[:-2], beside.shape[:-2]
    )
    matrix, beside = (one.expand(*shape, *one.shape[-2:]) for one in (matrix, beside))
    return _Elimination(matrix, beside, what).left


def inverse(value: Tensor) -> Tensor:
    """As `torch.linalg.inv`."""
    n = _rows(value, "an inverse")
    identity = torch.eye(n, dtype=value.dtype).expand(value.shape)
    return _Elimination(value, identity, "an inverse").left


def solve(matrix: Tensor, beside: Tensor, *, left: bool = True) -> Tensor:
    """As `torch.linalg.solve`."""
    if not left:
        return _solved(matrix.mT, beside.mT, "a solution").mT
    as_vector = beside.dim() == 1 or beside.dim() == matrix.dim() - 1
    if not as_vector:
        return _solved(matrix, beside, "a solution")
    return _solved(matrix, beside.unsqueeze(-1), "a solution").squeeze(-1)


def _product(values: list[Tensor]) -> Tensor:
    result = values[0]
    for one in values[1:]:
        result = result * one
    return result


def determinant(value: Tensor) -> Tensor:
    """As `torch.linalg.det`."""
    done = _Elimination(value, None, "a determinant")
    return _product(done.pivots) * done.sign()


def sign_and_logarithm(value: Tensor) -> SignAndLogarithm:
    """As `torch.linalg.slogdet`: the logarithm of each pivot, as a product may overflow."""
    done = _Elimination(value, None, "a determinant")
    logarithms = torch.stack([one.abs().log() for one in done.pivots])
    sign = _product([torch.sgn(one) for one in done.pivots]) * done.sign()
    return SignAndLogarithm(sign, logarithms.sum(0))


def logarithm_of_determinant(value: Tensor) -> Tensor:
    """As `torch.logdet` of real matrices: nan where the determinant is negative."""
    found = sign_and_logarithm(value)
    return torch.where(found.sign < 0, torch.full((), float("nan")), found.logabsdet)


def cholesky(value: Tensor, *, upper: bool = False) -> Tensor:
    """As `torch.linalg.cholesky`: column by column."""
    n = _rows(value, "a Cholesky factor")
    columns: list[Tensor] = []
    rest = value
    for at in range(n):
        column = rest[..., :1] / rest[..., :1, :1].real.sqrt()
        if at < n - 1:
            lower = column[..., 1:, :]
            rest = rest[..., 1:, 1:] - lower * lower.mH
        columns.append(torch.nn.functional.pad(column, (0, 0, at, 0)))
    made = torch.cat(columns, dim=-1)
    return torch.conj_physical(made.mT) if upper else made


def solve_triangular(
    matrix: Tensor,
    beside: Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Tensor:
    """As `torch.linalg.solve_triangular`: row after row."""
    if not left:
        turned = solve_triangular(
            matrix.mT, beside.mT, upper=not upper, unitriangular=unitriangular
        )
        return turned.mT
    n = _rows(matrix, "a triangular solution")
    found: dict[int, Tensor] = {}
    for row in reversed(range(n)) if upper else range(n):
        value = beside[..., row : row + 1, :]
        for other, known in found.items():
            value = value - matrix[..., row : row + 1, other : other + 1] * known
        found[row] = value if unitriangular else value / matrix[..., row : row + 1, row : row + 1]
    return torch.cat([found[row] for row in range(n)], dim=-2)


def cholesky_solve(beside: Tensor, factor: Tensor, upper: bool = False) -> Tensor:
    """As `torch.cholesky_solve`."""
    adjoint = torch.conj_physical(factor.mT)
    lower, above = (adjoint, factor) if upper else (factor, adjoint)
    return solve_triangular(above, solve_triangular(lower, beside, upper=False), upper=True)


def matrix_power(value: Tensor, n: int) -> Tensor:
    """As `torch.linalg.matrix_power`."""
    if n < 0:
        value, n = inverse(value), -n
    if n == 0:
        return torch.eye(_rows(value, "a power"), dtype=value.dtype).expand(value.shape)
    result: Tensor | None = None
    while n:
        if n % 2:
            result = value if result is None else result @ value
        value, n = value @ value if n > 1 else value, n // 2
    assert result is not None
    return result


def covariance(
    value: Tensor, *, correction: int = 1, fweights: Any = None, aweights: Any = None
) -> Tensor:
    """As `torch.cov`, of rows of samples."""
    if fweights is not None or aweights is not None:
        raise NotImplementedError(
            "torch.cov with weights: subtract the weighted mean and multiply with the transpose"
        )
    rows = value.reshape(1, -1) if value.dim() < 2 else value
    centred = rows - rows.mean(dim=-1, keepdim=True)
    # As a tensor: the length may follow from the matrix.
    count = torch.ones_like(rows[:1].abs()).sum() - float(correction)
    made = (centred @ centred.mH) / count
    return made.reshape(()) if value.dim() < 2 else made


def correlation(value: Tensor) -> Tensor:
    """As `torch.corrcoef`."""
    made = covariance(value)
    if made.dim() == 0:
        return made / made
    spread = made.diagonal().abs().sqrt()
    return made / spread.unsqueeze(0) / spread.unsqueeze(1)


def _refused(name: str, instead: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{name}, which ONNX has no operators for: {instead}")

    return refuse


_NORMAL_EQUATIONS = (
    "write torch.linalg.solve(a.mH @ a + eps * torch.eye(n), a.mH @ b), of a small number n of "
    "columns"
)
_LOW_RANK = (
    "write what it is for as products (power iteration, a learned low-rank factor), or keep that "
    "step outside the network"
)
_LINALG: dict[str, Callable[..., Any]] = {
    "inv": inverse,
    "solve": solve,
    "det": determinant,
    "slogdet": sign_and_logarithm,
    "cholesky": cholesky,
    "solve_triangular": solve_triangular,
    "matrix_power": matrix_power,
    "pinv": _refused("a pseudo-inverse", _NORMAL_EQUATIONS),
    "lstsq": _refused("least squares", _NORMAL_EQUATIONS),
    **{
        name: _refused(f"torch.linalg.{name}", _LOW_RANK)
        for name in ("svd", "svdvals", "eig", "eigh", "eigvals", "eigvalsh", "qr", "lu")
    },
    "lu_factor": _refused("torch.linalg.lu_factor", "write torch.linalg.solve(a, b)"),
    "ldl_factor": _refused("torch.linalg.ldl_factor", "write torch.linalg.solve(a, b)"),
    "matrix_exp": _refused(
        "torch.linalg.matrix_exp", "write the first terms of its series with matrix products"
    ),
    "matrix_rank": _refused("torch.linalg.matrix_rank", "state the rank as a number"),
    "cond": _refused(
        "torch.linalg.cond", "write a.norm() * torch.linalg.inv(a).norm() of a small matrix"
    ),
}
_TORCH: dict[str, Callable[..., Any]] = {
    "inverse": inverse,
    "det": determinant,
    "slogdet": sign_and_logarithm,
    "logdet": logarithm_of_determinant,
    "cholesky_solve": cholesky_solve,
    "matrix_power": matrix_power,
    "cov": covariance,
    "corrcoef": correlation,
    "pinverse": _refused("a pseudo-inverse", _NORMAL_EQUATIONS),
    "svd": _refused("torch.svd", _LOW_RANK),
    "svd_lowrank": _refused("torch.svd_lowrank", _LOW_RANK),
    "pca_lowrank": _refused("torch.pca_lowrank", _LOW_RANK),
    "lobpcg": _refused("torch.lobpcg", _LOW_RANK),
    "qr": _refused("torch.qr", _LOW_RANK),
    "cholesky": lambda value, upper=False: cholesky(value, upper=upper),
    "matrix_exp": _LINALG["matrix_exp"],
}
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **{getattr(torch.linalg, name): function for name, function in _LINALG.items()},
    **{
        getattr(home, name): function
        for name, function in _TORCH.items()
        for home in (torch, torch.Tensor)
        if hasattr(home, name)
    },
}
