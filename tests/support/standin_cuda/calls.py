"""What a program did to the stand-in: the file of calls, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Call:
    """One line."""

    captured: bool
    """Whether it fell between the begin and the end of a capture."""
    event: str
    """``kernel``, ``product``, ``cudnn``, ``copy_async``, ``launch``, ``malloc``, ..."""
    details: str
    """Kernel's name, sizes, direction and addresses, whatever belongs to the event."""


NODES = ("kernel", "product", "cudnn", "copy_async", "copy", "memset")
"""Events that become nodes of a graph when they are captured."""
FORBIDDEN = ("malloc", "free", "pinned", "synchronize", "copy", "unhandled")
"""Events that must not fall into a capture."""


def read_calls(file: Path) -> list[Call]:
    """Read a file of calls."""
    calls = []
    for line in file.read_text().splitlines():
        captured, event, details = (*line.split(" ", 2), "")[:3]
        calls.append(Call(captured == "1", event, details))
    return calls


def graphs(calls: list[Call]) -> list[list[Call]]:
    """Return what each capture held, in order."""
    found: list[list[Call]] = []
    inside = False
    for call in calls:
        if call.event == "begin_capture":
            found.append([])
            inside = True
        elif call.event == "end_capture":
            inside = False
        elif inside:
            found[-1].append(call)
    return found


def nodes(graph: list[Call]) -> int:
    """Count a captured graph's nodes."""
    return sum(call.event in NODES for call in graph)
