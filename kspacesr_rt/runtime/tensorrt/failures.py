"""What a builder's own words mean, and what to do about them."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from kspacesr_rt.errors import EngineError

_SHOWN = 5
"""Nodes named in a message; more say nothing new."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParserComplaint:
    """One node that the ONNX parser did not take."""

    node: str
    """Its name, or that of the layer whose body it stands in; empty if the file is at fault."""
    operator: str
    """ONNX operator; empty if the file is at fault."""
    description: str
    """The parser's words."""


_HINTS = (
    (r"FP32 GEMM is not supported", "export with --fft conv"),
    (r"HW-specific datatypes: [^.]*f(p)?8", "fp8 needs sm89 or newer: export with int8 or fp16"),
    (r"HW-specific datatypes", "bf16 needs sm80 or newer: export with --precision fp16"),
    (r"within workspace limit", "allow more scratch memory: --workspace"),
    (r"out of memory|OutOfMemory|bad_alloc|MemoryError", "build for fewer slices at once: --batch"),
    (r"CUDA driver version is insufficient|cudaError 35", "install or update the NVIDIA driver"),
)
"""Pattern in a builder's message to what helps."""
_OPERATOR_HINTS = {"DFT": "export with --fft gemm (or conv): no TensorRT before 11.2 has DFT"}
_SOURCE_LINES = (
    r"^I\w+::\w+: Error Code \d+: ",
    r"\[\w+\.cpp:\d+: \w+\] ",
    r"\. In \w+ at /[^\s)]+",
)
"""Where in its own source a builder failed, which tells a user nothing."""
_REPORT_HINT = "please report it, with the model's card and this message"


def builder_failure(messages: Sequence[str]) -> EngineError:
    """Explain why a builder gave nothing, from what it logged as errors, oldest first."""
    said = messages[0] if messages else "the builder gave no reason"
    for noise in _SOURCE_LINES:
        said = re.sub(noise, "", said)
    text = "\n".join(messages)
    hints = [hint for pattern, hint in _HINTS if re.search(pattern, text)]
    return EngineError(said, hint=hints[0] if hints else _REPORT_HINT)


def parser_failure(complaints: Sequence[ParserComplaint]) -> EngineError:
    """Explain which nodes a parser did not take."""
    found = [one for one in complaints if one.operator]
    if not found:
        said = complaints[0].description if complaints else "the parser gave no reason"
        return EngineError(f"the parser does not take the file: {said}")
    by_operator: dict[str, list[str]] = {}
    for one in found:
        names = by_operator.setdefault(one.operator, [])
        if one.node not in names:
            names.append(one.node)
    parts = []
    for operator, names in by_operator.items():
        shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        reason = next(one.description for one in found if one.operator == operator)
        if "Plugin not found" in reason:
            parts.append(f"there is no operator {operator}, which {shown}{more} needs")
        else:
            parts.append(f"{operator} in {shown}{more} is refused: {reason}")
    hint = next((_OPERATOR_HINTS[name] for name in by_operator if name in _OPERATOR_HINTS), None)
    return EngineError("; ".join(parts), hint=hint or _REPORT_HINT)


def crash(status: int, stderr: str) -> EngineError:
    """Explain why a builder's process ended without an answer.

    Parameters
    ----------
    status
        Exit status as `subprocess` gives it: negative for a signal.
    stderr
        What it had printed.
    """
    last = stderr.strip().splitlines()[-1:] or ["it printed nothing"]
    if status >= 0:
        return EngineError(f"the builder ended with status {status}: {last[0]}")
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    killed = "the machine may be out of memory: build for fewer slices at once with --batch"
    return EngineError(
        f"the builder's process was ended by {name}",
        hint=killed if name == "SIGKILL" else _REPORT_HINT,
    )
