"""Commands that train, and judge what was trained."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kspacesr_rt.cli.shell import (
    AsJson,
    BackendName,
    Consistency,
    Quiet,
    Threads,
    app,
    echo_json,
    progress_bar,
    say,
)


class Handled(StrEnum):
    """What becomes of HR that a scanner interpolated."""

    crop = "crop"
    warn = "warn"


# Like the seed's command line, `train` takes underscores wherever it has a hyphen.
@app.command(context_settings={"token_normalize_func": lambda token: token.replace("_", "-")})
def train(
    data: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="Folders of HR images.")
    ] = None,
    path_to_data: Annotated[
        list[Path] | None, typer.Option(exists=True, help="The same, as the seed spells it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Checkpoint; default NAME.pt.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="TOML with every option, or the name of a shipped one.")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(exists=True, help="Folders that are only judged on.")
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Share of patients to judge on, without --validation.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    training: Annotated[
        str | None, typer.Option(help="What it is trained on, in a sentence for its file.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    attribution: Annotated[str | None, typer.Option(help="Credit for the data.")] = None,
    as_shipped: Annotated[
        bool,
        typer.Option("--as-shipped", help="A run on its data, with its options: state the same."),
    ] = False,
    architecture: Annotated[
        str | None, typer.Option(help="dc-residual, seed-kspace or seed-image.")
    ] = None,
    upscale: Annotated[
        int | None,
        typer.Option("--upscale", "--upscale-factor", min=2, help="SR / LR (or --upscale-factor)."),
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", "--channels", min=1, help="Channels of the CNN.")
    ] = None,
    blocks: Annotated[int | None, typer.Option(min=1, help="Residual blocks.")] = None,
    cascades: Annotated[
        int | None, typer.Option(min=1, help="How often data consistency is applied.")
    ] = None,
    bias: Annotated[
        int | None, typer.Option(min=0, max=1, help="1: convolutions have a bias.")
    ] = None,
    data_consistency: Annotated[
        Consistency | None, typer.Option(help="What is done with measured samples.")
    ] = None,
    skip_connection: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="1: --data-consistency additive; 0: none."),
    ] = None,
    degradation: Annotated[
        str | None, typer.Option(help="How LR is made: kspace-crop, or seed-resize.")
    ] = None,
    rim: Annotated[
        str | None, typer.Option(help="k-space never measured: crop, keep or mix.")
    ] = None,
    matrix: Annotated[int | None, typer.Option(min=0, help="Nominal LR samples per axis.")] = None,
    loss: Annotated[str | None, typer.Option(help="l1, mse, psnr, charbonnier or l1-ssim.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes, instead of steps.")] = None,
    random_subset: Annotated[int | None, typer.Option(min=1, help="Slices per epoch.")] = None,
    val_size: Annotated[int | None, typer.Option(min=1, help="Slices to judge on, in all.")] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", "--batch-size", min=1, help="Slices a step (or --batch-size)."),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the CNN: fp32 or bf16.")] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.")
    ] = None,
    validate_every: Annotated[int | None, typer.Option(min=1, help="Steps between.")] = None,
    random_state: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
    images: Annotated[bool, typer.Option(help="Draw HR, SR, difference at validations.")] = False,
    vgg_weights: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="VGG16, for its loss term.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Keeps decoded series here.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint.")] = False,
    force: Annotated[bool, typer.Option(help="Replace an existing checkpoint.")] = False,
    threads: Threads = 0,
    quiet: Quiet = False,
) -> None:
    """Train a generator on folders of DICOM, NIfTI, NRRD, .npy or fastMRI .h5 images.

    Several GPUs or machines: torchrun --nproc-per-node N -m kspacesr_rt train ...
    """
    from kspacesr_rt.train.recipe import find_recipe, read_recipe
    from kspacesr_rt.train.run import RunSettings, train_from_folders

    folders = [*(data or []), *(path_to_data or [])]
    if not folders:
        raise typer.BadParameter("name at least one folder of HR images", param_hint="DATA")
    if data_consistency is None and skip_connection is not None:
        data_consistency = Consistency.additive if skip_connection else Consistency.none
    options = read_recipe(
        find_recipe(recipe) if recipe else None,
        {
            "name": name,
            "training": training,
            "licence": licence,
            "attribution": attribution,
            "architecture": architecture,
            "upscale": upscale,
            "width": width,
            "blocks": blocks,
            "cascades": cascades,
            "bias": None if bias is None else bool(bias),
            "data_consistency": data_consistency.value if data_consistency else None,
            "degradation": degradation,
            "rim": rim,
            "matrix": matrix,
            "loss": loss,
            "steps": steps,
            "epochs": epochs,
            "random_subset": random_subset,
            "val_size": val_size,
            "held_out": held_out,
            "batch": batch,
            "lr": lr,
            "precision": precision,
            "compile": compiled,
            "validate_every": validate_every,
            "random_state": random_state,
        },
        as_shipped=as_shipped,
    )
    checkpoint = output or Path(f"{options.name}.pt")
    with progress_bar("steps", quiet) as update:
        spec = train_from_folders(
            folders,
            checkpoint,
            options,
            validation=validation,
            settings=RunSettings(
                resume=resume,
                force=force,
                device=device,
                threads=threads,
                cache=cache,
                images=images,
                vgg_weights=vgg_weights,
            ),
            on_progress=lambda state: update(state.step, state.steps, state.as_text()),
            on_note=None if quiet else lambda sentence: say(sentence, err=True),
        )
    if not quiet:
        say(f"{checkpoint}: {spec.name}, {spec.architecture}, x{spec.upscale}")


@app.command()
def evaluate(
    data: Annotated[list[Path], typer.Argument(exists=True, help="Folders of HR images.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Model files or names; default: all shipped.")
    ] = None,
    backend: BackendName = "ort-cpu",
    threads: Threads = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the first model's middle slice as PNG.")
    ] = None,
    cards: Annotated[
        bool, typer.Option("--cards", help="Store the result in each model file and its card.")
    ] = False,
    on_interpolated: Annotated[
        Handled,
        typer.Option(help="HR that a scanner interpolated: crop to what was acquired, or warn."),
    ] = Handled.crop,
    as_json: AsJson = False,
) -> None:
    """Judge models beside zero-fill and bicubic on HR images they never saw."""
    from kspacesr_rt.backends import BackendOptions
    from kspacesr_rt.bench.cards import write_card
    from kspacesr_rt.bench.environment import environment
    from kspacesr_rt.bench.invention import as_text as invention_text
    from kspacesr_rt.bench.invention import measure
    from kspacesr_rt.bench.picture import comparison
    from kspacesr_rt.bench.quality import SHOWN, as_text, judge
    from kspacesr_rt.files import replace_file
    from kspacesr_rt.model_file import load_model, resolve_model, shipped_models
    from kspacesr_rt.selection import settle_backend

    paths = [resolve_model(name, upscale=None) for name in model or list(shipped_models())]
    models = [load_model(path) for path in paths]
    told = BackendOptions(threads=threads)
    choices = {one.spec.name: settle_backend(backend, one, told) for one in models}
    for name, choice in choices.items():
        if backend != choice.backend:
            say(f"{name}: {choice.as_text()}", err=True)
    rows = judge(
        data,
        models,
        backend=backend,
        threads=threads,
        conventions=SHOWN,
        on_interpolated="crop" if on_interpolated is Handled.crop else "warn",
    )
    found = [measure(one, data, backend=backend, threads=threads) for one in models if cards]
    for path, invention in zip(paths, found, strict=False):
        write_card(path, rows, invention)
    if picture is not None:
        replace_file(picture, comparison(data[0], models[0], backend=backend, threads=threads))
    if as_json:
        echo_json(
            {
                "environment": environment(),
                "backends": {name: choice.to_dict() for name, choice in choices.items()},
                "rows": [dataclasses.asdict(row) for row in rows],
                "invention": [one.to_dict() for one in found],
            }
        )
    else:
        say(as_text(rows))
        if found:
            say(f"\n{invention_text(found)}")


@app.command("seed-table")
def seed_table(
    data: Annotated[list[Path], typer.Argument(exists=True, help="Folders to train on.")],
    judge_on: Annotated[list[Path], typer.Option(exists=True, help="Folders to judge on.")],
    work: Annotated[
        Path, typer.Option(help="Keeps checkpoints and models; an interrupted table goes on.")
    ] = Path("seed-table"),
    upscale: Annotated[list[int] | None, typer.Option(min=2, help="Default: 2 and 4.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each row.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Slices a step.")] = 4,
    width: Annotated[int, typer.Option(min=1, help="Channels of each generator.")] = 64,
    lr: Annotated[float, typer.Option(help="Peak learning rate of each row.")] = 1e-3,
    precision: Annotated[str, typer.Option(help="Of training: fp32 or bf16.")] = "fp32",
    degradation: Annotated[str, typer.Option(help="kspace-crop or seed-resize.")] = "kspace-crop",
    rim: Annotated[str, typer.Option(help="k-space never measured: crop, keep or mix.")] = "crop",
    random_state: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    per_series: Annotated[bool, typer.Option(help="Also a row for each series.")] = False,
    vgg_weights: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="VGG16, for its loss term.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Keeps decoded series here.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Threads = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train SR_kspace's methods and ours with one budget and print its comparison table."""
    from kspacesr_rt.bench.environment import environment
    from kspacesr_rt.bench.seed_table import Budget, table, train_and_judge, verdict
    from kspacesr_rt.train.run import RunSettings

    budget = Budget(
        steps=steps,
        batch=batch,
        lr=lr,
        width=width,
        precision=precision,
        degradation=degradation,
        random_state=random_state,
        rim=rim,
    )
    rows = train_and_judge(
        data,
        judge_on,
        work,
        upscales=tuple(upscale or (2, 4)),
        budget=budget,
        settings=RunSettings(device=device, threads=threads, cache=cache, vgg_weights=vgg_weights),
        on_note=None if quiet else lambda sentence: say(sentence, err=True),
    )
    if as_json:
        echo_json(
            {
                "environment": environment(),
                "budget": dataclasses.asdict(budget),
                "rows": [dataclasses.asdict(row) for row in rows],
                "verdict": verdict(rows),
            }
        )
    else:
        say(table(rows, series=per_series))
