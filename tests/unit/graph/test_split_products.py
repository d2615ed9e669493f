"""3xTF32 in simulation: operands are rounded to 10 bits, as tensor cores do, and summed in fp32."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from pydicom import dcmread

from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.graph.aligned_coefficients import with_aligned_coefficients
from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.graph.gpu_transforms import with_gpu_transforms
from kspacesr_rt.graph.precision import narrowed
from kspacesr_rt.graph.split_products import (
    rounded_to_tf32,
    splits_every_product,
    with_split_products,
)
from kspacesr_rt.kspace import measured_residual
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.quality.metrics import psnr_between
from kspacesr_rt.quality.result_checks import check_result
from kspacesr_rt.runtime.self_test import REQUIRED_DB
from kspacesr_rt.sample import sample_folder

SPLITTER = np.float32(2**13 + 1)
"""Veltkamp's: ``a = SPLITTER x; a - (a - x)`` is x rounded to 11 significant bits."""


def on_tensor_cores(proto):
    """Return a graph whose products round both operands to TF32.

    What is widened is rounded, too: ONNX Runtime's CPU provider leaves narrowing and widening out
    where it computes in fp32 anyway, and a GPU does not.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    constants = {item.name: item for item in made.graph.initializer}
    made.graph.initializer.append(numpy_helper.from_array(SPLITTER, "splitter"))
    count, nodes = itertools.count(), []

    def rounding(name, result):
        large, less = (f"tf32.{next(count)}" for _ in range(2))
        return [
            helper.make_node("Mul", [name, "splitter"], [large]),
            helper.make_node("Sub", [large, name], [less]),
            helper.make_node("Sub", [large, less], [result]),
        ]

    halves = set(half_constants(made))
    for node in made.graph.node:
        if node.op_type == "MatMul" and not halves.intersection(node.input):
            for side, name in enumerate(node.input):
                if name in constants:
                    rounded = rounded_to_tf32(numpy_helper.to_array(constants[name]))
                    constants[name].CopyFrom(numpy_helper.from_array(rounded, name))
                    continue
                node.input[side] = f"tf32.{next(count)}"
                nodes += rounding(name, node.input[side])
        nodes.append(node)
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT:
            name, node.output[0] = node.output[0], f"tf32.{next(count)}"
            nodes += rounding(node.output[0], name)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def half_constants(proto):
    """Return the constants of products that are in half precision already."""
    half = onnx.TensorProto.FLOAT16
    return [item.name for item in proto.graph.initializer if item.data_type == half]


def computed(proto, batch):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"lr": batch})[0]


def test_rounding_is_that_of_tensor_cores():
    """Ten bits are kept, ties go to even, and Veltkamp's split gives the same."""
    one = np.float32(1.0)
    step = np.float32(2.0**-10)
    for given, expected in [
        (one + step / 4, one),
        (one + step / 2, one),  # a tie
        (one + 3 * step / 2, one + 2 * step),  # another
        (-(one + step), -(one + step)),
        (np.float32(0.0), np.float32(0.0)),
    ]:
        assert rounded_to_tf32(np.asarray([given], np.float32))[0] == expected
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    large = SPLITTER * values
    np.testing.assert_array_equal(rounded_to_tf32(values), large - (large - values))
    assert np.abs(rounded_to_tf32(values) / values - 1.0).max() <= 2.0**-11


@pytest.mark.parametrize("name", ["x2-fast", "x2-base", "x4-fast", "x4-base"])
def test_known_answers_survive_tensor_cores(name):
    """Plain TF32 leaves 78 dB of k-space and breaks the promise of fp32; three products keep it."""
    model = load_model(resolve_model(name, upscale=None))
    answer = model.known_answer()
    bound = bind(model, answer.lr.shape)
    flat = flattened(with_aligned_coefficients(bound.proto))
    split = with_split_products(flat)
    onnx.checker.check_model(split, full_check=True)

    def decibels(proto):
        result = computed(proto, answer.lr[None, None])[0, 0]
        return psnr_between(result, answer.sr, float(np.abs(answer.sr).max()))

    assert decibels(on_tensor_cores(flat)) < REQUIRED_DB["fp32"] - 10.0
    assert decibels(on_tensor_cores(split)) > REQUIRED_DB["fp32"] + 25.0
    assert decibels(split) > REQUIRED_DB["fp32"] + 25.0


