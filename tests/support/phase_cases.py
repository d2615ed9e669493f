"""A fault that only FFT layers on phases have."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from kspacesr_rt.graph.phase_transforms import MARK


def spoil_phases(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Make the matrices along columns wrong by 1 %, where a model has them; changed in place."""
    for item in proto.graph.initializer:
        if item.name.startswith(f"{MARK}.rows"):
            array = numpy_helper.to_array(item) * np.float32(1.01)
            item.CopyFrom(numpy_helper.from_array(array, item.name))
    return proto
