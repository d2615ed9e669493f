"""The command that finds where two backends or two models part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kspacesr_rt.cli.options import (
    CHECKS,
    INPUT,
    MODEL,
    OUTPUT,
    AsJson,
    ConfigFile,
    Force,
    ModelArgument,
    ShowPaths,
    Threads,
)
from kspacesr_rt.cli.shell import app, echo_json, print_text

LooksInside = Literal["ort-cpu", "openvino", "reference"]


@app.command()
def diagnose(
    model: ModelArgument,
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER_MODEL", help="Compare with this model.")
    ] = None,
    backend: Annotated[
        LooksInside, typer.Option(rich_help_panel=MODEL, help="Whose nodes are looked at.")
    ] = "ort-cpu",
    against: Annotated[
        LooksInside | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="What they are compared with; default: reference (float64), or for two models "
            "the same backend.",
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--input",
            exists=True,
            rich_help_panel=INPUT,
            help="DICOM slice or .npy array (y, x).",
        ),
    ] = None,
    matrix: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="ROWS COLUMNS", rich_help_panel=INPUT, help="LR rows and columns."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(rich_help_panel=CHECKS, help="Relative error that is agreement.")
    ] = 1e-4,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", rich_help_panel=OUTPUT, help="Write a zip that reproduces it."
        ),
    ] = None,
    force: Force = False,
    threads: Threads = 0,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Compare two backends or two models node by node, and name the first that is wrong."""
    from kspacesr_rt import diagnosis
    from kspacesr_rt.runtime.backends import BackendOptions

    found = diagnosis.diagnose_files(
        model,
        other,
        backends=(backend, against),
        image=image,
        matrix=matrix,
        tolerance=tolerance,
        options=BackendOptions(threads=threads),
    )
    if output is not None:
        diagnosis.write_repro(found, output, force=force)
        if image is not None:
            print_text(
                f"warning: {output.name} holds the image of --input: if it is a patient's, so is "
                "the zip (no header data is in it)",
                err=True,
            )
    if as_json:
        echo_json(found.findings.to_dict())
    else:
        print_text(found.findings.as_text())
    diagnosis.require_agreement(found.findings)
