"""Instance norms keep their digits whatever the mean of what they are given."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kspacesr_rt.export.centred_norms import centre_norms

CHANNELS = 4


def network(shape, epsilon=1e-5):
    """Return a graph of two instance norms, one behind the other, as an exporter leaves it."""
    nodes = [
        helper.make_node("InstanceNormalization", ["x", "s", "b"], ["a"], epsilon=epsilon),
        helper.make_node("Add", ["a", "three"], ["c"]),
        helper.make_node("InstanceNormalization", ["c", "s", "b"], ["y"], epsilon=epsilon),
    ]
    constants = [
        numpy_helper.from_array(np.linspace(0.5, 2, CHANNELS, dtype=np.float32), "s"),
        numpy_helper.from_array(np.linspace(-1, 1, CHANNELS, dtype=np.float32), "b"),
        numpy_helper.from_array(np.float32(3.0), "three"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y", "c")
    ]
    graph = helper.make_graph(nodes, "n", values[:1], values[1:2], constants, value_info=values[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(proto, batch):
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def exact(batch, epsilon=1e-5):
    """Return the same in float64, by the definition."""
    found = batch.astype(float)
    axes = tuple(range(2, batch.ndim))
    wide = (1, CHANNELS, *[1] * (batch.ndim - 2))
    scale = np.linspace(0.5, 2, CHANNELS).reshape(wide)
    bias = np.linspace(-1, 1, CHANNELS).reshape(wide)
    for shift in (0.0, 3.0):
        found = found + shift
        centred = found - found.mean(axes, keepdims=True)
        found = centred / np.sqrt(found.var(axes, keepdims=True) + epsilon) * scale + bias
    return found


def decibels(found, expected):
    error = np.sqrt(np.mean((found - expected) ** 2))
    return 20 * np.log10(np.abs(expected).max() / error)


@pytest.mark.parametrize("shape", [("n", CHANNELS, "y", "x"), ("n", CHANNELS, "points")])
@pytest.mark.parametrize("deviation", [0.3, 0.03, 0.003])
def test_a_large_mean_costs_no_digits(shape, deviation):
    """ONNX Runtime alone loses 30 to 60 dB of these."""
    lengths = (2, CHANNELS, 48, 40)[: len(shape)]
    noise = np.random.default_rng(0).random(lengths)
    batch = (3.0 + deviation * noise).astype(np.float32)
    proto = network(shape)
    before = decibels(run(proto, batch), exact(batch))
    centre_norms(proto.graph, dict.fromkeys("xc", len(shape)))
    onnx.checker.check_model(proto)
    after = decibels(run(proto, batch), exact(batch))
    assert after > 130.0
    assert after > before + 10.0


def test_a_graph_without_norms_stays_as_it_is():
    plain = network(("n", CHANNELS, "y", "x"))
    del plain.graph.node[:]
    before = plain.SerializeToString()
    centre_norms(plain.graph, {})
    assert plain.SerializeToString() == before
