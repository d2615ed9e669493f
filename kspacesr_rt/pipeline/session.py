"""One resident object that has the model: loaded, settled and warm, whatever comes to it."""

from __future__ import annotations

import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from kspacesr_rt.dicom import Scan, Series
from kspacesr_rt.dicom.compress import syntax_of
from kspacesr_rt.dicom.file_limits import limited_to
from kspacesr_rt.errors import InputError, NonFiniteError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.contracts import require_images
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.pipeline.array_batches import GivenArrays
from kspacesr_rt.pipeline.backend_pool import BackendPool
from kspacesr_rt.pipeline.executors import Executor, LocalExecutor
from kspacesr_rt.pipeline.input_files import require_library
from kspacesr_rt.pipeline.options import InferOptions, RunProgress, require_options
from kspacesr_rt.pipeline.output_folder import begun_with
from kspacesr_rt.pipeline.preflight import prepare, refuse_in_advance, scan_files, scan_input
from kspacesr_rt.pipeline.process_choice import chosen_processes
from kspacesr_rt.pipeline.report import RunReport
from kspacesr_rt.pipeline.reported_run import noting_how_far, reported
from kspacesr_rt.pipeline.run_folder import RunFolder
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.pipeline.slice_processes.process import SliceProcesses
from kspacesr_rt.pipeline.stale_outputs import StaleOutputs
from kspacesr_rt.pipeline.stalls import Opening, StallWatch
from kspacesr_rt.pipeline.trust_maps import require_intervals
from kspacesr_rt.quality.array_contracts import with_contracts
from kspacesr_rt.runtime.baselines import INTERPOLATIONS
from kspacesr_rt.runtime.selection import BackendChoice
from kspacesr_rt.system.interruption import deferred_signals
from kspacesr_rt.system.output_time import fixed_time, unusable_time_zone
from kspacesr_rt.system.path_arguments import require_path
from kspacesr_rt.system.progress_messages import report_step

NEGATIVE_SHARE: Final = 0.01
"""Of the largest value: interpolation leaves less than that below zero beside an edge."""
OPENING: Final = ("backend", "tier", "model", "upscale", "threads", "streams")
"""Options that decide what is opened: the same for all that a session does."""


