"""Networks that compute with lengths in plain Python stay open in batch and matrix."""

import pytest
import sympy
import torch
from torch import nn
from torch.nn import functional

from kspacesr_rt.export.dynamic_lengths import short_division
from kspacesr_rt.export.module_graph import exported_graph, open_axes
from kspacesr_rt.export.network_probe import Layout, probed
from kspacesr_rt.export.real_program import RealProgram

SIDE = 4


def windows_of(image):
    n, rows, columns, c = image.shape
    cut = image.view(n, rows // SIDE, SIDE, columns // SIDE, SIDE, c)
    return cut.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, SIDE * SIDE, c)


def image_of(windows, rows, columns):
    n = int(windows.shape[0] / (rows * columns / SIDE / SIDE))
    cut = windows.view(n, rows // SIDE, columns // SIDE, SIDE, SIDE, -1)
    return cut.permute(0, 1, 3, 2, 4, 5).contiguous().view(n, rows, columns, -1)


class WindowAttention(nn.Module):
    """As window transformers are written: padded to windows, which are counted by division."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(1, 12), nn.Linear(4, 4)

    def forward(self, lr):
        rows, columns = lr.shape[-2:]
        below, right = (SIDE - rows % SIDE) % SIDE, (SIDE - columns % SIDE) % SIDE
        image = functional.pad(lr, (0, right, 0, below), "reflect").permute(0, 2, 3, 1)
        q, k, v = self.into(windows_of(image)).chunk(3, -1)
        found = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        features = image_of(self.out(found), *image.shape[1:3]).permute(0, 3, 1, 2)
        upscaled = functional.pixel_shuffle(features, 2)
        return upscaled[:, :, : 2 * rows, : 2 * columns]


def test_a_window_transformer_stays_open_in_batch_and_matrix():
    torch.manual_seed(0)
    network = WindowAttention().eval()
    example = torch.rand(3, 1, 18, 22)
    program = RealProgram(
        exported_graph(network, example, open_axes(example, batch=True, matrix=True))
    )
    assert isinstance(5 / 2, float)
    for shape in ((1, 1, 16, 16), (3, 1, 17, 21), (2, 1, 24, 30)):
        image = torch.rand(shape)
        with torch.no_grad():
            assert torch.allclose(program(image), network(image), atol=1e-6), shape


@pytest.mark.parametrize(
    ("stated", "common"),
    [({}, 1), ({"window_size": 8}, 8), ({"window_size": 4, "split_size": (4, 6)}, 12)],
    ids=["none", "one", "several"],
)
def test_the_windows_that_layers_state_are_found(stated, common):
    """A network that fills its windows takes any matrix; in their multiples it is traced faster."""
    network = WindowAttention()
    vars(network).update(stated)
    found = probed(network.eval(), Layout(upscale=2), multiple=None, fixed=None, nominal=(128, 128))
    assert (found.multiple, found.windows, found.batches) == (1, common, True)


def test_sympy_is_itself_again_after_a_trace():
    before = sympy.simplify
    with short_division():
        assert sympy.simplify is not before
    assert sympy.simplify is before


class PadsWhereLengthsDiffer(nn.Module):
    """As fastMRI's U-Net: it decides by a tensor of Python numbers whether to pad."""

    def forward(self, lr):
        half = functional.avg_pool2d(lr, 2)
        up = functional.interpolate(half, scale_factor=2.0)
        padding = [0, 0, 0, 0]
        if up.shape[-1] != lr.shape[-1]:
            padding[1] = 1
        if up.shape[-2] != lr.shape[-2]:
            padding[3] = 1
        if torch.sum(torch.tensor(padding)) != 0:
            up = functional.pad(up, padding, "reflect")
        return functional.interpolate(up, scale_factor=2.0)


def test_a_network_may_decide_by_numbers_that_are_no_samples():
    network = PadsWhereLengthsDiffer().eval()
    example = torch.rand(3, 1, 16, 24)
    axes = open_axes(example, batch=True, matrix=True, multiple=2)
    program = RealProgram(exported_graph(network, example, axes))
    image = torch.rand(2, 1, 18, 30)
    with torch.no_grad():
        assert torch.equal(program(image), network(image))
