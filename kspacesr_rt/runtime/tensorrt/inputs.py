"""What decides an engine: what the user asked for, and everything it was resolved to.

Plans are not reproducible byte by byte (two builds of one model differ), so an engine is known by
what went into it, never by what came out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from kspacesr_rt.errors import InputError
from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.graph.split_products import splits_every_product
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.spec import MatrixTuple, ModelSpec, Precision
from kspacesr_rt.runtime.suited_models import require_suited
from kspacesr_rt.runtime.tensorrt.library import load_runtime
from kspacesr_rt.runtime.tensorrt.requirements import require_buildable, tf32_pays
from kspacesr_rt.runtime.tensorrt.targets import (
    CURRENT,
    RUNTIMES,
    GpuTarget,
    RuntimeName,
    resolve_target,
)

RECIPE = 5
"""Raised when this project sets its builder up differently, so that older engines are not taken.
2: real coefficients in multiples of 8. 3: with TF32, products of FFT layers are split in three.
4: LR samples as coefficients, half precision between convolutions, TF32 where it pays. 5: data
consistency at an upscale of 2 in two products."""
LARGEST_BATCH = 8
"""Slices that the default profile takes at once; backends cut larger batches."""
LEVELS = range(6)
"""What TensorRT knows as ``builder_optimization_level``."""

BatchRange = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What a user may say about an engine."""

    runtime: RuntimeName = "tensorrt-rtx"
    """What builds it and will run it."""
    gpu: str = CURRENT
    """``current``, a name such as ``L4``, or a compute capability such as ``sm89``."""
    batch: BatchRange = (1, 1, LARGEST_BATCH)
    """Fewest, usual and most slices at once; it is tuned for the usual number."""
    tf32: bool | None = None
    """Let fp32 convolutions and matrix products round their operands to 10 bits; products of FFT
    layers are split in two or three, so that they lose nothing by it. None: in an fp16 model that
    has no other fp32 products, on GPUs where it should pay (`tf32_pays`)."""
    workspace_bytes: int | None = None
    """GPU memory a layer may take as scratch; None leaves it to the library."""
    optimisation_level: int | None = None
    """0 (builds fast) to 5 (runs fast); None leaves it to the library."""

    def __post_init__(self) -> None:
        """Reject what no builder can do."""
        if self.runtime not in RUNTIMES:
            raise InputError(
                f"no engine runtime is called '{self.runtime}'",
                hint=f"one of: {', '.join(RUNTIMES)}",
            )
        smallest, usual, largest = self.batch
        if not 1 <= smallest <= usual <= largest:
            raise InputError(f"a batch of {self.batch} is not 1 <= fewest <= usual <= most")
        if self.workspace_bytes is not None and not 1 <= self.workspace_bytes < 2**63:
            raise InputError(f"a workspace of {self.workspace_bytes} bytes is none")
        if self.optimisation_level is not None and self.optimisation_level not in LEVELS:
            raise InputError(
                f"optimisation level {self.optimisation_level} is outside 0 to {LEVELS[-1]}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineInputs:
    """Everything that decides what a plan holds."""

    runtime: RuntimeName
    """What built it."""
    runtime_version: str
    """Its full version: an engine runs on no other."""
    gpu: str
    """Compute capability, such as ``sm89``."""
    gpu_name: str
    """GPU it was tuned on; empty if any of that capability will do."""
    onnx_sha256: str
    """SHA-256 of the bound model's bytes."""
    precision: Precision
    """Of the CNN, as the model says."""
    matrix: MatrixTuple
    """LR ``(rows, columns)``."""
    batch: BatchRange
    """Fewest, usual and most slices at once."""
    tf32: bool
    """Whether TF32 was allowed."""
    workspace_bytes: int | None
    """Limit that was set, if any."""
    optimisation_level: int | None
    """Level that was set, if any."""
    recipe: int = RECIPE
    """How this project set the builder up."""

    def __post_init__(self) -> None:
        """Reject values that no build has; raises `TypeError`."""
        wrong = [
            f"{name} is {getattr(self, name)!r}"
            for names, fits in _CHECKS
            for name in names
            if not fits(getattr(self, name))
        ]
        if wrong:
            raise TypeError("; ".join(wrong))

    @property
    def key(self) -> str:
        """Return the SHA-256 over all of it."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EngineInputs:
        """Read what JSON made of `dataclasses.asdict`; raises `TypeError` if it does not fit."""
        fields = dict(values)
        for name in ("matrix", "batch"):
            if isinstance(fields.get(name), list):
                fields[name] = tuple(fields[name])
        return cls(**fields)


def _is_count(value: object, least: int = 1) -> bool:
    return type(value) is int and value >= least


def _are_counts(value: object, n: int) -> bool:
    return isinstance(value, tuple) and len(value) == n and all(map(_is_count, value))


def _matches(pattern: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Any], bool]], ...] = (
    (("runtime_version",), _matches(r"\d[\w.+-]*")),
    (("gpu",), _matches(r"sm\d{2,3}")),
    (("gpu_name",), lambda v: isinstance(v, str)),
    (("onnx_sha256",), _matches(r"[0-9a-f]{64}")),
    (("runtime",), lambda v: v in RUNTIMES),
    (("precision",), lambda v: v in get_args(Precision)),
    (("matrix",), lambda v: _are_counts(v, 2)),
    (("batch",), lambda v: _are_counts(v, 3) and list(v) == sorted(v)),
    (("tf32",), lambda v: isinstance(v, bool)),
    (("workspace_bytes",), lambda v: v is None or _is_count(v)),
    (("optimisation_level",), lambda v: v is None or (_is_count(v, 0) and v in LEVELS)),
    (("recipe",), _is_count),
)


def resolve_inputs(model: BoundModel, options: EngineOptions) -> EngineInputs:
    """Find out what an engine for this model and these options would be tied to.

    Raises
    ------
    InputError
        If TF32 is asked for in a model that promises fp32.
    BackendUnavailableError
        If no engine is built of such a model, the runtime is not installed, or a GPU is needed and
        there is none.
    EngineError
        If the model is known not to build for the GPU.
    """
    batch = profile_of(model.spec, options.batch)
    if options.tf32 and model.spec.precision == "fp32":
        raise InputError(
            f"'{model.spec.name}' is an fp32 model: TF32 would break its parity",
            hint="leave --tf32 out, or export with --precision fp16",
        )
    require_suited(options.runtime, model.spec)
    target = resolve_target(options.gpu, options.runtime)  # without a GPU, a package is of no use
    version = str(load_runtime(options.runtime).__version__)
    require_buildable(model, options.runtime, target)
    return EngineInputs(
        runtime=options.runtime,
        runtime_version=version,
        gpu=target.label,
        gpu_name=target.name,
        onnx_sha256=hashlib.sha256(model.serialized()).hexdigest(),
        precision=model.spec.precision,
        matrix=model.spec.matrix,
        batch=batch,
        tf32=_takes_tf32(model, target) if options.tf32 is None else options.tf32,
        workspace_bytes=options.workspace_bytes,
        optimisation_level=options.optimisation_level,
    )


def _takes_tf32(model: BoundModel, target: GpuTarget) -> bool:
    """Say whether an engine's FFT layers take TF32 where nobody said so."""
    return (
        tf32_pays(target.sm, model.spec.upscale)
        and model.spec.precision == "fp16"
        and model.spec.lowering == "gemm"
        and splits_every_product(flattened(model.proto))
    )


def profile_of(spec: ModelSpec, batch: BatchRange) -> BatchRange:
    """Return how many slices an engine takes at once.

    Raises
    ------
    InputError
        If the model takes k-space.
    """
    if spec.input == "kspace":
        raise InputError(
            f"'{spec.name}' takes k-space, and engines are built for images",
            hint="--backend ort-cpu runs it",
        )
    return (1, 1, 1) if spec.single_slice else batch
