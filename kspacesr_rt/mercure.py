"""A mercure processing module: series in ``MERCURE_IN_DIR``, results flat in ``MERCURE_OUT_DIR``.

mercure starts a container for a series or study. It names inputs ``SERIES_UID#FILE_UID.dcm``, puts
``task.json`` beside them (the module's settings under ``process`` / ``settings``), dispatches what
matches ``*.dcm`` at the top of the output folder if the exit code is 0, and reads ``result.json``
there, whose ``__mercure_notification`` becomes the text of its notifications.

References
----------
.. [1] https://github.com/mercure-imaging/mercure, docs/modules.rst and process/process_series.py
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from kspacesr_rt.dicom.limits import parsed_limits
from kspacesr_rt.dicom.quiet import discreet_threads
from kspacesr_rt.errors import InputError, KspaceSRError, PartialFailureError
from kspacesr_rt.files import replace_file
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.report import RunReport

IN_DIR, OUT_DIR = "MERCURE_IN_DIR", "MERCURE_OUT_DIR"
TASK, RESULT = "task.json", "result.json"
WORK: Final = ".kspacesr-rt"
"""Folder in the output where `infer` works; gone at the end, so that mercure sees whole files."""
NOTIFICATION: Final = "__mercure_notification"
PARTIAL: Final = ("fail", "deliver")
SETTINGS: Final[Mapping[str, type]] = {
    "model": str,
    "backend": str,
    "upscale": int,
    "batch": int,
    "threads": int,
    "streams": int,
    "workers": int,
    "include_derived": bool,
    "keep_private": bool,
    "limits": list,
    "compress": str,
    "on_interpolated": str,
    "strict": bool,
    "stale": str,
    "verify_existing": bool,
}
"""Settings that are fields of `InferOptions`; ``partial`` is ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MercureTask:
    """What mercure asks for."""

    source: Path
    """Folder of the inputs."""
    output: Path
    """Folder of the results."""
    options: InferOptions
    """For the pipeline."""
    partial: str = "fail"
    """What to do if some slices failed: ``fail`` ends with exit code 8, so that mercure keeps the
    case back; ``deliver`` ends with 0 and has mercure notify."""


def read_task(environment: Mapping[str, str]) -> MercureTask:
    """Return the task that the environment and ``task.json`` describe.

    Raises
    ------
    InputError
        If a folder or ``task.json`` is missing, or a setting is unknown or of the wrong type.
    """
    source, output = (_folder(environment, name) for name in (IN_DIR, OUT_DIR))
    try:
        task = json.loads((source / TASK).read_bytes())
    except OSError as exc:
        raise InputError(f"{IN_DIR} holds no readable {TASK}") from exc
    except ValueError as exc:
        raise InputError(f"{TASK} is not JSON") from exc
    process = task.get("process") if isinstance(task, dict) else None
    settings = process.get("settings") if isinstance(process, dict) else None
    if not isinstance(settings, dict | None):
        raise InputError(f"the settings in {TASK} are not an object")
    values = dict(settings or {})
    partial = values.pop("partial", "fail")
    if partial not in PARTIAL:
        raise InputError(f"setting 'partial' is fail or deliver, not {partial!r}")
    for name, value in values.items():
        _require_known(name, value)
    if "limits" in values:
        values["limits"] = parsed_limits([str(text) for text in values["limits"]])
    return MercureTask(
        source=source, output=output, options=InferOptions(**values), partial=partial
    )


def run_task(task: MercureTask) -> int:
    """Super-resolve what mercure handed over and write ``result.json``.

    Returns
    -------
        The exit code: 0, or what the report says, see `MercureTask.partial`.

    Raises
    ------
    KspaceSRError
        If nothing could be done; ``result.json`` says why.
    """
    work = task.output / WORK
    try:
        # Its output is kept in mercure's log.
        with discreet_threads(lambda kind: print(f"error: {kind} in a thread", file=sys.stderr)):
            report = infer(task.source, work, task.options)
        _deliver(report, work, task.output)
    except KspaceSRError as exc:
        told = {"error": str(exc), "hint": exc.hint, "exit_code": exc.exit_code}
        _write_result(task, told, f"failed: {exc}", requested=True)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    failed = report.exit_code != 0
    _write_result(task, report.summary(), _summary_text(report), requested=failed)
    tolerated = report.exit_code == PartialFailureError.exit_code and task.partial == "deliver"
    return 0 if tolerated and report.count("written") else report.exit_code


def _deliver(report: RunReport, work: Path, output: Path) -> None:
    """Hand over what this run vouches for; what else an earlier one left is not sent."""
    for name in sorted({one.output for one in report.slices if one.output}):
        path = work / name
        path.replace(output / f"{path.parent.name}#{path.name}")


def _summary_text(report: RunReport) -> str:
    lines = [f"{report.count_slices('written')} slices x{report.upscale} by {report.model}"]
    # ``task.json`` and the ``.tags`` files are no concern of the reader.
    lines += [
        f"{n} {outcome}: {reason}"
        for outcome, reason, n in report.reasons()
        if reason != "not-dicom"
    ]
    lines += [f"warning for {n} slices: {text}" for text, n in report.warnings()]
    return "; ".join([*lines, "research use only"])


def _write_result(
    task: MercureTask, told: Mapping[str, Any], text: str, *, requested: bool
) -> None:
    document = {**told, NOTIFICATION: {"text": f"kspacesr-rt: {text}", "requested": requested}}
    replace_file(task.output / RESULT, (json.dumps(document, indent=1) + "\n").encode())


def _folder(environment: Mapping[str, str], name: str) -> Path:
    value = environment.get(name)
    if not value:
        raise InputError(f"{name} is not set", hint="mercure sets it for its modules")
    if not Path(value).is_dir():
        raise InputError(f"{name} names no folder")
    return Path(value)


def _require_known(name: str, value: object) -> None:
    known = {one.name for one in fields(InferOptions)} & SETTINGS.keys()
    if name not in known:
        listed = ", ".join(sorted({*known, "partial"}))
        raise InputError(f"unknown setting '{name}' in {TASK}", hint=f"known are {listed}")
    kind = SETTINGS[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"setting '{name}' in {TASK} is not of type {kind.__name__}")
