"""What is checked before a run writes anything: folders, the report's place, the input."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Final

from kspacesr_rt.dicom import LeftOut, Scan, prepare_output, scan_folder
from kspacesr_rt.errors import NoMRImageError, OutputError, StrictRefusalError
from kspacesr_rt.pipeline.input_files import input_examiner
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.pipeline.outside_limits import (
    OUTSIDE_LIMITS,
    reasons_to_skip,
    warnings_of_limits,
)
from kspacesr_rt.pipeline.report import require_replaceable, require_writable, series_numbers
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.pipeline.survey import INTERPOLATION_WARNINGS
from kspacesr_rt.system.progress_messages import report_step
from kspacesr_rt.volumes import is_volume_file, kind_of, missing_library

_ADVICE: Final = {
    "derived-map": "--include-derived takes maps",
    "no-patient": "a DICOM series needs a patient, a study and UIDs, and NIfTI files and arrays "
    "have none: --format same writes them as they are",
    "no-geometry": "NIfTI needs millimetres, and arrays have none: --format same writes them as "
    "they are",
    "complex": "networks take magnitudes: save numpy.abs of complex images",
    "special-file": "a link to a folder is not followed: name that folder as the input",
}
"""What helps against a reason word, where something does."""
_NEEDS_OF_VOLUMES: Final = (
    "expected real images: NIfTI of two to four axes, arrays (..., y, x), or .h5 with a "
    "reconstruction"
)


_SKIPPED: Final = {
    "interpolated": "--on-interpolated warn or crop processes them",
    OUTSIDE_LIMITS: "--on-outside zero-fill or warn processes them",
}


def prepare(source: Path, output: Path, report_file: Path | None) -> Path:
    """Make sure that outputs and report can be written safely; return where the report goes.

    Raises
    ------
    OutputError
        If they cannot.
    """
    prepare_output(source, output, report=report_file, is_other_output=is_volume_file)
    if report_file and source.resolve() in (report_file.resolve(), *report_file.resolve().parents):
        raise OutputError(
            "the report lies inside the input", hint="the input is only read: choose elsewhere"
        )
    if report_file is not None and report_file.parent.resolve() != output.resolve():
        require_writable(report_file)
    report_file = report_file or output / "report.json"
    require_replaceable(report_file)
    return report_file


def scan_files(source: Path, options: InferOptions) -> Scan:
    """Look at the header of every file of an input."""
    return scan_folder(
        source, keep_private=options.keep_private, examine=input_examiner(source, options)
    )


def scan_input(run: RunState, scan: Scan | None = None) -> Scan:
    """Scan the input of a run; `scan` is one that was made of it just now.

    Raises
    ------
    NoMRImageError
        If there is nothing to process; with a report that names each file.
    BackendUnavailableError
        If that is because a library is missing.
    """
    report_step("reading headers")
    started = time.perf_counter()
    with run.timer.busy("scan"):
        scan = scan or scan_files(run.source, run.options)
    if not scan.series:
        if (missing := missing_library(scan.left_out)) is not None:
            raise missing
        error = _no_slices_error(scan.left_out)
        wall_s = time.perf_counter() - started
        error.report = run.report(scan, wall_s, workers=1, ended_with=error.exit_code)
        raise error
    run.total = scan.n_slices
    return scan


def refuse_in_advance(run: RunState, scan: Scan) -> None:
    """Refuse, before anything is written, what can only be told after a look at every series.

    Raises
    ------
    StrictRefusalError
        If there is something to warn about, under ``--strict``.
    NoMRImageError
        If every series is left out: interpolated under ``--on-interpolated skip``, or outside the
        model's limits under ``--on-outside skip``.
    """
    options = run.options
    if not options.strict and "skip" not in (options.on_interpolated, options.on_outside):
        return
    surveyed = []
    report_step("measuring k-space of every series")
    for series in scan.series:
        surveyed.append(run.survey(series))
        surveyed[-1].read.clear()  # no archive fits into memory
    if options.strict:
        by_text: dict[str, list[int]] = {}
        for number, (series, survey) in enumerate(zip(scan.series, surveyed, strict=True), start=1):
            texts = (*series.warnings, *survey.warnings)
            if options.on_interpolated != "warn":
                texts = tuple(one for one in texts if not one.startswith(INTERPOLATION_WARNINGS))
            if options.on_outside == "warn":
                texts += warnings_of_limits(run, survey)
            for text in texts:
                by_text.setdefault(text, []).append(number)
        if by_text:
            listed = "; ".join(
                f"{text} ({len(numbers)} series: {series_numbers(numbers)})"
                for text, numbers in sorted(by_text.items())
            )
            raise StrictRefusalError(
                f"refused under --strict: {listed}",
                hint="without --strict they are processed, with a warning",
            )
    reasons = {reason for one in surveyed for reason in reasons_to_skip(run, one)}
    if reasons and "" not in reasons:
        words = sorted(reasons)
        error = NoMRImageError(
            f"no MR image to process: {scan.n_slices} {' or '.join(words)}",
            hint="; ".join(_SKIPPED[word] for word in words),
        )
        error.skipped_for = words[0]
        raise error


def _no_slices_error(left_out: tuple[LeftOut, ...]) -> NoMRImageError:
    counts = Counter(left.reason for left in left_out)
    listed = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()))
    hints = [hint for reason, hint in _ADVICE.items() if reason in counts]
    if not hints and left_out and all(kind_of(left.path.name) for left in left_out):
        [(message, _)] = Counter(left.message for left in left_out).most_common(1)
        hints = [f"most frequent: {message}", _NEEDS_OF_VOLUMES]
    hints = hints or ["expected magnitude MR Image Storage files"]
    hints += ["-v names each file"] if left_out else []
    return NoMRImageError(
        f"no MR image to process: {listed or 'the folder holds no file'}",
        hint="; ".join(hints),
    )
