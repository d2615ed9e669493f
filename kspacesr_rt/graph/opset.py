"""Bring a graph that others made to an opset that knows a narrower type."""

from __future__ import annotations

import onnx
from onnx import helper, version_converter

from kspacesr_rt.errors import ExportError
from kspacesr_rt.graph.bodies import OPSET
from kspacesr_rt.graph.precision import opset_of
from kspacesr_rt.model.spec import Precision

LEAST_OPSET: dict[Precision, int] = {"int8": 13, "fp8": OPSET, "bf16": OPSET}
"""What a graph must be of: scales for each channel came with 13, fp8 with 19. From `OPSET`, that of
our own graphs, to the one of bf16 no operator of theirs changed."""


def at_least_opset(proto: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """Return a graph in an opset in which it can be of a precision; itself if it is already.

    Parameters
    ----------
    proto
        In fp32; it is not changed.
    precision
        What it is to compute in.

    Raises
    ------
    ExportError
        If an operator of it cannot be brought there.
    """
    have, least = opset_of(proto), LEAST_OPSET.get(precision, 0)
    if have >= least:
        return proto
    try:
        raised = version_converter.convert_version(proto, least)
        raised.ir_version = max(proto.ir_version, helper.OP_SET_ID_VERSION_MAP[("ai.onnx", least)])
        for node in raised.graph.node:  # those that it adds have none
            node.name = node.name or f"opset.{node.output[0]}"
        onnx.checker.check_model(raised)
    except Exception as exc:  # of onnx's C++ layer, without a class of its own
        raise ExportError(
            f"{precision} needs ONNX's opset {least}, and the network's operators of opset {have} "
            "cannot be brought there",
            hint=f"export it again with opset {least} or newer, and adopt that",
        ) from exc
    return raised
