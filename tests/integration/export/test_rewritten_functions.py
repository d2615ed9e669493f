"""Functions that torch's exporters take badly: open in batch and matrix, and the same numbers."""

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

ROTATION = torch.tensor([[[0.9, 0.1, 0.05], [-0.1, 0.9, -0.02]]])
REQUIRED_DB = 100.0


def k(x):
    return torch.complex(x, x.flip(-1) - 0.3)


def warped(x, align_corners):
    grid = F.affine_grid(ROTATION.expand(len(x), -1, -1), x.shape, align_corners=align_corners)
    return F.grid_sample(x, grid, align_corners=align_corners)


def assigned(x):
    out, mask = x.clone(), x > 0.4
    out[mask] = 2 * x.flip(-1)[mask] - x[x > 0.4]
    return out


def assigned_pixels(x):
    out, mask = torch.cat([x, x], 1), x[:, 0] > 0.4
    out.permute(0, 2, 3, 1)[mask] = torch.cat([x.flip(-1), -x], 1).permute(0, 2, 3, 1)[mask]
    return out


def assigned_samples(x):
    out = torch.zeros_like(k(x))
    mask = k(x).abs() > 0.5
    out[mask] = 2 * k(x)[mask]
    return out.real + out.imag


def scattered(x):
    return x.masked_scatter(x > 0.5, x.flip(-1)[x > 0.5])


