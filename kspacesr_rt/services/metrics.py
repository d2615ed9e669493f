"""Counters and gauges of the node, in Prometheus' text format; no label names a patient."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final

PREFIX: Final = "kspacesr_node_"
Labels = tuple[tuple[str, str], ...]
Gauge = Callable[[], Mapping[Labels, float]]

COUNTERS: Final = {
    "associations_rejected_total": "Associations refused, by reason.",
    "associations_aborted_total": "Associations that the node ended, by reason.",
    "associations_broken_off_total": "Associations that their sender ended without a release.",
    "file_limit_total": "Times that the system gave no further file or connection, by where.",
    "instances_received_total": "Instances stored in the spool and answered with Success.",
    "instances_repeated_total": "Instances that an open series held already.",
    "instances_corrected_total": "Instances that came again with other content within a part.",
    "instances_refused_total": "Instances answered with a failure, by reason.",
    "series_closed_total": "Parts of series taken as complete.",
    "slices_total": "Slices by what processing made of them.",
    "left_out_total": "Files that were not processed, by outcome and reason.",
    "parts_set_aside_total": "Parts in which nothing could be processed.",
    "processing_errors_total": "Attempts at processing that ended in an error, by its kind.",
    "internal_errors_total": "Accidents, by where and their kind.",
    "instances_forwarded_total": "Derived instances that a target has acknowledged.",
    "instances_undelivered_total": "Derived instances that a target refused for good.",
    "forward_failures_total": "Failed attempts to forward, by target and reason.",
}
"""What is counted since the start, and what it means."""


class Metrics:
    """Thread-safe counters, and functions that tell a gauge when asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[Labels, float]] = {name: {} for name in COUNTERS}
        self._gauges: dict[str, tuple[str, Gauge]] = {}

    def count(self, name: str, n: float = 1, **labels: str) -> None:
        """Add to a counter of `COUNTERS`."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            counts = self._counts[name]
            counts[key] = counts.get(key, 0) + n

    def gauge(self, name: str, meaning: str, read: Gauge) -> None:
        """Register a gauge; `read` returns its value for each set of labels."""
        self._gauges[name] = (meaning, read)

    def value(self, name: str, **labels: str) -> float:
        """Return a counter: of all labels that hold the given ones."""
        wanted = set(labels.items())
        with self._lock:
            return sum(n for key, n in self._counts[name].items() if wanted <= set(key))

    def as_text(self) -> str:
        """Return everything in Prometheus' text format, version 0.0.4."""
        with self._lock:
            counts = {name: dict(values) for name, values in self._counts.items()}
        lines: list[str] = []
        for name, values in counts.items():
            lines += [f"# HELP {PREFIX}{name} {COUNTERS[name]}", f"# TYPE {PREFIX}{name} counter"]
            lines += [_line(name, key, n) for key, n in sorted((values or {(): 0}).items())]
        for name, (meaning, read) in self._gauges.items():
            lines += [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} gauge"]
            lines += [_line(name, key, n) for key, n in sorted(read().items())]
        return "\n".join(lines) + "\n"


def _line(name: str, labels: Labels, value: float) -> str:
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    number = repr(float(value)).removesuffix(".0")  # every digit, as bytes of a large spool need
    return f"{PREFIX}{name}{{{pairs}}} {number}" if pairs else f"{PREFIX}{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
