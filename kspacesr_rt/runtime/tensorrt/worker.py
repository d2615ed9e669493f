"""The builder's own process: a crash or an out-of-memory in the library ends this, not its caller.

``python -m kspacesr_rt.runtime.tensorrt.worker FOLDER`` reads ``inputs.json``, ``model.onnx`` and,
where it is there, ``timing``; it prints its progress, a line of JSON each, and leaves ``plan``,
``timing`` and ``result.json`` behind. An error that can be explained is a result; a crash leaves
none.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from kspacesr_rt.errors import KspaceSRError
from kspacesr_rt.runtime.tensorrt.adapter import compile_engine, progress_monitor
from kspacesr_rt.runtime.tensorrt.inputs import EngineInputs
from kspacesr_rt.runtime.tensorrt.library import load_runtime

INPUTS, MODEL, PLAN, TIMING, RESULT = "inputs.json", "model.onnx", "plan", "timing", "result.json"
WHOLE = 100
"""Progress is told in per cent."""


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseProgress:
    """Turn a builder's nested phases into one share that never falls."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._last_percent = -1

    def started(self, name: str, parent: str | None, steps: int) -> None:
        """Note a phase; its parent is running."""
        self._phases[name] = _Phase(parent, max(steps, 1))
        self._report(name)

    def stepped(self, name: str, step: int) -> None:
        """Note that step number `step`, counted from 0, is done."""
        if name in self._phases:
            self._phases[name].done = step + 1
            self._report(name)

    def finished(self, name: str) -> None:
        """Forget a phase; the end of the outermost one is the end of the build."""
        phase = self._phases.pop(name, None)
        if phase is not None and phase.parent is None:
            self._print(WHOLE, name)

    def _report(self, name: str) -> None:
        share, above = 0.0, self._phases.get(name)
        while above is not None:
            share = min((above.done + share) / above.steps, 1.0)
            above = self._phases.get(above.parent or "")
        self._print(int(WHOLE * share), name)

    def _print(self, percent: int, name: str) -> None:
        if percent > self._last_percent:
            self._last_percent = percent
            print(json.dumps({"done": percent, "stage": name}), flush=True)


def work(folder: Path) -> None:
    """Build what a folder asks for, and leave the answer in it."""
    try:
        result = _build(folder)
    except KspaceSRError as exc:
        result = {"error": str(exc), "hint": exc.hint}
    except MemoryError:
        result = {
            "error": "the builder ran out of memory",
            "hint": "build for fewer slices at once: --batch",
        }
    (folder / RESULT).write_text(json.dumps(result))


def _build(folder: Path) -> dict[str, object]:
    inputs = EngineInputs.from_dict(json.loads((folder / INPUTS).read_text()))
    trt = load_runtime(inputs.runtime)
    timing = folder / TIMING
    progress = PhaseProgress()
    compiled = compile_engine(
        trt,
        inputs,
        (folder / MODEL).read_bytes(),
        timing=timing.read_bytes() if timing.exists() else b"",
        monitor=progress_monitor(trt, progress.started, progress.stepped, progress.finished),
    )
    (folder / PLAN).write_bytes(compiled.plan)
    timing.write_bytes(compiled.timing)
    return {"layers": compiled.layers, "fused": [one.to_dict() for one in compiled.fused]}


if __name__ == "__main__":
    work(Path(sys.argv[1]))
