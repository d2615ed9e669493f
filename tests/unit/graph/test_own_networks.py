"""Precision in graphs that are not written as ours are: shared weights, bare ends, odd inputs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from kspacesr_rt.errors import ExportError
from kspacesr_rt.graph.precision import NARROW_TYPES, narrowed
from kspacesr_rt.graph.quantisation import (
    QUANTISED_TYPES,
    image_readers,
    quantisable,
    quantised,
    with_named_convolutions,
)

RNG = np.random.default_rng(3)
LR = RNG.normal(size=(1, 1, 9, 8)).astype(np.float32)


def graph_of(*nodes, shape=("n", 1, 9, 8), result=("n", "c", "y", "x")):
    """Build a network of stored 3 x 3 kernels `w`, `w2`, a factor and shape arithmetic."""
    weights = {
        "w": RNG.normal(size=(1, 1, 3, 3)).astype(np.float32),
        "w2": RNG.normal(size=(1, 1, 3, 3)).astype(np.float32),
        "factor": np.float32([0.5]),
        "two": np.int64([2]),
        "axes": np.int64([2, 3]),
    }
    used = {name for node in nodes for name in node.input}
    return helper.make_model(
        helper.make_graph(
            list(nodes),
            "own",
            [helper.make_tensor_value_info("lr", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("sr", TensorProto.FLOAT, result)],
            [numpy_helper.from_array(v, k) for k, v in weights.items() if k in used],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def conv(name, source, weight, result):
    return helper.make_node("Conv", [source, weight], [result], name=name, pads=[1, 1, 1, 1])


NETWORKS = {
    "ends with a convolution": [conv("only", "lr", "w", "sr")],
    "one kernel twice": [conv("a", "lr", "w", "h"), conv("b", "h", "w", "sr")],
    "a kernel that is used elsewhere too": [
        conv("a", "lr", "w", "h"),
        helper.make_node("ReduceSum", ["w", "axes"], ["total"], name="sum", keepdims=1),
        helper.make_node("Mul", ["h", "total"], ["sr"], name="times"),
    ],
    "shape arithmetic": [
        conv("a", "lr", "w", "h"),
        helper.make_node("Shape", ["h"], ["size"], name="shape"),
        helper.make_node("Add", ["two", "two"], ["four"], name="four"),
        helper.make_node("Add", ["size", "four"], ["more"], name="more"),
        helper.make_node("Sub", ["more", "four"], ["again"], name="again"),
        helper.make_node("Expand", ["h", "again"], ["sr"], name="expand"),
    ],
    "no names": [conv("", "lr", "w", "h"), conv("", "h", "w2", "sr")],
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", NARROW_TYPES)
def test_any_network_stays_one_in_16_bits(name, precision):
    """It takes and gives fp32, every type is consistent, and it computes nearly the same."""
    proto = graph_of(*NETWORKS[name])
    narrow = narrowed(proto, precision)
    inferred = shape_inference.infer_shapes(narrow, check_type=True, strict_mode=True)
    assert inferred.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    kernels = [one.data_type for one in narrow.graph.initializer if len(one.dims) == 4]
    assert NARROW_TYPES[precision] in kernels
    if precision == "fp16":
        expected, result = (
            onnx.reference.ReferenceEvaluator(one).run(None, {"lr": LR})[0]
            for one in (proto, narrow)
        )
        assert result.dtype == np.float32
        assert 0 < np.abs(result - expected).max() < 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", QUANTISED_TYPES)
@pytest.mark.parametrize("results", [False, True])
def test_any_network_stays_one_in_8_bits(name, precision, results):
    """Each convolution can be chosen by itself, also where two share a kernel."""
    proto = with_named_convolutions(graph_of(*NETWORKS[name]))
    names = [node.name for node in quantisable(proto)]
    assert len(set(names)) == len(names) >= 1
    scales = dict.fromkeys(("lr", "h", "sr"), np.float32(0.25))
    expected = onnx.reference.ReferenceEvaluator(proto).run(None, {"lr": LR})[0]
    for wide in ([], names[:1], names[1:]):
        made = quantised(proto, precision, scales, wide=wide, results=results)
        shape_inference.infer_shapes(made, check_type=True, strict_mode=True)
        in_8_bits = {
            node.input[0].removesuffix(".stored")
            for node in made.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0].startswith("w")
        }
        assert bool(in_8_bits) == (set(wide) != set(names))
        if precision == "int8":
            result = onnx.reference.ReferenceEvaluator(made).run(None, {"lr": LR})[0]
            assert np.abs(result - expected).max() < 0.2 * np.abs(expected).max()


@pytest.mark.parametrize("precision", NARROW_TYPES)
def test_a_network_without_convolutions_is_refused(precision):
    """A file that says bf16 and computes all of it in fp32 would be no such file."""
    proto = graph_of(helper.make_node("Mul", ["lr", "factor"], ["sr"], name="times"))
    with pytest.raises(ExportError, match=f"no convolution in it could compute in {precision}"):
        narrowed(proto, precision)


def test_a_convolution_with_computed_weights_stays_in_fp32():
    """There are no stored values to round; the one beside it is rounded."""
    proto = graph_of(
        helper.make_node("Mul", ["w2", "factor"], ["made"], name="made"),
        conv("computed", "lr", "made", "h"),
        conv("stored", "h", "w", "sr"),
    )
    assert [node.name for node in quantisable(proto)] == ["stored"]
    made = quantised(proto, "int8", {"h": np.float32(0.1)})
    assert next(node for node in made.graph.node if node.name == "computed").input[1] == "made"


@pytest.mark.parametrize("between", ["Gelu", "HardSwish", "Sigmoid", "Relu"])
def test_any_activation_leaves_features_what_they_are(between):
    """Behind GELU a convolution was taken for one that reads the image, and stayed in fp32."""
    proto = graph_of(
        conv("first", "lr", "w", "h"),
        helper.make_node(between, ["h"], ["a"], name="activation"),
        helper.make_node("Mul", ["h", "a"], ["g"], name="gate"),
        conv("second", "g", "w2", "h2"),
        helper.make_node("Mul", ["lr", "factor"], ["half"], name="times"),
        conv("of the image", "half", "w2", "h3"),
        helper.make_node("Add", ["h2", "h3"], ["sr"], name="sum"),
    )
    assert image_readers(proto) == ["first", "of the image"]
