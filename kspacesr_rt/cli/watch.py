"""The command that stands beside a folder: whatever lands in it is super-resolved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from kspacesr_rt.cli.option_sources import option_sources
from kspacesr_rt.cli.options import AsJson, ConfigFile, FolderOptions, Quiet, RetryMax, Verbose
from kspacesr_rt.cli.shell import app

PANEL: Final = "Watching"


@app.command()
def watch(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to watch; only read.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the derived series.")],
    options: FolderOptions,
    settle: Annotated[
        float,
        typer.Option(
            min=0.0,
            rich_help_panel=PANEL,
            help="Seconds without a change that complete a series.",
        ),
    ] = 10.0,
    poll: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=PANEL,
            help="Look every so many seconds, where the system does not notify: network shares.",
        ),
    ] = None,
    retry_max: RetryMax = 300.0,
    collected: Annotated[
        bool,
        typer.Option(
            rich_help_panel=PANEL,
            help="Others take outputs away: do not make them again at the next start.",
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Super-resolve what is in a folder, and every series that lands there.

    SIGTERM or Ctrl-C ends it after the slices under way; the same command goes on where it was.
    """
    from kspacesr_rt.services.log import Log
    from kspacesr_rt.services.watch import WatchOptions
    from kspacesr_rt.services.watch import watch as run_watch

    run_watch(
        source,
        output,
        options.to_infer_options(sources=option_sources(context)),
        WatchOptions(settle_s=settle, poll_s=poll, retry_max_s=retry_max, collected=collected),
        log=Log(sys.stdout if as_json else None, quiet=quiet, as_json=as_json),
        report_file=options.report,
    )
