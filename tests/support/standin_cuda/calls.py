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


class CallsFile:
    """A file that grows; what was read once is kept."""

    def __init__(self, file: Path) -> None:
        """Keep the file; it may come later."""
        self._file, self._at = file, 0
        self._calls: list[Call] = []

    def read(self, before: int = 0) -> list[Call]:
        """Return what came after so many calls."""
        if self._file.exists():
            with self._file.open("rb") as stream:
                stream.seek(self._at)
                found, end, _ = stream.read().rpartition(b"\n")
            self._at += len(found) + len(end)
            for line in found.decode().splitlines():
                captured, event, details = (*line.split(" ", 2), "")[:3]
                self._calls.append(Call(captured == "1", event, details))
        return self._calls[before:]


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
