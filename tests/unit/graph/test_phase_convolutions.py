"""Convolutions in front of a pixel shuffle compute what they did behind it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from kspacesr_rt.graph.phase_convolutions import in_phases, phase_weights
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.runtime import openvino_cpu, ort_cpu
from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions

CHANNELS = 6
MATRIX = (9, 12)
BACKENDS_THAT_REWRITE = {"ort-cpu": ort_cpu, "openvino": openvino_cpu}


def network(*, factor=2, kernel=(9, 9), out=2, bias=True, between=("LeakyRelu",), **attributes):
    """Shuffle, layers between, convolution; weights are the same for the same shapes."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((out, CHANNELS, *kernel)).astype(np.float32)
    constants = {"conv.weight": weights}
    if bias:
        constants["conv.bias"] = rng.standard_normal(out).astype(np.float32)
    nodes = [
        helper.make_node(
            "DepthToSpace", ["x"], ["fine"], name="shuffle", blocksize=factor, mode="CRD"
        )
    ]
    for number, kind in enumerate(between):
        extra = {"alpha": 0.2} if kind == "LeakyRelu" else {}
        nodes.append(
            helper.make_node(kind, [nodes[-1].output[0]], [f"v{number}"], name=kind, **extra)
        )
    settings = {"kernel_shape": list(kernel), "pads": [k // 2 for k in kernel] * 2} | attributes
    nodes.append(
        helper.make_node("Conv", [nodes[-1].output[0], *constants], ["y"], name="conv", **settings)
    )
    shape = ["n", CHANNELS * factor**2, *MATRIX]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list("nchw"))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def kinds(proto):
    return [node.op_type for node in proto.graph.node]


def run(proto, batch):
    session = ort_cpu.open_session(proto.SerializeToString(), BackendOptions(threads=1))
    return session.run(None, {"x": batch})[0]


def batch_for(factor, n=2):
    shape = (n, CHANNELS * factor**2, *MATRIX)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("kernel", [(9, 9), (7, 11), (13, 5), (15, 1)])
@pytest.mark.parametrize("out", [1, 2, 3])
def test_weights_for_the_coarse_grid_give_the_same_sums(factor, kernel, out):
    """Against torch in float64, borders included; whether it pays does not matter here."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((out, CHANNELS, *kernel))
    image = torch.from_numpy(rng.standard_normal((1, CHANNELS * factor**2, *MATRIX)))
    behind = nn.functional.conv2d(
        nn.functional.pixel_shuffle(image, factor),
        torch.from_numpy(weights),
        padding=[k // 2 for k in kernel],
    )
    made = torch.from_numpy(phase_weights(weights, factor))
    ahead = nn.functional.pixel_shuffle(
        nn.functional.conv2d(image, made, padding=[k // 2 for k in made.shape[2:]]), factor
    )
    assert all(k % 2 == 1 for k in made.shape[2:])
    assert np.count_nonzero(made) == factor**2 * weights.size
    torch.testing.assert_close(ahead, behind, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("out", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("between", [(), ("LeakyRelu",), ("Identity", "Relu")])
def test_a_narrow_convolution_is_rewritten_and_computes_the_same(factor, out, bias, between):
    kernel = (9, 9) if factor == 2 else (17, 17)
    proto = network(factor=factor, kernel=kernel, out=out, bias=bias, between=between)
    before = proto.SerializeToString(deterministic=True)
    made = in_phases(proto)
    assert proto.SerializeToString(deterministic=True) == before
    assert kinds(made) == [*between, "Conv", "DepthToSpace"]
    assert [node.name for node in made.graph.node][-2:] == ["conv", "shuffle"]
    onnx.checker.check_model(made, full_check=True)
    batch = batch_for(factor)
    expected = run(proto, batch)
    np.testing.assert_allclose(run(made, batch), expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    "changed",
    [
        {"kernel": (3, 3)},  # nine taps become 36: nothing is gained
        {"out": 16},  # fills the lanes already
        {"strides": [2, 2]},
        {"dilations": [2, 2]},
        {"pads": [0, 0, 0, 0]},
        {"pads": [4, 4, 3, 3]},
        {"kernel": (10, 10)},
        {"auto_pad": "SAME_UPPER"},
        {"between": ("Softmax",)},  # mixes columns
    ],
    ids=str,
)
def test_other_layers_stay_as_they_are(changed):
    proto = network(**changed)
    assert in_phases(proto) is proto


def test_another_channel_order_stays():
    proto = network()
    for item in proto.graph.node[0].attribute:
        if item.name == "mode":
            item.s = b"DCR"
    assert in_phases(proto) is proto


@pytest.mark.parametrize("value", ["fine", "v0"])
def test_a_value_that_someone_looks_at_stays(value):
    """`diagnose` asks for the values between layers."""
    proto = network()
    proto.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, list("abcd")))
    assert in_phases(proto) is proto
    other = network()
    other.graph.node.append(helper.make_node("Relu", [value], ["z"], name="other"))
    other.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, list("abcd")))
    assert in_phases(other) is other


def test_weights_that_others_use_are_kept():
    proto = network(bias=False)
    proto.graph.node.append(helper.make_node("Abs", ["conv.weight"], ["z"], name="other"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, list("abcd")))
    made = in_phases(proto)
    assert {item.name for item in made.graph.initializer} == {"conv.weight", "conv.phases.1"}
    onnx.checker.check_model(made)


def test_shipped_models_have_no_such_layer():
    """Their convolutions are all on the LR grid: opening them must not cost a copy."""
    for path in shipped_models().values():
        bound = bind(load_model(path), (16, 16))
        assert in_phases(bound.proto) is bound.proto


@pytest.mark.parametrize("name", BACKENDS_THAT_REWRITE)
@pytest.mark.parametrize("upscale", [2, 4])
@pytest.mark.parametrize("architecture", ["seed-kspace", "seed-image"])
def test_backends_run_the_seeds_last_layer_in_phases(
    make_generator, make_model, monkeypatch, name, upscale, architecture
):
    """And agree with the layer where it was, on a matrix that is odd and not square."""
    if (reason := BACKENDS[name].why_not()) is not None:
        pytest.skip(reason)
    generator, spec = make_generator(architecture, upscale)
    bound = bind(make_model(generator, spec), (19, 26))
    batch = np.random.default_rng(0).random((3, 1, 19, 26), dtype=np.float32)
    module = BACKENDS_THAT_REWRITE[name]
    options = BackendOptions(threads=1)
    seen = []

    def looking(proto):
        seen.append(in_phases(proto))
        return seen[-1]

    monkeypatch.setattr(module, "in_phases", looking)
    with module.open_backend(name, bound, options) as backend:
        ours = backend.run(batch)
    order = kinds(seen[0])
    assert order[::-1].index("DepthToSpace") < order[::-1].index("Conv")
    monkeypatch.setattr(module, "in_phases", lambda proto: proto)
    with module.open_backend(name, bound, options) as backend:
        plain = backend.run(batch)
    scale = float(np.abs(plain).max())
    np.testing.assert_allclose(ours, plain, atol=2e-6 * scale)


def test_a_layer_in_another_type_is_rewritten_too():
    """What is stored in fp16 stays in fp16."""
    proto = network(between=("Cast", "Relu"))
    cast = proto.graph.node[1]
    cast.attribute.append(helper.make_attribute("to", TensorProto.FLOAT16))
    for item in proto.graph.initializer:
        array = numpy_helper.to_array(item).astype(np.float16)
        item.CopyFrom(numpy_helper.from_array(array, item.name))
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT16, list("nchw")))
    made = in_phases(proto)
    assert kinds(made) == ["Cast", "Relu", "Conv", "DepthToSpace"]
    assert {item.data_type for item in made.graph.initializer} == {TensorProto.FLOAT16}
    batch = batch_for(2)
    expected = run(proto, batch).astype(np.float32)
    given = run(made, batch).astype(np.float32)
    np.testing.assert_allclose(given, expected, atol=4e-3 * np.abs(expected).max())
