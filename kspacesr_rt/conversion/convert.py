"""A model file in another precision or lowering, made and proved without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import onnx

from kspacesr_rt._version import __version__
from kspacesr_rt.conversion.lowering_choice import choose_lowering
from kspacesr_rt.conversion.parity import ParityReport
from kspacesr_rt.conversion.proof import (
    ProvedModel,
    Reference,
    backend_runner,
    prove,
    require_free,
    stamped,
)
from kspacesr_rt.errors import InputError
from kspacesr_rt.graph.relowering import has_transforms, relowered
from kspacesr_rt.model.file import ModelFile, load_model, parse_model, resolve_model
from kspacesr_rt.model.spec import Lowering, ModelSpec, Precision
from kspacesr_rt.runtime.backends import BACKENDS, require_available
from kspacesr_rt.runtime.self_test import require_verified, verify_model
from kspacesr_rt.runtime.suited_models import require_suited_to
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.path_arguments import require_path
from kspacesr_rt.system.progress_messages import report_step

REFERENCE_BACKEND = "ort-cpu"
"""Runs the fp32 file that everything else is compared with."""
RUNTIME_OF: dict[Precision, str] = {"bf16": "openvino"}
"""Precision to the runtime a file is made for if none is named; `REFERENCE_BACKEND` otherwise.
ONNX Runtime has no bf16 kernels on a CPU."""


def runtime_for(precision: Precision) -> str:
    """Return what a file is made for, and proved on, where nobody says so."""
    return RUNTIME_OF.get(precision, REFERENCE_BACKEND)


AskedLowering = Literal["keep", "auto", "gemm", "conv", "dft", "dynamic"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A model that passed the gate and was written."""

    path: Path
    """Where it is."""
    spec: ModelSpec
    """As stored in it."""
    report: ParityReport
    """What the gate measured."""
    size_bytes: int
    """Size of the file."""
    remarks: tuple[str, ...]
    """What was decided on the way."""


def convert_model(
    model: str | PathLike[str],
    output: str | PathLike[str],
    *,
    precision: Precision = "fp32",
    lowering: AskedLowering = "keep",
    runtime: str | None = None,
    gpu: str | None = None,
    backend: str | None = None,
    calibration: Sequence[Path] = (),
    name: str | None = None,
    force: bool = False,
    report_file: Path | None = None,
) -> Converted:
    """Write a model file in another precision or lowering, if it still computes the same.

    The reference is the fp32 file on ONNX Runtime's CPU provider, which first has to give the
    answer that is stored in it. No torch is needed.

    Parameters
    ----------
    model
        Name of a shipped model, or path of an fp32 model file.
    output
        The ``.onnx`` file to write.
    precision
        What the CNN computes in; it decides the tier that the gate asks for.
    lowering
        What stands in the bodies of the FFT layers: as in the file (``keep``), what suits the
        runtime (``auto``), or a lowering.
    runtime
        What the file is made for: decides ``auto``, and which values an int8 file rounds. None:
        OpenVINO for bf16, ONNX Runtime for the others.
    gpu
        Its GPU, such as ``sm75``.
    backend
        Which backend the gate runs the file on. None: the runtime if it can run here, else
        ONNX Runtime's CPU provider; the report names it.
    calibration
        Folders of images that 8-bit ranges are taken from; none means the shipped sample.
    name
        Of the new model; None keeps the name.
    force
        Replace an existing file (only by a model that passed).
    report_file
        Where to write every number the gate measured, passed or not.

    Returns
    -------
        Where the model is, what it is, and what the gate measured.

    Raises
    ------
    InputError, ModelFileError, ExportError
        If the model cannot be used, is not in fp32, or would not change.
    BackendUnavailableError
        If the runtime, or its GPU, takes no such model, or a backend that is needed cannot run
        here.
    ParityError
        If the gate says no; no file is left.
    OutputError
        If the file exists, or cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> import kspacesr_rt as ks
    >>> made = ks.convert_model("x2-fast", Path("fast-fp16.onnx"), precision="fp16")
    >>> made.spec.precision, made.report.tier
    ('fp16', 'fast')
    """
    output = Path(require_path(output, "output"))
    require_free(output, force=force, report_file=report_file)
    path = resolve_model(require_path(model, "model"), upscale=None)
    if output.exists() and output.samefile(path):
        raise InputError(f"{output} is the model itself", hint="name another file with -o")
    source = load_model(path)
    runtime = runtime or runtime_for(precision)
    usable = BACKENDS[runtime].why_not() is None if runtime in BACKENDS else False
    here = runtime if usable else runtime_for(precision)
    chosen, reason = _lowering_of(source, lowering, runtime, gpu)
    made = dataclasses.replace(source.spec, precision=precision, lowering=chosen)
    require_suited_to(runtime, backend or here, gpu, made)
    proved = converted(
        source,
        precision,
        lowering=chosen,
        runtime=runtime,
        backend=backend or here,
        calibration=calibration,
        name=name,
        report_file=report_file,
    )
    replace_file(output, proved.content)
    return Converted(
        path=output,
        spec=parse_model(proved.content, name=output.name).spec,
        report=proved.report,
        size_bytes=len(proved.content),
        remarks=(reason, *proved.remarks),
    )


