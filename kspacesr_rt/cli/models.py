"""Commands about a model file: write one, look at it, prove it here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from kspacesr_rt.cli.model_repository import (
    RepositoryMatrix,
    TritonFolder,
    is_model,
    require_alone,
    require_output,
    write_repository,
)
from kspacesr_rt.cli.options import (
    CHECKS,
    MESSAGES,
    MODEL,
    OUTPUT,
    AsJson,
    BackendName,
    ConfigFile,
    Consistency,
    Force,
    ModelArgument,
    Quiet,
    ShowPaths,
    TargetRuntime,
    Threads,
    Verbose,
)
from kspacesr_rt.cli.own_networks import (
    Coils,
    Description,
    FixedMatrix,
    Homogeneous,
    InputKind,
    KspaceOutput,
    Multiple,
    NetworkUpscale,
    OutputRange,
    OwnNetwork,
    PaddingKind,
    TimeLimit,
    Weights,
    matrix_of,
    range_of,
    require_checkpoint,
    require_unset,
)
from kspacesr_rt.cli.progress import progress_bar
from kspacesr_rt.cli.shell import app, echo_json, print_text
from kspacesr_rt.system.quantities import size_text

if TYPE_CHECKING:
    from kspacesr_rt.conversion.adoption import Adopted
    from kspacesr_rt.conversion.convert import Converted
    from kspacesr_rt.export.exported import Exported

STATED: Final = "Networks and weights"

# Of what writes a model file

Precision = Annotated[
    Literal["fp32", "fp16", "bf16", "int8", "fp8"],
    typer.Option(
        "--precision",
        rich_help_panel=MODEL,
        help="Of the CNN alone; FFT, scaling and data consistency stay in fp32.",
    ),
]
TargetGpu = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        rich_help_panel=MODEL,
        help="Target GPU, such as T4 or sm75; decides `--fft auto`, which `convert` then takes.",
    ),
]
Calibration = Annotated[
    list[Path] | None,
    typer.Option(
        "--calibration",
        "--calibrate-on",
        exists=True,
        rich_help_panel=MODEL,
        help="Images that 8-bit ranges are taken from (or --calibrate-on); default: the shipped "
        "sample. Repeat it.",
    ),
]
ModelFileOutput = Annotated[
    Path, typer.Option("-o", "--output", rich_help_panel=OUTPUT, help="Model file to write.")
]
NewName = Annotated[
    str | None, typer.Option("--name", rich_help_panel=OUTPUT, help="Name of the model.")
]
GateReport = Annotated[
    Path | None,
    typer.Option("--report", rich_help_panel=CHECKS, help="Keep what the gate measured."),
]


def show_written(
    made: Adopted | Converted | Exported,
    *,
    as_json: bool,
    quiet: bool,
    first: str = "",
    limits: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
) -> None:
    """Say what was written, and how far it was proved.

    Parameters
    ----------
    made
        What was written.
    as_json, quiet
        As the user asked.
    first
        A line before the remarks.
    limits
        What it cannot be used for: on stderr where no remarks are printed.
    more
        What else the JSON has.
    """
    if as_json or quiet:
        for limit in limits:
            print_text(f"warning: {limit}", err=True)
    if as_json:
        remarks = list(made.remarks)
        path = str(made.path)
        echo_json({"path": path, "parity": made.spec.parity, "remarks": remarks, **(more or {})})
    elif not quiet:
        for line in (*([first] if first else ()), *made.remarks, made.report.as_text()):
            print_text(line)
        print_text(f"{made.path}: {size_text(made.size_bytes)}")


@app.command()
def export(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|FACTORY|MODEL",
            help="Trained weights; a network of your own as package.module:factory or "
            "path/net.py:Net, whose code is imported because it is named here; or, for --triton, "
            "a model file or a shipped model.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", rich_help_panel=OUTPUT, help="Model file to write."),
    ] = None,
    triton: TritonFolder = None,
    matrix: RepositoryMatrix = None,
    weights: Weights = None,
    upscale: NetworkUpscale = None,
    multiple: Multiple = None,
    fixed_matrix: FixedMatrix = None,
    padding: PaddingKind = "reflect",
    input_kind: InputKind = "image",
    coils: Coils = 0,
    kspace_output: KspaceOutput = False,
    homogeneous: Homogeneous = False,
    output_range: OutputRange = None,
    description: Description = "",
    time_limit: TimeLimit = None,
    fft: Annotated[
        Literal["auto", "gemm", "conv", "dft", "dynamic"],
        typer.Option(rich_help_panel=MODEL, help="How the FFT layers are lowered."),
    ] = "auto",
    runtime: Annotated[
        TargetRuntime | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="What it is made for; decides `--fft auto` and what int8 rounds. Default: "
            "openvino for bf16, else ort-cpu.",
        ),
    ] = None,
    gpu: TargetGpu = None,
    inline: Annotated[
        bool,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Also write MODEL.flat.onnx: one matrix, standard ops only.",
        ),
    ] = False,
    precision: Precision = "fp32",
    calibration: Calibration = None,
    data_consistency: Annotated[
        Consistency | None,
        typer.Option(rich_help_panel=STATED, help="Override what a k-space network does."),
    ] = None,
    grid: Annotated[
        Literal["kspace", "pixel-centre"] | None,
        typer.Option(
            rich_help_panel=STATED,
            help="Where SR samples lie: pixel-centre if LR was made by resizing.",
        ),
    ] = None,
    fft_convention: Annotated[
        Literal["centred", "seed"] | None,
        typer.Option(
            rich_help_panel=STATED,
            help="Of a k-space network: seed for SR_kspace's own fftshift(fft2(x)).",
        ),
    ] = None,
    h_lr: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            rich_help_panel=STATED,
            help="Its mean LR spectrum, .npy; with --h-hr.",
        ),
    ] = None,
    h_hr: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            rich_help_panel=STATED,
            help="Its mean HR spectrum, .npy.",
        ),
    ] = None,
    name: NewName = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            rich_help_panel=CHECKS,
            help="What the gate runs it on; default: openvino for bf16, else ort-cpu.",
        ),
    ] = None,
    report: GateReport = None,
    force: Force = False,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Lower a network to ONNX and prove that it still computes the same thing."""
    if triton is not None and is_model(source):
        require_alone(context)
        made = write_repository(source, triton, matrix, quiet=quiet, as_json=as_json)
        if as_json:
            echo_json(made)
        return
    output = require_output(source, output, triton, matrix)
    from kspacesr_rt.conversion.convert import runtime_for
    from kspacesr_rt.conversion.flat_file import flatten_model
    from kspacesr_rt.conversion.lowering_choice import choose_lowering
    from kspacesr_rt.export.exporter import export_model
    from kspacesr_rt.export.network_factories import is_factory
    from kspacesr_rt.model.file import load_model
    from kspacesr_rt.runtime.suited_models import PlannedModel, require_suited_to
    from kspacesr_rt.system.progress_messages import on_step
    from kspacesr_rt.train.checkpoint import SpecOverrides

    made_for = runtime or runtime_for(precision)
    proved_on = backend or runtime_for(precision)
    choice = choose_lowering(fft, made_for, gpu)
    planned = PlannedModel(
        name=name or output.stem, precision=precision, lowering=choice.lowering, input=input_kind
    )
    require_suited_to(made_for, proved_on, gpu, planned)
    own: dict[str, Any] = {
        "multiple": multiple,
        "fixed_matrix": matrix_of(fixed_matrix),
        "padding": padding,
        "input": input_kind,
        "coils": coils,
        "kspace_output": kspace_output,
        "homogeneous": homogeneous,
        "output_range": range_of(output_range),
        "description": description,
    }
    if is_factory(source):
        require_unset(source, {"--fft-convention": fft_convention, "--h-lr": h_lr, "--h-hr": h_hr})
        network = OwnNetwork(
            factory=source,
            weights=weights,
            upscale=upscale,
            name=name,
            settings={
                **own,
                **({} if time_limit is None else {"time_limit_s": time_limit}),
                "data_consistency": data_consistency or "none",
                "output_grid": grid,
                "lowering": choice.lowering,
                "backend": runtime_for("fp32") if backend is None else backend,
                "force": force,
                "report_file": report,
            },
        )
        with (
            progress_bar("export", quiet) as update,
            on_step(lambda step: update(None, None, step)),
        ):
            exported = network.exported(
                output, precision, runtime=made_for, gpu=gpu, calibration=calibration or ()
            )
    else:
        require_checkpoint(
            source,
            {"--weights": weights, "--upscale": upscale, "--time-limit": time_limit, **own},
        )
        exported = export_model(
            Path(source),
            output,
            lowering=choice.lowering,
            precision=precision,
            calibration=calibration or (),
            runtime=made_for,
            backend=proved_on,
            stated=SpecOverrides(
                name=name,
                data_consistency=data_consistency,
                grid=grid,
                fft_convention=fft_convention,
                h_lr=h_lr,
                h_hr=h_hr,
            ),
            force=force,
            report_file=report,
        )
    for note in exported.notes:
        print_text(f"warning: {note}", err=True)
    if inline:
        flat = output.with_suffix(".flat.onnx")
        flatten_model(load_model(exported.path), flat, backend=proved_on, force=force)
    repository = {}
    if triton is not None:
        repository = write_repository(
            str(exported.path), triton, matrix, quiet=quiet, as_json=as_json
        )
    lowered = f"FFT layers lowered as {choice.lowering} ({choice.reason})"
    show_written(
        exported,
        as_json=as_json,
        quiet=quiet,
        first="no FFT layers" if exported.spec.lowering == "none" else lowered,
        limits=exported.limits,
        more=repository,
    )


