"""Commands about TensorRT engines, and about what is kept on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kspacesr_rt.cli.options import (
    MODEL,
    OUTPUT,
    SPEED,
    AsJson,
    ConfigFile,
    Force,
    ModelArgument,
    Quiet,
    ShowPaths,
)
from kspacesr_rt.cli.progress import progress_bar
from kspacesr_rt.cli.shell import App, app, echo_json, print_text


@app.command()
def build(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", rich_help_panel=OUTPUT, help="Engine file to write."),
    ],
    matrix: Annotated[
        tuple[int, int] | None,
        typer.Option(rich_help_panel=MODEL, help="LR rows and columns; default: as stored."),
    ] = None,
    runtime: Annotated[
        Literal["tensorrt-rtx", "tensorrt"],
        typer.Option(rich_help_panel=MODEL, help="Which TensorRT."),
    ] = "tensorrt-rtx",
    gpu: Annotated[
        str,
        typer.Option(
            rich_help_panel=MODEL, help="current, a name such as L4, or sm89: kspacesr-rt targets."
        ),
    ] = "current",
    batch: Annotated[
        tuple[int, int, int],
        typer.Option(rich_help_panel=SPEED, help="Smallest, usual and largest batch."),
    ] = (1, 1, 8),
    tf32: Annotated[
        bool | None,
        typer.Option(
            rich_help_panel=SPEED,
            help="TF32 for FFT layers of 16-bit models; default: where it should pay, in fp16.",
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**24,
            rich_help_panel=SPEED,
            help="Limit of the builder's workspace in MiB.",
        ),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(min=0, max=5, rich_help_panel=SPEED, help="Builder's optimisation level."),
    ] = None,
    force: Force = False,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Build a TensorRT engine; TensorRT-RTX needs no GPU for that."""
    from kspacesr_rt.model.file import load_model, resolve_model
    from kspacesr_rt.runtime.tensorrt.build import build_engine

    with progress_bar("build", quiet, lines=True) as update:
        built = build_engine(
            load_model(resolve_model(model, upscale=None)),
            output,
            matrix=matrix,
            runtime=runtime,
            gpu=gpu,
            batch=batch,
            tf32=tf32,
            workspace_bytes=None if workspace is None else workspace * 2**20,
            optimisation_level=level,
            force=force,
            on_progress=lambda state: update(state.done, state.total, state.stage),
        )
    for note in built.notes:
        print_text(f"warning: {note}", err=True)
    if as_json:
        echo_json(built.to_dict())
    elif not quiet:
        print_text(built.as_text())


cache_app = App(help="Engines and converted models made on this machine.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")


@cache_app.command("ls")
def list_cache(
    show_paths: ShowPaths = False, as_json: AsJson = False, config: ConfigFile = None
) -> None:
    """List cached engines, and models converted for a tier, damaged ones too."""
    from kspacesr_rt.conversion.tier_cache import TierCache
    from kspacesr_rt.runtime.tensorrt.cache import EngineCache

    cache, tiers = EngineCache(), TierCache()
    if (reason := cache.why_none()) is not None:
        print_text(f"warning: {reason}; {reason.hint}", err=True)
    if as_json:
        engines = [entry.to_dict() for entry in cache.listing()]
        echo_json([*engines, *(entry.to_dict() for entry in tiers.listing())])
    else:
        print_text(f"{cache.as_text()}\n{tiers.as_text()}")


@cache_app.command("add")
def add_to_cache(
    engine: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Engine file.")],
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Add an engine that was built elsewhere, with the sidecar beside it."""
    from kspacesr_rt.runtime.tensorrt.cache import EngineCache

    kept = EngineCache().add(engine)
    for note in kept.notes:
        print_text(f"warning: {note}", err=True)
    if as_json:
        echo_json(kept.to_dict())
    else:
        print_text(kept.path)


@cache_app.command("prune")
def prune_cache(
    max_mb: Annotated[int | None, typer.Option(min=0, help="Keep the latest, up to this.")] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0.0, help="Remove what was not used for so many days.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove everything.")] = False,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Remove cached engines and converted models, and say which; tiers are then chosen anew."""
    from kspacesr_rt.conversion.tier_cache import TierCache
    from kspacesr_rt.runtime.tensorrt.cache import EngineCache

    removed = [
        entry
        for cache in (EngineCache(), TierCache())
        for entry in cache.prune(
            max_bytes=None if max_mb is None else max_mb * 10**6,
            older_than_days=older_than,
            everything=everything,
        )
    ]
    if as_json:
        echo_json([entry.to_dict() for entry in removed])
        return
    for entry in removed:
        print_text(entry.as_text())
