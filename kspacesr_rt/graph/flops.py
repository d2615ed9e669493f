"""Floating-point operations of a model, counted in its graph: what a slice costs anywhere.

What it counts: convolutions (transposed ones too) and matrix products, a multiplication and an
addition each, after function bodies have been inlined, so that the FFT layers count as they are
lowered (`gemm`: as matrix products; a `dft` graph's DFT ops are left out and named).
What it leaves out: everything elementwise, which costs bandwidth rather than arithmetic. A backend
that computes a layer with fewer operations is credited with those of the file.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import shape_inference

from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.binding import attributes_of, bind
from kspacesr_rt.model.file import INPUT_NAME, ModelFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """Operations for one slice."""

    cnn: float
    """Of the convolutions, and of the matrix products of a network without FFT layers."""
    fft: float
    """Of the matrix products that the FFT layers are lowered to."""
    uncounted: tuple[str, ...] = ()
    """Operators that compute transforms or products and are not counted."""

    @property
    def total(self) -> float:
        """Of everything counted."""
        return self.cnn + self.fft


def count_flops(model: ModelFile, matrix: Matrix) -> Flops:
    """Count the operations of one slice of a LR matrix.

    Parameters
    ----------
    model
        Any model file.
    matrix
        LR ``(rows, columns)``.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(bind(model, matrix).proto)
    for value in proto.graph.input:
        if value.name == INPUT_NAME:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    flat = shape_inference.infer_shapes(_flattened(proto), strict_mode=True, data_prop=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*flat.graph.value_info, *flat.graph.input, *flat.graph.output)
    }
    shapes |= {item.name: list(item.dims) for item in flat.graph.initializer}
    cnn = fft = 0.0
    uncounted = set()
    for node in flat.graph.node:
        if node.op_type == "Conv":
            weight, out = shapes[node.input[1]], shapes[node.output[0]]
            cnn += 2.0 * math.prod(weight) * math.prod(out[2:])
        elif node.op_type == "MatMul":
            inner = shapes[node.input[0]][-1]
            products = 2.0 * inner * math.prod(shapes[node.output[0]])
            if model.spec.lowering == "none":  # no FFT layers: attention, say
                cnn += products
            else:
                fft += products
        elif node.op_type == "Gemm":
            inner = shapes[node.input[0]][0 if attributes_of(node).get("transA") else 1]
            cnn += 2.0 * inner * math.prod(shapes[node.output[0]])
        elif node.op_type == "ConvTranspose":
            image, weight = shapes[node.input[0]], shapes[node.input[1]]
            cnn += 2.0 * math.prod(weight) * math.prod(image[2:])
        elif node.op_type in ("DFT", "Einsum", "Attention"):
            uncounted.add(node.op_type)
    return Flops(cnn=cnn, fft=fft, uncounted=tuple(sorted(uncounted)))


def _flattened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Inline functions and fold constants, so that every shape is known; nothing is fused."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flat.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(path)