def converted(
    source: ModelFile,
    precision: Precision,
    *,
    lowering: Lowering,
    runtime: str,
    backend: str,
    calibration: Sequence[Path] = (),
    name: str | None = None,
    report_file: Path | None = None,
    advise: bool = True,
) -> ProvedModel:
    """Return the content of a model in another precision or lowering, proved; writes nothing.

    Parameters
    ----------
    source
        In fp32.
    precision, lowering, runtime, backend, calibration, name, report_file
        As for `convert_model`, settled.
    advise
        As for `kspacesr_rt.conversion.proof.prove`.

    Raises
    ------
    InputError, ModelFileError, ExportError, BackendUnavailableError, ParityError, OutputError
        As from `convert_model`.
    """
    _require_change(source, precision, lowering, name)
    require_available(backend)
    reference = fp32_reference(source)
    spec = dataclasses.replace(
        _stamped(source.spec), lowering=lowering, name=name or source.spec.name
    )
    proto = source.proto
    if lowering != source.spec.lowering:
        proto = relowered(proto, source.spec, lowering)
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.metadata_props[:]
    bare.producer_name, bare.producer_version = "kspacesr-rt", __version__
    return prove(
        dataclasses.replace(source, proto=bare, spec=spec),
        reference,
        precision,
        runtime=runtime,
        backend=backend,
        calibration=calibration,
        answer=source.known_answer(),
        notes={"converted_from": source.spec.provenance.weights_sha256},
        report_file=report_file,
        advise=advise,
    )


def fp32_reference(source: ModelFile) -> Reference:
    """Return an fp32 file on ONNX Runtime's CPU provider, which gives its stored answer here.

    Raises
    ------
    BackendUnavailableError
        If ONNX Runtime cannot run here.
    ModelFileError
        If the file carries no known answer.
    ParityError
        If it gives another one.
    """
    require_available(REFERENCE_BACKEND)
    report_step(f"verifying {source.spec.name} in fp32 on {REFERENCE_BACKEND}")
    require_verified(verify_model(source, REFERENCE_BACKEND))
    return Reference(
        run=backend_runner(source, REFERENCE_BACKEND),
        name=f"{source.spec.name} in fp32 ({REFERENCE_BACKEND})",
    )


def _lowering_of(
    source: ModelFile, asked: AskedLowering, runtime: str, gpu: str | None
) -> tuple[Lowering, str]:
    """Return the lowering to write, and a sentence that says why."""
    have = source.spec.lowering
    if not has_transforms(source.proto):
        if asked not in ("keep", "auto"):
            raise InputError(f"{source.name} has no FFT layers that could be lowered as '{asked}'")
        return have, "no FFT layers"
    if asked == "keep" and gpu is not None:
        asked = "auto"  # a GPU is named because it decides
    if asked == "keep":
        return have, f"FFT layers stay lowered as {have}"
    choice = choose_lowering(asked, runtime, gpu)
    return choice.lowering, f"FFT layers lowered as {choice.lowering} ({choice.reason})"


def _require_change(
    source: ModelFile, precision: Precision, lowering: Lowering, name: str | None
) -> None:
    if source.spec.precision != "fp32":
        raise InputError(
            f"{source.name} is in {source.spec.precision} already; files are converted from fp32",
            hint="convert the fp32 file that it was made from",
        )
    unchanged = (precision, lowering) == (source.spec.precision, source.spec.lowering)
    if unchanged and name in (None, source.spec.name):
        raise InputError(
            f"{source.name} is in {precision} with its FFT layers as '{lowering}' already",
            hint="say what to change: --precision, --fft or --name",
        )


def _stamped(spec: ModelSpec) -> ModelSpec:
    """Return a specification with the versions and the time of this conversion."""
    return dataclasses.replace(spec, provenance=stamped(spec.provenance))
