"""Model to engine: bind, build in a process of its own, describe, and only then write."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from kspacesr_rt.errors import EngineError, OutputError
from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.graph.gpu_transforms import with_gpu_transforms
from kspacesr_rt.graph.split_products import with_split_products
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.binding import BoundModel, bind
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.runtime.tensorrt.adapter import Compiled
from kspacesr_rt.runtime.tensorrt.failures import crash
from kspacesr_rt.runtime.tensorrt.fused_layers import FusedLayer
from kspacesr_rt.runtime.tensorrt.inputs import (
    LARGEST_BATCH,
    BatchRange,
    EngineInputs,
    EngineOptions,
    resolve_inputs,
)
from kspacesr_rt.runtime.tensorrt.requirements import precision_notes, tf32_notes
from kspacesr_rt.runtime.tensorrt.sidecar import EngineInfo, describe, sidecar_path, write_engine
from kspacesr_rt.runtime.tensorrt.targets import CURRENT, RTX_UNLISTED, RuntimeName
from kspacesr_rt.runtime.tensorrt.worker import INPUTS, MODEL, PLAN, RESULT, TIMING, WHOLE
from kspacesr_rt.system.files import require_place_for_file

# -P: a file called tensorrt.py in the user's folder must not be what is imported.
WORKER = (sys.executable, "-P", "-m", "kspacesr_rt.runtime.tensorrt.worker")
_STDERR = "stderr"
"""File beside the worker's own for what it says in anger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildProgress:
    """How far a build is."""

    done: int
    """Of `total`; never falls."""
    total: int
    """What `done` ends at."""
    stage: str
    """What the builder is at, in its own words."""


