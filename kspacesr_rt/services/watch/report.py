"""What a watch has done so far, in counts and the last few records: it may run for months."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kspacesr_rt.pipeline.report import SliceRecord, StaleRecord, fields_of_slice
from kspacesr_rt.system.files import replace_file

SCHEMA: Final = 1
KEPT: Final = 1000
"""Records that the report shows; the journal has a line for every slice that was written."""
OUTCOMES: Final = ("written", "present", "skipped", "failed")


class WatchReport:
    """Counts since the watch began, the last records, and the last of those left out."""

    def __init__(self, about: dict[str, Any]) -> None:
        """Begin with nothing; `about` says what computes, and stands in the report."""
        self._about = about | {"started": _now()}
        self._files: Counter[str] = Counter()
        self._slices: Counter[str] = Counter()
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._warnings: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._last: deque[SliceRecord] = deque(maxlen=KEPT)
        self._left_out: deque[SliceRecord] = deque(maxlen=KEPT)
        self._stale: dict[str, StaleRecord] = {}
        self._n_flagged = self._n_flagged_slices = self._n_rounds = self._n_series = 0

    def add(self, record: SliceRecord) -> None:
        """Count what became of a file."""
        n_slices = record.n_frames or 1
        self._files[record.outcome] += 1
        self._slices[record.outcome] += n_slices
        self._n_flagged += bool(record.flags)
        self._n_flagged_slices += record.count_flagged(record.flags)
        for warning in record.warnings:
            self._warnings[warning] += n_slices
        self._last.append(record)
        if record.outcome in ("skipped", "failed"):
            self._reasons[record.outcome, record.reason] += 1
            self._left_out.append(record)

    def add_stale(self, record: StaleRecord) -> bool:
        """Take in an output that its source no longer says; return whether that is new."""
        new = self._stale.get(record.output) != record
        self._stale[record.output] = record
        while len(self._stale) > KEPT:
            del self._stale[next(iter(self._stale))]
        return new

    def add_round(self, n_series: int) -> None:
        """Count a round, and the series (or parts of series) that came to rest for it."""
        self._n_rounds += 1
        self._n_series += n_series

    def add_error(self, kind: str) -> None:
        """Count what ended a round before its last slice, by its type."""
        self._errors[kind] += 1

    def save(self, path: Path, **state: Any) -> None:
        """Write the report; `state` says how things stand.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        document = {
            "schema": SCHEMA,
            "watch": True,
            **self._about,
            "updated": _now(),
            **state,
            "rounds": self._n_rounds,
            "series": self._n_series,
            **{outcome: self._files[outcome] for outcome in OUTCOMES},
            **{f"{outcome}_slices": self._slices[outcome] for outcome in OUTCOMES},
            "flagged": self._n_flagged,
            "flagged_slices": self._n_flagged_slices,
            "reasons": [
                {"outcome": outcome, "reason": reason, "count": n}
                for (outcome, reason), n in sorted(self._reasons.items())
            ],
            "warnings": dict(sorted(self._warnings.items())),
            "errors": dict(sorted(self._errors.items())),
            "stale": [dataclasses.asdict(one) for one in self._stale.values()],
            "left_out": [fields_of_slice(one) for one in self._left_out],
            "slices": [fields_of_slice(one) for one in self._last],
        }
        replace_file(path, (json.dumps(document) + "\n").encode())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