@app.command()
def convert(
    model: ModelArgument,
    output: ModelFileOutput,
    precision: Precision = "fp32",
    fft: Annotated[
        Literal["keep", "auto", "gemm", "conv", "dft", "dynamic"],
        typer.Option(rich_help_panel=MODEL, help="How the FFT layers are lowered."),
    ] = "keep",
    runtime: Annotated[
        TargetRuntime | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="What it is made for; default: openvino for bf16, else ort-cpu.",
        ),
    ] = None,
    gpu: TargetGpu = None,
    calibration: Calibration = None,
    name: NewName = None,
    backend: Annotated[
        TargetRuntime | None,
        typer.Option(
            rich_help_panel=CHECKS,
            help="What the gate runs it on; default: the runtime if it is here, else ort-cpu.",
        ),
    ] = None,
    report: GateReport = None,
    force: Force = False,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Bring a model file to another precision or lowering, and prove it against fp32."""
    from kspacesr_rt.conversion.convert import convert_model
    from kspacesr_rt.system.progress_messages import on_step

    with progress_bar("convert", quiet) as update, on_step(lambda step: update(None, None, step)):
        made = convert_model(
            model,
            output,
            precision=precision,
            lowering=fft,
            runtime=runtime,
            gpu=gpu,
            backend=backend,
            calibration=calibration or (),
            name=name,
            force=force,
            report_file=report,
        )
    show_written(made, as_json=as_json, quiet=quiet)


@app.command()
def inspect(
    model: Annotated[
        str | None,
        typer.Argument(help="Model file, or a shipped model's name; default: lists the shipped."),
    ] = None,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Show what a model file is and how far it was proved; without one, what is shipped."""
    from kspacesr_rt.model.contracts import taken_text
    from kspacesr_rt.model.file import load_model, resolve_model
    from kspacesr_rt.model.shipped_list import list_shipped

    if model is None:
        for one in list_shipped():
            if as_json:
                echo_json(one.to_dict())
            else:
                print_text(one.as_line())
        return
    found = load_model(resolve_model(model, upscale=None))
    if as_json:
        echo_json({**json.loads(found.spec.to_json()), "takes": taken_text(found.spec)})
        return
    print_text(found.as_text(verbose=verbose))


