"""Closed parts through the pipeline: what became of every file decides what follows."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydicom import dcmread

from kspacesr_rt.dicom import Scan, scan_folder
from kspacesr_rt.dicom.failures import BACKEND
from kspacesr_rt.dicom.file_limits import limited_to
from kspacesr_rt.dicom.output_names import UID_NAME
from kspacesr_rt.errors import NoMRImageError, ResultError, RunMismatchError
from kspacesr_rt.kspace import Matrix, centre_crop
from kspacesr_rt.pipeline import InferOptions, RunProgress, Session
from kspacesr_rt.pipeline.report import RunReport
from kspacesr_rt.services import durable_files
from kspacesr_rt.services.durable_files import FILE_LIMITS, FULL_DISK
from kspacesr_rt.services.log import Log
from kspacesr_rt.services.metrics import Metrics
from kspacesr_rt.services.node.spool import INCOMING, MAX_ATTEMPTS, Spool
from kspacesr_rt.services.node.spool_part import Part

REPORT: Final = "report.json"
NEVER_KEPT: Final = frozenset({"already-derived", "duplicate"})
"""What is left out for these reasons lies elsewhere: our own results, and what is there twice."""
CANNOT_BE_READ: Final = "cannot be read: "
"""How the message of a file begins that the system did not let be read; what it said follows."""
EXHAUSTED: Final = "failed: attempts"
"""Reason of inputs that end every attempt: kept under any option, since nobody knows why."""


class Keep(StrEnum):
    """What of the files that were left out goes into quarantine; all are counted."""

    all = "all"
    failed = "failed"
    none = "none"


class _DrainRequestedError(Exception):
    """Ends a run between two slices; what is written stays, and the next start goes on."""


class Processor:
    """Takes closed parts, one at a time.

    Parameters
    ----------
    spool
        Where they are.
    session
        What super-resolves them; its options must be those of `node_options`.
    keep
        What goes into quarantine.
    metrics, log
        What happened.
    stop_requested
        Asked after every slice.
    """

    def __init__(
        self,
        spool: Spool,
        session: Session,
        keep: Keep,
        metrics: Metrics,
        log: Log,
        stop_requested: Callable[[], bool],
    ) -> None:
        self._spool, self._keep = spool, keep
        # False after a shipped slice did not go through either; the node is not healthy then.
        self.can_infer = True
        self._session, self._options = session, session.options
        self._metrics, self._log, self._stop_requested = metrics, log, stop_requested

    def process(self, part: Part) -> bool:
        """Process a closed part and move it on; return False to have it tried again later."""
        before = self._spool.begin_attempt(part)
        if before >= MAX_ATTEMPTS:
            if not self._can_infer():
                self._spool.reset_attempts(part)
                return False
            self._set_aside(part, {path.name: EXHAUSTED for path in _files(part)})
            return True
        try:
            report = self._session.run(
                part.inputs,
                part.outputs,
                on_progress=self._progress,
                on_stall=lambda sentence: self._log.write(
                    "stalled", part=part.name, waiting_for=sentence
                ),
            )
        except _DrainRequestedError:
            self._spool.reset_attempts(part)
            return False
        except RunMismatchError:
            # The node was started with other options since; nothing of this part was sent yet.
            durable_files.remove_tree(part.outputs)
            self._spool.reset_attempts(part)
            return self._error(RunMismatchError.__name__, part)
        except NoMRImageError as exc:
            scan = self._scan(part)
            messages = [left.message for left in scan.left_out]
            if self._should_retry(part, messages, before):
                return False
            self._set_aside(part, self._left_out(part, scan, exc.skipped_for))
            return True
        except Exception as exc:  # its text may quote a patient's values
            self._error(type(exc).__name__, part)
            cause = exc.__cause__
            if isinstance(cause, OSError) and cause.errno in FULL_DISK:
                self._spool.reset_attempts(part)
                self._reopen_backends()
            elif not self._can_infer():
                self._spool.reset_attempts(part)
            return False
        failed = [one for one in report.slices if one.outcome == "failed"]
        if any(one.reason == BACKEND for one in failed):
            if self._should_retry_backend(part, before):
                return False
        else:
            self.can_infer = True
        if self._should_retry(part, [one.message for one in failed], before):
            return False
        self._count_results(part, report)
        self._spool.finish_processing(part)
        return True

    def reasons(self, part: Part) -> dict[str, str]:
        """Return the inputs of a processed part that go into quarantine, and why."""
        try:
            report = json.loads((part.outputs / REPORT).read_bytes())
        except FileNotFoundError:  # `tidy` was interrupted, and knows
            return {}
        return self._kept(
            {
                one["file"]: f"{one['outcome']}: {one['reason']}"
                for one in report["slices"]
                if one["outcome"] in ("skipped", "failed")
            }
        )

    def _can_infer(self) -> bool:
        """Return whether a shipped slice goes through: if not, no part is to blame."""
        scratch = self._spool.root / INCOMING / "proof"
        self._reopen_backends()
        try:
            check_inference(self._session, scratch)
            self.can_infer = True
        except Exception as exc:
            self.can_infer = False
            self._error(f"proof-{type(exc).__name__}")
        finally:
            durable_files.remove_tree(scratch)
        return self.can_infer

    def _reopen_backends(self) -> None:
        """Have backends opened again: one that has met an accident may be of no more use."""
        try:
            self._session.release()
        except Exception as exc:
            self._error(f"close-{type(exc).__name__}")

    def _progress(self, progress: RunProgress) -> None:
        if self._stop_requested():
            raise _DrainRequestedError

    def _error(self, kind: str, part: Part | None = None) -> Literal[False]:
        self._metrics.count("processing_errors_total", kind=kind)
        self._log.write("processing-error", part=part.name if part else "none", kind=kind)
        return False

    def _count_results(self, part: Part, report: RunReport) -> None:
        for outcome in ("written", "present", "skipped", "failed"):
            if n := report.count_slices(outcome):
                self._metrics.count("slices_total", n, outcome=outcome)
        for outcome, reason, n in report.reasons():
            self._metrics.count("left_out_total", n, outcome=outcome, reason=reason)
        self._log.write(
            "processed",
            part=part.name,
            written=report.count_slices("written") + report.count_slices("present"),
            skipped=report.count("skipped"),
            failed=report.count("failed"),
        )

    def _should_retry(self, part: Part, messages: list[str], before: int) -> bool:
        """Return whether the part is to be tried again, since the system gave none of its files.

        They are the spool's own: no sender is to blame that a disk or the number of files failed.
        """
        causes = {one.removeprefix(CANNOT_BE_READ) for one in messages if CANNOT_BE_READ in one}
        if causes & {os.strerror(number) for number in FILE_LIMITS}:
            self._metrics.count("file_limit_total", where="process")
            self._spool.reset_attempts(part)
            return not self._error("file-limit", part)
        if causes and before + 1 < MAX_ATTEMPTS:
            return not self._error("spool-unreadable", part)
        return False

    def _should_retry_backend(self, part: Part, before: int) -> bool:
        """Return whether the part is to be tried again, since slices of it were not computed.

        As long as a shipped slice is not computed either, none of its files is to blame.
        """
        if not self._can_infer():
            self._spool.reset_attempts(part)
            return not self._error(BACKEND, part)
        return before + 1 < MAX_ATTEMPTS and not self._error(BACKEND, part)

    def _scan(self, part: Part) -> Scan:
        with limited_to(self._options.limits):
            return scan_folder(
                part.inputs,
                include_derived=self._options.include_derived,
                keep_private=self._options.keep_private,
            )

    def _left_out(self, part: Part, scan: Scan, skipped_for: str) -> dict[str, str]:
        """Return why each input was left out, when there is no report."""
        # What the scan would process, only an option leaves out.
        reasons = {path.name: f"skipped: {skipped_for}" for path in _files(part)}
        left_out = {left.path.name: f"{left.outcome}: {left.reason}" for left in scan.left_out}
        return reasons | left_out

    def _set_aside(self, part: Part, reasons: Mapping[str, str]) -> None:
        for reason, n in Counter(reasons.values()).items():
            outcome, _, word = reason.partition(": ")
            self._metrics.count("left_out_total", n, outcome=outcome, reason=word)
        kept = self._kept(reasons)
        self._metrics.count("parts_set_aside_total", kept=str(bool(kept)).lower())
        summary = ", ".join(
            f"{reason} x{n}" for reason, n in Counter(reasons.values()).most_common(5)
        )
        self._log.write(
            "set-aside", part=part.name, files=len(reasons), kept=len(kept), reasons=summary
        )
        self._spool.set_aside(part, kept, keep=bool(kept))

    def _kept(self, reasons: Mapping[str, str]) -> dict[str, str]:
        wanted = {Keep.all: ("failed", "skipped"), Keep.failed: ("failed",), Keep.none: ()}
        return {
            name: reason
            for name, reason in reasons.items()
            if reason == EXHAUSTED
            or (
                reason.startswith(wanted[self._keep])
                and reason.partition(": ")[2] not in NEVER_KEPT
            )
        }


def node_options(options: InferOptions) -> InferOptions:
    """Return the options with which a node processes what it has received."""
    # The names of files in the spool are digests: they may be told, and must be found again.
    # What stands in a part of another start of the node, and no input gives, is never sent.
    # They lie by UID, since that is what is noted of what was sent.
    # Senders were told that what they have sent is safe: its results are, before they are sent on.
    durability = "batch" if options.durability == "none" else options.durability
    return replace(options, show_paths=True, stale="replace", name=UID_NAME, durability=durability)


def check_inference(session: Session, scratch: Path) -> RunReport:
    """Super-resolve a shipped slice, so that a node does not listen that cannot compute.

    Raises
    ------
    KspaceSRError
        What `Session.run` raises, or `ResultError` if the slice failed.
    """
    from kspacesr_rt.sample import sample_folder

    first = min(sample_folder().glob("*.dcm"))
    if any(session.spec.fixed_matrix):
        first = _cut_to(session.spec.fixed_matrix, first, scratch / "slice")
    # The sample may be what these would leave out.
    options = replace(session.options, on_interpolated="warn", on_outside="warn", strict=False)
    report = session.run(first, scratch / "result", options=options)
    if report.exit_code:
        raise ResultError(
            f"'{report.model}' on '{report.backend}' cannot process a shipped slice",
            hint="kspacesr-rt doctor, and kspacesr-rt verify MODEL, tell more",
        )
    return report


def _cut_to(matrix: Matrix, path: Path, folder: Path) -> Path:
    """Write the middle of a slice, repeated if it is too small, for a network of one matrix."""
    ds = dcmread(path)
    missing = [max(0, n - m) for n, m in zip(matrix, (ds.Rows, ds.Columns), strict=True)]
    repeated = np.pad(ds.pixel_array, [(n // 2, n - n // 2) for n in missing], mode="wrap")
    ds.PixelData = centre_crop(repeated, matrix).tobytes()
    ds.Rows, ds.Columns = matrix
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / path.name
    ds.save_as(made)
    return made


def _files(part: Part) -> list[Path]:
    return sorted(part.inputs.glob("*.dcm"))
