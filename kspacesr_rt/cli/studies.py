"""The command that users run: DICOM in, derived DICOM out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from kspacesr_rt.cli.shell import (
    AsJson,
    BackendName,
    LimitTexts,
    Quiet,
    Threads,
    app,
    echo_json,
    progress_bar,
    say,
)


@app.command()
def infer(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Folder (or file) of DICOM.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the derived series.")],
    model: Annotated[
        str | None, typer.Option(help="Model file or shipped name; default: shipped, by upscale.")
    ] = None,
    backend: BackendName = "auto",
    upscale: Annotated[
        int | None, typer.Option(min=1, help="SR / LR; default: the model's, or 2.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Slices given to the backend at once.")] = 1,
    threads: Threads = 0,
    streams: Annotated[
        int, typer.Option(min=0, help="Batches computed side by side; 0: by backend and cores.")
    ] = 0,
    workers: Annotated[
        int, typer.Option(min=0, help="Threads that read and write beside it; 0: by the cores.")
    ] = 0,
    engine: Annotated[
        str, typer.Option(help="local: in this process; ray: series on a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a Ray cluster, or auto; default: one on this machine."),
    ] = None,
    actors: Annotated[
        int, typer.Option(min=0, help="Processes on the cluster; 0: as many as it has room for.")
    ] = 0,
    report: Annotated[
        Path | None, typer.Option(help="Where the report goes; default OUT/report.json.")
    ] = None,
    preview: Annotated[bool, typer.Option(help="Write a PNG contact sheet a series.")] = False,
    include_derived: Annotated[bool, typer.Option(help="Process maps and MIPs too.")] = False,
    uids: Annotated[str, typer.Option(help="stable: same input, same UIDs; or random.")] = "stable",
    keep_private: Annotated[bool, typer.Option(help="Keep private elements.")] = False,
    limit: LimitTexts = None,
    compress: Annotated[
        str, typer.Option(help="Lossless compression of outputs: none, rle, j2k or htj2k.")
    ] = "none",
    on_interpolated: Annotated[
        str, typer.Option(help="Series that the scanner interpolated: warn, skip or crop.")
    ] = "warn",
    strict: Annotated[
        bool, typer.Option(help="Refuse input that is only warned about; write nothing.")
    ] = False,
    stale: Annotated[
        str,
        typer.Option(help="Outputs whose source has changed or is gone: refuse, keep or replace."),
    ] = "refuse",
    verify_existing: Annotated[
        bool, typer.Option(help="Read earlier outputs; make again what was damaged.")
    ] = False,
    show_paths: Annotated[bool, typer.Option(help="Name input paths in the report.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Name each file that was left out.")
    ] = False,
) -> None:
    """Super-resolve a folder of MR DICOM into derived series."""
    from kspacesr_rt.dicom.limits import parsed_limits
    from kspacesr_rt.errors import InputError
    from kspacesr_rt.interpolated import OnInterpolated
    from kspacesr_rt.pipeline import InferOptions, engine_named
    from kspacesr_rt.pipeline import infer as run_infer
    from kspacesr_rt.pipeline.options import OnStale

    if uids not in ("stable", "random"):
        raise InputError(f"--uids is stable or random, not '{uids}'")
    options = InferOptions(
        backend=backend,
        model=model,
        upscale=upscale,
        batch=batch,
        threads=threads,
        streams=streams,
        workers=workers,
        preview=preview,
        include_derived=include_derived,
        random_uids=uids == "random",
        keep_private=keep_private,
        limits=parsed_limits(limit or ()),
        compress=compress,
        show_paths=show_paths,
        on_interpolated=cast(OnInterpolated, on_interpolated),  # InferOptions checks the word
        strict=strict,
        stale=cast(OnStale, stale),
        verify_existing=verify_existing,
    )
    with progress_bar("slices", quiet) as update:
        result = run_infer(
            source,
            output,
            options,
            engine=engine_named(engine, address=address, actors=actors),
            report_file=report,
            on_progress=lambda state: update(state.done, state.total, ""),
            on_stall=lambda sentence: typer.echo(f"warning: {sentence}", err=True),
        )
    for note in result.backend_notes:
        say(f"warning: {note}", err=True)
    if as_json:
        echo_json(result.summary())
    elif not quiet:
        say(result.as_text(verbose=verbose))
    raise typer.Exit(result.exit_code)
