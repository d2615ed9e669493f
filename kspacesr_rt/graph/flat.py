"""A graph of standard operators alone: the bodies of our layers in the place of their calls.

ONNX Runtime's TensorRT provider hands nodes to TensorRT, whose parser knows no local functions; and
passes that look at the operators of FFT layers find them only here.
"""

from __future__ import annotations

import onnx
from onnx import inliner


def flattened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without functions, and without the domains that they were called from.

    Parameters
    ----------
    proto
        A bound model: its layers have their constants.
    """
    flat: onnx.ModelProto = inliner.inline_local_functions(proto)
    used = {node.domain for node in flat.graph.node} | {""}
    kept = [one for one in flat.opset_import if one.domain in used]
    del flat.opset_import[:]
    flat.opset_import.extend(kept)
    return flat
