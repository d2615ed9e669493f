"""Commands about a model file: write one, look at it, prove it here."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kspacesr_rt.cli.shell import (
    AsJson,
    BackendName,
    Consistency,
    ModelArgument,
    Quiet,
    Threads,
    app,
    echo_json,
    say,
)


class FFTLowering(StrEnum):
    """What stands in the bodies of the FFT layers."""

    auto = "auto"
    gemm = "gemm"
    conv = "conv"
    dft = "dft"
    dynamic = "dynamic"


class NumberFormat(StrEnum):
    """What the CNN computes in; FFT, scaling and data consistency stay in fp32."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"
    fp8 = "fp8"


class Grid(StrEnum):
    """Where a network's samples lie, by how LR was made for its training."""

    kspace = "kspace"
    pixel_centre = "pixel-centre"


class Convention(StrEnum):
    """Transforms and amplitudes of a k-space network."""

    centred = "centred"
    seed = "seed"


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Trained weights.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Model file to write.")],
    fft: Annotated[FFTLowering, typer.Option(help="How the FFT layers are lowered.")] = (
        FFTLowering.auto
    ),
    runtime: Annotated[
        str, typer.Option(help="What it is made for; decides `--fft auto` and what int8 rounds.")
    ] = "ort-cpu",
    gpu: Annotated[
        str | None, typer.Option(help="Target GPU, such as sm75; decides `--fft auto`.")
    ] = None,
    inline: Annotated[
        bool, typer.Option(help="Also write MODEL.flat.onnx: one matrix, standard ops only.")
    ] = False,
    precision: Annotated[NumberFormat, typer.Option(help="Of the CNN alone.")] = NumberFormat.fp32,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            help="Images that 8-bit ranges are taken from; default: the shipped sample. Repeat it.",
        ),
    ] = None,
    data_consistency: Annotated[
        Consistency | None, typer.Option(help="Override what a k-space network does.")
    ] = None,
    grid: Annotated[
        Grid | None,
        typer.Option(help="Where SR samples lie: pixel-centre if LR was made by resizing."),
    ] = None,
    fft_convention: Annotated[
        Convention | None,
        typer.Option(help="Of a k-space network: seed for SR_kspace's own fftshift(fft2(x))."),
    ] = None,
    h_lr: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Its mean LR spectrum, .npy; with --h-hr."),
    ] = None,
    h_hr: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its mean HR spectrum, .npy.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    backend: BackendName = "ort-cpu",
    report: Annotated[Path | None, typer.Option(help="Keep what the gate measured.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Lower a trained generator to ONNX and prove that it still computes the same thing."""
    from kspacesr_rt.export.choice import choose_lowering
    from kspacesr_rt.export.exporter import export_model
    from kspacesr_rt.export.flatten import flatten_model
    from kspacesr_rt.model_file import load_model
    from kspacesr_rt.train.checkpoint import Stated

    choice = choose_lowering(fft.value, runtime, gpu)
    exported = export_model(
        checkpoint,
        output,
        lowering=choice.lowering,
        precision=precision.value,
        calibration=calibration or (),
        runtime=runtime,
        backend=backend,
        stated=Stated(
            name=name,
            data_consistency=data_consistency.value if data_consistency else None,
            grid=grid.value if grid else None,
            fft_convention=fft_convention.value if fft_convention else None,
            h_lr=h_lr,
            h_hr=h_hr,
        ),
        force=force,
        report_file=report,
    )
    for note in exported.notes:
        say(f"warning: {note}", err=True)
    if inline:
        flat = output.with_suffix(".flat.onnx")
        flatten_model(load_model(exported.path), flat, backend=backend, force=force)
    if as_json:
        echo_json({"path": str(exported.path), "parity": exported.spec.parity})
    elif not quiet:
        say(f"FFT layers lowered as {choice.lowering} ({choice.reason})")
        for remark in exported.remarks:
            say(remark)
        say(exported.report.as_text())
        say(f"{exported.path}: {exported.size_bytes / 1e6:.1f} MB")


@app.command()
def inspect(model: ModelArgument, as_json: AsJson = False) -> None:
    """Show what a model file is, where it comes from and how far it was proved."""
    from kspacesr_rt.model_file import load_model, resolve_model

    found = load_model(resolve_model(model, upscale=None))
    if as_json:
        say(found.spec.to_json())
        return
    say(found.as_text())


@app.command()
def verify(
    model: ModelArgument,
    backend: BackendName = "ort-cpu",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Run a model's stored self-test on a backend of this machine."""
    from kspacesr_rt.backends import BackendOptions
    from kspacesr_rt.model_file import load_model, resolve_model
    from kspacesr_rt.selection import settle_backend
    from kspacesr_rt.verify import require_verified, verify_model

    found, options = load_model(resolve_model(model, upscale=None)), BackendOptions(threads=threads)
    choice = settle_backend(backend, found, options)
    for note in choice.notes:
        say(f"warning: {note}", err=True)
    if backend != choice.backend:
        say(choice.as_text(), err=True)
    result = verify_model(found, choice.backend, options)
    if as_json:
        echo_json(result.to_dict())
    else:
        say(
            f"{result.model} on {result.backend}: {result.psnr_between_db:.1f} dB against the "
            f"stored answer ({result.required_db:.0f} required), "
            f"largest error {result.max_error:.1e}"
        )
    require_verified(result)