class Session:
    """A model, the backend that runs it, and its streams: opened once, used until it is closed.

    Studies (`run`), series (`process`) and arrays (`super_resolve`) go through the same open
    backends, one for each matrix; the four that were used last stay open. One thread at a time is
    served; others wait. What a GPU holds belongs to the thread that opened it: use such a session
    from one thread, or `release` between two.

    Parameters
    ----------
    options
        Model, backend, threads, and how its runs are done.
    executor
        Where the series of `run` are processed; None: in this process. The same bytes come out of
        every executor. It is entered now, and ends with the session.
    on_stall
        Called with a sentence, in another thread, when opening takes very long; None: a warning of
        the logger ``kspacesr_rt``.
    output
        Folder that its runs write to, if it is one: what ``auto`` began there, it goes on with, if
        that still gives the model's stored answer here.

    Raises
    ------
    InputError, ModelFileError, ModelSpecError
        If the options or the model cannot be used.
    BackendUnavailableError
        If the backend cannot run here.

    Examples
    --------
    >>> import numpy as np
    >>> from kspacesr_rt import InferOptions, Session
    >>> with Session(InferOptions(backend="zero-fill", upscale=2)) as session:
    ...     session.super_resolve(np.ones((3, 8, 6), np.float32)).shape
    (3, 16, 12)
    """

    _called: ClassVar[str] = "session"
    """In messages."""

    def __init__(
        self,
        options: InferOptions | None = None,
        *,
        executor: Executor | None = None,
        on_stall: Callable[[str], None] | None = None,
        output: str | PathLike[str] | None = None,
    ) -> None:
        self.options = InferOptions() if options is None else require_options(options)
        syntax_of(self.options.compress)  # before anything is read or opened
        self._in_use = threading.RLock()
        self._closed = False
        self._executor = executor or LocalExecutor()
        self._stack = ExitStack()
        with (
            limited_to(self.options.limits),
            StallWatch(Opening(self.options.backend, self.options.tier), on_stall),
            ExitStack() as opening,
        ):
            opening.enter_context(self._executor)
            begun = begun_with(Path(output)) if output is not None else None
            self._slice_processes = opening.enter_context(SliceProcesses())
            pool = BackendPool(self.options, here=self._executor.computes_here, begun_with=begun)
            self._backends = opening.enter_context(pool)
            self._stack = opening.pop_all()

    @property
    def spec(self) -> ModelSpec:
        """What the model, or baseline, is and does."""
        self._backends.settle()
        return self._backends.spec

    @property
    def upscale(self) -> int:
        """SR / LR, along each axis."""
        return self._backends.spec.upscale

    @property
    def choice(self) -> BackendChoice:
        """The backend, and why it was chosen."""
        self._backends.settle()
        return self._backends.choice

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Processes that read and write beside this one; none before a run that takes some."""
        return self._slice_processes.ids

    def model_content(self) -> bytes | None:
        """Return the model file that was made for the tier; None if what was named runs as it is.

        It runs by itself, too: ``infer --model FILE`` on the same backend computes the same.
        """
        self._backends.settle()
        return self._backends.model_content()

    def run(
        self,
        source: str | PathLike[str],
        output: str | PathLike[str],
        *,
        options: InferOptions | None = None,
        report_file: str | PathLike[str] | None = None,
        on_progress: Callable[[RunProgress], None] | None = None,
        on_stall: Callable[[str], None] | None = None,
        on_start: Callable[[str], object] | None = None,
        since: float | None = None,
    ) -> RunReport:
        """Super-resolve every MR image below a folder; see `kspacesr_rt.pipeline.infer`.

        Parameters
        ----------
        source, output, report_file, on_progress, on_stall, on_start
            As for `infer`.
        options
            Of this run; None: those of the session. What decides what is opened must be the same.
        since
            By `time.perf_counter`, from when on the report counts time; None: now.

        Returns
        -------
            What became of every file.

        Raises
        ------
        KspaceSRError
            As `infer` does.
        InputError
            If the session is closed, or `options` ask for what is not open here.
        """
        options = self._options_of_run(options)
        started = time.perf_counter() if since is None else since
        require_source(Path(require_path(source, "source")))
        require_path(output, "output")
        if report_file is not None:
            require_path(report_file, "report_file")
        require_library(options)
        syntax_of(options.compress)
        fixed_time()
        if since is None:
            self._backends.take_choosing_s()  # of before this run
        with (
            self._used(),
            limited_to(options.limits),
            StallWatch(Opening(options.backend, options.tier), on_stall) as stalls,
        ):
            scan = self._scanned_for_tier(source, output, options, report_file)
            folder = self._folder(source, output, options, report_file)
            run = folder.new_run(on_progress)
            run.choosing_s = self._backends.take_choosing_s()
            stalls.look_at(run)
            if problem := unusable_time_zone():
                run.notes[problem] = None
            scan = scan_input(run, scan)
            if self._executor.computes_here:
                self._take_processes(run, scan.series)
            refuse_in_advance(run, scan)
            with (
                folder.locked(run) as journal,
                noting_how_far(run),
                deferred_signals() as stop_requested,
            ):
                run.stop_requested = lambda: bool(stop_requested())
                if on_start is not None:
                    on_start(run.describe_start(len(scan.series)))
                stale = StaleOutputs(folder.output, journal, scan, show_paths=options.show_paths)
                return reported(
                    self._executor, run, scan, stale, folder.report_file, started, stop_requested
                )

    def open_folder(
        self,
        source: str | PathLike[str],
        output: str | PathLike[str],
        *,
        report_file: str | PathLike[str] | None = None,
        collected: bool = False,
    ) -> RunFolder:
        """Check an input and an output folder, for runs that are made one after another.

        Parameters
        ----------
        source, output, report_file
            As for `run`.
        collected
            Outputs are taken away by others: one that is missing is not made again.

        Raises
        ------
        OutputError, RunMismatchError
            As for `run`.
        """
        self._backends.settle()
        return self._folder(source, output, self.options, report_file, collected=collected)

    def new_run(self, source: Path, output: Path) -> RunState:
        """Return a run between two folders that somebody else holds."""
        require_images(self.spec)
        self._backends.settle()
        return RunState(source, output, self.options, self._backends)

    def process(self, run: RunState, series: Sequence[Series], *, workers: int = 0) -> None:
        """Process series; what becomes of every file goes into the run's records.

        Parameters
        ----------
        run
            Of `open_folder` or `new_run`.
        series
            In the order of their outputs' records.
        workers
            Threads that read and write; 0: as many as the options say.

        Raises
        ------
        OutputError
            If an output cannot be written.
        StopRequestedError
            If the run is asked to stop.
        """
        executor = LocalExecutor(workers)
        with self._used(), limited_to(run.options.limits):
            self._take_processes(run, series)
            executor.process(run, Scan(series=tuple(series), left_out=()))

    def super_resolve(self, values: npt.ArrayLike) -> FloatArray:
        """Super-resolve slices that are in memory.

        Parameters
        ----------
        values
            Real, finite values of magnitude images in the unit of their series, shape
            ``(..., y, x)``; every slice is scaled, and computed, by itself. For a network of
            k-space complex ``(..., ky, kx)``, centred, or the same as pairs of real numbers
            ``(..., 2, ky, kx)``; of several coils with their axis before these.

        Returns
        -------
            float32 in the same unit, shape ``(..., s*y, s*x)`` for an upscale of s. What is k-space
            comes as it was given: complex, or in pairs.

        Raises
        ------
        ShapeError
            If there are fewer axes than the model takes, a slice is empty, or the model cannot be
            bound to its matrix, or computed at it.
        InputError
            If values are complex, masked, not numbers or not finite, or the session is closed; of a
            network that ends in a modulus (`spec.output`) also if the largest is a negative one.
        ResultError
            If a result is not finite, or not as it is declared of a network that is not ours.

        Warns
        -----
        UserWarning
            If some are negative, by more than 1 % of the largest: no magnitude image has such, and
            models have seen none. They are computed all the same.
        """
        given = GivenArrays(values, self.spec)
        (rows, columns), flat = given.matrix, given.batch
        if self.spec.input == "image":
            self._require_magnitudes(flat)
        self._backends.settle()
        streams = self._backends.streams
        quiet = np.errstate(over="ignore", invalid="ignore")  # an error below, with a hint
        with self._used(), limited_to(self.options.limits), quiet:
            batch = self._batch_of(flat)
            batches = [flat[start : start + batch] for start in range(0, len(flat), batch)]
            run = with_contracts(self._backends.get((rows, columns)).run, self.spec)

            def judged(batch: FloatArray) -> FloatArray:
                with self._backends.judging((rows, columns)):
                    return run(batch)

            if streams == 1:  # in this thread: see the class
                results = list(map(judged, batches))
            else:
                with ThreadPoolExecutor(streams, thread_name_prefix="kspacesr-rt-infer") as pool:
                    results = list(pool.map(judged, batches))
        if not all(np.isfinite(one).all() for one in results):
            raise NonFiniteError(
                "a result is not finite, though every value given is",
                hint="values near the largest of float32 (3.4e+38) leave no room for sums: divide "
                "them by a constant, and multiply the result",
            )
        made: FloatArray = given.results(results)
        return made

    def _batch_of(self, slices: FloatArray) -> int:
        """Return how many of these slices are computed at once."""
        asked, matrix = self.options.batch, (slices.shape[-2], slices.shape[-1])
        if self._backends.batch_of(asked) is None and len(slices):
            self._backends.measure_batch(slices[:1])
        choice = self._backends.batch_of(asked)
        return 1 if choice is None else choice.at(matrix)

    def _require_magnitudes(self, slices: FloatArray) -> None:
        """Refuse, or warn of, negative values; baselines are linear and take them."""
        if not slices.size or self.choice.backend in INTERPOLATIONS:
            return
        lowest, highest = float(slices.min()), float(slices.max())
        if self.spec.output == "magnitude" and -lowest > max(highest, 0.0):
            raise InputError(
                "the largest value is a negative one, and the model gives magnitudes",
                hint="it takes magnitude images: np.abs of a complex one",
            )
        if lowest < -NEGATIVE_SHARE * highest or highest < 0.0:
            warnings.warn(
                "some values are negative: no magnitude image has such, and the model was trained "
                "on none",
                stacklevel=4,
            )

    def release(self) -> None:
        """Close the backends that are open, and keep the model, so that another thread may go on.

        Each is opened anew when its matrix comes again.
        """
        with self._used():
            self._backends.release()

    def close(self) -> None:
        """Close everything; a second time is no error."""
        with self._in_use:
            self._closed = True
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _take_processes(self, run: RunState, series: Sequence[Series]) -> None:
        """Let processes read and write, as the options say and as it pays."""
        n_slices = sum(one.n_frames is None for item in series for one in item.slices)
        number = chosen_processes(run.options.processes, run.backends.choice.backend, n_slices)
        run.slice_processes = self._slice_processes.taken(number)

    def _folder(
        self,
        source: str | PathLike[str],
        output: str | PathLike[str],
        options: InferOptions,
        report_file: str | PathLike[str] | None,
        *,
        collected: bool = False,
    ) -> RunFolder:
        require_images(self.spec)
        require_intervals(options, self.spec)
        return RunFolder(
            Path(source),
            Path(output),
            options,
            self._backends,
            report_file=None if report_file is None else Path(report_file),
            collected=collected,
        )

    def _scanned_for_tier(
        self,
        source: str | PathLike[str],
        output: str | PathLike[str],
        options: InferOptions,
        report_file: str | PathLike[str] | None,
    ) -> Scan | None:
        """Choose what computes by the matrices of a study, which has to be scanned first for that.

        Returns
        -------
            The scan; None if the run computes in fp32 whatever the study has.
        """
        if options.tier == "exact":
            return None
        place = None if report_file is None else Path(report_file)
        prepare(Path(source), Path(output), place)  # before minutes are spent
        report_step("reading headers")
        scan = scan_files(Path(source).absolute(), options)
        if not scan.series:
            scan_input(RunState(Path(source), Path(output), options, self._backends), scan)
        counts = Counter(one.matrix for series in scan.series for one in series.slices)
        self._backends.settle([matrix for matrix, _ in counts.most_common()])
        return scan

    def _options_of_run(self, options: InferOptions | None) -> InferOptions:
        if options is None:
            return self.options
        require_options(options)
        for name in OPENING:
            if getattr(options, name) != getattr(self.options, name):
                raise InputError(
                    f"this session was opened with another {name}",
                    hint="a session has one model on one backend: open another",
                )
        return options

    @contextmanager
    def _used(self) -> Iterator[None]:
        with self._in_use:
            if self._closed:
                raise InputError(f"the {self._called} is closed", hint="open another")
            yield


def require_source(source: Path) -> None:
    """Refuse an input that does not exist.

    Raises
    ------
    InputError
        If it does not.
    """
    if not source.exists():
        raise InputError(
            "no such file or folder as the input",
            hint="look at how IN (in Python: source) is spelled; a relative path begins at the "
            "folder that this runs in",
        )
