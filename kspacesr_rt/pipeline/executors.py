"""Where the series of a run are processed: in this process, or by others."""

from __future__ import annotations

from typing import Protocol, Self

from kspacesr_rt.dicom import Scan
from kspacesr_rt.pipeline.nifti_of_series import write_series_as_nifti
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.pipeline.scheduler import Scheduler
from kspacesr_rt.pipeline.stage_timer import auto_workers
from kspacesr_rt.pipeline.trust_maps import write_trust_maps
from kspacesr_rt.runtime.backends import backend_info


class Executor(Protocol):
    """Where series are processed; a context manager, entered once by the session that has it."""

    computes_here: bool
    """False if other processes compute: the session opens no backend then."""

    def process(self, run: RunState, scan: Scan) -> None:
        """Process every series; what became of each file is in the run's records.

        Raises
        ------
        OutputError
            If an output cannot be written.
        StopRequestedError
            If a signal waits.
        """
        ...

    def side_by_side(self, run: RunState) -> tuple[int, int]:
        """Return how many threads read and write, and how many batches are computed, at a time."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class LocalExecutor:
    """Processes series in this process."""

    computes_here = True

    def __init__(self, workers: int = 0) -> None:
        """Keep how many threads read and write; 0: as many as a run's options say."""
        self._workers = workers

    def process(self, run: RunState, scan: Scan) -> None:
        """Process every series; see `Executor`."""
        threads = self._threads(run)
        with Scheduler(run, workers=threads) as scheduler:
            scheduler.process(scan.series)
        write_series_as_nifti(run, scan.series)
        write_trust_maps(run, scan.series, workers=threads)

    def side_by_side(self, run: RunState) -> tuple[int, int]:
        """Return the threads, and processes, that read and write, and the backend's streams."""
        n_processes = len(run.slice_processes)
        threads = self._threads(run) if run.works_here or not n_processes else 0
        return threads + n_processes, run.backends.streams

    def _threads(self, run: RunState) -> int:
        return self._workers or workers_of(run.options, run.backends.choice.backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def workers_of(options: InferOptions, backend: str) -> int:
    """Return how many threads work beside the backend."""
    return options.workers or auto_workers(on_gpu=backend_info(backend).on_gpu)
