"""Other bodies for the FFT layers of a graph: from any lowering to any other, without torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx
from onnx import helper

from kspacesr_rt.errors import ExportError
from kspacesr_rt.graph.bodies import function_bodies
from kspacesr_rt.graph.real_layers import REAL_LOWERINGS, in_real_coefficients
from kspacesr_rt.model.binding import attributes_of, rebind
from kspacesr_rt.model.file import bound_constants
from kspacesr_rt.model.spec import OP_DOMAIN, Lowering, ModelSpec

COMPLEX_CHANNELS: dict[str, dict[str, Any]] = {
    "RealFFT2c": {"input_channels": 1, "channels": 2},
    "RealIFFT2c": {"input_channels": 2, "channels": 1},
    "RealWholeNyquist": {},
}
"""Layers of real coefficients to what their complex counterparts say besides their grids."""


def has_transforms(proto: onnx.ModelProto) -> bool:
    """Say whether a graph has layers of our domain, so that a lowering means something."""
    return any(node.domain == OP_DOMAIN for node in proto.graph.node)


def relowered(proto: onnx.ModelProto, spec: ModelSpec, lowering: Lowering) -> onnx.ModelProto:
    """Return a copy whose FFT layers have the bodies of another lowering.

    Parameters
    ----------
    proto
        A model in fp32, bound to anything; it is not changed.
    spec
        What it is; its `matrix` is bound.
    lowering
        What is to stand in the bodies of the FFT layers.

    Returns
    -------
        The graph that an export with that lowering makes.

    Raises
    ------
    ExportError
        If a layer has no body in that lowering; it is named.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    stale = bound_constants(result)
    kept = [item for item in graph.initializer if item.name not in stale]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    nodes = [_unbound(node) if node.domain == OP_DOMAIN else node for node in proto.graph.node]
    if lowering in REAL_LOWERINGS:
        nodes = in_real_coefficients(nodes)
    used = {node.op_type for node in nodes if node.domain == OP_DOMAIN}
    bodies = function_bodies(lowering, used)
    if lacking := sorted(used - {body.name for body in bodies}):
        raise ExportError(f"{', '.join(lacking)} cannot be lowered as '{lowering}'")
    del graph.node[:]
    graph.node.extend(nodes)
    others = [body for body in result.functions if body.domain != OP_DOMAIN]
    del result.functions[:]
    result.functions.extend([*others, *bodies])
    rebind(result, dataclasses.replace(spec, lowering=lowering))
    onnx.checker.check_model(result)
    return result


def _unbound(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a layer as export first writes it: complex, without the constants of a matrix."""
    name = node.op_type
    if name not in COMPLEX_CHANNELS:
        result = onnx.NodeProto()
        result.CopyFrom(node)
        del result.input[1:]
        return result
    return helper.make_node(
        name.removeprefix("Real"),
        [node.input[0]],
        list(node.output),
        name=node.name,
        domain=OP_DOMAIN,
        **attributes_of(node),
        **COMPLEX_CHANNELS[name],
    )
