"""Lower any image-to-image `nn.Module` to one ONNX graph that binds like ours.

`export.lowering` walks the layers of our own generators; here the whole network goes through
`torch.export`. Complex tensors become pairs, centred transforms whole layers of ours, and what is
left is real and goes through torch's own ONNX exporter.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import onnx
import torch
from onnx import helper
from onnxscript import opset18 as op
from torch import Tensor, nn

from kspacesr_rt._version import __version__
from kspacesr_rt.errors import ExporterError, ExportError, KspaceSRError
from kspacesr_rt.export.dynamic_lengths import short_reasoning
from kspacesr_rt.export.exporter_graph import cleaned
from kspacesr_rt.export.image_blocks import in_blocks, take_image
from kspacesr_rt.export.module_graph import (
    EXAMPLE_BATCH,
    exported_graph,
    open_axes,
    quiet,
    trace_error,
)
from kspacesr_rt.export.real_program import RealProgram
from kspacesr_rt.export.source_locations import first_line, place_of
from kspacesr_rt.graph.bodies import OPSET, function_bodies
from kspacesr_rt.model.binding import rebind
from kspacesr_rt.model.graph_buffers import PLAIN
from kspacesr_rt.model.spec import OP_DOMAIN, ModelSpec

TRACED = (72, 88)
"""Rows and columns, at least, of the example where both are left open: not square, and nobody's
``img_size``, which a network would compare them with."""
GRADIENT = (
    "it is part of a gradient that forward takes (torch.autograd.grad): write that out; of conv2d "
    "it is conv_transpose2d with the same weight"
)
"""What to write instead of what only training has."""
INSTEAD = {
    "STFT": "write it as frames: torch.fft.rfft(x.unfold(-1, n, hop) * window, dim=-1), and back "
    "with torch.fft.irfft and functional.fold"
}
"""What to write instead of operators that have no bound on their memory."""
IR_VERSION = 10
"""As of our own generators' graphs."""


def lower_module(
    module: nn.Module,
    *,
    spec: ModelSpec,
    batch_open: bool = True,
    matrix_open: bool = True,
) -> onnx.ModelProto:
    """Turn a module into an ONNX model bound to a matrix.

    Parameters
    ----------
    module
        Image in ``(n, 1, y, x)``, image out ``(n, 1, s*y, s*x)``, or what `spec` says, in
        evaluation mode, float32; it is not changed.
    spec
        What it is; it is traced with and bound to its `matrix`, a multiple of its
        `matrix_multiple`.
    batch_open, matrix_open
        Whether the graph takes any batch, and any matrix.

    Returns
    -------
        One graph ``lr -> sr`` without metadata, checked by ONNX.

    Raises
    ------
    ExportError
        If something has no lowering; its place in the user's source is named.
    """
    batch = EXAMPLE_BATCH if batch_open else 1
    matrix = spec.matrix
    if matrix_open:
        step = spec.matrix_multiple
        matrix = (-(-TRACED[0] // step) * step, -(-TRACED[1] // step) * step + step)
    example = torch.rand(batch, *spec.input_axes, *matrix)
    multiple = spec.matrix_multiple if matrix_open else 1
    axes = open_axes(example, batch=batch_open, matrix=matrix_open, multiple=multiple)
    program = RealProgram(exported_graph(module, example, axes, multiple), multiple).eval()
    proto = cleaned(_exported(program, in_blocks(example, multiple), axes), batch_open=batch_open)
    take_image(proto.graph, multiple)
    used = {node.op_type for node in proto.graph.node if node.domain == OP_DOMAIN}
    proto.functions.extend(function_bodies(spec.lowering, used))
    del proto.opset_import[:]
    proto.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid(OP_DOMAIN, 1)])
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "kspacesr-rt", __version__
    rebind(proto, spec)
    onnx.checker.check_model(proto)
    return proto


def _rounded_length(length: Any, digits: None = None) -> Any:
    """Write Python's ``round`` of a length: half to even there and in ONNX."""
    del digits  # of a length, there are none
    rounded: Any = op.Round(length)
    return op.Cast(rounded, to=onnx.TensorProto.INT64)


def _exported(program: nn.Module, example: Tensor, axes: dict[int, Any]) -> onnx.ModelProto:
    """Return what torch's exporter makes of a program of real operators."""
    chatty = logging.getLogger("torch.onnx")
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    real: torch.export.ExportedProgram | None = None
    try:
        with quiet(), torch.no_grad(), short_reasoning():
            real = torch.export.export(program, (example,), dynamic_shapes=(axes,), strict=False)
            made = torch.onnx.export(
                real,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                custom_translation_table={round: _rounded_length},
            )
    except KspaceSRError:
        raise
    except Exception as exc:
        raise _exporter_error(exc, real) from exc
    finally:
        chatty.setLevel(level)
    if made is None:
        raise ExporterError("torch.onnx.export returned nothing")
    proto = onnx.ModelProto()
    proto.CopyFrom(made.model_proto)
    _require_plain(proto, real)
    return proto


def _require_plain(proto: onnx.ModelProto, real: torch.export.ExportedProgram) -> None:
    """Refuse operators whose results have shapes that follow from values, or no bound."""
    found = next(
        (node for node in proto.graph.node if not node.domain and node.op_type not in PLAIN), None
    )
    if found is None:
        return
    facts = {item.key: item.value for item in found.metadata_props}
    name = re.match(r"%(\w+)", facts.get("pkg.torch.onnx.fx_node", ""))
    nodes = {node.name: node for node in real.graph.nodes}
    node = nodes.get(name[1]) if name else None
    place = f"{place_of(node)}: " if node is not None else ""
    what = f"{node.target} becomes " if node is not None else ""
    raise ExportError(
        f"{place}{what}ONNX's {found.op_type}, whose memory cannot be bounded before it runs",
        hint=INSTEAD.get(found.op_type)
        or "write it without samples whose number follows from values, sequences or random "
        "numbers: torch.where(mask, a, b) in place of x[mask], torch.cat in place of lists",
    )


def _exporter_error(exc: Exception, real: torch.export.ExportedProgram | None) -> KspaceSRError:
    """Return what torch's exporter failed at, with its place in the user's source."""
    if real is None:
        return trace_error(exc)
    causes: list[BaseException] = []
    error: BaseException | None = exc
    while error is not None:
        causes.append(error)
        error = error.__cause__
    said = "\n".join(str(one) for one in causes)
    nodes = {node.name: node for node in real.graph.nodes}
    named = [nodes[one] for one in re.findall(r"%(\w+)", said) if one in nodes]
    operators = re.findall(r"OpOverload\(op='([\w.]+)'", said) or re.findall(r"aten\.\w+", said)
    of_gradient = bool(operators) and operators[0].endswith("_backward")
    # Of a gradient, torch keeps no line of the user's.
    place = f"{place_of(named[0])}: " if named and not of_gradient else ""
    what = f" ({operators[0]})" if operators else ""
    return ExporterError(
        f"{place}torch.onnx.export fails there{what}: {first_line(causes[-1])}"
        if place
        else f"torch.onnx.export fails on the network{what}: {first_line(causes[-1])}",
        hint=GRADIENT if of_gradient else "rewrite what stands there with other torch operators",
    )
