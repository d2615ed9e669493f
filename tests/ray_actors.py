"""Actors that are slow, die or fail, for the tests of the engine on Ray; workers import this."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from kspacesr_rt.errors import OutputError
from kspacesr_rt.pipeline import flow, ray_actor
from kspacesr_rt.pipeline.compute import Computing
from kspacesr_rt.pipeline.ray_actor import SeriesActor

SLICE_S = float(os.environ.get("RAY_ACTORS_SLICE_S", "0.03"))
PATIENT = "DOE^JANE"


def _before_each_slice(act: Any) -> None:
    """Let a process do something before each of its slices."""
    real = Computing._computed

    def computed(*arguments: Any) -> Any:
        act(*arguments)
        return real(*arguments)

    Computing._computed = computed


class Slow(SeriesActor):
    """Takes its time, so that a test can step in."""

    def open(self) -> Any:
        _before_each_slice(lambda *_: time.sleep(SLICE_S))
        return super().open()


class DiesOverOneSeries(SeriesActor):
    """Is killed by the third slice that it computes of a series that is named in a file."""

    def open(self) -> Any:
        self._marked = (self._job.output.parent / "deadly").read_text()
        self._left = 1_000_000
        _before_each_slice(self._count)
        return super().open()

    def _count(self, *_: Any) -> None:
        self._left -= 1
        if self._left < 3:
            time.sleep(0.1)  # so that those before it are on disk, and in the journal
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def process(self, series: Any, *, again: bool) -> Any:
        self._left = 3 if series.uid == self._marked else 1_000_000
        return super().process(series, again=again)


class DiesOnOpening(SeriesActor):
    """Is taken down by a library, say."""

    def open(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class FullDisk(SeriesActor):
    """Cannot write its second slice."""

    def open(self) -> Any:
        real, calls = flow.finish, []

        def finish(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) > 1:
                raise OutputError("an output cannot be written: No space left on device")
            return real(*arguments)

        flow.finish = finish
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
        ray_actor.SHARED_WITHIN_S = 0.5
        return super().open()

    def _is_same_folder(self) -> bool:
        return False


class OtherVersion(SeriesActor):
    """Is of a later version of this package."""

    def open(self) -> Any:
        ray_actor.__version__ = "99.0"
        return super().open()