FUNCTIONS = {
    "take_along_dim": lambda x: torch.take_along_dim(x, x.argsort(-1), -1),
    "take_along_dim of fewer": lambda x: x.take_along_dim(x[:, :, :1].argmax(-1, True), -1),
    "take_along_dim of all": lambda x: torch.take_along_dim(x, x.flatten().argsort()),
    "gradient": lambda x: torch.gradient(x, dim=(-2, -1))[1],
    "gradient with a spacing": lambda x: torch.gradient(x, spacing=0.5, dim=-1, edge_order=2)[0],
    "hstack": lambda x: torch.hstack([x, x * 2]),
    "vstack": lambda x: torch.vstack([x[0, 0], x[0, 0]]),
    "dstack": lambda x: torch.dstack([x, x]),
    "column_stack": lambda x: torch.column_stack([x, x]),
    "std_mean": lambda x: torch.cat(torch.std_mean(x, dim=(2, 3), keepdim=True)),
    "std_mean of all": lambda x: torch.stack(torch.std_mean(x)),
    "var_mean": lambda x: torch.cat(torch.var_mean(x, dim=-1, unbiased=False)),
    "var_mean with a correction": lambda x: torch.cat(torch.var_mean(x, dim=2, correction=0)),
    "affine_grid": lambda x: warped(x, False),
    "affine_grid of corners": lambda x: warped(x, True),
    "tensor_split": lambda x: torch.cat(x.tensor_split(5, dim=-1)[::-1], -1),
    "tensor_split at": lambda x: torch.cat(torch.tensor_split(x, (3, -4), dim=-2)[::-1], -2),
    "hsplit": lambda x: torch.hsplit(x[0, 0], (3, 7))[1],
    "histc": lambda x: torch.histc(x, 7, 0.1, 1.2),
    "histc of all": lambda x: torch.histc(x, 5),
    "adaptive_max_pool2d of halves": lambda x: F.adaptive_max_pool2d(
        x, (x.shape[-2] // 4, x.shape[-1] // 2)
    ),
    "adaptive_max_pool2d of a size": lambda x: F.adaptive_max_pool2d(x, (5, None)),
    "adaptive_max_pool2d of one": lambda x: F.adaptive_max_pool2d(x, 1),
    "irfft": lambda x: torch.fft.irfft(k(x), n=x.shape[-1] - 1, norm="ortho"),
    "fft": lambda x: torch.fft.fft(k(x), n=2 * x.shape[-2], dim=-2, norm="ortho").abs(),
    "rfftn": lambda x: torch.fft.rfftn(x, s=(x.shape[-1] - 3,), dim=(-1,), norm="ortho").abs(),
    "hfft": lambda x: torch.fft.hfft(k(x), n=x.shape[-1], norm="ortho"),
    "hfft of half": lambda x: torch.fft.hfft(k(x), dim=-2),
    "ihfft": lambda x: torch.view_as_real(torch.fft.ihfft(x).resolve_conj()),
    "hfft2": lambda x: torch.fft.hfft2(k(x), s=x.shape[-2:], norm="forward"),
    "ihfft2": lambda x: torch.view_as_real(torch.fft.ihfft2(x, norm="backward")),
    "hfftn": lambda x: torch.fft.hfftn(torch.fft.ihfftn(x, dim=(-2, -1)), x.shape[-2:], (-2, -1)),
    "polygamma": lambda x: torch.polygamma(2, x + 0.4) - x.polygamma(1),
    "digamma": lambda x: torch.special.polygamma(0, x) + torch.digamma(x + 3),
    "kaiser of torch.signal": lambda x: x * torch.signal.windows.kaiser(x.shape[-1], beta=8.0),
    "bartlett_window": lambda x: x * torch.bartlett_window(x.shape[-1]),
    "hamming_window": lambda x: x * torch.hamming_window(x.shape[-1], False, 0.5, 0.4),
    "blackman_window": lambda x: x * torch.blackman_window(x.shape[-1]),
    "cdist": lambda x: torch.cdist(x[:, 0], x[:, 0] * 0.5),
    "cdist of sums": lambda x: torch.cdist(x[:, 0], x[:, 0] * 0.5, p=1.0),
    "copysign": lambda x: torch.copysign(x, x.flip(-1) - 0.5),
    "fmax, fmin": lambda x: torch.fmax(x, x.flip(-1)) - torch.fmin(x, x.flip(-1)),
    "index_add": lambda x: x.index_add(1, torch.tensor([0, 0]), torch.cat([x, -2 * x], 1), alpha=3),
    "isin": lambda x: torch.isin(x.round(), torch.tensor([1.0, 3.0])).float(),
    "searchsorted": lambda x: torch.searchsorted(torch.tensor([0.2, 0.5, 0.9]), x).float(),
    "median": lambda x: torch.median(x, dim=-1, keepdim=True).values,
    "median of patches": lambda x: F.unfold(x, 3, padding=1).median(1)[0],
    "median of all": torch.median,
    "kthvalue": lambda x: x.kthvalue(3, dim=2)[0],
    "quantile": lambda x: torch.quantile(x.flatten(1), 0.3, dim=1),
    "quantiles": lambda x: x.flatten(1).quantile(
        torch.tensor([0.1, 0.5, 1.0]), dim=1, keepdim=True
    ),
    "quantile of all": lambda x: torch.quantile(x, 0.9, interpolation="higher"),
    "cummax": lambda x: torch.cummax(x, -1)[0],
    "cummax, places": lambda x: torch.cummax(x, 2).indices.float(),
    "cummin": lambda x: x.cummin(dim=-1).values,
    "cumprod": lambda x: torch.cumprod(x + 0.6, -1),
    "cumprod of complex": lambda x: torch.view_as_real(k(x).cumprod(-1)),
    "logcumsumexp": lambda x: torch.logcumsumexp(x, -1),
    "assignment by a mask": assigned,
    "assignment of pixels": assigned_pixels,
    "assignment of complex samples": assigned_samples,
    "masked_scatter of the same": scattered,
    "masked_scatter of others": lambda x: x.masked_scatter(x > 0.5, x.flip(-1)),
    "amax of all": lambda x: x / x.amax() - x.amin(),
    "statistics of chosen samples": lambda x: (
        x[x > 0.4].mean()
        + x[x > 0.4].amax()
        - x[x > 0.4].min()
        + torch.masked_select(x, x > 1).sum()
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_open_lengths_computes_what_pytorch_does(name):
    class Network(nn.Module):
        def forward(self, lr):
            return FUNCTIONS[name](lr)

    example = torch.rand(3, 1, 18, 22)
    axes = open_axes(example, batch=True, matrix=True)
    program = RealProgram(exported_graph(Network(), example, axes))
    for shape in ((1, 1, 16, 16), (2, 1, 19, 33)):
        image = 1.5 * torch.rand(shape, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            found, expected = program(image), FUNCTIONS[name](image)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


REFUSED = {
    "places of samples": (lambda x: x + torch.nonzero(x > 0).sum(), r"nonzero.*NonZero"),
    "samples in a row": (lambda x: x + x[x > 0].sort()[0].mean(), r"aten::sort of samples chosen"),
    "samples of another mask": (
        lambda x: torch.where(x > 9, x, x.masked_scatter(x > 1, x[x > -1])),
        r"masked_scatter of samples chosen",
    ),
    "counts of values": (
        lambda x: x + torch.bincount(x.long().flatten())[0],
        r"bincount, whose length follows from values: torch\.histc",
    ),
    "coordinates": (
        lambda x: torch.gradient(x, spacing=(torch.arange(36.0),), dim=-2)[0],
        r"gradient at given coordinates",
    ),
}


class Doubled(nn.Module):
    """A function, and what makes its result twice as large."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, lr):
        return F.interpolate(self.function(lr), scale_factor=2)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_names_the_operator_and_the_line(name, tmp_path):
    function, says = REFUSED[name]
    with pytest.raises(ExportError, match=rf"test_rewritten_functions\.py:\d+.*{says}") as raised:
        ks.export_module(
            Doubled(function).eval(),
            tmp_path / "net.onnx",
            upscale=2,
            name="net",
            fixed_matrix=(36, 36),
        )
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


class OfManyKinds(nn.Module):
    """Recurrences over rows and columns, a warped image, order statistics, masks."""

    def __init__(self):
        super().__init__()
        self.rows = nn.GRU(1, 3, num_layers=2, bidirectional=True, batch_first=True)
        self.columns, self.plain = nn.LSTM(6, 4), nn.RNN(4, 4, bias=False)
        self.last = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, lr):
        n, _, rows, columns = lr.shape
        along = self.rows(lr.reshape(n * rows, columns, 1))[0].reshape(n, rows, columns, 6)
        across = along.permute(1, 0, 2, 3).reshape(rows, n * columns, 6)
        across, (hidden, _) = self.columns(across)
        across = self.plain(across)[0] + hidden
        features = across.reshape(rows, n, columns, 4).permute(1, 3, 0, 2)
        features = warped(features, False).cummax(-1).values
        middle = F.unfold(lr, 3, padding=1).median(1).values.reshape(n, 1, rows, columns)
        kept = lr.clone()
        kept[lr > 0.5] = middle[lr > 0.5]
        return F.pixel_shuffle(self.last(features), 2) + F.interpolate(kept, scale_factor=2.0)


@pytest.fixture(scope="module")
def of_many_kinds(tmp_path_factory):
    torch.manual_seed(0)
    network, path = OfManyKinds().eval(), tmp_path_factory.mktemp("kinds") / "net.onnx"
    exported = ks.export_module(network, path, upscale=2, name="kinds")
    return network, path, exported


@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_recurrent_layers_and_masks_run_at_any_matrix_on_any_runtime(of_many_kinds, backend):
    """A recurrence is one node: its steps are not those of the matrix it was traced with."""
    pytest.importorskip({"ort-cpu": "onnxruntime"}.get(backend, backend))
    network, path, exported = of_many_kinds
    assert exported.spec.fixed_matrix == (0, 0)
    assert not exported.spec.single_slice
    model = load_model(path)
    kinds = [node.op_type for node in model.proto.graph.node]
    assert (kinds.count("GRU"), kinds.count("LSTM"), kinds.count("RNN")) == (2, 1, 1)
    for matrix in ((36, 44), (41, 33)):
        with open_backend(backend, bind(model, matrix)) as opened:
            for n in (1, 3):
                image = torch.rand(n, 1, *matrix, generator=torch.Generator().manual_seed(n))
                with torch.no_grad():
                    expected = network(image)
                error = (torch.from_numpy(opened.run(image.numpy())) - expected).square().mean()
                assert 10 * torch.log10(expected.abs().max() ** 2 / error) >= REQUIRED_DB