OnProgress = Callable[[BuildProgress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltEngine:
    """An engine that is there."""

    path: Path
    """Where; its sidecar stands beside it."""
    info: EngineInfo
    """What the sidecar says."""
    seconds: float
    """Wall time it took to build, or to find."""
    cached: bool = False
    """Whether it had been built before."""
    notes: tuple[str, ...] = ()
    """What a user should know about it."""

    def as_text(self) -> str:
        """Return what was built, for people."""
        how = "from the cache" if self.cached else f"built in {self.seconds:.1f} s"
        return f"{self.info.as_text()}\n{self.path}: {how}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "path": str(self.path),
            "seconds": self.seconds,
            "cached": self.cached,
            "notes": list(self.notes),
            "engine": json.loads(self.info.to_json()),
        }


def build_engine(
    model: ModelFile,
    output: Path,
    *,
    matrix: Matrix | None = None,
    runtime: RuntimeName = "tensorrt-rtx",
    gpu: str = CURRENT,
    batch: BatchRange = (1, 1, LARGEST_BATCH),
    tf32: bool | None = None,
    workspace_bytes: int | None = None,
    optimisation_level: int | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> BuiltEngine:
    """Build a model's engine for one matrix and one kind of GPU, and write it with its sidecar.

    Parameters
    ----------
    model
        What `load_model` returned.
    output
        The ``.engine`` file to write; the sidecar is called the same with ``.json`` appended.
    matrix
        LR ``(rows, columns)``; None for the one the model was stored for.
    runtime, gpu, batch, tf32, workspace_bytes, optimisation_level
        See `EngineOptions`.
    force
        Replace existing files, once the build has succeeded.
    on_progress
        Called as the build goes on, from this thread.

    Raises
    ------
    InputError
        If the options contradict each other or the model.
    ShapeError
        If a model cannot be bound to the matrix.
    BackendUnavailableError
        If the runtime is not installed, or `gpu` is ``current`` and there is none.
    EngineError
        If it cannot be built: the nodes, or what the GPU lacks, are named.
    OutputError
        If a file exists, or cannot be written, or what stands there is none.
    """
    require_place_for_file(output)  # without a name it has no sidecar
    require_place_for_file(sidecar_path(output))
    for path in (output, sidecar_path(output)):
        if path.exists() and not force:
            raise OutputError(f"{path} exists", hint="replace it with --force")
    options = EngineOptions(
        runtime=runtime,
        gpu=gpu,
        batch=batch,
        tf32=tf32,
        workspace_bytes=workspace_bytes,
        optimisation_level=optimisation_level,
    )
    bound = bind(model, matrix or model.spec.matrix)
    inputs = resolve_inputs(bound, options)
    start = time.perf_counter()
    compiled = compile_in_subprocess(bound, inputs, on_progress=on_progress)
    info = describe(inputs, bound.spec, compiled)
    write_engine(output, compiled.plan, info)
    return BuiltEngine(
        path=output,
        info=info,
        seconds=time.perf_counter() - start,
        notes=target_notes(inputs, bound.spec.upscale),
    )


def target_notes(inputs: EngineInputs, upscale: int) -> tuple[str, ...]:
    """Return what should be said of an engine: what it computes in, and what is not promised."""
    notes = precision_notes(inputs.runtime, inputs.precision)
    if inputs.tf32:
        notes = (*notes, *tf32_notes(inputs.gpu, upscale))
    if inputs.runtime == "tensorrt-rtx" and inputs.gpu in {f"sm{sm}" for sm in RTX_UNLISTED}:
        notes = (
            *notes,
            f"TensorRT-RTX builds for {inputs.gpu}, but NVIDIA does not list such GPUs as "
            "supported: verify the model there",
        )
    return notes


def engine_graph(model: BoundModel, *, tf32: bool = False) -> onnx.ModelProto:
    """Return a bound model as a builder is given it.

    Parameters
    ----------
    model
        Bound to a matrix.
    tf32
        Whether fp32 products may round their operands: those of FFT layers are then split in two
        or three, which keeps what TF32 alone loses. As 1x1 convolutions (``conv``) they are not.
    """
    proto = with_gpu_transforms(model).proto
    return with_split_products(flattened(proto)) if tf32 else proto


def compile_in_subprocess(
    model: BoundModel,
    inputs: EngineInputs,
    *,
    timing: bytes = b"",
    on_progress: OnProgress | None = None,
) -> Compiled:
    """Run a builder in a process of its own.

    Parameters
    ----------
    model
        What to build.
    inputs
        What `resolve_inputs` made of it.
    timing
        What an earlier build measured on this GPU; see `Compiled.timing`.
    on_progress
        Called as the build goes on, from this thread.

    Raises
    ------
    EngineError
        If the builder refuses, or its process dies; this process goes on.
    """
    with tempfile.TemporaryDirectory(prefix="kspacesr-rt-") as name:
        folder = Path(name)
        (folder / INPUTS).write_text(json.dumps(dataclasses.asdict(inputs)))
        (folder / MODEL).write_bytes(engine_graph(model, tf32=inputs.tf32).SerializeToString())
        if timing:
            (folder / TIMING).write_bytes(timing)
        try:
            return _answer(folder, _run_worker(folder, on_progress))
        except EngineError as exc:
            what = f"'{model.spec.name}' cannot be built for {inputs.gpu}"
            raise EngineError(f"{what}: {exc}", hint=exc.hint) from exc


def _answer(folder: Path, status: int) -> Compiled:
    answer = folder / RESULT
    if status != 0 or not answer.exists():
        raise crash(status, (folder / _STDERR).read_text(errors="replace"))
    result = json.loads(answer.read_text())
    if "error" in result:
        raise EngineError(result["error"], hint=result["hint"])
    return Compiled(
        plan=(folder / PLAN).read_bytes(),
        layers=result["layers"],
        fused=tuple(FusedLayer.from_dict(one) for one in result["fused"]),
        timing=(folder / TIMING).read_bytes(),
    )


def _run_worker(folder: Path, on_progress: OnProgress | None) -> int:
    with (
        (folder / _STDERR).open("wb") as errors,
        subprocess.Popen(
            [*WORKER, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                if on_progress is not None and (state := _progress(line)) is not None:
                    on_progress(state)
            return process.wait()
        except BaseException:
            process.kill()
            raise


def _progress(line: str) -> BuildProgress | None:
    """Read a line of progress; a library may print lines of its own between them."""
    try:
        message = json.loads(line)
        return BuildProgress(done=int(message["done"]), total=WHOLE, stage=str(message["stage"]))
    except (ValueError, KeyError, TypeError):
        return None
