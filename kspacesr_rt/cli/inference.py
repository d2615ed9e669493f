"""The command that users run: DICOM in, derived DICOM out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kspacesr_rt.cli.option_sources import option_sources
from kspacesr_rt.cli.options import SPEED, AsJson, ConfigFile, FolderOptions, Quiet, Verbose
from kspacesr_rt.cli.progress import progress_bar
from kspacesr_rt.cli.shell import app, echo_json, error_json, print_text
from kspacesr_rt.system.counts import ACTORS_MOST


@app.command()
def infer(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Folder (or file): DICOM, NIfTI, arrays.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the outputs.")],
    options: FolderOptions,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            rich_help_panel=SPEED, help="local: in this process; ray: series on a Ray cluster."
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=SPEED,
            help="HOST:PORT of a Ray cluster, or auto; default: one on this machine.",
        ),
    ] = None,
    actors: Annotated[
        int,
        typer.Option(
            min=0,
            max=ACTORS_MOST,
            rich_help_panel=SPEED,
            help="Processes on the cluster; 0: as many as it has room for.",
        ),
    ] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Super-resolve MR images: DICOM into derived series, NIfTI and arrays into files like them."""
    from kspacesr_rt.errors import NoMRImageError, StaleOutputError
    from kspacesr_rt.pipeline import executor_named
    from kspacesr_rt.pipeline import infer as run_infer
    from kspacesr_rt.system.progress_messages import on_step

    shown = _shown(output, options.show_paths)
    try:
        with (
            progress_bar("slices", quiet) as update,
            on_step(lambda step: update(None, None, step)),
        ):

            def warn(sentence: str) -> None:
                if not update.keep(f"warning: {sentence}"):
                    typer.echo(f"warning: {sentence}", err=True)

            result = run_infer(
                source,
                output,
                options.to_infer_options(sources=option_sources(context)),
                executor=executor_named(engine, address=address, actors=actors),
                report_file=options.report,
                on_progress=lambda state: update(state.done, state.total, "", state.present),
                on_start=lambda what: update.keep(f"{what} -> {shown}"),
                on_stall=warn,
            )
    except (StaleOutputError, NoMRImageError) as exc:
        if exc.report is not None and as_json:
            echo_json(exc.report.summary() | error_json(exc))
        elif exc.report is not None and verbose:
            named = (*exc.report.slices, *exc.report.stale)
            print_text("\n".join(one.as_line() for one in named))
        raise
    for note in result.backend_notes:
        print_text(f"warning: {note}", err=True)
    if as_json:
        echo_json(result.summary())
    elif not quiet:
        print_text(result.as_text(verbose=verbose))
        print_text(_places(output, options.report, show_paths=options.show_paths))
    raise typer.Exit(result.exit_code)


def _places(output: Path, report: Path | None, *, show_paths: bool) -> str:
    """Say where results and report are; of a path only its last part, which names no patient."""
    folder = _shown(output, show_paths)
    file = f"{folder}/report.json" if report is None else str(report) if show_paths else report.name
    return f"results: {folder}; what became of each file: {file}"


def _shown(output: Path, show_paths: bool) -> str:
    return str(output) if show_paths else output.name or "OUT"
