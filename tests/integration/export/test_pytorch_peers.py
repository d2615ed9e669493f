"""Graphs of PyTorch's own exporters compute the model, too."""

import numpy as np
import pytest

from kspacesr_rt.export import pytorch_peers
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.quality.metrics import psnr_between
from kspacesr_rt.train.generator_from_model import generator_from_model

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


@pytest.mark.parametrize(
    "open_peer", [pytorch_peers.exporter_graph, pytorch_peers.openvino_from_pytorch]
)
def test_exporters_graphs_give_the_models_answer(generator, open_peer):
    """The DFT kernel of ONNX Runtime leaves 1e-5 at some sizes; more would be another network."""
    lr = batch_of(1, 1, 32, 40)
    expected = pytorch_peers.eager(generator)(lr)
    found = open_peer(generator, lr)(lr)
    assert psnr_between(found, expected, float(expected.max())) > 90.0
