"""A first run on a GPU: every check in order of worth, each with its limit, in a few minutes.

What it measures: whether the GPU computes, gives the models' known answers, agrees with itself over
batches, threads and openings; then times of whole calls and of the device alone, copies, the share
of FFT layers, energy. What it leaves out: rows of other runtimes, and everything that needs torch;
`kspacesr-rt bench` has those. How to read it: a check that failed is a fault; one that is not
proved could not tell, because an earlier one had failed.

A result is written after each check, so that a run that is cut off leaves what it found.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kspacesr_rt.errors import KspaceSRError, RegressionError, first_line
from kspacesr_rt.runtime.gpu_memory import GPU_FAILED_HINT
from kspacesr_rt.system.files import replace_file

PASSED, FAILED, NOT_PROVED, NO_TIME = "passed", "failed", "not proved", "no time left"
BUDGET_S = 240.0
"""A check begins only within this."""
SCHEMA = 1
_HOST = re.compile(r"\s*;?\s*hostname=\S+")
"""ONNX Runtime names the host in its errors of CUDA."""


class CheckFailed(Exception):  # noqa: N818 - an outcome of a check, not a fault of the program
    """A limit was not kept; the message says by how much, `measured` what was found."""

    def __init__(self, message: str, **measured: Any) -> None:
        super().__init__(message)
        self.measured = measured


class NotProved(Exception):  # noqa: N818 - an outcome of a check, not a fault of the program
    """A check could not tell; the message says why, `measured` what was found all the same."""

    def __init__(self, message: str, **measured: Any) -> None:
        super().__init__(message)
        self.measured = measured


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """What became of one check."""

    name: str
    """What was checked."""
    limit: str
    """What it had to keep, written before it ran."""
    outcome: str
    """`PASSED`, `FAILED`, `NOT_PROVED` or `NO_TIME`."""
    measured: dict[str, Any]
    """What was found."""
    reason: str = ""
    """Why it has not passed."""
    seconds: float = 0.0
    """How long it took."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "check": self.name,
            "limit": self.limit,
            "outcome": self.outcome,
            "reason": self.reason,
            "measured": _plain(self.measured),
            "seconds": round(self.seconds, 3),
        }

    def as_text(self) -> str:
        """Return it for a terminal."""
        figures = ", ".join(f"{key} {_short(value)}" for key, value in self.measured.items())
        said = "; ".join(part for part in (self.reason, figures) if part)
        return f"{self.outcome:<12} {self.name} ({self.limit}): {said}"


@dataclass(frozen=True, slots=True)
class Check:
    """One check."""

    name: str
    limit: str
    run: Callable[[], dict[str, Any]]
    """Returns what it measured; raises `CheckFailed` or `NotProved`."""


@dataclass(slots=True)
class SmokeReport:
    """A run of all checks, as far as it has come."""

    backend: str
    results: list[CheckResult] = field(default_factory=list)
    lost_in: str = ""
    """The check in which the GPU failed, after which none is asked; empty if it did not."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "schema": SCHEMA,
            "profile": "smoke",
            "backend": self.backend,
            "checks": [one.to_dict() for one in self.results],
            **{outcome: self.count(outcome) for outcome in (PASSED, FAILED, NOT_PROVED, NO_TIME)},
        }

    def count(self, outcome: str) -> int:
        """Count the checks of an outcome."""
        return sum(one.outcome == outcome for one in self.results)

    def as_text(self) -> str:
        """Return the last line for a terminal."""
        counts = ((self.count(one), one) for one in (PASSED, FAILED, NOT_PROVED, NO_TIME))
        return f"{self.backend}: " + ", ".join(f"{n} {one}" for n, one in counts if n)

    def require_passed(self) -> None:
        """Raise if a check failed.

        Raises
        ------
        RegressionError
            Naming the checks that did.
        """
        failed = [one.name for one in self.results if one.outcome == FAILED]
        if failed:
            raise RegressionError(
                f"{len(failed)} of {len(self.results)} checks failed: {', '.join(failed)}",
                hint="kspacesr-rt doctor; each check's reason is in the result",
            )


def run_checks(
    checks: Iterator[Check],
    report: SmokeReport,
    *,
    output: Path | None = None,
    budget_s: float = BUDGET_S,
    on_check: Callable[[CheckResult], None] | None = None,
) -> SmokeReport:
    """Run checks one after the other.

    Parameters
    ----------
    checks
        In order of worth.
    report
        Where results go.
    output
        JSON that is written after each.
    budget_s
        A check begins only within so many seconds.
    on_check
        Called with each result.

    Raises
    ------
    OutputError
        If `output` cannot be written.
    """
    begun = time.perf_counter()
    for check in checks:
        started = time.perf_counter()
        if report.lost_in:
            result = CheckResult(
                name=check.name,
                limit=check.limit,
                outcome=NOT_PROVED,
                measured={},
                reason=f"the GPU failed in '{report.lost_in}', and was not asked again",
            )
        elif started - begun > budget_s:
            result = CheckResult(name=check.name, limit=check.limit, outcome=NO_TIME, measured={})
        else:
            result, is_lost = _run(check, started)
            report.lost_in = check.name if is_lost else ""
        report.results.append(result)
        if output is not None:
            replace_file(output, json.dumps(report.to_dict(), indent=1).encode())
        if on_check is not None:
            on_check(result)
    return report


def _run(check: Check, started: float) -> tuple[CheckResult, bool]:
    """Return what became of a check, and whether the GPU failed in it."""
    measured: dict[str, Any] = {}
    outcome, reason, is_lost = PASSED, "", False
    try:
        measured = check.run()
    except NotProved as exc:
        outcome, reason, measured = NOT_PROVED, str(exc), exc.measured
    except CheckFailed as exc:
        outcome, reason, measured = FAILED, str(exc), exc.measured
    except KspaceSRError as exc:
        outcome, reason, is_lost = FAILED, str(exc), exc.hint == GPU_FAILED_HINT
    except Exception as exc:  # of a driver or a library, on a machine that nobody has seen
        words = _HOST.sub("", first_line(exc))  # the result is to be shown to others
        outcome, reason = FAILED, f"{type(exc).__name__}: {words}"
    result = CheckResult(
        name=check.name,
        limit=check.limit,
        outcome=outcome,
        measured=measured,
        reason=reason,
        seconds=time.perf_counter() - started,
    )
    return result, is_lost


def _plain(value: Any) -> Any:
    """Return values that strict JSON has."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    with contextlib.suppress(AttributeError):
        return value.item()
    return value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
