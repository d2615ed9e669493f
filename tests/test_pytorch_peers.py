"""What our rows are compared with must itself compute the model: a peer that errs flatters us."""

import numpy as np
import pytest
import torch

from kspacesr_rt.errors import InputError
from kspacesr_rt.export import pytorch_peers as peers
from kspacesr_rt.export.plain_layers import with_plain_layers
from kspacesr_rt.export.rebuild import generator_from_model
from kspacesr_rt.metrics import psnr_between
from kspacesr_rt.model_file import load_model, shipped_models
from kspacesr_rt.train.layers import FFT2c, IFFT2c

pytestmark = [
    # torch 2.13's exporter uses what its own pytree module calls deprecated.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # OpenVINO's front end traces; the shapes are meant to be fixed.
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


@pytest.fixture(scope="module", params=["x2-fast", "x4-fast"])
def generator(request):
    return generator_from_model(load_model(shipped_models()[request.param]))


def batch_of(*shape):
    return np.random.default_rng(3).random(shape, dtype=np.float32)


@pytest.mark.parametrize("shape", [(1, 1, 24, 24), (2, 1, 21, 34), (1, 1, 33, 17)])
def test_plain_layers_compute_the_same(generator, shape):
    """Odd, even, not square: the same arithmetic, so nothing but the exporter is compared."""
    lr = torch.from_numpy(batch_of(*shape))
    with torch.inference_mode():
        difference = (with_plain_layers(generator)(lr) - generator(lr)).abs().max()
    assert float(difference) <= 1e-6


def test_plain_layers_leave_the_original_alone(generator):
    before = {name: type(layer) for name, layer in generator.named_modules()}
    plain = with_plain_layers(generator)
    assert {name: type(layer) for name, layer in generator.named_modules()} == before
    assert not any(isinstance(layer, FFT2c | IFFT2c) for layer in plain.modules())


@pytest.mark.parametrize("open_peer", [peers.exporter_graph, peers.openvino_from_pytorch])
def test_exporters_graphs_give_the_models_answer(generator, open_peer):
    """The DFT kernel of ONNX Runtime leaves 1e-5 at some sizes; more would be another network."""
    lr = batch_of(1, 1, 32, 40)
    expected = peers.eager(generator)(lr)
    found = open_peer(generator, lr)(lr)
    assert psnr_between(found, expected, float(expected.max())) > 90.0


def test_narrow_convolutions_are_close_and_not_the_same(generator):
    """Autocast must have happened, and only to the convolutions."""
    lr = batch_of(1, 1, 32, 32)
    expected = peers.eager(generator)(lr)
    narrow = peers.eager(generator, precision="bf16", channels_last=True)(lr)
    assert narrow.dtype == np.float32
    assert 45.0 < psnr_between(narrow, expected, float(expected.max())) < 100.0
    generator.to(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_the_machines_peak_is_measured_in_each_precision(precision, monkeypatch):
    monkeypatch.setattr(peers, "GEMM_SIZE", 64)
    assert peers.gemm(precision)() is None


def test_a_precision_without_a_peak_is_an_error():
    with pytest.raises(InputError, match="fp8"):
        peers.gemm("fp8")
