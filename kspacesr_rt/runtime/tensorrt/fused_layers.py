"""What a builder made of a network: its own layers, after fusion, read from what it logs.

A builder that is told to be detailed lists them in a message of its verbose log, whether or not
there is a GPU: what remains to be launched, in which types, and what that moves. No API gives the
list without an engine on a GPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

HEADER = "Layers:\n"
"""What that message begins with."""
BYTES = {
    **dict.fromkeys(("Double", "Int64"), 8),
    **dict.fromkeys(("Float", "Int32"), 4),
    **dict.fromkeys(("Half", "BFloat16"), 2),
    **dict.fromkeys(("Int8", "UInt8", "FP8", "Bool"), 1),
}
"""Of an element, by the builder's name of its type."""
NO_KERNEL = ("shape_call", "Int32")
"""Kinds and types of what only keeps count of lengths, on the CPU."""
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], TacticName: ",
    re.MULTILINE,
)
_VALUE = re.compile(r"Dimensions: \[(?P<lengths>[-\d,]*)\].*?Datatype: (?P<type>\w+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedLayer:
    """One layer of an engine."""

    name: str
    """As the builder calls it."""
    kind: str
    """``gemm``, ``correlation`` (a convolution), ``runtime_fusion``, ``kgen``, ..."""
    type: str
    """Of its first output."""
    moved_bytes: int | None
    """Inputs, constants and outputs, once each; None if a length depends on the batch."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "type": self.type,
            "moved_bytes": self.moved_bytes,
        }

    @classmethod
    def from_dict(cls, values: Any) -> FusedLayer:
        """Read what `to_dict` wrote; raises `TypeError` if it is something else."""
        if not isinstance(values, dict) or values.keys() != {"name", "kind", "type", "moved_bytes"}:
            raise TypeError(f"fused has {values!r}")
        texts = (values["name"], values["kind"], values["type"])
        moved = values["moved_bytes"]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"fused has {values!r}")
        if moved is not None and (type(moved) is not int or moved < 0):
            raise TypeError(f"fused has {values!r}")
        return cls(**values)


def read_fused_layers(messages: Iterable[str]) -> tuple[FusedLayer, ...]:
    """Read a builder's list of layers; empty if it logged none.

    Parameters
    ----------
    messages
        Of its verbose log.
    """
    found = []
    for message in messages:
        if not message.startswith(HEADER):
            continue
        for match in _LAYER.finditer(message):
            outputs = list(_VALUE.finditer(match["outputs"]))
            kind, type_ = match["kind"], outputs[0]["type"] if outputs else "none"
            if kind in NO_KERNEL or type_ in NO_KERNEL:
                continue
            values = [
                value
                for part in ("inputs", "constants", "outputs")
                for value in _VALUE.finditer(match[part])
            ]
            found.append(
                FusedLayer(name=match["name"], kind=kind, type=type_, moved_bytes=_bytes(values))
            )
    return tuple(found)


def _bytes(values: Iterable[re.Match[str]]) -> int | None:
    total = 0
    for value in values:
        lengths = [int(length) for length in value["lengths"].split(",") if length]
        if min(lengths, default=0) < 0:
            return None
        total += math.prod(lengths) * BYTES.get(value["type"], 4)
    return total
