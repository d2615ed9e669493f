"""Networks that compute with lengths in plain Python stay open in batch and matrix."""

import math
import types

import pytest
import sympy
import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional
from torch.utils._sympy.functions import FloorDiv, Mod

from kspacesr_rt.export import symbolic_sizes
from kspacesr_rt.export.dynamic_lengths import open_arithmetic, short_reasoning
from kspacesr_rt.export.image_blocks import in_blocks
from kspacesr_rt.export.module_graph import exported_graph, open_axes
from kspacesr_rt.export.network_probe import Layout, other_paths, probed
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
    [({}, SIDE), ({"window_size": 8}, 8), ({"window_size": 4, "split_size": (4, 6)}, 12)],
    ids=["none", "one", "several"],
)
def test_windows_are_found_by_what_is_filled_and_by_what_layers_state(stated, common):
    """A network that fills its windows takes any matrix; in their multiples it is traced faster."""
    network = WindowAttention()
    vars(network).update(stated)
    found = probed(network.eval(), Layout(upscale=2), multiple=None, fixed=None, nominal=(128, 128))
    assert (found.multiple, found.windows, found.batches) == (1, common, True)


class ZeroFilled(nn.Module):
    """It pads too, and more the larger the matrix is."""

    def forward(self, lr):
        rows, columns = lr.shape[-2:]
        above, left = rows - rows // 2, columns - columns // 2
        return functional.pad(lr, (left, columns - left, above, rows - above))


def test_what_grows_with_the_matrix_fills_no_windows():
    layout = Layout(upscale=2)
    found = probed(ZeroFilled().eval(), layout, multiple=None, fixed=None, nominal=(128, 128))
    assert (found.multiple, found.windows) == (1, 1)


def _methods():
    return [getattr(ShapeEnv, name) for name in ("_maybe_evaluate_static", "evaluate_sym_node")]


def test_sympy_and_torch_are_themselves_again_after_a_trace():
    before, methods, divide = sympy.simplify, _methods(), torch.SymInt.__floordiv__
    with short_reasoning(), open_arithmetic(ZeroFilled()):
        assert sympy.simplify is not before
        assert not any(a is b for a, b in zip(_methods(), methods, strict=True))
    assert sympy.simplify is before
    assert _methods() == methods
    assert torch.SymInt.__floordiv__ is divide


def test_what_is_asked_of_lengths_is_answered_if_every_matrix_says_the_same():
    """And left to torch where it depends on the matrix, or on another symbol.

    Rows and columns differ at each matrix that is tried, as they do in the example.
    """
    n, m, other = sympy.symbols("n m other", integer=True, positive=True)
    env = types.SimpleNamespace(backed_var_to_val={n: 48, m: 64}, replacements={})
    trials = symbolic_sizes._Trials()
    for question, answer in {
        sympy.Eq(FloorDiv(8 * n * m, 4), 2 * n * m, evaluate=False): sympy.true,
        sympy.Ne(n, m): sympy.true,
        sympy.Gt(n, m): None,
        sympy.Gt(8 * n, 7, evaluate=False): sympy.true,
        sympy.Eq(Mod(n, 8), 0): None,
        sympy.Eq(Mod(8 * n, 8), 3, evaluate=False): sympy.false,
        sympy.Gt(other * 8, 7, evaluate=False): None,
    }.items():
        assert trials.answer(question, env) is answer, question


class RoundsUp(nn.Module):
    """As reconstruction networks do: to the next multiple of 16, with bits and halves."""

    def forward(self, lr):
        margins = []
        for length in (lr.shape[-1], lr.shape[-2]):
            whole = ((length - 1) | 15) + 1
            margins += [math.floor((whole - length) / 2), math.ceil((whole - length) / 2)]
        filled = functional.pad(lr, margins)
        half = functional.max_pool2d(filled, 16)
        up = functional.interpolate(filled, scale_factor=2.0)
        up = up + functional.interpolate(half, scale_factor=32.0)
        rows, columns = (2 * one for one in lr.shape[-2:])
        return up[..., 2 * margins[2] : 2 * margins[2] + rows, 2 * margins[0] :][..., :columns]


def test_bits_of_a_length_are_multiples_of_it_where_they_can_be():
    """`torch.export` reasons about `((16 * n - 1) | 15) + 1` for hours; it is `16 * n`."""
    network = RoundsUp().eval()
    found = probed(network, Layout(upscale=2), multiple=None, fixed=None, nominal=(128, 128))
    assert (found.multiple, found.windows) == (1, 16)
    example = torch.rand(3, 1, 64, 80)
    axes = open_axes(example, batch=True, matrix=True, multiple=16)
    graph = exported_graph(network, example, axes, 16)
    assert not {node.name.split("_")[0] for node in graph.graph.nodes} & {"or", "bitwise"}
    program = RealProgram(graph, 16)
    image = torch.rand(1, 1, 48, 32)
    with torch.no_grad():
        assert torch.equal(program(in_blocks(image, 16)), network(image))


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
    program = RealProgram(exported_graph(network, example, axes, 2), 2)
    image = torch.rand(2, 1, 18, 30)
    with torch.no_grad():
        assert torch.equal(program(in_blocks(image, 2)), network(image))


class Branches(nn.Module):
    """It takes another layer, or another factor, where a condition on its input's shape is so."""

    def __init__(self, condition):
        super().__init__()
        self.condition = condition
        self.usual, self.other = (nn.Conv2d(1, 1, 3, padding=1) for _ in range(2))

    def forward(self, lr):
        taken = self.condition(*lr.shape[::2], lr.shape[3])
        up = functional.interpolate((self.other if taken else self.usual)(lr), scale_factor=2.0)
        return up * (3 if taken else 2)


@pytest.mark.parametrize(
    ("condition", "at"),
    [
        (lambda n, y, x: False, None),
        (lambda n, y, x: x > 100, (1, (64, 320))),
        (lambda n, y, x: y > 100, (1, (320, 64))),
        (lambda n, y, x: y > 100 and x > 100, (1, (320, 320))),
        (lambda n, y, x: y * x > 10_000, (1, (320, 64))),
        (lambda n, y, x: y > x, (1, (88, 72))),
        (lambda n, y, x: x % 2 == 1, (1, (71, 89))),
        (lambda n, y, x: min(y, x) < 32, (1, (16, 16))),
        (lambda n, y, x: n > 4, (8, (72, 88))),
    ],
)
def test_a_branch_on_lengths_is_found_where_it_is_taken(condition, at):
    """Such as 100 columns, where the gate's matrices have fewer; the network is not computed."""
    network = Branches(condition).eval()
    found = other_paths(network, Layout(upscale=2), 1, None, batches=True)
    assert found == (() if at is None else (at,))


def test_a_branch_is_found_too_in_a_network_that_asks_for_samples():
    network = Branches(lambda n, y, x: x > 100)
    asks = nn.Sequential(network, nn.Identity()).eval()
    asks[1].forward = lambda sr: sr / sr.max().item()
    assert other_paths(asks, Layout(upscale=2), 1, None, batches=True) == ((1, (64, 320)),)
