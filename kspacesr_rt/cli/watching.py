"""The command that stands beside a folder: whatever lands in it is super-resolved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from kspacesr_rt.cli.shell import BackendName, LimitTexts, Quiet, Threads, app


@app.command()
def watch(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to watch; only read.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the derived series.")],
    settle: Annotated[
        float, typer.Option(min=0.0, help="Seconds without a change that complete a series.")
    ] = 10.0,
    poll: Annotated[
        float | None,
        typer.Option(
            help="Look every so many seconds, where the system does not notify: network shares."
        ),
    ] = None,
    retry_max: Annotated[
        float, typer.Option(min=0.0, help="Longest pause, in seconds, while OUT cannot be written.")
    ] = 300.0,
    collected: Annotated[
        bool,
        typer.Option(help="Others take outputs away: do not make them again at the next start."),
    ] = False,
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
        bool, typer.Option(help="Leave out series that are only warned about.")
    ] = False,
    stale: Annotated[
        str,
        typer.Option(help="Outputs whose source has changed: refuse, keep or replace."),
    ] = "refuse",
    verify_existing: Annotated[
        bool, typer.Option(help="Read earlier outputs; make again what was damaged.")
    ] = False,
    show_paths: Annotated[bool, typer.Option(help="Name input paths in report and log.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Log as lines of JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Super-resolve what is in a folder, and every series that lands there.

    SIGTERM or Ctrl-C ends it after the slices under way; the same command goes on where it was.
    """
    from kspacesr_rt.dicom.limits import parsed_limits
    from kspacesr_rt.errors import InputError
    from kspacesr_rt.interpolated import OnInterpolated
    from kspacesr_rt.node.events import Log
    from kspacesr_rt.pipeline import InferOptions
    from kspacesr_rt.pipeline.options import OnStale
    from kspacesr_rt.watching import WatchOptions
    from kspacesr_rt.watching import watch as run_watch

    if uids not in ("stable", "random"):
        raise InputError(f"--uids is stable or random, not '{uids}'")
    run_watch(
        source,
        output,
        InferOptions(
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
        ),
        WatchOptions(settle_s=settle, poll_s=poll, retry_max_s=retry_max, collected=collected),
        log=Log(sys.stdout if as_json else None, quiet=quiet, as_json=as_json),
        report_file=report,
    )
