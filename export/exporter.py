"""Checkpoint to model file: lower, prove, stamp, and only then write."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from kspacesr_rt._version import __version__
from kspacesr_rt.backends import open_backend
from kspacesr_rt.binding import bind
from kspacesr_rt.errors import OutputError
from kspacesr_rt.export.lowering import lower
from kspacesr_rt.export.mixed_precision import quantise_model
from kspacesr_rt.export.parity import (
    TIER_OF,
    ParityReport,
    Run,
    check,
    gate_cases,
    require_parity,
)
from kspacesr_rt.export.placement import find_placement, require_placed
from kspacesr_rt.export.precision import narrowed, opset_of
from kspacesr_rt.export.quantisation import QUANTISED_TYPES
from kspacesr_rt.files import replace_file
from kspacesr_rt.kspace import FloatArray, Matrix, degrade, upscaled
from kspacesr_rt.model_file import (
    KNOWN_ANSWER_KEY,
    KnownAnswer,
    ModelFile,
    graph_digest,
    parse_model,
    weights_digest,
)
from kspacesr_rt.moments import moment
from kspacesr_rt.phantoms import brain_phantom
from kspacesr_rt.spec import METADATA_KEY, DataConsistency, Lowering, ModelSpec, Precision
from kspacesr_rt.train.checkpoint import Checkpoint, Stated, load_checkpoint

KNOWN_ANSWER_MATRIX: Matrix = (40, 33)
"""LR matrix of the stored self-test: small, one axis odd, not square."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A model that passed the gate and was written."""

    path: Path
    """Where it is."""
    spec: ModelSpec
    """As stored in it."""
    report: ParityReport
    """What the gate measured."""
    size_bytes: int
    """Size of the file."""
    remarks: tuple[str, ...] = ()
    """What was decided on the way."""
    notes: tuple[str, ...] = ()
    """What the checkpoint did not say; see `kspacesr_rt.train.checkpoint.Checkpoint`."""


def torch_runner(generator: torch.nn.Module) -> Run:
    """Return a function that runs one LR slice through PyTorch in fp32 on the CPU."""

    def run(lr: FloatArray) -> FloatArray:
        with torch.inference_mode():
            result: FloatArray = generator(torch.from_numpy(lr)[None, None])[0, 0].numpy()
        return result

    return run


def backend_runner(model: ModelFile, backend: str) -> Run:
    """Return a function that binds a model to each slice's matrix and runs it on a backend."""

    def run(lr: FloatArray) -> FloatArray:
        bound = bind(model, (lr.shape[0], lr.shape[1]))
        with open_backend(backend, bound) as opened:
            return opened.run(lr[None, None])[0, 0]

    return run


