"""The command that finds where two backends or two models part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kspacesr_rt.cli.shell import AsJson, ModelArgument, Threads, app, echo_json, say


@app.command()
def diagnose(
    model: ModelArgument,
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER_MODEL", help="Compare with this model.")
    ] = None,
    backend: Annotated[str, typer.Option(help="ort-cpu, openvino or reference.")] = "ort-cpu",
    against: Annotated[
        str | None,
        typer.Option(
            help="ort-cpu, openvino or reference (float64); default: reference, or for "
            "two models the same backend."
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--input", exists=True, help="DICOM slice or .npy array (y, x)."),
    ] = None,
    matrix: Annotated[
        tuple[int, int] | None, typer.Option(metavar="Y X", help="LR rows and columns.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Relative error that is agreement.")] = 1e-4,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write a zip that reproduces it.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Compare two backends or two models node by node, and name the first that is wrong."""
    from kspacesr_rt import diagnosis
    from kspacesr_rt.backends import BackendOptions

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
            say(
                f"warning: {output.name} holds the image of --input: if it is a patient's, so is "
                "the zip (no header data is in it)",
                err=True,
            )
    if as_json:
        echo_json(found.findings.to_dict())
    else:
        say(found.findings.as_text())
    diagnosis.require_agreement(found.findings)
