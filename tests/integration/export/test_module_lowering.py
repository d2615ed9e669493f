"""A user's own network, complex tensors and torch.fft inside, as a graph of ours."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from kspacesr_rt.export.module_lowering import lower_module
from kspacesr_rt.model.binding import rebind
from kspacesr_rt.model.spec import ModelSpec

AXES = (-2, -1)


def to_kspace(image):
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, AXES), norm="ortho"), AXES)


def to_image(kspace):
    return torch.fft.fftshift(
        torch.fft.ifft2(torch.fft.ifftshift(kspace, AXES), norm="ortho"), AXES
    )


def filled(kspace, rows, columns):
    y, x = kspace.shape[-2:]
    top, left = rows // 2 - y // 2, columns // 2 - x // 2
    return functional.pad(kspace, (left, columns - x - left, top, rows - y - top))


class ConsistentNetwork(nn.Module):
    """Zero-fill, a CNN, and the measured samples put back."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.PReLU(), nn.Conv2d(4, 1, 3, padding=1)
        )

    def forward(self, lr):
        rows, columns = (2 * length for length in lr.shape[-2:])
        measured = to_kspace(lr) * 2
        image = to_image(filled(measured, rows, columns)).real
        predicted = to_kspace(image + self.cnn(image))
        mask = filled(torch.ones(1, 1, *lr.shape[-2:]), rows, columns)
        return to_image(predicted * (1 - mask) + filled(measured, rows, columns)).abs()


def spec_of(matrix, upscale=2):
    return ModelSpec(
        name="network", architecture="custom", upscale=upscale, matrix=matrix, lowering="gemm"
    )


def agreement_db(result, reference):
    error = np.mean((result - reference) ** 2)
    return 10 * np.log10(np.abs(reference).max() ** 2 / max(error, 1e-30))


def run(proto, batch, upscale):
    bound = onnx.ModelProto()
    bound.CopyFrom(proto)
    rebind(bound, spec_of(tuple(batch.shape[-2:]), upscale))
    session = onnxruntime.InferenceSession(
        bound.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"lr": batch})[0]


@pytest.fixture(scope="module")
def consistent():
    torch.manual_seed(0)
    network = ConsistentNetwork().eval()
    return network, lower_module(network, spec=spec_of((24, 20)))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("matrix", [(24, 20), (40, 40), (33, 17)])
def test_a_network_with_torch_fft_computes_the_same_at_any_matrix(consistent, matrix, batch):
    """One file for every series: even, odd and rectangular."""
    network, proto = consistent
    images = torch.randn(batch, 1, *matrix)
    with torch.no_grad():
        reference = network(images).numpy()
    assert agreement_db(run(proto, images.numpy(), 2), reference) > 120


def test_centred_transforms_stay_whole(consistent):
    """So that they bind with exact constants, and any lowering can be chosen for them."""
    _, proto = consistent
    kinds = [node.op_type for node in proto.graph.node if node.domain == "kspacesr_rt"]
    assert sorted(kinds) == ["FFT2c", "FFT2c", "IFFT2c", "IFFT2c"]


def test_a_zero_fill_is_in_the_transform_behind_it(consistent):
    """Its matrix then has no columns for zeros: half the work."""
    _, proto = consistent
    grids = [
        tuple(item.i for item in node.attribute if item.name in ("input_upscale", "output_upscale"))
        for node in proto.graph.node
        if node.op_type == "IFFT2c"
    ]
    assert sorted(grids) == [(1, 2), (2, 2)]


def test_a_graph_holds_no_place_of_the_users_machine(consistent):
    _, proto = consistent
    assert __file__.encode() not in proto.SerializeToString()
    assert b"test_module_lowering" not in proto.SerializeToString()


class OddlyNamed(nn.Module):
    """Weights named as what torch makes of modules has attributes, and as others with a dot."""

    def __init__(self):
        super().__init__()
        for number, name in enumerate(("code", "graph", "weight", "spec", "net", "part__code")):
            setattr(self, name, nn.Parameter(torch.full((1, 1, 1, 1), 0.1 * (number + 1))))
        self.part = nn.Module()
        self.part.code = nn.Parameter(torch.full((1, 1, 1, 1), 3.0))

    def forward(self, lr):
        image = functional.interpolate(lr, scale_factor=2, mode="nearest")
        image = (image * self.code + self.graph) * self.weight + self.spec
        return (image * self.net + self.part__code) * self.part.code


def test_weights_may_have_any_name():
    """``code`` and ``graph`` are attributes of what torch.export makes of a network."""
    network = OddlyNamed().eval()
    proto = lower_module(network, spec=spec_of((24, 20)))
    batch = np.random.default_rng(0).random((2, 1, 24, 20), np.float32)
    with torch.inference_mode():
        reference = network(torch.from_numpy(batch)).numpy()
    assert agreement_db(run(proto, batch, 2), reference) > 120


class Joined(nn.Module):
    """Two convolutions that become one each time the network runs, as SPAN's do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 4, 3, bias=False)
        self.joined = nn.Conv2d(1, 4, 3, padding=1, bias=False)

    def forward(self, lr):
        first, second = self.first.weight.data, self.second.weight.data
        self.joined.weight.data = torch.einsum("ocyx,cizw->oiyx", second, first).contiguous()
        return functional.pixel_shuffle(self.joined(lr), 2)


def test_weights_may_be_set_while_the_network_runs():
    """What follows from weights alone is computed once; `.data` is followed like any tensor."""
    torch.manual_seed(0)
    network = Joined().eval()
    untouched = network.joined.weight.detach().clone()
    proto = lower_module(network, spec=spec_of((24, 20)))
    batch = np.random.default_rng(0).random((3, 1, 24, 20), np.float32)
    with torch.inference_mode():
        reference = network(torch.from_numpy(batch)).numpy()
    assert not torch.equal(untouched, network.joined.weight)
    assert agreement_db(run(proto, batch, 2), reference) > 120
