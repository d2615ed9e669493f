"""Bind a model to the matrix of the series it meets: constants are replaced, weights stay.

Every size-dependent layer is a node of the ``kspacesr_rt`` domain. Its attributes say what it is
(how many times finer than the LR matrix its grids are); its inputs after the first are constants
that follow from the matrix. Binding computes those and nothing else: no torch, no tracing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from kspacesr_rt.errors import ModelFileError, ShapeError
from kspacesr_rt.kspace import FloatArray, Matrix, centred_offset, nyquist_gain
from kspacesr_rt.kspace.dft_matrices import centred_dft, left_factor, right_factor
from kspacesr_rt.kspace.mean_spectrum import resample_spectrum
from kspacesr_rt.kspace.real_band import (
    analysis_matrix,
    coefficient_mask,
    coefficient_nyquist_gain,
    synthesis_matrix,
)
from kspacesr_rt.model.file import ModelFile, bound_constants
from kspacesr_rt.model.graph_memory import require_bounded
from kspacesr_rt.model.known_integers import write_integers
from kspacesr_rt.model.padding import pad_around
from kspacesr_rt.model.spec import OP_DOMAIN, Lowering, ModelSpec

SMALLEST_MATRIX, LARGEST_MATRIX = 8, 2048
"""LR samples per axis a model may be bound to: outside, the result means nothing or the constants
come near the 2 GiB an ONNX file may have (0.9 GB at 2048 and x4)."""
CONSTANTS_TOLERANCE = 1e-6
"""Largest difference of a stored constant from the same made here, over the largest of its kind:
NumPy's versions round sines differently in the last bits of float32 (6e-8)."""

