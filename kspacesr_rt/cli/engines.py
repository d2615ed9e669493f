"""Commands about TensorRT engines."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kspacesr_rt.cli.shell import AsJson, ModelArgument, Quiet, app, echo_json, progress_bar, say


class EngineRuntime(StrEnum):
    """Which TensorRT builds an engine."""

    rtx = "tensorrt-rtx"
    full = "tensorrt"


@app.command()
def build(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Engine file to write.")],
    matrix: Annotated[
        tuple[int, int] | None, typer.Option(help="LR rows and columns; default: as stored.")
    ] = None,
    runtime: Annotated[EngineRuntime, typer.Option(help="Which TensorRT.")] = EngineRuntime.rtx,
    gpu: Annotated[str, typer.Option(help="current, or sm75, sm86, sm89, sm120.")] = "current",
    batch: Annotated[
        tuple[int, int, int], typer.Option(help="Smallest, usual and largest batch.")
    ] = (1, 1, 8),
    tf32: Annotated[bool, typer.Option(help="Allow TF32 (for 16-bit models).")] = False,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="Limit of the builder's workspace in MiB.")
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Builder's optimisation level.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing engine.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Build a TensorRT engine; TensorRT-RTX needs no GPU for that."""
    from kspacesr_rt.engines.build import build_engine
    from kspacesr_rt.model_file import load_model, resolve_model

    with progress_bar("build", quiet) as update:
        built = build_engine(
            load_model(resolve_model(model, upscale=None)),
            output,
            matrix=matrix,
            runtime=runtime.value,
            gpu=gpu,
            batch=batch,
            tf32=tf32,
            workspace_bytes=None if workspace is None else workspace * 2**20,
            optimisation_level=level,
            force=force,
            on_progress=lambda state: update(state.done, state.total, state.stage),
        )
    for note in built.notes:
        say(f"warning: {note}", err=True)
    if as_json:
        echo_json(built.to_dict())
    elif not quiet:
        say(built.as_text())


cache_app = typer.Typer(help="Engines that were built on this machine.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")


@cache_app.command("ls")
def list_cache(as_json: AsJson = False) -> None:
    """List cached engines, damaged ones too."""
    from kspacesr_rt.engines.cache import EngineCache

    cache = EngineCache()
    if (reason := cache.why_none()) is not None:
        say(f"warning: {reason}; {reason.hint}", err=True)
    if as_json:
        echo_json([entry.to_dict() for entry in cache.listing()])
    else:
        say(cache.as_text())


@cache_app.command("add")
def add_to_cache(
    engine: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Engine file.")],
) -> None:
    """Add an engine that was built elsewhere, with the sidecar beside it."""
    from kspacesr_rt.engines.cache import EngineCache

    say(EngineCache().add(engine))


@cache_app.command("prune")
def prune_cache(
    max_mb: Annotated[int | None, typer.Option(min=0, help="Keep the latest, up to this.")] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0.0, help="Remove what was not used for so many days.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all engines.")] = False,
) -> None:
    """Remove cached engines, and say which."""
    from kspacesr_rt.engines.cache import EngineCache

    removed = EngineCache().prune(
        max_bytes=None if max_mb is None else max_mb * 10**6,
        older_than_days=older_than,
        everything=everything,
    )
    for entry in removed:
        say(entry.as_text())
