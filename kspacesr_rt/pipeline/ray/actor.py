"""What runs on a node of a Ray cluster: a loaded model, and series after series through it.

No exception leaves an actor: Ray would write its message, which may quote a patient's values, into
the log files of the node.
"""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from kspacesr_rt._version import __version__
from kspacesr_rt.dicom import Derivation, Series
from kspacesr_rt.dicom.output_places import OutputPlaces
from kspacesr_rt.errors import BackendUnavailableError, InputError, KspaceSRError, OutputError
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.pipeline.output_folder import Journal, Manifest
from kspacesr_rt.pipeline.report import SeriesRecord, SliceRecord
from kspacesr_rt.pipeline.run_state import StopRequestedError
from kspacesr_rt.pipeline.session import Session
from kspacesr_rt.runtime.selection import verify
from kspacesr_rt.system.output_time import EPOCH

SHARED_WITHIN_S: Final = 10.0
"""How long another node may take to see a file: NFS clients remember listings for some seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorJob:
    """What all actors of a run are told."""

    source: Path
    """The input, as every node names it."""
    output: Path
    """The output folder, as every node names it."""
    options: InferOptions
    """With the backend settled, and its threads."""
    derivation: Derivation
    """What outputs tell; with the run's salt."""
    parameters: Mapping[str, Any]
    """What the manifest states."""
    workers: int
    """Threads that read and write beside the backend."""
    epoch: str | None
    """``SOURCE_DATE_EPOCH`` of the driver."""
    model_content: bytes | None = None
    """The model file that the driver made for a tier; None: nodes have the one that is named."""
    version: str = __version__
    """Of this package, on the driver."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An error that ends the run; raised by the driver."""

    kind: type[KspaceSRError] | None
    """None: a bug."""
    message: str
    """Without values of a patient."""
    hint: str | None = None
    """What to do about it."""

    @classmethod
    def of(cls, exc: Exception) -> Refusal:
        """Keep of an exception what may be told."""
        if isinstance(exc, KspaceSRError):
            return cls(kind=type(exc), message=f"{exc} (on node {_node()})", hint=exc.hint)
        frames = traceback.extract_tb(exc.__traceback__)
        places = " > ".join(f"{Path(one.filename).name}:{one.lineno}" for one in frames)
        return cls(kind=None, message=f"{type(exc).__name__} at {places}")

    def raise_it(self) -> NoReturn:
        """Raise it.

        Raises
        ------
        KspaceSRError
            Of its class.
        RuntimeError
            If it is a bug.
        """
        if self.kind is None:
            raise RuntimeError(self.message)
        raise self.kind(self.message, hint=self.hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a series."""

    records: dict[int, SliceRecord]
    """By place in the series."""
    series_records: list[SeriesRecord]
    """What is known of it."""
    seconds: dict[str, float]
    """Busy seconds by stage."""
    cpu_seconds: dict[str, float]
    """Seconds of processor time by stage."""
    headers: dict[str, int]
    """Headers by how they were read and encoded."""
    done: int
    """Slices that are settled."""
    notes: tuple[str, ...]
    """What the backends told about themselves."""
    again: bool
    """Whether another actor may have done some of it in this very run."""


def _node() -> str:
    """Return the address of this node, as ``ray status`` shows it."""
    import ray

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call,unused-ignore]
    return address


class SeriesActor:
    """Holds an open model and processes one series at a time; lives in a process of its own."""

    def __init__(self, job: ActorJob, writer: str) -> None:
        """Keep what is told; `open` does the rest.

        Parameters
        ----------
        job
            What all actors of a run are told.
        writer
            Hexadecimal digits that name this actor's journal.
        """
        self._job, self._writer = job, writer
        self._journal: Journal | None = None
        self._places: OutputPlaces | None = None
        self._stop = False

    def open(self) -> Refusal | None:
        """Load the model and look whether this node is like the driver's; return what is wrong."""
        job = self._job
        try:
            if job.epoch is not None:
                os.environ[EPOCH] = job.epoch
            self._require_shared()
            self._session = self._opened_session()
            run = self._session.new_run(job.source, job.output)
            mine = {**run.parameters, "version": __version__}
            theirs = {**job.parameters, "version": job.version}
            theirs.pop("tier", None)  # the driver has chosen; what it chose is compared
            if other := sorted(name for name in theirs if mine.get(name) != theirs[name]):
                raise InputError(
                    f"this node would compute something else: {', '.join(other)} differ",
                    hint="install the same kspacesr-rt and put the same model on every node",
                )
            self._read_journals()
        except ImportError as exc:
            missing = BackendUnavailableError(f"the package '{exc.name}' does not load")
            return Refusal.of(missing)
        except Exception as exc:
            return Refusal.of(exc)
        return None

    def _opened_session(self) -> Session:
        """Open what the driver named, or made: the latter has to give its stored answer here."""
        options, content = self._job.options, self._job.model_content
        if content is None:
            return Session(options)
        with tempfile.TemporaryDirectory(prefix="kspacesr-rt-") as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(content)
            verify(path, backend=options.backend, threads=options.threads)
            return Session(replace(options, model=str(path)))

    def _require_shared(self) -> None:
        """Refuse to work on other folders than the driver's.

        Raises
        ------
        InputError
            If they are not there, or not the same.
        """
        job, deadline = self._job, time.monotonic() + SHARED_WITHIN_S
        while not job.source.exists() or not self._is_same_folder():
            if time.monotonic() > deadline:
                raise InputError(
                    "input and output are not there, or are other folders",
                    hint="both must lie on storage that every node has under the same path",
                )
            time.sleep(0.2)

    def _is_same_folder(self) -> bool:
        manifest = Manifest.of_folder(self._job.output)
        return manifest is not None and manifest.run_salt == self._job.derivation.run_salt

    def process(self, series: Series, *, again: bool) -> Outcome | Refusal:
        """Process a series.

        Parameters
        ----------
        series
            From the driver's scan.
        again
            Whether another actor had it and was lost: what that one has finished stands in its
            journal.
        """
        try:
            if again:
                self._read_journals()
            try:
                return self._processed(series, again=again)
            except OutputError as exc:
                if not isinstance(exc.__cause__, FileExistsError):
                    raise
                # One that was thought lost has just finished the same slice: take its result.
                self._read_journals()
                return self._processed(series, again=True)
        except Exception as exc:
            return Refusal.of(exc)

    def _read_journals(self) -> None:
        if self._journal is not None:
            self._journal.close()
        options = self._job.options
        self._journal = Journal(
            self._job.output,
            self._writer,
            derivation=self._job.derivation,
            verify=options.verify_existing,
            durable=options.durability != "none",
        )

    def _processed(self, series: Series, *, again: bool) -> Outcome:
        job = self._job
        run = self._session.new_run(job.source, job.output)
        run.derivation, run.journal = job.derivation, self._journal
        run.places = self._places = self._places or run.places  # the folder is listed once
        run.total = series.n_slices
        run.stop_requested = lambda: self._stop
        try:
            run.check_stop()
            self._session.process(run, [series], workers=job.workers)
        except StopRequestedError:
            pass  # what is settled until then is told
        return Outcome(
            records=run.records,
            series_records=run.series_records.get(series.uid, []),
            seconds=run.timer.seconds,
            cpu_seconds=run.timer.cpu_seconds,
            headers=run.header_counts.to_dict(),
            done=run.done,
            notes=tuple(run.notes),
            again=again,
        )

    def stop(self) -> None:
        """End what is under way after its slice; called beside `process`."""
        self._stop = True