Constants = dict[str, Any]
"""Name of a node's constant input to its array, in input order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundModel:
    """A model for one LR matrix."""

    spec: ModelSpec
    """As in the file, with `matrix` as bound."""
    proto: onnx.ModelProto
    """A complete ONNX model with a dynamic batch."""

    def serialized(self) -> bytes:
        """Return the bytes an inference library loads."""
        content: bytes = self.proto.SerializeToString()
        return content


@dataclass(frozen=True, kw_only=True, slots=True)
class _Grids:
    """The two grids a layer works between, in samples."""

    source: Matrix
    target: Matrix


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def layer_constants(node: onnx.NodeProto, matrix: Matrix, lowering: Lowering) -> Constants:
    """Compute the constant inputs of one size-dependent layer.

    Parameters
    ----------
    node
        A node of the ``kspacesr_rt`` domain.
    matrix
        LR ``(rows, columns)``.
    lowering
        Which standard ops stand in the bodies.

    Raises
    ------
    ModelFileError
        If the operator is unknown to this version.
    """
    values = attributes_of(node)
    grids = _Grids(
        source=(matrix[0] * values["input_upscale"], matrix[1] * values["input_upscale"]),
        target=(matrix[0] * values["output_upscale"], matrix[1] * values["output_upscale"]),
    )
    compute = _LAYERS.get(node.op_type)
    if compute is None:
        raise ModelFileError(f"operator '{OP_DOMAIN}::{node.op_type}' is unknown to this version")
    if lowering == "dynamic":
        return {}  # the body makes them from the shape of its input
    return compute(values, grids, lowering)


def _transform(
    values: dict[str, Any],
    grids: _Grids,
    lowering: Lowering,
    *,
    inverse: bool,
    corner: bool = False,
) -> Constants:
    if lowering in ("gemm", "conv"):
        pairs = list(zip(grids.source, grids.target, strict=True))
        # A square matrix needs one DFT, not two.
        dfts = {
            pair: centred_dft(*pair, inverse=inverse, dtype=np.complex64, corner=corner)
            for pair in set(pairs)
        }
        left = left_factor(dfts[pairs[0]], values["input_channels"])
        right = right_factor(dfts[pairs[1]], values["channels"])
        if lowering == "conv":  # weights of a 1x1 convolution: (out, in, 1, 1)
            return {"left": left[..., None, None], "right": right.T[..., None, None]}
        return {"left": left, "right": right}
    return _corner_dft_constants(grids, inverse) if corner else _dft_constants(grids, inverse)


def _corner_dft_constants(grids: _Grids, inverse: bool) -> Constants:
    """Return the same for an image whose origin is in its corner: only k-space is shifted."""
    unmoved, length = ("unshift", grids.target) if inverse else ("shift", grids.source)
    images = {f"{unmoved}_{axis}": np.arange(n) for axis, n in zip("yx", length, strict=True)}
    return _dft_constants(grids, inverse) | images


def _dft_constants(grids: _Grids, inverse: bool) -> Constants:
    """Index vectors that shift (and crop), pads that fill, and the orthonormal factor."""
    constants: Constants = {}
    length = grids.target if inverse else grids.source
    if inverse:
        constants["pads"] = _pads(grids, trailing_channels=True)
    for axis, n in zip("yx", length, strict=True):
        constants[f"shift_{axis}"] = (np.arange(n) + n // 2) % n
    for axis, n, target in zip("yx", length, grids.target, strict=True):
        constants[f"unshift_{axis}"] = (np.arange(target) - target // 2) % n
    constants = {name: value.astype(np.int64) for name, value in constants.items()}
    samples = float(length[0] * length[1])
    # The DFT operator divides an inverse by its length; orthonormal is the root of that.
    gain = np.sqrt(samples) if inverse else 1.0 / np.sqrt(samples)
    constants["gain"] = np.asarray(gain, dtype=np.float32)
    return constants


def _pads(grids: _Grids, *, trailing_channels: bool = False) -> Any:
    before = [centred_offset(a, b) for a, b in zip(grids.source, grids.target, strict=True)]
    after = [
        target - source - start
        for source, target, start in zip(grids.source, grids.target, before, strict=True)
    ]
    if trailing_channels:
        return np.asarray([0, *before, 0, 0, *after, 0], dtype=np.int64)
    return np.asarray([0, 0, *before, 0, 0, *after], dtype=np.int64)


def _fft2c(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    return _transform(values, grids, lowering, inverse=False)


def _ifft2c(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    return _transform(values, grids, lowering, inverse=True)


def _corner_fft2c(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    return _transform(values, grids, lowering, inverse=False, corner=True)


def _corner_ifft2c(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    return _transform(values, grids, lowering, inverse=True, corner=True)


def _real_fft2c(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    left, right = _axis_matrices(analysis_matrix, grids.target, grids.source)
    return _real_factors(left, right, lowering)


def _real_ifft2c(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    left, right = _axis_matrices(synthesis_matrix, grids.source, grids.target)
    mask = coefficient_mask(grids.source, np.float32)
    return {"mask": mask, **_real_factors(left, right, lowering)}


def _axis_matrices(
    make: Callable[[int, int, npt.DTypeLike], FloatArray], band: Matrix, grid: Matrix
) -> tuple[FloatArray, FloatArray]:
    """Make an axis's matrix each; a square matrix needs one, not two."""
    rows, columns = zip(band, grid, strict=True)
    left = make(*rows, np.float32)
    return left, left if rows == columns else make(*columns, np.float32)


def _real_factors(left: FloatArray, right: FloatArray, lowering: Lowering) -> Constants:
    """Return the constants of ``left @ x @ right.T``."""
    if lowering == "conv":  # weights of a 1x1 convolution: (out, in, 1, 1)
        return {"left": left[..., None, None], "right": right[..., None, None]}
    if lowering == "gemm":
        return {"left": left, "right": right.T}
    raise ModelFileError(f"lowering '{lowering}' has no transforms of real coefficients")


