"""From an fp32 graph to the content of a model file: narrowed, run on real slices, only then kept.

`export` and `convert` differ in where the graph and the reference come from. What happens then is
here, once: another precision, the parity gate, the proof of its grid, digests and self-test.
"""

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

from kspacesr_rt._version import __version__
from kspacesr_rt.conversion.grid_check import find_placement, require_placed
from kspacesr_rt.conversion.mixed_precision import quantise_model
from kspacesr_rt.conversion.open_backends import OpenBackends
from kspacesr_rt.conversion.parity import (
    TIER_OF,
    ParityReport,
    Run,
    check,
    gate_cases,
    require_parity,
)
from kspacesr_rt.errors import BackendUnavailableError, OutputError
from kspacesr_rt.graph.opset import at_least_opset
from kspacesr_rt.graph.precision import narrowed, opset_of
from kspacesr_rt.graph.quantisation import QUANTISED_TYPES, with_named_convolutions
from kspacesr_rt.kspace import FloatArray, Matrix, degrade, upscaled
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.file import (
    KNOWN_ANSWER_KEY,
    KnownAnswer,
    ModelFile,
    graph_digest,
    weights_digest,
)
from kspacesr_rt.model.slice_arrays import network_input, result_image
from kspacesr_rt.model.spec import METADATA_KEY, ModelSpec, Precision, Provenance
from kspacesr_rt.runtime.ort_gpu_options import PROVIDER_OF, precision_notes
from kspacesr_rt.runtime.suited_models import require_suited
from kspacesr_rt.runtime.tensorrt.requirements import precision_notes as engine_notes
from kspacesr_rt.system.cpu import lacks_bf16
from kspacesr_rt.system.files import replace_file, require_place_for_file
from kspacesr_rt.system.output_time import output_time
from kspacesr_rt.system.progress_messages import report_step

_HALVES: tuple[Precision, ...] = ("fp16", "bf16")
"""Precisions that are looked at where a narrower one, or the other, fails the gate."""
ROUNDS_LESS = (
    "proved on a CPU without bf16 arithmetic, which computes these layers in fp32: where there is "
    "some the file agrees less, so run `kspacesr-rt verify` where it will be used"
)
"""A remark on files in bf16."""
KNOWN_ANSWER_MATRIX: Matrix = (40, 33)
"""LR matrix of the stored self-test: small, one axis odd, not square."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What a new file is compared with."""

    run: Run
    """Runs one LR slice in fp32."""
    name: str
    """What it is, in a few words, such as ``PyTorch fp32``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProvedModel:
    """The content of a model file that passed the gate."""

    content: bytes
    """As it is to be written."""
    spec: ModelSpec
    """As stored in it."""
    report: ParityReport
    """What the gate measured."""
    remarks: tuple[str, ...]
    """What was decided on the way."""


def require_free(output: Path, *, force: bool, report_file: Path | None = None) -> None:
    """Refuse a place for a model file before minutes are spent on what goes there.

    Raises
    ------
    OutputError
        If the file exists, or what stands there is none.
    """
    for path in (output, report_file):
        if path is not None:
            require_place_for_file(path)
    if output.exists() and not force:
        raise OutputError(f"{output} exists", hint="replace it with --force")


def backend_runner(model: ModelFile, backend: str) -> Run:
    """Return a function that binds a model to each slice's matrix and runs it on a backend."""
    backends = OpenBackends(model, backend)

    def run(lr: FloatArray) -> FloatArray:
        return result_image(backends.run(network_input(lr, model.spec))[0], model.spec)

    return run


def prove(
    wide: ModelFile,
    reference: Reference,
    precision: Precision,
    *,
    runtime: str,
    backend: str,
    calibration: Sequence[Path] = (),
    answer: KnownAnswer | None = None,
    notes: dict[str, Any] | None = None,
    report_file: Path | None = None,
    advise: bool = True,
) -> ProvedModel:
    """Bring a graph to a precision, and prove on a backend that it still computes the same.

    Parameters
    ----------
    wide
        The graph in fp32, in the lowering it will have.
    reference
        What it must agree with.
    precision
        What the CNN is to compute in; it decides the tier that the gate asks for.
    runtime
        What the model is made for; decides which values an int8 model rounds.
    backend
        Which backend the gate runs it on.
    calibration
        Folders of images that 8-bit ranges are taken from; none means the shipped sample.
    answer
        The self-test that the file is to carry; None asks the reference.
    notes
        What else the specification is to say of its parity.
    report_file
        Where to write every number the gate measured, passed or not.
    advise
        Whether to find out what would pass where the gate says no, for the error's hint.

    Raises
    ------
    ExportError
        If the graph cannot be brought to that precision.
    ParityError
        If the gate says no, or the model answers elsewhere than it says.
    BackendUnavailableError
        If the backend cannot run it here, or `runtime` is known not to run such a model anywhere.
    OutputError
        If the report cannot be written.
    """
    proto, notes = at_least_opset(wide.proto, precision), dict(notes or {})
    remarks: tuple[str, ...] = ()
    spec = dataclasses.replace(wide.spec, precision=precision)
    require_suited(runtime, spec)  # or the file would be made for what cannot run it
    if runtime in PROVIDER_OF:
        remarks = precision_notes(runtime, spec)
    else:
        remarks = engine_notes(runtime, precision)
    if precision == "bf16" and backend == "openvino" and lacks_bf16():
        remarks = (*remarks, ROUNDS_LESS)
    if precision in QUANTISED_TYPES:
        proto = with_named_convolutions(proto)
        report_step(f"calibrating {precision}, and choosing the layers that stay in fp32")
        made = quantise_model(
            dataclasses.replace(wide, proto=proto, spec=spec),
            reference.run,
            lambda model: backend_runner(model, backend),
            precision,
            calibration=calibration,
            runtime=runtime,
        )
        proto, remarks = made.proto, (*remarks, made.as_text())
        notes["quantisation"] = made.notes
    else:
        proto = narrowed(proto, precision)
    spec = dataclasses.replace(spec, opset=opset_of(proto))
    run = backend_runner(dataclasses.replace(wide, proto=proto, spec=spec), backend)
    report_step(f"proving {spec.name} in {precision} on {backend}")
    report = _gate(spec, reference, run, backend=backend)
    placement = find_placement(spec, run)
    notes["placement"] = placement.to_dict()
    if report_file is not None:
        replace_file(report_file, json.dumps(report.to_dict() | notes, indent=1).encode())
    require_parity(
        report,
        _advice(wide, reference, precision, runtime=runtime, backend=backend)
        if report.failures and advise
        else "",
    )
    require_placed(placement)
    spec = dataclasses.replace(spec, parity=report.to_dict() | notes)
    content = finished(proto, spec, answer or known_answer(reference.run, spec))
    return ProvedModel(
        content=content, spec=spec, report=report, remarks=(*remarks, placement.as_text())
    )


