"""FFT layers in half precision where nothing finer than half precision takes what they give.

In an fp16 model the zero-filled image, and what one cascade hands to the next, are read by
convolutions alone, which round them to half precision. Products in fp32 before that are spent for
nothing: tensor cores compute those of half operands several times as fast, sum in fp32 all the
same, and half as much moves.

The last data consistency stays in fp32, both ways: half precision would leave up to 5e-5 of the
largest measured sample (x4-base), where fp32 leaves 1e-7.

Coefficients must be LR samples (`kspacesr_rt.graph.sample_coefficients`): k-space would overflow.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kspacesr_rt.graph.band_projections import PROJECTION, ZERO_FILL, ZERO_STUFFED
from kspacesr_rt.model.spec import OP_DOMAIN

LAYERS = ("RealFFT2c", "RealIFFT2c", ZERO_FILL, ZERO_STUFFED, PROJECTION)
MOVABLE = ("Add", "Sub", "SpaceToDepth", "DepthToSpace")
"""What may stand between them and a convolution."""
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def with_half_transforms(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose FFT layers compute in half precision as far as that loses nothing.

    Parameters
    ----------
    proto
        A bound fp16 model with its local functions, of `with_sample_coefficients`; not changed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    _Halving(result.graph).apply()
    onnx.checker.check_model(result)
    return result


class _Halving:
    """Finds what may be narrow, from the graph's end to its start, and then casts at borders."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {item.name: item for item in graph.initializer}
        self.maker = {name: node for node in graph.node for name in node.output}
        self.consumers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.narrow: set[str] = set()
        """Values that are to be in half precision."""
        self.halves: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def apply(self) -> None:
        """Rewrite the graph in place."""
        results = {item.name for item in self.graph.output}
        for node in reversed(self.graph.node):
            name = node.output[0]
            if self._moves(node) and name not in results and self._only_narrow(name):
                self.narrow.add(name)
        aliases: dict[str, str] = {}
        for node in self.graph.node:
            name = node.output[0]
            if name in self.narrow:
                self._write(node)
            elif self._casts(node, HALF) and node.input[0] in self.narrow:
                aliases[name] = node.input[0]
            else:
                self.nodes.append(node)
        for node in self.nodes:
            renamed = [aliases.get(name, name) for name in node.input]
            del node.input[:]
            node.input.extend(renamed)
        self._store()

    def _moves(self, node: onnx.NodeProto) -> bool:
        return (node.domain == OP_DOMAIN and node.op_type in LAYERS) or (
            node.domain == "" and node.op_type in MOVABLE
        )

    def _casts(self, node: onnx.NodeProto, kind: int) -> bool:
        return node.op_type == "Cast" and node.attribute[0].i == kind

    def _only_narrow(self, name: str) -> bool:
        taken = self.consumers[name]
        return bool(taken) and all(
            self._casts(one, HALF) or one.output[0] in self.narrow for one in taken
        )

    def _write(self, node: onnx.NodeProto) -> None:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        for position, name in enumerate(node.input):
            made.input[position] = self._half(name)
        self.nodes.append(made)

    def _half(self, name: str) -> str:
        """Return a value in half precision, cast once; lengths stay as they are."""
        if name in self.narrow or self._counts(name):
            return name
        if name not in self.halves:
            maker = self.maker.get(name)
            if name in self.constants:
                self.halves[name] = f"{name}.half"
            elif maker is not None and self._casts(maker, FLOAT) and self._is_half(maker.input[0]):
                self.halves[name] = maker.input[0]
            else:
                made = f"{name}.half"
                self.nodes.append(helper.make_node("Cast", [name], [made], name=made, to=HALF))
                self.halves[name] = made
        return self.halves[name]

    def _counts(self, name: str) -> bool:
        return name in self.constants and self.constants[name].data_type == TensorProto.INT64

    def _is_half(self, name: str) -> bool:
        """Say whether a value is in half precision already: what made it takes half."""
        maker = self.maker.get(name)
        while maker is not None and not self._casts(maker, HALF):
            if self._casts(maker, FLOAT) or not maker.input:
                return False
            if any(one in self.constants for one in maker.input):
                kinds = {
                    self.constants[one].data_type for one in maker.input if one in self.constants
                }
                return HALF in kinds
            maker = self.maker.get(maker.input[0])
        return maker is not None

    def _store(self) -> None:
        """Round the constants that are wanted in half; drop those that nobody takes any more."""
        for name, half in self.halves.items():
            if name in self.constants:
                array = numpy_helper.to_array(self.constants[name]).astype(np.float16)
                self.graph.initializer.append(numpy_helper.from_array(array, half))
        used = {name for node in self.nodes for name in node.input}
        used |= {item.name for item in self.graph.output}
        del self.graph.node[:]
        # What widened a value that nobody takes wide any more is left out.
        self.graph.node.extend(
            node for node in self.nodes if node.op_type != "Cast" or node.output[0] in used
        )
        kept = [item for item in self.graph.initializer if item.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
