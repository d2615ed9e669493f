"""An input and an output folder, held together for one run, or for as many as a watch makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kspacesr_rt.dicom import Derivation
from kspacesr_rt.pipeline.backend_pool import BackendPool
from kspacesr_rt.pipeline.options import InferOptions, RunProgress
from kspacesr_rt.pipeline.output_folder import Journal, locked_folder, require_compatible
from kspacesr_rt.pipeline.preflight import prepare
from kspacesr_rt.pipeline.run_state import RunState


class RunFolder:
    """Where runs read and write: checked first, then held against other runs, with its journal."""

    def __init__(
        self,
        source: Path,
        output: Path,
        options: InferOptions,
        backends: BackendPool,
        *,
        report_file: Path | None = None,
        collected: bool = False,
    ) -> None:
        """Check both folders; nothing is written but, if it is missing, the output folder.

        Parameters
        ----------
        source, output
            As for `kspacesr_rt.pipeline.infer`.
        options
            Of every run.
        backends
            What computes.
        report_file
            Where reports go; default ``report.json`` in `output`.
        collected
            See `Journal`.

        Raises
        ------
        OutputError
            If outputs or report could not be written safely.
        RunMismatchError
            If the output holds a run with other parameters.
        """
        # Processes that compute elsewhere may have other working folders.
        self.source, self.output = source.absolute(), output.absolute()
        self._options, self._backends, self._collected = options, backends, collected
        self.report_file = prepare(self.source, self.output, report_file)
        self._derivation: Derivation | None = None
        self._journal: Journal | None = None
        require_compatible(self.output, self.new_run().parameters)

    def new_run(self, on_progress: Callable[[RunProgress], None] | None = None) -> RunState:
        """Return a run that has done nothing yet."""
        run = RunState(self.source, self.output, self._options, self._backends, on_progress)
        self._set_journal(run)
        return run

    @contextmanager
    def locked(self, *runs: RunState) -> Iterator[Journal]:
        """Hold the output folder; runs that are begun, and those to come, are given its journal.

        Yields
        ------
            The journal; closed at the end.

        Raises
        ------
        OutputError
            If another run holds the folder.
        RunMismatchError
            If the folder has come to hold a run with other parameters.
        """
        first = runs[0] if runs else self.new_run()
        with locked_folder(self.output, first.parameters, first.derivation.run_salt) as manifest:
            self._derivation = replace(first.derivation, run_salt=manifest.run_salt)
            settings: dict[str, Any] = {
                "derivation": self._derivation,
                "collected": self._collected,
                "verify": self._options.verify_existing,
                "durable": self._options.durability != "none",
            }
            self._journal = Journal(self.output, **settings)
            try:
                self._journal.note_durability()
                for run in runs:
                    self._set_journal(run)
                yield self._journal
            finally:
                self._journal.close()

    def _set_journal(self, run: RunState) -> None:
        if self._derivation is not None:
            run.derivation, run.journal = self._derivation, self._journal