def _centre_crop(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    starts = [centred_offset(b, a) for a, b in zip(grids.source, grids.target, strict=True)]
    ends = [start + length for start, length in zip(starts, grids.target, strict=True)]
    return {"starts": np.asarray(starts, np.int64), "ends": np.asarray(ends, np.int64)}


def _centre_fill(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    return {"pads": _pads(grids)}


def _mean_spectrum(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    return _spectrum_factor(values, grids, of_peak=False)


def _peak_spectrum(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    return _spectrum_factor(values, grids, of_peak=True)


def _spectrum_factor(values: dict[str, Any], grids: _Grids, *, of_peak: bool) -> Constants:
    stored = numpy_helper.to_array(values["spectrum"])
    spectrum = resample_spectrum(stored, grids.target, of_peak=of_peak)
    factor = 1.0 / spectrum if values["divide"] else spectrum
    return {"factor": factor[None, None].astype(np.float32)}


def _whole_nyquist(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    return {"gain": nyquist_gain(grids.source)[None, None]}


def _real_whole_nyquist(values: dict[str, Any], grids: _Grids, lowering: Lowering) -> Constants:
    return {"gain": coefficient_nyquist_gain(grids.source)[None, None]}


_LAYERS: dict[str, Callable[[dict[str, Any], _Grids, Lowering], Constants]] = {
    "FFT2c": _fft2c,
    "IFFT2c": _ifft2c,
    "CornerFFT2c": _corner_fft2c,
    "CornerIFFT2c": _corner_ifft2c,
    "RealFFT2c": _real_fft2c,
    "RealIFFT2c": _real_ifft2c,
    "CentreCrop": _centre_crop,
    "CentreFill": _centre_fill,
    "MeanSpectrum": _mean_spectrum,
    "PeakSpectrum": _peak_spectrum,
    "WholeNyquist": _whole_nyquist,
    "RealWholeNyquist": _real_whole_nyquist,
}


def require_bindable(matrix: Matrix) -> None:
    """Refuse matrices that no model can be bound to.

    Raises
    ------
    ShapeError
        If an axis is shorter than `SMALLEST_MATRIX` or longer than `LARGEST_MATRIX`.
    """
    if min(matrix) < SMALLEST_MATRIX or max(matrix) > LARGEST_MATRIX:
        raise ShapeError(
            f"a matrix of {matrix[0]} x {matrix[1]} is outside the {SMALLEST_MATRIX} to "
            f"{LARGEST_MATRIX} samples per axis a model can be bound to"
        )


def require_fitting(spec: ModelSpec, matrix: Matrix) -> None:
    """Refuse a matrix that a model of one matrix does not take.

    Raises
    ------
    ShapeError
        If the model's `fixed_matrix` is another.
    """
    if any(spec.fixed_matrix) and matrix != spec.fixed_matrix:
        rows, columns = spec.fixed_matrix
        raise ShapeError(
            f"a matrix of {matrix[0]} x {matrix[1]}: the network '{spec.name}' takes "
            f"{rows} x {columns} only"
        )


def bind(model: ModelFile, matrix: Matrix) -> BoundModel:
    """Bind a model to a LR matrix, square or not, odd or not.

    Parameters
    ----------
    model
        What `load_model` returned; it is not changed.
    matrix
        LR ``(rows, columns)`` of the series.

    Returns
    -------
        A model whose graph takes ``(n, 1, *matrix)`` for any n; or k-space, as its `input` says. A
        network that takes multiples of a number only is padded around, see `pad_around`.

    Raises
    ------
    ShapeError
        If the matrix is too small or too large, or not the only one that the network takes.
    ModelFileError
        If the graph needs more memory than an image of that size explains; see `graph_memory`.
    """
    require_bindable(matrix)
    require_fitting(model.spec, matrix)
    spec = dataclasses.replace(model.spec, matrix=(matrix[0], matrix[1]))
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    # At the stored matrix too: constants in a file are not trusted.
    rebind(proto, dataclasses.replace(spec, matrix=spec.network_matrix(spec.matrix)))
    pad_around(proto, spec)
    _set_shapes(proto.graph, spec)
    # Nor are shapes in a file: a runtime would fold constants of them.
    for part in (proto.graph, *proto.functions):
        del part.value_info[:]
    memory = require_bounded(proto, spec, model.name)
    if spec.lowering != "dynamic":  # such a graph takes other matrices too
        write_integers(proto.graph, memory.integers)
    return BoundModel(spec=spec, proto=proto)


def rebind(proto: onnx.ModelProto, spec: ModelSpec) -> None:
    """Give every size-dependent layer of a graph its constants for `spec.matrix`, in place.

    Nodes need not have had constants before: export calls this too, so that there is one place
    where they are made.
    """
    graph = proto.graph
    stale = bound_constants(proto)
    kept = [item for item in graph.initializer if item.name not in stale]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    named: dict[tuple[str, ...], list[str]] = {}
    for node in graph.node:
        if node.domain != OP_DOMAIN:
            continue
        # Layers of the same operator and attributes share their constants.
        alike = (node.op_type, *(item.SerializeToString().hex() for item in node.attribute))
        if alike not in named:
            constants = layer_constants(node, spec.matrix, spec.lowering)
            named[alike] = [f"{node.name}.{key}" for key in constants]
            for name, array in zip(named[alike], constants.values(), strict=True):
                # Filled in place: a large matrix's constants are copied once, not three times.
                graph.initializer.add(
                    name=name,
                    data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
                    dims=array.shape,
                    raw_data=np.ascontiguousarray(array).tobytes(),
                )
        data_input = node.input[0]
        del node.input[:]
        node.input.extend([data_input, *named[alike]])
    _set_shapes(graph, spec)


def _set_shapes(graph: onnx.GraphProto, spec: ModelSpec) -> None:
    if spec.lowering == "dynamic":  # such a file takes any matrix as it is
        _open_shape(graph.input[0], "lr")
        _open_shape(graph.output[0], "sr")
    else:
        _set_shape(graph.input[0], spec.matrix)
        _set_shape(graph.output[0], spec.sr_matrix(spec.matrix))


def _open_shape(value: onnx.ValueInfoProto, image: str) -> None:
    dimensions = value.type.tensor_type.shape.dim
    dimensions[-2].dim_param, dimensions[-1].dim_param = f"{image}_rows", f"{image}_columns"


def _set_shape(value: onnx.ValueInfoProto, matrix: Matrix) -> None:
    dimensions = value.type.tensor_type.shape.dim
    dimensions[-2].dim_value, dimensions[-1].dim_value = matrix


def require_stored_constants(model: ModelFile) -> None:
    """Refuse a file whose size-dependent layers hold other constants than binding makes for it.

    Binding replaces them, so that here nothing depends on them, and the digest of the weights does
    not cover them; but whoever runs the file elsewhere takes them as they stand.

    Raises
    ------
    ModelFileError
        If one differs by more than NumPy's versions do.
    """
    stored = _constants(model.proto)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    matrix = model.spec.network_matrix(model.spec.matrix)
    rebind(proto, dataclasses.replace(model.spec, matrix=matrix))
    for name, made in _constants(proto).items():
        found = stored.get(name)
        if found is None or not _same(found, made):
            raise ModelFileError(
                f"{model.name}: the constant '{name}' was changed after export",
                hint="take the file again from where it came from, or export it again",
            )


def _constants(proto: onnx.ModelProto) -> Constants:
    """Return the constants of size-dependent layers by name."""
    bound = bound_constants(proto)
    tensors = (item for item in proto.graph.initializer if item.name in bound)
    return {item.name: numpy_helper.to_array(item) for item in tensors}


def _same(found: FloatArray, made: FloatArray) -> bool:
    if found.dtype != made.dtype or found.shape != made.shape:
        return False
    if made.dtype.kind != "f":
        return bool(np.array_equal(found, made))
    difference = np.abs(found.astype(np.float64) - made)
    return bool((difference <= CONSTANTS_TOLERANCE * np.abs(made).max(initial=0.0)).all())
