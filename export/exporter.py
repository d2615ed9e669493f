"""Checkpoint to model file: lower, prove, stamp, and only then write."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch

from kspacesr_rt.conversion.convert import runtime_for
from kspacesr_rt.conversion.parity import Run
from kspacesr_rt.conversion.proof import Reference, prove, require_free, stamped
from kspacesr_rt.export.exported import Exported
from kspacesr_rt.export.lowering import lower
from kspacesr_rt.export.module_precision import at_precision
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.file import ModelFile, parse_model
from kspacesr_rt.model.spec import DataConsistency, Lowering, ModelSpec, Precision
from kspacesr_rt.runtime.suited_models import require_suited_to
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.path_arguments import require_path
from kspacesr_rt.train.checkpoint import Checkpoint, SpecOverrides, load_checkpoint


def torch_runner(generator: torch.nn.Module) -> Run:
    """Return a function that runs one LR slice through PyTorch in fp32 on the CPU."""

    def run(lr: FloatArray) -> FloatArray:
        with torch.inference_mode():
            result: FloatArray = generator(torch.from_numpy(lr)[None, None])[0, 0].numpy()
        return result

    return run


def export_model(
    checkpoint: str | PathLike[str],
    output: str | PathLike[str],
    *,
    lowering: Lowering = "gemm",
    precision: Precision = "fp32",
    calibration: Sequence[Path] = (),
    runtime: str | None = None,
    backend: str | None = None,
    name: str | None = None,
    data_consistency: DataConsistency | None = None,
    stated: SpecOverrides | None = None,
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
        What the model is made for; decides which values an int8 model rounds. None: OpenVINO for
        bf16, ONNX Runtime for the others.
    backend
        Which backend the gate runs the model on. None: OpenVINO for bf16, ONNX Runtime's CPU
        provider for the others.
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
    BackendUnavailableError
        If the runtime takes no such model, or the gate's backend cannot run here.
    ParityError
        If the gate says no, or the model answers elsewhere than it says; no file is left.
    OutputError
        If the file exists, or cannot be written.

    Returns
    -------
        Where the model is, what it is, and what the gate measured.

    Examples
    --------
    Of the weights in a shipped model, as PyTorch has them:

    >>> from pathlib import Path
    >>> import kspacesr_rt as ks
    >>> from kspacesr_rt.export.checkpoint_from_model import checkpoint_from_model
    >>> from kspacesr_rt.model.file import load_model, resolve_model
    >>> model = load_model(resolve_model("x2-fast", upscale=2))
    >>> checkpoint_from_model(model, Path("weights.pt"))
    >>> exported = ks.export_model(Path("weights.pt"), Path("mine.onnx"), name="mine")
    >>> exported.spec.name, exported.spec.upscale
    ('mine', 2)
    """
    output = Path(require_path(output, "output"))
    require_free(output, force=force, report_file=report_file)
    loaded = load_checkpoint(
        Path(require_path(checkpoint, "checkpoint")),
        name=name,
        data_consistency=data_consistency,
        stated=stated,
    )
    runtime, backend = runtime or runtime_for(precision), backend or runtime_for(precision)
    planned = dataclasses.replace(loaded.spec, precision=precision, lowering=lowering)
    require_suited_to(runtime, backend, None, planned)
    if loaded.spec.input == "kspace":
        # torch's exporter loads here: lowering layer by layer needs none of it.
        from kspacesr_rt.export.module_export import export_as

        return at_precision(
            precision,
            lambda path: export_as(
                _stamped(loaded, lowering),
                loaded.generator,
                path,
                multiple=1,
                grid_stated=True,
                backend=backend,
                force=force,
                report_file=report_file,
            ),
            output,
            force=force,
            report_file=report_file,
            conversion={"runtime": runtime, "calibration": calibration},
        )
    proto = lower(loaded.generator, loaded.spec, lowering)
    lowered = ModelFile(
        name=output.name, proto=proto, spec=_stamped(loaded, lowering), size_bytes=0
    )
    proved = prove(
        lowered,
        Reference(run=torch_runner(loaded.generator), name="PyTorch fp32"),
        precision,
        runtime=runtime,
        backend=backend,
        calibration=calibration,
        report_file=report_file,
    )
    replace_file(output, proved.content)
    source = (f"weights from {loaded.source}",) if loaded.source else ()
    return Exported(
        path=output,
        spec=parse_model(proved.content, name=output.name).spec,
        report=proved.report,
        size_bytes=len(proved.content),
        remarks=source + proved.remarks,
        notes=loaded.notes,
    )


def _stamped(loaded: Checkpoint, lowering: Lowering) -> ModelSpec:
    provenance = dataclasses.replace(
        stamped(loaded.spec.provenance, torch=torch.__version__), checkpoint_sha256=loaded.sha256
    )
    return dataclasses.replace(loaded.spec, lowering=lowering, provenance=provenance)
