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
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args

from kspacesr_rt.dicom.file_limits import parsed_limits
from kspacesr_rt.dicom.output_names import UID_NAME
from kspacesr_rt.dicom.suppressed_warnings import redacted_thread_errors
from kspacesr_rt.errors import InputError, KspaceSRError, PartialFailureError, failing_the_output
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.pipeline.report import RunReport
from kspacesr_rt.system.durability import sync_folder
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.plurals import counted

IN_DIR, OUT_DIR = "MERCURE_IN_DIR", "MERCURE_OUT_DIR"
TASK, RESULT = "task.json", "result.json"
WORK: Final = ".kspacesr-rt"
"""Folder in the output where `infer` works; gone at the end, so that mercure sees whole files."""
NOTIFICATION: Final = "__mercure_notification"
PARTIAL: Final = ("fail", "deliver")
SETTINGS: Final[Mapping[str, type | UnionType]] = {
    "model": str,
    "backend": str,
    "tier": str,
    "upscale": int,
    "batch": int | str,
    "threads": int,
    "streams": int,
    "workers": int,
    "processes": int | str,
    "include_derived": bool,
    "keep_private": bool,
    "limits": list,
    "compress": str,
    "trust_map": bool,
    "durability": str,
    "on_interpolated": str,
    "on_outside": str,
    "strict": bool,
    "stale": str,
    "verify_existing": bool,
}
"""Settings that are fields of `InferOptions`; ``partial`` is ours.

Not among them: ``random_uids`` (a case that is sent again would be there twice), ``show_paths``
(names here are UIDs), ``preview`` (mercure dispatches DICOM alone)."""


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


def read_task(environment: Mapping[str, str], options: InferOptions | None = None) -> MercureTask:
    """Return the task that the environment and ``task.json`` describe.

    Parameters
    ----------
    environment
        Holds the folders.
    options
        What holds where the settings of the task say nothing.

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
    process = task.get("process", {}) if isinstance(task, dict) else None
    if not isinstance(process, dict):
        raise InputError(f"{TASK} holds no object, or its 'process' is none")
    settings = process.get("settings")
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
    defaults = options or InferOptions()
    return MercureTask(
        source=source,
        output=output,
        options=replace(
            defaults, **values, sources={**defaults.sources, **dict.fromkeys(values, TASK)}
        ),
        partial=partial,
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
        with redacted_thread_errors(
            lambda kind: print(f"error: {kind} in a thread", file=sys.stderr)
        ):
            # mercure calls files SERIES_UID#FILE_UID.dcm, its own and those of its modules.
            report = infer(task.source, work, replace(task.options, name=UID_NAME))
        _deliver(report, work, task.output)
        if task.options.durability != "none":
            with failing_the_output("results cannot be handed over"):
                sync_folder(task.output)
    except KspaceSRError as exc:
        failure = {"error": str(exc), "hint": exc.hint, "exit_code": exc.exit_code}
        _write_result(task, failure, f"failed: {exc}", requested=True)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    failed = report.exit_code != 0
    _write_result(task, report.summary(), _summary_text(report), requested=failed)
    tolerated = report.exit_code == PartialFailureError.exit_code and task.partial == "deliver"
    return 0 if tolerated and report.count("written") else report.exit_code


def _deliver(report: RunReport, work: Path, output: Path) -> None:
    """Hand over what this run vouches for; what else an earlier one left is not sent."""
    maps = {one.trust_map for one in report.series_records if one.trust_map}
    for name in sorted({one.output for one in report.slices if one.output} | maps):
        path = work / name
        path.replace(output / f"{path.parent.name}#{path.name}")


def _summary_text(report: RunReport) -> str:
    lines = [f"{report.count_slices('written')} slices x{report.upscale} by {report.model}"]
    lines += [f"{counted(report.trust_maps, 'trust map')}"] if report.trust_maps else []
    # ``task.json`` and the ``.tags`` files are no concern of the reader.
    lines += [
        f"{n} {outcome}: {reason}"
        for outcome, reason, n in report.reasons()
        if reason != "not-dicom"
    ]
    lines += report.warning_lines()
    return "; ".join([*lines, "research use only"])


def _write_result(
    task: MercureTask, content: Mapping[str, Any], text: str, *, requested: bool
) -> None:
    document = {**content, NOTIFICATION: {"text": f"kspacesr-rt: {text}", "requested": requested}}
    replace_file(task.output / RESULT, (json.dumps(document, indent=1) + "\n").encode())


def _folder(environment: Mapping[str, str], name: str) -> Path:
    value = environment.get(name)
    if not value:
        raise InputError(f"{name} is not set", hint="mercure sets it for its modules")
    if not Path(value).is_dir():
        raise InputError(f"{name} names no folder")
    return Path(value)


def _require_known(name: str, value: object) -> None:
    if name not in SETTINGS:
        listed = ", ".join(sorted({*SETTINGS, "partial"}))
        raise InputError(f"unknown setting '{name}' in {TASK}", hint=f"known are {listed}")
    kind = SETTINGS[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"setting '{name}' in {TASK} is not of type {_name_of(kind)}")


def _name_of(kind: type | UnionType) -> str:
    kinds = (kind,) if isinstance(kind, type) else get_args(kind)
    return " or ".join(one.__name__ for one in kinds)
