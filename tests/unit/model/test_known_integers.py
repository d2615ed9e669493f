"""Lengths that follow from the matrix are constants of a bound graph, and nothing else changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.spec import ModelSpec

MATRIX = (16, 12)


def op(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def file():
    """Return a network that repeats samples, times the cosine of the place of their column."""
    nodes = [
        op("Shape", "lr", "n", start=0, end=1),
        op("Shape", "lr", "rows", start=2, end=3),
        op("Shape", "lr", "columns", start=3, end=4),
        op("Mul", "rows two", "wide_rows"),
        op("Mul", "columns two", "wide_columns"),
        op("Squeeze", "wide_columns", "count"),
        op("Range", "nought count unit", "line"),
        op("Cast", "line", "places", to=TensorProto.FLOAT),
        op("Cos", "places", "cosine"),
        op("Concat", "n one wide_rows wide_columns", "shape", axis=0),
        op("Resize", "lr empty scales", "large", mode="nearest"),
        op("Reshape", "large shape", "again"),
        op("Mul", "again cosine", "sr"),
    ]
    nodes[-3].input[:] = ["lr", "", "scales"]
    weights = [
        helper.make_tensor("two", TensorProto.INT64, [1], [2]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("nought", TensorProto.INT64, [], [0]),
        helper.make_tensor("unit", TensorProto.INT64, [], [1]),
        helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2]),
    ]
    lr, sr = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, *axes])
        for name, axes in (("lr", MATRIX), ("sr", (32, 24)))
    )
    proto = helper.make_model(
        helper.make_graph(nodes, "network", [lr], [sr], weights),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    spec = ModelSpec(
        name="n",
        architecture="custom",
        upscale=2,
        matrix=MATRIX,
        normaliser="none",
        lowering="none",
    )
    return ModelFile(name="n.onnx", proto=proto, spec=spec, size_bytes=0)


def kinds(bound):
    return [node.op_type for node in bound.proto.graph.node]


@pytest.mark.parametrize("matrix", [MATRIX, (13, 9)])
def test_lengths_of_the_matrix_are_written_and_that_of_the_batch_is_not(matrix):
    """What stays is what follows from the image, and the shape that the batch is part of."""
    bound = bind(file(), matrix)
    assert kinds(bound) == ["Shape", "Cast", "Cos", "Concat", "Resize", "Reshape", "Mul"]
    session = onnxruntime.InferenceSession(bound.serialized(), providers=["CPUExecutionProvider"])
    for slices in (1, 3):
        lr = np.random.default_rng(0).random((slices, 1, *matrix), dtype=np.float32)
        expected = lr.repeat(2, 2).repeat(2, 3) * np.cos(np.arange(2 * matrix[1]))
        [sr] = session.run(None, {"lr": lr})
        np.testing.assert_allclose(sr, expected, rtol=1e-5, atol=1e-6)


def test_a_graph_that_takes_other_matrices_too_counts_them_itself():
    made = file()
    spec = dataclasses.replace(made.spec, lowering="dynamic")
    bound = bind(dataclasses.replace(made, spec=spec), MATRIX)
    assert kinds(bound).count("Shape") == 3


def test_a_graph_without_lengths_stays_as_it_is(model):
    """The shipped models' too: to the byte what was measured and proved of them."""
    graph = bind(model, (24, 24)).proto.graph
    assert [node.name for node in graph.node] == [node.name for node in model.proto.graph.node]
