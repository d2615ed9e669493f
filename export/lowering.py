"""Lower a trained generator to one ONNX graph, layer by layer.

The generator is traced with torch.fx down to modules; each module type has one emitter below. So
every node has the name of its layer, weights keep their state-dict names, BatchNorm is folded in
float64, a PReLU of one slope becomes the LeakyRelu it is, and k-space layers stay whole as nodes
of the ``kspacesr_rt`` domain. `torch.onnx.export` is no alternative: it takes the FFT apart into
DFT ops, shifts and slices of one size, which no later step can bind to another matrix, and it
keeps PRelu, which breaks ONNX Runtime's blocked layout.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kspacesr_rt._version import __version__
from kspacesr_rt.errors import ExportError
from kspacesr_rt.graph.bodies import OPSET, function_bodies
from kspacesr_rt.graph.real_layers import REAL_LOWERINGS, in_real_coefficients
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.binding import rebind
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME
from kspacesr_rt.model.spec import OP_DOMAIN, Lowering, ModelSpec
from kspacesr_rt.train import layers

IR_VERSION = 10
"""Oldest ONNX file version that has all we use; ONNX Runtime reads it since 1.18."""
TRACE_MATRIX = 16
"""LR samples per axis while tracing: only channel counts are taken from it."""


class _LayerTracer(fx.Tracer):
    """Stop at every layer that has an emitter, and at every standard torch layer."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in _MODULES or super().is_leaf_module(m, module_qualified_name)