def export_model(
    checkpoint: Path,
    output: Path,
    *,
    lowering: Lowering = "gemm",
    precision: Precision = "fp32",
    calibration: Sequence[Path] = (),
    runtime: str = "ort-cpu",
    backend: str = "ort-cpu",
    name: str | None = None,
    data_consistency: DataConsistency | None = None,
    stated: Stated | None = None,
    force: bool = False,
    report_file: Path | None = None,
) -> Exported:
    """Lower a checkpoint to ONNX, prove it on a backend, and write it if it passed.

    Parameters
    ----------
    checkpoint
        One of ours, or the seed's bare weights.
    output
        The ``.onnx`` file to write.
    lowering
        What stands in the bodies of the FFT layers.
    precision
        What the CNN computes in; it decides the tier that the gate asks for.
    calibration
        Folders of images that 8-bit ranges are taken from; none means the shipped sample.
    runtime
        What the model is made for; decides which values an int8 model rounds.
    backend
        Which backend the gate runs the model on.
    name, data_consistency, stated
        Override what the checkpoint says.
    force
        Replace an existing file (only by a model that passed).
    report_file
        Where to write every number the gate measured, passed or not.

    Raises
    ------
    CheckpointError, ExportError
        If the checkpoint cannot be read or lowered.
    ParityError
        If the gate says no, or the model answers elsewhere than it says; no file is left.
    OutputError
        If the file exists, or cannot be written.
    """
    if output.exists() and not force:
        raise OutputError(f"{output} exists", hint="replace it with --force")
    loaded = load_checkpoint(
        checkpoint, name=name, data_consistency=data_consistency, stated=stated
    )
    reference = torch_runner(loaded.generator)
    proto = lower(loaded.generator, loaded.spec, lowering)
    spec = dataclasses.replace(_stamped(loaded, lowering), precision=precision)
    candidate = ModelFile(name=output.name, proto=proto, spec=spec, size_bytes=0)
    notes: dict[str, Any] = {}
    remarks: tuple[str, ...] = (f"weights from {loaded.source}",) if loaded.source else ()
    if precision in QUANTISED_TYPES:
        made = quantise_model(
            candidate,
            reference,
            lambda model: backend_runner(model, backend),
            precision,
            calibration=calibration,
            runtime=runtime,
        )
        proto, notes = made.proto, {"quantisation": made.notes}
        remarks += (made.as_text(),)
    else:
        proto = narrowed(proto, precision)
    spec = dataclasses.replace(spec, opset=opset_of(proto))
    candidate = dataclasses.replace(candidate, proto=proto, spec=spec)
    exported = backend_runner(candidate, backend)
    report = check(
        gate_cases(spec.upscale, spec.matrix),
        reference,
        exported,
        backend=backend,
        tier=TIER_OF[precision],
        lowering=lowering,
        signs_predicted=spec.data_consistency == "magnitude",
    )
    placement = find_placement(spec, exported)
    notes |= {"placement": placement.to_dict()}
    remarks += (placement.as_text(),)
    if report_file is not None:
        replace_file(report_file, json.dumps(report.to_dict() | notes, indent=1).encode())
    require_parity(report)
    require_placed(placement)
    spec = dataclasses.replace(spec, parity=report.to_dict() | notes)
    content = finished(proto, spec, known_answer(reference, spec.upscale))
    replace_file(output, content)
    written = parse_model(content, name=output.name)
    return Exported(
        path=output,
        spec=written.spec,
        report=report,
        size_bytes=len(content),
        remarks=remarks,
        notes=loaded.notes,
    )


def known_answer(reference: Run, upscale: int) -> KnownAnswer:
    """Compute the self-test that travels in the file."""
    phantom = brain_phantom(upscaled(KNOWN_ANSWER_MATRIX, upscale)).astype(np.float32)
    lr = degrade(phantom, upscale).astype(np.float32)
    return KnownAnswer(lr=lr, sr=reference(lr))


def finished(proto: onnx.ModelProto, spec: ModelSpec, answer: KnownAnswer) -> bytes:
    """Return the file's content: the graph with its specification, digests and self-test."""
    stamped = onnx.ModelProto()
    stamped.CopyFrom(proto)
    provenance = dataclasses.replace(
        spec.provenance, weights_sha256=weights_digest(proto), graph_sha256=graph_digest(proto)
    )
    spec = dataclasses.replace(spec, provenance=provenance)
    onnx.helper.set_model_props(
        stamped, {METADATA_KEY: spec.to_json(), KNOWN_ANSWER_KEY: answer.to_json()}
    )
    content: bytes = stamped.SerializeToString(deterministic=True)
    return content


def _stamped(loaded: Checkpoint, lowering: Lowering) -> ModelSpec:
    versions = {
        **loaded.spec.provenance.versions,
        "kspacesr-rt": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "python": platform.python_version(),
    }
    provenance = dataclasses.replace(
        loaded.spec.provenance,
        checkpoint_sha256=loaded.sha256,
        created=moment().isoformat(timespec="seconds"),
        versions=versions,
    )
    return dataclasses.replace(loaded.spec, lowering=lowering, provenance=provenance)
