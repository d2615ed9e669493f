"""TorchScript networks are exported as the ones they were made of."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as users write it

import kspacesr_rt as ks
from kspacesr_rt.errors import ExportError
from kspacesr_rt.export.module_graph import exported_graph, open_axes
from kspacesr_rt.export.real_program import RealProgram
from kspacesr_rt.export.scripted_networks import without_scripts

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of torch.jit, that it will go


class Network(nn.Module):
    """What scripts hold: lengths, loops, branches, lists, text, layers in layers, a transform."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU())
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.up, self.last = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(16, 4, 3, padding=1)
        self.shuffle, self.depth = nn.PixelShuffle(2), 2

    def forward(self, lr):
        features = self.first(lr)
        if features.dim() != 4:
            raise ValueError(f"{features.dim()} axes")
        coarse = F.gelu(self.down(features))
        for _ in range(self.depth):
            coarse = coarse + torch.sigmoid(coarse)
        rows, columns = features.shape[-2], features.shape[-1]
        if columns > 100_000:
            coarse = coarse * 2
        fine = self.up(coarse)[..., :rows, :columns]
        fine = torch.fft.ifft2(torch.fft.fft2(fine) * 0.5).real
        parts = [features]
        parts.append(fine)
        up = F.interpolate(lr, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.shuffle(self.last(torch.cat(parts, 1))) + up


class Around(nn.Module):
    """A network with a compiled layer."""

    def __init__(self, core):
        super().__init__()
        self.core = core

    def forward(self, lr):
        return self.core(lr * 0.5)


def network():
    torch.manual_seed(0)
    return Network().eval()


def loaded(folder):
    torch.jit.save(torch.jit.script(network()), folder / "net.pt")
    return torch.jit.load(folder / "net.pt")


def traced(_):
    with warnings.catch_warnings():  # that the branch by a length is taken for good
        warnings.simplefilter("ignore")
        return torch.jit.trace(network(), torch.rand(2, 1, 32, 32))


MADE = {
    "script": lambda _: torch.jit.script(network()),
    "trace": traced,
    "frozen": lambda _: torch.jit.freeze(torch.jit.script(network())),
    "layer": lambda _: Around(torch.jit.script(network())).eval(),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_script_is_traced_with_batch_and_matrix_open(kind, tmp_path):
    """Loops are run, and decisions made by lengths, as they are in Python."""
    script = MADE[kind](tmp_path)
    image = torch.rand(2, 1, 35, 42)
    with torch.no_grad():
        expected = script(image)
    example = torch.rand(3, 1, 18, 22)
    axes = open_axes(example, batch=True, matrix=True)
    program = RealProgram(exported_graph(without_scripts(script), example, axes))
    with torch.no_grad():
        torch.testing.assert_close(program(image), expected, atol=1e-5, rtol=1e-5)


def test_a_script_from_a_file_is_proved_against_itself_at_any_matrix(tmp_path):
    script = loaded(tmp_path)
    made = ks.export_module(script, tmp_path / "net.onnx", upscale=2, name="scripted")
    assert (made.spec.fixed_matrix, made.spec.matrix_multiple) == ((0, 0), 1)
    image = np.random.default_rng(0).random((2, 31, 50), dtype=np.float32)
    with ks.load(tmp_path / "net.onnx") as model, torch.no_grad():
        expected = script(torch.from_numpy(image)[:, None])[:, 0].numpy()
        np.testing.assert_allclose(model(image), expected, atol=2e-5)


class Raises(nn.Module):
    def forward(self, lr):
        if lr.shape[-1] > 8:
            raise ValueError("too wide")
        return lr


def test_what_a_script_raises_is_named_with_its_line():
    script = without_scripts(torch.jit.script(Raises().eval()))
    with pytest.raises(ExportError, match=r"test_scripted_networks\.py:\d+: .*too wide"):
        script(torch.rand(1, 1, 9, 9))
    assert torch.equal(script(torch.ones(1, 1, 8, 8)), torch.ones(1, 1, 8, 8))
