"""Means over planes keep their digits on OpenVINO, and so do instance norms behind convolutions."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kspacesr_rt.graph.plane_means import with_plane_means
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime.backends import BackendOptions, open_backend

CHANNELS, MATRIX = 8, (96, 90)
SPEC = ModelSpec(
    name="n", architecture="custom", upscale=1, matrix=MATRIX, normaliser="none", lowering="none"
)


def bound(*nodes, matrix=MATRIX):
    """Return a network that makes channels of an image, applies nodes, and gives their first."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(0.1, 0.3, (CHANNELS, 1, 3, 3)).astype(np.float32),
        "scale": np.linspace(0.5, 2, CHANNELS, dtype=np.float32),
        "bias": np.linspace(-1, 1, CHANNELS, dtype=np.float32),
        "plane": np.array([-2, -1]),
        "first": np.array([0]),
        "second": np.array([1]),
    }
    around = [
        helper.make_node("Conv", ["lr", "kernel"], ["x"], pads=[1] * 4),
        *nodes,
        helper.make_node("Slice", ["y", "first", "second", "second"], ["sr"]),
    ]
    lr, sr = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, *matrix])
        for name in ("lr", "sr")
    )
    graph = helper.make_graph(
        around,
        "network",
        [lr],
        [sr],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return BoundModel(spec=dataclasses.replace(SPEC, matrix=matrix), proto=proto)


NORM = helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"], epsilon=1e-5)
MEAN = [
    helper.make_node("ReduceMean", ["x", "plane"], ["mean"], keepdims=1),
    helper.make_node("Sub", ["x", "mean"], ["y"]),
]


def exact(model, lr, *, norm):
    """Return the same in float64, by the definition."""
    kernel = numpy_helper.to_array(model.proto.graph.initializer[0]).astype(float)[0, 0]
    wide = np.pad(lr[:, 0].astype(float), ((0, 0), (1, 1), (1, 1)))
    rows, columns = lr.shape[-2:]
    x = sum(
        kernel[i, j] * wide[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)
    )
    centred = x - x.mean((1, 2), keepdims=True)
    if norm:
        centred = centred / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5) * 0.5 - 1.0
    return centred[:, None]


def decibels(found, expected):
    error = np.sqrt(np.mean((found - expected) ** 2))
    return 20 * np.log10(np.abs(expected).max() / error)


@pytest.mark.parametrize("nodes", [[NORM], MEAN], ids=["norm", "mean"])
@pytest.mark.parametrize("matrix", [MATRIX, (61, 96), (61, 67)])
def test_a_mean_costs_no_digits_on_openvino(nodes, matrix):
    """As it is, OpenVINO leaves 97 to 119 dB of most of these."""
    pytest.importorskip("openvino")
    y, x = (np.linspace(-1, 1, length) for length in matrix)
    body = (np.hypot(y[:, None] - 0.2, x) < 0.7) * (0.7 + 0.2 * np.sin(9 * y[:, None]))
    lr = np.stack([body, 0.3 * body[::-1]])[:, None].astype(np.float32)
    model = bound(*nodes, matrix=matrix)
    with open_backend("openvino", model, BackendOptions(threads=1)) as opened:
        found = opened.run(lr)
    assert decibels(found, exact(model, lr, norm=nodes == [NORM])) > 130.0


def test_what_takes_no_means_of_planes_stays_as_it_is(model):
    """Our own models' graphs among it."""
    for proto, spec in (
        (model.proto, model.spec),
        (bound(helper.make_node("Relu", ["x"], ["y"])).proto, SPEC),
    ):
        assert with_plane_means(proto, spec) is proto


def test_the_graph_is_valid_and_the_given_one_is_not_changed():
    given = bound(NORM)
    before = given.proto.SerializeToString()
    made = with_plane_means(given.proto, given.spec)
    onnx.checker.check_model(made)
    assert given.proto.SerializeToString() == before
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("AveragePool") == 2
    assert "InstanceNormalization" not in kinds