class _GraphWriter:
    """Collect ONNX nodes and weights while walking a traced generator."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.names: set[str] = set()

    def weight(self, name: str, value: Tensor | np.ndarray[Any, Any]) -> str:
        """Store a constant once, under its name."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def emit(self, op: str, inputs: list[str], node: fx.Node, **attributes: Any) -> None:
        """Add the node that yields `node`'s value, named after its layer."""
        name = str(node.target) if node.op == "call_module" else node.name
        # A layer without weights may be used more than once; torch.fx numbers its uses.
        if name in self.names:
            name = node.name
        self.names.add(name)
        made = helper.make_node(op, inputs, [node.name], name=name, **attributes)
        self.nodes.append(made)

    def emit_domain(self, op: str, node: fx.Node, **attributes: Any) -> None:
        """Add a node of our domain; its constants come with binding."""
        self.emit(op, [_source(node).name], node, domain=OP_DOMAIN, **attributes)

    def intermediate(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node inside a layer and return its output's name."""
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def operand(self, value: Any, node: fx.Node) -> str:
        """Return the name of a traced value, or of a scalar constant made for it."""
        if isinstance(value, fx.Node):
            return value.name
        return self.weight(f"{node.name}.scalar", np.asarray(value, dtype=np.float32))


def _source(node: fx.Node) -> fx.Node:
    first = node.args[0]
    if not isinstance(first, fx.Node):
        raise ExportError(f"layer '{node.name}' does not take a tensor")
    return first


def _channels(node: fx.Node) -> int:
    return int(node.meta["tensor_meta"].shape[1])


def _conv(writer: _GraphWriter, node: fx.Node, layer: nn.Conv2d) -> None:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ExportError(f"layer '{node.target}': only zero padding given in samples is lowered")
    inputs = [_source(node).name, writer.weight(f"{node.target}.weight", layer.weight)]
    if layer.bias is not None:
        inputs.append(writer.weight(f"{node.target}.bias", layer.bias))
    padding = [*layer.padding, *layer.padding]
    writer.emit(
        "Conv",
        inputs,
        node,
        kernel_shape=list(layer.kernel_size),
        pads=padding,
        strides=list(layer.stride),
        dilations=list(layer.dilation),
        group=layer.groups,
    )


def _prelu(writer: _GraphWriter, node: fx.Node, layer: nn.PReLU) -> None:
    source = _source(node).name
    if layer.num_parameters == 1:
        writer.emit("LeakyRelu", [source], node, alpha=float(layer.weight.detach()))
        return
    slope = writer.weight(f"{node.target}.weight", layer.weight.reshape(-1, 1, 1))
    writer.emit("PRelu", [source, slope], node)


def _leaky_relu(writer: _GraphWriter, node: fx.Node, layer: nn.LeakyReLU) -> None:
    writer.emit("LeakyRelu", [_source(node).name], node, alpha=float(layer.negative_slope))


def _relu(writer: _GraphWriter, node: fx.Node, layer: nn.Module) -> None:
    writer.emit("Relu", [_source(node).name], node)


def _tanh(writer: _GraphWriter, node: fx.Node, layer: nn.Module) -> None:
    writer.emit("Tanh", [_source(node).name], node)


def _identity(writer: _GraphWriter, node: fx.Node, layer: nn.Module) -> None:
    writer.emit("Identity", [_source(node).name], node)


def _pixel_shuffle(writer: _GraphWriter, node: fx.Node, layer: nn.PixelShuffle) -> None:
    writer.emit(
        "DepthToSpace", [_source(node).name], node, blocksize=layer.upscale_factor, mode="CRD"
    )


def _pixel_unshuffle(writer: _GraphWriter, node: fx.Node, layer: nn.PixelUnshuffle) -> None:
    # ONNX puts the block ahead of the channel, torch behind it: equal for one channel only.
    if _channels(_source(node)) != 1:
        raise ExportError(f"layer '{node.target}': PixelUnshuffle is lowered for one channel only")
    writer.emit("SpaceToDepth", [_source(node).name], node, blocksize=layer.downscale_factor)


def _grids(layer: Any) -> dict[str, int]:
    return {"input_upscale": layer.input_upscale, "output_upscale": layer.output_upscale}


def _transform(writer: _GraphWriter, node: fx.Node, layer: Any) -> None:
    writer.emit_domain(
        type(layer).__name__,
        node,
        input_channels=_channels(_source(node)),
        channels=layer.channels,
        **_grids(layer),
    )


def _crop_or_fill(writer: _GraphWriter, node: fx.Node, layer: Any) -> None:
    writer.emit_domain(type(layer).__name__, node, **_grids(layer))


def _whole_nyquist(writer: _GraphWriter, node: fx.Node, layer: nn.Module) -> None:
    writer.emit_domain("WholeNyquist", node, input_upscale=1, output_upscale=1)


def _sample_sign(writer: _GraphWriter, node: fx.Node, layer: layers.SampleSign) -> None:
    samples, predicted = (str(one) for one in node.args)
    zero = writer.weight(f"{node.target}.zero", np.zeros((), dtype=np.float32))
    signed = writer.intermediate("Add", [samples, predicted], f"{node.name}.signed")
    below = writer.intermediate("Less", [signed, zero], f"{node.name}.below")
    negative = writer.intermediate("Neg", [samples], f"{node.name}.negative")
    writer.emit("Where", [below, negative, samples], node)


def _mean_spectrum(writer: _GraphWriter, node: fx.Node, layer: layers.MeanSpectrum) -> None:
    finer = int(_source(node).meta["tensor_meta"].shape[-1]) // TRACE_MATRIX
    spectrum = numpy_helper.from_array(layer.spectrum.detach().cpu().numpy(), "spectrum")
    writer.emit_domain(
        type(layer).__name__,
        node,
        input_upscale=finer,
        output_upscale=finer,
        divide=int(layer.divide),
        spectrum=spectrum,
    )


def _slice_maximum(writer: _GraphWriter, node: fx.Node, layer: nn.Module) -> None:
    absolute = writer.intermediate("Abs", [_source(node).name], f"{node.name}.abs")
    _largest(writer, node, absolute)


def _slice_peak(writer: _GraphWriter, node: fx.Node, layer: nn.Module) -> None:
    _largest(writer, node, _source(node).name)


def _largest(writer: _GraphWriter, node: fx.Node, value: str) -> None:
    """Add the largest sample of each slice, at least `TINY`, as the value of a layer."""
    axes = writer.weight("slice_axes", np.asarray([1, 2, 3], dtype=np.int64))
    largest = writer.intermediate("ReduceMax", [value, axes], f"{node.name}.largest", keepdims=1)
    writer.emit("Max", [largest, _tiny(writer)], node)


def _channel_axis(writer: _GraphWriter) -> str:
    return writer.weight("channel_axis", np.asarray([1], dtype=np.int64))


def _tiny(writer: _GraphWriter) -> str:
    return writer.weight("tiny", np.asarray(layers.TINY, dtype=np.float32))


def _magnitude(writer: _GraphWriter, node: fx.Node, layer: nn.Module) -> None:
    writer.emit("ReduceL2", [_source(node).name, _channel_axis(writer)], node, keepdims=1)


def _unit_phase(writer: _GraphWriter, node: fx.Node, layer: nn.Module) -> None:
    source, name = _source(node).name, node.name
    axes = _channel_axis(writer)
    magnitude = writer.intermediate("ReduceL2", [source, axes], f"{name}.magnitude", keepdims=1)
    divisor = writer.intermediate("Max", [magnitude, _tiny(writer)], f"{name}.divisor")
    writer.emit("Div", [source, divisor], node)


def _binary(op: str) -> Callable[[_GraphWriter, fx.Node], None]:
    def emitter(writer: _GraphWriter, node: fx.Node) -> None:
        writer.emit(op, [writer.operand(value, node) for value in node.args[:2]], node)

    return emitter


def _expand(writer: _GraphWriter, node: fx.Node) -> None:
    shape = np.asarray([1 if size == -1 else size for size in node.args[1:]], dtype=np.int64)
    target = writer.weight(f"{node.name}.shape", shape)
    writer.emit("Expand", [_source(node).name, target], node)


def _reduction(op: str) -> Callable[[_GraphWriter, fx.Node], None]:
    def emitter(writer: _GraphWriter, node: fx.Node) -> None:
        axes = writer.weight(
            f"{node.name}.axes", np.atleast_1d(np.asarray(node.kwargs["dim"], dtype=np.int64))
        )
        keep = int(bool(node.kwargs.get("keepdim", False)))
        writer.emit(op, [_source(node).name, axes], node, keepdims=keep)

    return emitter


_MODULES: dict[type[nn.Module], Callable[[_GraphWriter, fx.Node, Any], None]] = {
    nn.Conv2d: _conv,
    nn.PReLU: _prelu,
    nn.LeakyReLU: _leaky_relu,
    nn.ReLU: _relu,
    nn.Tanh: _tanh,
    nn.Identity: _identity,
    nn.PixelShuffle: _pixel_shuffle,
    nn.PixelUnshuffle: _pixel_unshuffle,
    layers.FFT2c: _transform,
    layers.IFFT2c: _transform,
    layers.CornerFFT2c: _transform,
    layers.CornerIFFT2c: _transform,
    layers.CentreCrop: _crop_or_fill,
    layers.CentreFill: _crop_or_fill,
    layers.MeanSpectrum: _mean_spectrum,
    layers.PeakSpectrum: _mean_spectrum,
    layers.WholeNyquist: _whole_nyquist,
    layers.SampleSign: _sample_sign,
    layers.SliceMaximum: _slice_maximum,
    layers.SlicePeak: _slice_peak,
    layers.Magnitude: _magnitude,
    layers.UnitPhase: _unit_phase,
}
_FUNCTIONS: dict[Any, Callable[[_GraphWriter, fx.Node], None]] = {
    operator.add: _binary("Add"),
    operator.sub: _binary("Sub"),
    operator.mul: _binary("Mul"),
    operator.truediv: _binary("Div"),
    torch.add: _binary("Add"),
    torch.mul: _binary("Mul"),
}
_METHODS: dict[str, Callable[[_GraphWriter, fx.Node], None]] = {
    "expand": _expand,
    "mean": _reduction("ReduceMean"),
    "sum": _reduction("ReduceSum"),
}


def _fold_batch_norms(traced: fx.GraphModule) -> None:
    """Fold every BatchNorm into the convolution in front of it, in float64."""
    modules: dict[str, nn.Module] = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, nn.BatchNorm2d):
            continue
        source = _source(node)
        conv = modules.get(str(source.target)) if source.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or len(source.users) != 1:
            raise ExportError(f"layer '{node.target}': BatchNorm is lowered behind a Conv2d only")
        fused = fuse_conv_bn_eval(copy.deepcopy(conv).double(), copy.deepcopy(layer).double())
        traced.set_submodule(str(source.target), fused.float())
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
    traced.recompile()