@pytest.mark.parametrize("name", ["x2-fast", "x2-base", "x4-fast", "x4-base"])
def test_tf32_leaves_an_fp16_model_its_measured_samples(name):
    """What a GPU is given where TF32 pays: as near as without it, and data consistency to fp32."""
    model = load_model(resolve_model(name, upscale=None))
    answer = model.known_answer()
    spec = dataclasses.replace(model.spec, precision="fp16")
    half = dataclasses.replace(model, proto=narrowed(model.proto, "fp16"), spec=spec)
    graph = with_gpu_transforms(bind(half, answer.lr.shape)).proto
    flat = flattened(graph)
    assert splits_every_product(flat)
    split = with_split_products(flat)
    results = {
        key: computed(proto, answer.lr[None, None])[0, 0]
        for key, proto in {
            "without": flat,
            "plain": on_tensor_cores(flat),
            "split": on_tensor_cores(split),
        }.items()
    }
    decibels = {
        key: psnr_between(result, answer.sr, float(np.abs(answer.sr).max()))
        for key, result in results.items()
    }
    residuals = {key: measured_residual(result, answer.lr) for key, result in results.items()}
    assert decibels["split"] > REQUIRED_DB["fp16"] + 20.0
    assert decibels["split"] > decibels["without"] - 3.5
    assert max(residuals["split"], residuals["without"]) < 5e-7
    assert residuals["plain"] > 1e-5
    # Of the last predicted image, which comes from half precision, two products are enough; of
    # what a projection takes, less the LR image, it is one of three parts.
    products = [sum(node.op_type == "MatMul" for node in one.graph.node) for one in (flat, split)]
    assert products[1] == products[0] + (model.spec.upscale != 2)


@pytest.mark.parametrize("name", ["x2-fast", "x4-fast"])
def test_what_tf32_alone_leaves_of_a_slice_is_refused(name):
    """So it is not taken, however fast: a run would fail slice after slice. The answers pass it."""
    model = load_model(resolve_model(name, upscale=None))
    path = sorted(sample_folder().glob("*.dcm"))[9]
    slice_ = np.ascontiguousarray(dcmread(path).pixel_array[64:192, 64:192], np.float32)
    spec = dataclasses.replace(model.spec, precision="fp16")
    half = dataclasses.replace(model, proto=narrowed(model.proto, "fp16"), spec=spec)
    flat = flattened(with_gpu_transforms(bind(half, slice_.shape)).proto)
    plain, split = (
        computed(on_tensor_cores(one), slice_[None, None])[0, 0]
        for one in (flat, with_split_products(flat))
    )
    assert check_result(split, slice_, spec).measured_residual < 5e-7
    with pytest.raises(SliceFailed, match="measured") as caught:
        check_result(plain, slice_, spec)
    assert caught.value.reason == "data-consistency"


def test_a_graph_with_other_products_is_not_for_tf32():
    """Of two values, say: nothing would split them."""
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 4]) for name in ("x", "y")
    ]
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    assert not splits_every_product(
        helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]))
    )


@pytest.mark.parametrize("matrix", [(21, 16), (24, 24)])
def test_a_transform_gains_forty_decibels(model, matrix):
    """Whatever stands around it, of several slices of which one is bright; no product is added."""
    flat = flattened(bind(model, matrix).proto)
    split = with_split_products(flat)
    assert sum(node.op_type == "MatMul" for node in split.graph.node) == sum(
        node.op_type == "MatMul" for node in flat.graph.node
    )
    batch = np.random.default_rng(0).random((2, 1, *matrix)).astype(np.float32)
    batch[1] *= 1000.0
    expected = computed(flat, batch)
    top = float(np.abs(expected).max())
    plain = psnr_between(computed(on_tensor_cores(flat), batch), expected, top)
    three = psnr_between(computed(on_tensor_cores(split), batch), expected, top)
    assert three > plain + 35.0


def test_other_products_stay():
    """Those of two values, and those in half precision, whose operands are exact already."""
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 4]) for name in ("x", "y")
    ]
    half = numpy_helper.from_array(np.eye(4, dtype=np.float16), "half")
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["xx"]),
        helper.make_node("Cast", ["xx"], ["narrow"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("MatMul", ["narrow", "half"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [half]))
    assert with_split_products(proto) == proto
