"""Real coefficients in numbers that GPUs like: multiples of 8 along each axis.

An even axis of `n` LR samples has ``n + 3`` real coefficients, an odd number, and kernels of matrix
products want rows of whole 16 bytes (of 32 in half of the width). TensorRT-RTX pads such values and
cuts them again, in layers of their own: of 256 x 256 samples 50 layers rather than 44. Zeros in the
constants do the same for nothing: coefficients that are always 0, and that nothing takes up.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from kspacesr_rt.model.spec import OP_DOMAIN

MULTIPLE = 8
"""Of which every axis of coefficients is made to be."""
_MATRIX_AXES = {
    "RealFFT2c": ((0,), (1,)),
    "RealIFFT2c": ((0, 1), (1,), (0,)),
    "RealWholeNyquist": ((2, 3),),
}
"""Axes of coefficients of each constant of a layer, as ``gemm`` writes them; see
`kspacesr_rt.graph.bodies`."""
_WEIGHT_AXES = _MATRIX_AXES | {"RealFFT2c": ((0,), (0,)), "RealIFFT2c": ((0, 1), (1,), (1,))}
"""The same of ``conv``: weights ``(out, in, 1, 1)``."""


def with_aligned_coefficients(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose real coefficients number multiples of `MULTIPLE` on both axes.

    Parameters
    ----------
    proto
        A bound model with its local functions; not changed. Layers of complex k-space stay as they
        are.

    Returns
    -------
        The same function of the same input, sums of the same numbers: only zeros are added.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    constants = {item.name: item for item in result.graph.initializer}
    done: set[str] = set()
    for node in result.graph.node:
        if node.domain != OP_DOMAIN or node.op_type not in _MATRIX_AXES:
            continue
        names = node.input[1:]
        # The left matrix, of which only weights of a convolution have four axes.
        weights = len(constants[names[-1]].dims) == 4 and node.op_type != "RealWholeNyquist"
        axes = (_WEIGHT_AXES if weights else _MATRIX_AXES)[node.op_type]
        for name, of_coefficients in zip(names, axes, strict=True):
            if name not in done:
                _pad(constants[name], of_coefficients)
                done.add(name)
    return result


def _pad(constant: onnx.TensorProto, axes: tuple[int, ...]) -> None:
    array = numpy_helper.to_array(constant)
    after = [(-length) % MULTIPLE if axis in axes else 0 for axis, length in enumerate(array.shape)]
    padded = np.pad(array, [(0, more) for more in after])
    constant.CopyFrom(numpy_helper.from_array(padded, constant.name))
