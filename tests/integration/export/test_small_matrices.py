"""Linear algebra over coils and special functions, which ONNX lacks: exported and refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as users write it

import kspacesr_rt as ks
from kspacesr_rt.errors import ExportError
from kspacesr_rt.export.module_graph import exported_graph, open_axes
from kspacesr_rt.export.real_program import RealProgram
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model
from kspacesr_rt.runtime.backends import open_backend

REQUIRED_DB = 100.0


def coils(x, n=2):
    """Return a matrix for each sample, ``(n, y, x, coils, coils)``, its pivots out of place."""
    made = x.permute(0, 2, 3, 1).unsqueeze(-1) * torch.arange(1.0, n * n + 1).cos().reshape(n, n)
    return made + 2.0 * torch.eye(n).flip(0)


def complex_coils(x):
    return torch.complex(coils(x), 0.3 * coils(x.flip(-1)))


def definite(x):
    return complex_coils(x) @ complex_coils(x).mH + torch.eye(2)


REFUSED = {
    "svd": (lambda x: torch.linalg.svd(x)[1].sum() + x, "svd, which ONNX has no operators for"),
    "eigh": (lambda x: torch.linalg.eigh(definite(x))[0].sum() + x, "eigh, which ONNX has no"),
    "pinv": (lambda x: torch.linalg.pinv(coils(x)).sum() + x, "solve\\(a.mH @ a"),
    "inv of the image": (lambda x: torch.linalg.inv(x @ x.mT) @ x, "as large as the image"),
    "inv of no square": (lambda x: torch.linalg.inv(coils(x, 3)[..., :2]) + 0 * x, "not square"),
    "mode of rows": (lambda x: torch.mode(x.round(), -1, True)[0] + 0 * x, "torch.mode over more"),
    "cov with weights": (
        lambda x: torch.cov(x[0, 0], aweights=x[0, 0, 0])[:1, :1] + x,
        "torch.cov with weights",
    ),
}


def called(function, x):
    """Stand for a helper in a file of its own: what is named is the line in it, not this one."""
    return function(x)


class Helped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, lr):
        return called(self.function, lr)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_where_and_what_to_write(name):
    function, says = REFUSED[name]
    example = torch.rand(3, 1, 18, 22)
    line = function.__code__.co_firstlineno
    with pytest.raises(ExportError, match=rf"test_small_matrices\.py:{line}.*{says}") as raised:
        exported_graph(Helped(function), example, open_axes(example, batch=True, matrix=True))
    assert "\n" not in str(raised.value)


def test_a_line_of_a_helper_is_the_place_and_not_the_layer_that_calls_it():
    """`torch.export` keeps the lines of methods called forward alone."""
    example = torch.rand(3, 1, 18, 22)
    function = lambda x: torch.relu(torch.complex(x, x))  # noqa: E731 - its line is looked for
    graph = exported_graph(Helped(function), example, {})
    line = function.__code__.co_firstlineno
    with pytest.raises(ExportError, match=rf"test_small_matrices\.py:{line} .*relu"):
        RealProgram(graph)(example)


class OfCoils(nn.Module):
    """Whitening and unmixing of channels, as users write it, and the functions beside it."""

    def forward(self, lr):
        mixed = torch.linalg.solve(definite(lr), complex_coils(lr.flip(-1)))
        white = torch.linalg.solve_triangular(
            torch.linalg.cholesky(definite(lr)), mixed, upper=False
        )
        weight = torch.linalg.inv(coils(lr)).sum((-1, -2)) + torch.linalg.det(coils(lr))
        image = white.abs().sum((-1, -2)) + weight
        image = image.unsqueeze(1) * torch.kaiser_window(lr.shape[-1], False, 3.0)
        largest = lr.amax((1, 2, 3), keepdim=True)
        image = (
            image
            + torch.i0(6 * lr / largest)
            + torch.erfinv(0.9 * lr / largest)
            + F.rrelu(lr - 0.3)
        )
        middle = torch.nanmedian(lr, -1, keepdim=True).values
        patches = F.unfold(lr.mul(3).round(), 3, padding=1).mode(1).values.reshape(lr.shape)
        return F.interpolate(image + middle + patches, scale_factor=2.0)


@pytest.fixture(scope="module")
def of_coils(tmp_path_factory):
    path = tmp_path_factory.mktemp("coils") / "net.onnx"
    return path, ks.export_module(OfCoils().eval(), path, upscale=2, name="coils")


@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_they_run_at_any_matrix_on_any_runtime(of_coils, backend):
    pytest.importorskip({"ort-cpu": "onnxruntime"}.get(backend, backend))
    path, exported = of_coils
    assert exported.spec.fixed_matrix == (0, 0)
    assert not exported.spec.single_slice
    assert exported.spec.lowering == "none"  # there is no transform to lower
    model = load_model(path)
    for matrix in ((36, 44), (41, 33)):
        with open_backend(backend, bind(model, matrix)) as opened:
            image = torch.rand(3, 1, *matrix, generator=torch.Generator().manual_seed(2))
            with torch.no_grad():
                expected = OfCoils()(image)
            error = (torch.from_numpy(opened.run(image.numpy())) - expected).square().mean()
            assert 10 * torch.log10(expected.abs().max() ** 2 / error) >= REQUIRED_DB
