"""Where a graph goes from real images to real images, its FFT layers need no complex k-space.

``FFT2c`` of real images, sums and differences, ``IFFT2c`` with a real result: whatever lies between
is linear over the reals, and real coefficients (`kspacesr_rt.kspace.real_band`) stand for it
exactly, at less than half the operations. Layers that look at k-space itself (a network on it, a
mean spectrum, a magnitude) keep the complex transforms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from onnx import NodeProto, helper

from kspacesr_rt.model.binding import attributes_of
from kspacesr_rt.model.spec import OP_DOMAIN, Lowering

REAL_LOWERINGS: tuple[Lowering, ...] = ("gemm", "conv")
"""Lowerings by constant matrices; the others transform with a DFT operator, or make matrices."""
SUMS = ("Add", "Sub")


def in_real_coefficients(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Return the nodes of a graph with ``RealFFT2c`` and ``RealIFFT2c`` wherever they are exact.

    Parameters
    ----------
    nodes
        A lowered graph's, before binding: layers of our domain have one input. Not changed.

    Returns
    -------
        As many nodes, of the same names and wiring.
    """
    bands = _Bands(nodes)
    return [bands.replaced(node) for node in nodes]


class _Bands:
    """Finds the values of a graph that are k-space between real images."""

    def __init__(self, nodes: Sequence[NodeProto]) -> None:
        self._maker = {name: node for node in nodes for name in node.output}
        self._consumers: defaultdict[str, list[NodeProto]] = defaultdict(list)
        for node in nodes:
            for name in node.input:
                self._consumers[name].append(node)
        self._values: set[str] = set()
        for node in nodes:
            if _opens(node):
                self._values |= self._band_of(node.output[0])

    def replaced(self, node: NodeProto) -> NodeProto:
        """Return a node as it is, or its real counterpart."""
        if not (
            ((_opens(node) or _scales(node)) and node.output[0] in self._values)
            or (_closes(node) and node.input[0] in self._values)
        ):
            return node
        grids = {
            name: value
            for name, value in attributes_of(node).items()
            if name in ("input_upscale", "output_upscale")
        }
        return helper.make_node(
            f"Real{node.op_type}",
            list(node.input),
            list(node.output),
            name=node.name,
            domain=OP_DOMAIN,
            **grids,
        )

    def _band_of(self, start: str) -> set[str]:
        """Return all values that must change together with one; none if one of them cannot."""
        found, waiting = set[str](), [start]
        while waiting:
            value = waiting.pop()
            if value in found:
                continue
            found.add(value)
            maker = self._maker.get(value)
            if maker is None:
                return set()  # a constant
            if _adds(maker) or _scales(maker):
                waiting.extend(maker.input)
            elif not _opens(maker):
                return set()
            for consumer in self._consumers[value]:
                if _adds(consumer) or _scales(consumer):
                    waiting.extend(consumer.output)
                elif not _closes(consumer):
                    return set()
        return found


def _opens(node: NodeProto) -> bool:
    """Say whether a node takes real images to their LR band."""
    if (node.domain, node.op_type) != (OP_DOMAIN, "FFT2c"):
        return False
    values = attributes_of(node)
    return (values["input_channels"], values["channels"], values["output_upscale"]) == (1, 2, 1)


def _closes(node: NodeProto) -> bool:
    """Say whether a node takes an LR band to real images."""
    if (node.domain, node.op_type) != (OP_DOMAIN, "IFFT2c"):
        return False
    values = attributes_of(node)
    return (values["input_channels"], values["channels"], values["input_upscale"]) == (2, 1, 1)


def _scales(node: NodeProto) -> bool:
    """Say whether a node doubles Nyquist lines: coefficients of those can be doubled as well."""
    return (node.domain, node.op_type) == (OP_DOMAIN, "WholeNyquist")


def _adds(node: NodeProto) -> bool:
    return node.domain == "" and node.op_type in SUMS
