"""The file the regression gate compares with: quality once, speed for each kind of machine.

Image quality does not depend on the CPU beyond rounding, so one figure serves every machine. Ratios
to PyTorch do: another vector unit moves each library by its own factor. They are kept by CPU model,
instruction sets and threads, and hold for no other.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kspacesr_rt.errors import InputError
from kspacesr_rt.quality.metrics import Quality

SCHEMA = 1
"""Of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineRatio:
    """How fast one comparison was."""

    ratio: float
    """Speed relative to the row it runs against; median over the rounds."""
    low: float
    """Lower end of the 95 % interval of that median."""
    high: float
    """Upper end."""
    rounds: int
    """Rounds it was taken from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineMachine:
    """What was measured on one kind of machine."""

    environment: dict[str, Any]
    """As `kspacesr_rt.bench.run.environment` tells it."""
    ratios: dict[str, BaselineRatio]
    """By comparison."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """The whole file."""

    model: str
    """Name of the model whose weights ran."""
    weights_sha256: str
    """Of these weights."""
    data: str
    """What slices were judged, in words."""
    quality: dict[str, Quality]
    """By comparison, convention ``slice-range1``."""
    machines: dict[str, BaselineMachine]
    """By `machine_class`."""

    def with_machine(self, name: str, machine: BaselineMachine) -> Baseline:
        """Return it with one kind of machine added or replaced."""
        return dataclasses.replace(self, machines={**self.machines, name: machine})

    def to_json(self) -> str:
        """Return the file's text."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a baseline.

        Raises
        ------
        InputError
            If there is none, or it is damaged or of another schema.
        """
        hint = "measure one with: kspacesr-rt bench gate --update --baseline FILE"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise InputError(f"cannot read {path}: {exc.strerror or exc}", hint=hint) from exc
        except (ValueError, RecursionError) as exc:
            raise InputError(f"{path} is no baseline: {exc}", hint=hint) from exc
        schema = values.pop("schema", None) if isinstance(values, dict) else None
        if schema != SCHEMA:
            raise InputError(
                f"{path} is no baseline of schema {SCHEMA}, found {schema!r}", hint=hint
            )
        try:
            return cls(
                model=str(values["model"]),
                weights_sha256=str(values["weights_sha256"]),
                data=str(values["data"]),
                quality={name: _quality(one) for name, one in values["quality"].items()},
                machines={name: _machine(one) for name, one in values["machines"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise InputError(
                f"{path} is a damaged baseline: {type(exc).__name__} {exc}", hint=hint
            ) from exc


def machine_class(threads: int) -> str:
    """Name what a ratio depends on: CPU model, instruction sets, threads."""
    from kspacesr_rt.system.cpu import cpu_identity

    return f"{cpu_identity()}, {threads or 'all'} thread{'' if threads == 1 else 's'}"


def _quality(values: dict[str, Any]) -> Quality:
    return Quality(**{name: _finite(value) for name, value in values.items()})


def _machine(values: dict[str, Any]) -> BaselineMachine:
    ratios = {}
    for name, one in values["ratios"].items():
        ratio, low, high = (_finite(one[key]) for key in ("ratio", "low", "high"))
        if not ratio > 0:
            raise ValueError(f"the ratio of '{name}' is not positive")
        ratios[name] = BaselineRatio(ratio=ratio, low=low, high=high, rounds=int(one["rounds"]))
    return BaselineMachine(environment=dict(values["environment"]), ratios=ratios)


def _finite(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool | str) or not abs(number) < float("inf"):
        raise ValueError(f"{value!r} is no finite number")
    return number
