"""Commands that stand in a hospital's network: a DICOM node, and a module of a router."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from kspacesr_rt.cli.option_sources import option_sources
from kspacesr_rt.cli.options import (
    AsJson,
    ConfigFile,
    HandleStale,
    Quiet,
    RetryMax,
    RunOptions,
    ShowPaths,
    Strict,
    Verbose,
)
from kspacesr_rt.cli.shell import app, echo_json, print_text

NETWORK: Final = "Network"
SPOOL: Final = "Spool"


@app.command()
def serve(
    context: typer.Context,
    options: RunOptions,
    forward: Annotated[
        list[str],
        typer.Option(
            metavar="AE@HOST:PORT",
            rich_help_panel=NETWORK,
            help="Where results go; repeatable.",
        ),
    ],
    spool: Annotated[
        Path, typer.Option(rich_help_panel=SPOOL, help="Folder that outlives a crash; private.")
    ],
    ae: Annotated[
        str, typer.Option(rich_help_panel=NETWORK, help="This node's AE title.")
    ] = "KSPACESR",
    port: Annotated[
        int, typer.Option(min=0, max=65535, rich_help_panel=NETWORK, help="TCP port.")
    ] = 11112,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AE@HOST",
            rich_help_panel=NETWORK,
            help="Who may send: name, address or network; repeatable. Default: this machine.",
        ),
    ] = None,
    bind: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=NETWORK,
            help="Address to listen on; default: loopback, or all if --accept needs it.",
        ),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            rich_help_panel=NETWORK,
            help="Port of /metrics and a status page, on loopback.",
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, rich_help_panel=SPOOL, help="Series that may wait.")
    ] = 200,
    spool_gb: Annotated[
        float, typer.Option(rich_help_panel=SPOOL, help="Gigabytes that the spool may take.")
    ] = 50.0,
    series_timeout: Annotated[
        float,
        typer.Option(rich_help_panel=NETWORK, help="Seconds of silence that complete a series."),
    ] = 30.0,
    released_timeout: Annotated[
        float,
        typer.Option(
            rich_help_panel=NETWORK,
            help="The same once its only association was released, if that brought "
            "several instances.",
        ),
    ] = 5.0,
    retry_max: RetryMax = 300.0,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry",
            rich_help_panel=SPOOL,
            help="Offer again what targets have refused for good.",
        ),
    ] = False,
    quarantine: Annotated[
        Literal["all", "failed", "none"],
        typer.Option(rich_help_panel=SPOOL, help="What to keep of files left out."),
    ] = "all",
    remember_days: Annotated[
        float, typer.Option(min=0.0, rich_help_panel=SPOOL, help="How long to know what was sent.")
    ] = 90.0,
    grace: Annotated[
        float,
        typer.Option(
            min=0.0,
            rich_help_panel=NETWORK,
            help="Seconds that SIGTERM leaves to what is under way.",
        ),
    ] = 5.0,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
) -> None:
    """Run a DICOM node: receive series, super-resolve them, send the results on.

    SIGTERM or Ctrl-C ends it after the current slice; the spool keeps the rest for the next start.
    """
    from kspacesr_rt.services.node import Keep, Log, Node, NodeOptions, parse_peer, parse_target
    from kspacesr_rt.services.node.peers import ANY_ON_THIS_MACHINE
    from kspacesr_rt.system.interruption import call_once

    node = Node(
        NodeOptions(
            ae_title=ae,
            targets=tuple(parse_target(text) for text in forward),
            spool=spool,
            port=port,
            peers=tuple(parse_peer(text) for text in accept or ()) or (ANY_ON_THIS_MACHINE,),
            bind=bind,
            http_port=http_port,
            n_parts=queue,
            spool_gb=spool_gb,
            series_timeout_s=series_timeout,
            released_timeout_s=released_timeout,
            retry_max_s=retry_max,
            retry=retry,
            quarantine=Keep(quarantine),
            remember_days=remember_days,
            grace_s=grace,
        ),
        options.to_infer_options(sources=option_sources(context)),
        Log(quiet=quiet),
    )
    call_once(node.stop)
    node.run()


@app.command()
def health(
    http_port: Annotated[
        int,
        typer.Option(
            min=1, max=65535, rich_help_panel=NETWORK, help="The node's port of /metrics."
        ),
    ] = 8080,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, rich_help_panel=NETWORK, help="Seconds to wait for an answer."),
    ] = 5.0,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Ask the node of this machine whether it is well; exit code 3 if not."""
    from kspacesr_rt.services.health import require_health

    require_health(http_port, timeout_s=timeout)
    if not quiet:
        print_text("ok")


@app.command()
def mercure(
    context: typer.Context,
    options: RunOptions,
    strict: Strict = False,
    stale: HandleStale = "refuse",
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Run as a module of the router mercure: its folders, its task.json, its result.json.

    What the settings of a task say comes before the options.
    """
    from kspacesr_rt.services.mercure import RESULT, read_task, run_task

    task = read_task(
        os.environ,
        options.to_infer_options(
            strict=strict, stale=stale, show_paths=show_paths, sources=option_sources(context)
        ),
    )
    code = run_task(task)
    if as_json:
        echo_json({"exit_code": code, "result": str(task.output / RESULT)})
    raise typer.Exit(code)