@app.command()
def verify(
    model: ModelArgument,
    backend: BackendName = "ort-cpu",
    threads: Threads = 0,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", rich_help_panel=MESSAGES, help="Say why this backend."),
    ] = False,
) -> None:
    """Run a model's stored self-test on a backend of this machine."""
    from kspacesr_rt.model.binding import require_stored_constants
    from kspacesr_rt.model.file import load_model, resolve_model
    from kspacesr_rt.runtime.backends import BackendOptions
    from kspacesr_rt.runtime.selection import choose_backend
    from kspacesr_rt.runtime.self_test import require_verified, verify_model

    found, options = load_model(resolve_model(model, upscale=None)), BackendOptions(threads=threads)
    require_stored_constants(found)
    choice = choose_backend(backend, found, options)
    for note in choice.notes:
        print_text(f"warning: {note}", err=True)
    if backend != choice.backend:
        print_text(choice.as_text(verbose=verbose), err=True)
    result = verify_model(found, choice.backend, options)
    if as_json:
        echo_json(result.to_dict())
    else:
        print_text(
            f"{result.model} on {result.backend}: {result.psnr_between_db:.1f} dB against the "
            f"stored answer ({result.required_db:.0f} required), "
            f"largest error {result.max_error:.1e}"
        )
    require_verified(result)