def lower(generator: nn.Module, spec: ModelSpec, lowering: Lowering = "gemm") -> onnx.ModelProto:
    """Turn a generator into an ONNX model bound to `spec.matrix`.

    Parameters
    ----------
    generator
        One of ours, in evaluation mode, float32; it is not changed.
    spec
        What it is, and takes; its `matrix` is bound.
    lowering
        What stands in the bodies of the FFT layers.

    Returns
    -------
        One graph ``lr (n, 1, y, x) -> sr (n, 1, s*y, s*x)``, or of k-space, with a dynamic batch
        and without metadata, checked by ONNX.

    Raises
    ------
    ExportError
        If a layer has no lowering; it is named.
    """
    traced = fx.GraphModule(generator, _LayerTracer().trace(generator)).eval()
    _fold_batch_norms(traced)
    ShapeProp(traced).propagate(torch.zeros(1, *spec.input_axes, TRACE_MATRIX, TRACE_MATRIX))
    writer = _GraphWriter(traced)
    modules: dict[str, nn.Module] = dict(traced.named_modules())
    for node in traced.graph.nodes:
        _emit(writer, node, modules)
    nodes = in_real_coefficients(writer.nodes) if lowering in REAL_LOWERINGS else writer.nodes
    graph = helper.make_graph(
        nodes,
        spec.name,
        [_value(INPUT_NAME, spec.input_axes, spec.matrix)],
        [_value(OUTPUT_NAME, spec.output_axes, spec.sr_matrix(spec.matrix))],
        list(writer.initializers.values()),
    )
    used = {node.op_type for node in nodes if node.domain == OP_DOMAIN}
    proto = helper.make_model(
        graph,
        functions=function_bodies(lowering, used),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(OP_DOMAIN, 1)],
        ir_version=IR_VERSION,
        producer_name="kspacesr-rt",
        producer_version=__version__,
    )
    rebind(proto, dataclasses.replace(spec, lowering=lowering))
    onnx.checker.check_model(proto)
    return proto


def _value(name: str, axes: tuple[int, ...], matrix: Matrix) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *axes, *matrix])


def _emit(writer: _GraphWriter, node: fx.Node, modules: dict[str, nn.Module]) -> None:
    if node.op == "placeholder":
        writer.intermediate("Identity", [INPUT_NAME], node.name)
    elif node.op == "output":
        writer.nodes.append(
            helper.make_node("Identity", [_source(node).name], [OUTPUT_NAME], name="output")
        )
    elif node.op == "call_module":
        layer = modules[str(node.target)]
        emitter = _MODULES.get(type(layer))
        if emitter is None:
            raise ExportError(f"layer '{node.target}' ({type(layer).__name__}) has no lowering")
        emitter(writer, node, layer)
    elif node.op == "call_function" and node.target in _FUNCTIONS:
        _FUNCTIONS[node.target](writer, node)
    elif node.op == "call_method" and node.target in _METHODS:
        _METHODS[str(node.target)](writer, node)
    else:
        raise ExportError(f"operation '{node.name}' ({node.target}) has no lowering")
