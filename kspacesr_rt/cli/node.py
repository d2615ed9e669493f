"""Commands that stand in a hospital's network: a DICOM node, and a module of a router."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, cast

import typer

from kspacesr_rt.cli.shell import AsJson, BackendName, LimitTexts, Quiet, Threads, app, echo_json


@app.command()
def serve(
    forward: Annotated[
        list[str], typer.Option(metavar="AE@HOST:PORT", help="Where results go; repeatable.")
    ],
    spool: Annotated[Path, typer.Option(help="Folder that outlives a crash; private.")],
    ae: Annotated[str, typer.Option(help="This node's AE title.")] = "KSPACESR",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port.")] = 11112,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AE@HOST",
            help="Who may send: name, address or network; repeatable. Default: this machine.",
        ),
    ] = None,
    bind: Annotated[
        str | None,
        typer.Option(help="Address to listen on; default: loopback, or all if --accept needs it."),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of /metrics and a status page, on loopback."),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Series that may wait.")] = 200,
    spool_gb: Annotated[float, typer.Option(help="Gigabytes that the spool may take.")] = 50.0,
    series_timeout: Annotated[
        float, typer.Option(help="Seconds of silence that complete a series.")
    ] = 30.0,
    retry_max: Annotated[
        float, typer.Option(help="Longest time between two attempts to forward, in seconds.")
    ] = 300.0,
    retry: Annotated[
        bool, typer.Option("--retry", help="Offer again what targets have refused for good.")
    ] = False,
    quarantine: Annotated[
        str, typer.Option(help="What to keep of files left out: all, failed or none.")
    ] = "all",
    remember_days: Annotated[
        float, typer.Option(min=0.0, help="How long to know what was sent.")
    ] = 90.0,
    grace: Annotated[
        float, typer.Option(min=0.0, help="Seconds that SIGTERM leaves to running associations.")
    ] = 20.0,
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
        int, typer.Option(min=0, help="Slices of a batch side by side (openvino).")
    ] = 0,
    include_derived: Annotated[bool, typer.Option(help="Process maps and MIPs too.")] = False,
    keep_private: Annotated[bool, typer.Option(help="Keep private elements.")] = False,
    limit: LimitTexts = None,
    compress: Annotated[
        str, typer.Option(help="Lossless compression of outputs: none, rle, j2k or htj2k.")
    ] = "none",
    on_interpolated: Annotated[
        str, typer.Option(help="Series that the scanner interpolated: warn, skip or crop.")
    ] = "warn",
    quiet: Quiet = False,
) -> None:
    """Run a DICOM node: receive series, super-resolve them, send the results on.

    SIGTERM or Ctrl-C ends it after the current slice; the spool keeps the rest for the next start.
    """
    from kspacesr_rt.dicom.limits import parsed_limits
    from kspacesr_rt.errors import InputError
    from kspacesr_rt.interpolated import OnInterpolated
    from kspacesr_rt.interruption import act_once
    from kspacesr_rt.node import Keep, Log, Node, NodeOptions, parse_peer, parse_target
    from kspacesr_rt.node.peers import ANY_ON_THIS_MACHINE
    from kspacesr_rt.pipeline import InferOptions

    if quarantine not in list(Keep):
        raise InputError(f"--quarantine is all, failed or none, not '{quarantine}'")
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
            retry_max_s=retry_max,
            retry=retry,
            quarantine=Keep(quarantine),
            remember_days=remember_days,
            grace_s=grace,
        ),
        InferOptions(
            backend=backend,
            model=model,
            upscale=upscale,
            batch=batch,
            threads=threads,
            streams=streams,
            include_derived=include_derived,
            keep_private=keep_private,
            limits=parsed_limits(limit or ()),
            compress=compress,
            on_interpolated=cast(OnInterpolated, on_interpolated),  # InferOptions checks the word
        ),
        Log(quiet=quiet),
    )
    act_once(node.stop)
    node.run()


@app.command()
def mercure(as_json: AsJson = False) -> None:
    """Run as a module of the router mercure: its folders, its task.json, its result.json."""
    from kspacesr_rt.mercure import RESULT, read_task, run_task

    task = read_task(os.environ)
    code = run_task(task)
    if as_json:
        echo_json({"exit_code": code, "result": str(task.output / RESULT)})
    raise typer.Exit(code)
