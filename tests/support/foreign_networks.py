"""Small ONNX files as others make them: image in, image out, nothing of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kspacesr_rt.conversion.adoption import Contracts
from kspacesr_rt.conversion.proof import finished
from kspacesr_rt.model.file import load_model

Axis = int | str | None
OPEN: tuple[Axis, ...] = ("n", 1, "h", "w")


def weight(name: str, values: Any, kind: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype=kind), name)


def op(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def shuffle_network(upscale: int = 2, channels: int = 1) -> tuple[list[Any], list[Any]]:
    """Return nodes and weights: every SR sample from its LR sample, a little of its neighbours."""
    rng = np.random.default_rng(0)
    outputs = channels * upscale**2
    first = rng.normal(0, 0.05, (4, channels, 3, 3))
    second = rng.normal(0, 0.05, (outputs, 4, 3, 3))
    repeat = np.zeros((outputs, channels, 1, 1))
    for number in range(outputs):
        repeat[number, number // upscale**2 if channels > 1 else 0] = 1.0
    nodes = [
        op("Conv", "input first first_bias", "one", pads=[1] * 4),
        op("Relu", "one", "two"),
        op("Conv", "two second", "three", pads=[1] * 4),
        op("Conv", "input repeat", "repeated"),
        op("Add", "three repeated", "four"),
        op("DepthToSpace", "four", "output", blocksize=upscale, mode="CRD"),
    ]
    weights = [
        weight("first", first),
        weight("first_bias", rng.normal(0, 0.1, 4)),
        weight("second", second),
        weight("repeat", repeat),
    ]
    return nodes, weights


def pooling_network() -> tuple[list[Any], list[Any]]:
    """Return a network that takes multiples of 4: it halves twice, and joins what it had."""
    nodes, weights = shuffle_network()
    nodes[1:2] = [
        op("MaxPool", "one", "half", kernel_shape=[2, 2], strides=[2, 2]),
        op("AveragePool", "half", "quarter", kernel_shape=[2, 2], strides=[2, 2]),
        op("Resize", "quarter  four_times", "again", mode="nearest"),
        op("Add", "again one", "two"),
    ]
    nodes[3].input[:] = ["quarter", "", "four_times"]
    return nodes, [*weights, weight("four_times", [1.0, 1.0, 4.0, 4.0])]


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    *,
    axes: Sequence[Axis] = OPEN,
    sr_axes: Sequence[Axis] = ("n", 1, "2*h", "2*w"),
    opset: int = 18,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("input", kind, list(axes))],
        [helper.make_tensor_value_info("output", kind, list(sr_axes))],
        list(weights),
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=9,
        producer_name="elsewhere",
        producer_version="7",
    )


def saved(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def declaring(path: Path, contracts: Contracts) -> Path:
    """Declare in a finished file what no gate has seen, as an older or a foreign tool may have."""
    model_file = load_model(path)
    spec = dataclasses.replace(
        model_file.spec,
        data_consistency=contracts.data_consistency,
        homogeneous=contracts.homogeneous,
        output_range=contracts.output_range or (),
    )
    answer = model_file.known_answer()
    del model_file.proto.metadata_props[:]
    path.write_bytes(finished(model_file.proto, spec, answer))
    return path