def _advice(
    wide: ModelFile, reference: Reference, precision: Precision, *, runtime: str, backend: str
) -> str:
    """Return what brings a model through the gate that failed it in a precision, or nothing.

    Of wider types it is measured, not supposed: bf16 keeps 8 bits of a value, fp16 keeps 11, and
    overflows.
    """
    if precision == "fp32":
        return ""
    ways = []
    if precision in QUANTISED_TYPES:
        ways.append("--calibrate-on DIR takes ranges from your own images")
        if runtime == "ort-cpu":
            ways.insert(0, "--runtime openvino rounds less")
    passing, failing = [], []
    for other in _HALVES:
        if other == precision or not _is_suited(runtime, wide.spec, other):
            continue
        report_step(f"looking whether {other} passes where {precision} does not")
        least_db = _agreement_in(wide, reference, other, backend=backend)
        if least_db is None:
            failing.append(other)
        else:
            passing.append(f"--precision {other} passes the gate ({least_db:.0f} dB on {backend})")
    if not passing:
        neither = f"{' or '.join(failing)} does not pass it either: " if failing else ""
        passing.append(f"{neither}use the model in fp32")
    return "; ".join([*ways, *passing])


def _is_suited(runtime: str, spec: ModelSpec, precision: Precision) -> bool:
    """Say whether a runtime takes a model in a precision."""
    try:
        require_suited(runtime, dataclasses.replace(spec, precision=precision))
    except BackendUnavailableError:
        return False
    return True


def _agreement_in(
    wide: ModelFile, reference: Reference, precision: Precision, *, backend: str
) -> float | None:
    """Return the least agreement of a graph in a half precision; None if it fails the gate."""
    try:
        proto = narrowed(at_least_opset(wide.proto, precision), precision)
        spec = dataclasses.replace(wide.spec, precision=precision, opset=opset_of(proto))
        run = backend_runner(dataclasses.replace(wide, proto=proto, spec=spec), backend)
        report = _gate(spec, reference, run, backend=backend)
    except Exception:  # a runtime may refuse it in a class of its own: then it is no way out
        return None
    return None if report.failures else report.least_db


def _gate(spec: ModelSpec, reference: Reference, run: Run, *, backend: str) -> ParityReport:
    """Compare a model of some precision with what it must agree with."""
    return check(
        gate_cases(spec.upscale, spec.matrix, fixed=any(spec.fixed_matrix)),
        reference.run,
        run,
        backend=backend,
        tier=TIER_OF[spec.precision],
        lowering=spec.lowering,
        signs_predicted=spec.data_consistency == "magnitude",
        reference_name=reference.name,
    )


def stamped(provenance: Provenance, **versions: str) -> Provenance:
    """Return a provenance with the time, and with the versions that a model file is made with now.

    Parameters
    ----------
    versions
        Of packages that only some ways of making one need.
    """
    now = {
        **provenance.versions,
        "kspacesr-rt": __version__,
        **versions,
        "onnx": onnx.__version__,
        "python": platform.python_version(),
    }
    created = output_time().isoformat(timespec="seconds")
    return dataclasses.replace(provenance, created=created, versions=now)


def known_answer(reference: Run, spec: ModelSpec) -> KnownAnswer:
    """Compute the self-test that travels in the file."""
    matrix = spec.fixed_matrix if any(spec.fixed_matrix) else KNOWN_ANSWER_MATRIX
    phantom = brain_phantom(upscaled(matrix, spec.upscale)).astype(np.float32)
    lr = degrade(phantom, spec.upscale).astype(np.float32)
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
