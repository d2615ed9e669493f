"""Actors that are slow, die or fail, for the tests of the engine on Ray; workers import this."""

from __future__ import annotations

import itertools
import os
import signal
import time
from typing import Any

from kspacesr_rt.dicom.store import STATE_FOLDER
from kspacesr_rt.errors import OutputError
from kspacesr_rt.pipeline.classic_file import ClassicFile
from kspacesr_rt.pipeline.compute import BatchRunner
from kspacesr_rt.pipeline.journal_entries import valid_entry
from kspacesr_rt.pipeline.ray import actor
from kspacesr_rt.pipeline.ray.actor import SeriesActor

SLICE_S = float(os.environ.get("RAY_ACTORS_SLICE_S", "0.03"))
HOLD = "hold"
"""A file beside the output folder: as long as it is there, nobody goes beyond so many slices."""
HELD_AFTER = 10
PATIENT = "DOE^JANE"


def _before_each_slice(act: Any) -> None:
    """Let a process do something before each of its slices."""
    real = BatchRunner._computed

    def computed(*arguments: Any) -> Any:
        act(*arguments)
        return real(*arguments)

    BatchRunner._computed = computed


class Slow(SeriesActor):
    """Takes its time, and is held, so that a test can step in however late."""

    def open(self) -> Any:
        hold, slices = self._job.output.parent / HOLD, itertools.count()

        def dawdle(*_: Any) -> None:
            time.sleep(SLICE_S)
            while next(slices) >= HELD_AFTER and hold.exists():
                time.sleep(0.01)

        _before_each_slice(dawdle)
        return super().open()


class DiesOverOneSeries(SeriesActor):
    """Is killed by a series that is named in a file: by its third slice, once one is noted."""

    def open(self) -> Any:
        self._marked = (self._job.output.parent / "deadly").read_text()
        self._left = 1_000_000
        _before_each_slice(self._count)
        return super().open()

    def _count(self, *_: Any) -> None:
        self._left -= 1
        if self._left <= 0:
            while not self._noted() - self._noted_before:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    def _noted(self) -> set[str]:
        """Return the sources of the series of which any worker has noted a result."""
        noted: set[str] = set()
        for path in (self._job.output / STATE_FOLDER).glob("journal*.jsonl"):
            entries = map(valid_entry, path.read_bytes().splitlines(keepends=True))
            noted |= {entry["source"] for entry in entries if entry and "source" in entry}
        return noted & self._sources

    def process(self, series: Any, *, again: bool) -> Any:
        self._left = 3 if series.uid == self._marked else 1_000_000
        self._sources = {one.sop_instance_uid for one in series.slices}
        self._noted_before = self._noted()
        return super().process(series, again=again)


class DiesOnOpening(SeriesActor):
    """Is taken down by a library, say."""

    def open(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class FullDisk(SeriesActor):
    """Cannot write its second slice."""

    def open(self) -> Any:
        real, calls = ClassicFile.write, []

        def write(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) > 1:
                raise OutputError("an output cannot be written: No space left on device")
            return real(*arguments)

        ClassicFile.write = write
        return super().open()


class Buggy(SeriesActor):
    """Raises what quotes a patient."""

    def open(self) -> Any:
        def fail(*_: Any) -> None:
            raise KeyError(PATIENT)

        _before_each_slice(fail)
        return super().open()


class Elsewhere(SeriesActor):
    """Has other storage under the output's path."""

    def open(self) -> Any:
        actor.SHARED_WITHIN_S = 0.5
        return super().open()

    def _is_same_folder(self) -> bool:
        return False


class OtherVersion(SeriesActor):
    """Is of a later version of this package."""

    def open(self) -> Any:
        actor.__version__ = "99.0"
        return super().open()
