"""The command that makes a model file of an ONNX file that others made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kspacesr_rt.cli.models import GateReport, ModelFileOutput, NewName, show_written
from kspacesr_rt.cli.options import (
    MODEL,
    AsJson,
    ConfigFile,
    Force,
    Quiet,
    ShowPaths,
)
from kspacesr_rt.cli.own_networks import OWN, Homogeneous, Multiple, OutputRange, PaddingKind
from kspacesr_rt.cli.progress import progress_bar
from kspacesr_rt.cli.shell import app

TEXTS = "For its card"


@app.command()
def adopt(
    network: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="An ONNX file, image in, image out. It is computed: of people you trust.",
        ),
    ],
    output: ModelFileOutput,
    upscale: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="SR / LR that you expect: another one that is measured is refused.",
        ),
    ] = None,
    grid: Annotated[
        Literal["kspace", "pixel-centre"] | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="Where SR samples lie: pixel-centre if LR was resized. Default: measured.",
        ),
    ] = None,
    limits: Annotated[
        str,
        typer.Option(
            "--range",
            metavar="LOW..HIGH",
            rich_help_panel=MODEL,
            help="What 0 and a slice's maximum become for the network; none: values as they are.",
        ),
    ] = "0..1",
    channels: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="1, or 3: grey is given to each, and the result is averaged. Default: the file's.",
        ),
    ] = None,
    multiple: Multiple = None,
    padding: PaddingKind = "reflect",
    data_consistency: Annotated[
        Literal["none", "hard"],
        typer.Option(
            rich_help_panel=OWN, help="hard: measured k-space samples come back unchanged."
        ),
    ] = "none",
    output_range: OutputRange = None,
    homogeneous: Homogeneous = False,
    name: NewName = None,
    card: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, rich_help_panel=TEXTS, help="A text about it, Markdown."
        ),
    ] = None,
    training: Annotated[
        str, typer.Option(rich_help_panel=TEXTS, help="Its data and budget, in a sentence.")
    ] = "",
    licence: Annotated[
        str, typer.Option(rich_help_panel=TEXTS, help="Licence of its weights.")
    ] = "",
    attribution: Annotated[str, typer.Option(rich_help_panel=TEXTS, help="Whom to credit.")] = "",
    report: GateReport = None,
    force: Force = False,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Make a model file of an ONNX file that others made, and prove that it computes the same."""
    from kspacesr_rt.conversion.adoption import Contracts, Texts, adopt_model
    from kspacesr_rt.conversion.option_values import card_text, parsed_range
    from kspacesr_rt.system.progress_messages import on_step

    with progress_bar("adopt", quiet) as update, on_step(lambda step: update(None, None, step)):
        adopted = adopt_model(
            network,
            output,
            upscale=upscale,
            grid=grid,
            limits=None if limits == "none" else parsed_range("--range", limits),
            channels=channels,
            matrix_multiple=multiple,
            padding=padding,
            contracts=Contracts(
                data_consistency=data_consistency,
                output_range=parsed_range("--output-range", output_range) if output_range else None,
                homogeneous=homogeneous,
            ),
            texts=Texts(
                name=name,
                description=card_text(card),
                training=training,
                licence=licence,
                attribution=attribution,
            ),
            force=force,
            report_file=report,
        )
    limited = any(adopted.spec.fixed_matrix) or adopted.spec.matrix_multiple > 1
    about_matrices = adopted.remarks[:1] if limited else ()
    show_written(adopted, as_json=as_json, quiet=quiet, limits=about_matrices)
