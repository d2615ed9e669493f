"""Commands that train, and judge what was trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from kspacesr_rt.cli.options import (
    OUTPUT,
    SPEED,
    AsJson,
    ConfigFile,
    Consistency,
    Degradation,
    Device,
    Force,
    Quiet,
    Rim,
    ShowPaths,
    Threads,
    TrainingPrecision,
)
from kspacesr_rt.cli.progress import progress_bar
from kspacesr_rt.cli.shell import app, echo_json, failures_json, print_failures, print_text
from kspacesr_rt.system.counts import BATCH_MOST

DATA: Final = "Data"
NETWORK: Final = "Networks and weights"
TRAINING: Final = "Training"

# Options of `train` that `seed-table` takes, too; there they have a default.
MADE_LR: Final = typer.Option(rich_help_panel=DATA, help="How LR is made from HR.")
UNMEASURED: Final = typer.Option(
    rich_help_panel=DATA, help="What becomes of k-space that was never measured."
)
PRECISION: Final = typer.Option(rich_help_panel=TRAINING, help="What training computes in.")
RANDOM_STATE: Final = typer.Option(rich_help_panel=TRAINING, help="Seed of every random choice.")
PEAK_RATE: Final = typer.Option(rich_help_panel=TRAINING, help="Peak learning rate.")
PATIENCE: Final = typer.Option(
    min=0,
    rich_help_panel=TRAINING,
    help="Validations without a better one, after which a run ends; 0: never.",
)
VggWeights = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, rich_help_panel=TRAINING, help="VGG16, for its loss term."
    ),
]
SeriesCache = Annotated[
    Path | None, typer.Option("--cache", rich_help_panel=DATA, help="Keeps decoded series here.")
]
TrainingDevice = Annotated[
    Device, typer.Option("--device", rich_help_panel=SPEED, help="What trains.")
]


# Like the seed's command line, `train` takes underscores wherever it has a hyphen.
@app.command(context_settings={"token_normalize_func": lambda token: token.replace("_", "-")})
def train(
    data: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="Folders of HR images.")
    ] = None,
    path_to_data: Annotated[
        list[Path] | None,
        typer.Option(exists=True, rich_help_panel=DATA, help="The same, as the seed spells it."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", rich_help_panel=OUTPUT, help="Checkpoint; default NAME.pt."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=TRAINING, help="TOML with every option, or the name of a shipped one."
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=NETWORK,
            metavar="MODEL",
            help="Start from the weights of a shipped model, a model file or a checkpoint.",
        ),
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(exists=True, rich_help_panel=DATA, help="Folders that are only judged on."),
    ] = None,
    raw: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            rich_help_panel=DATA,
            help="With --input kspace: folders of measured k-space, .npy (n, ky, kx) or fastMRI "
            ".h5, that join the images; repeatable.",
        ),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=DATA, help="Share of patients to judge on, without --validation."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(rich_help_panel=NETWORK, help="Name of the model.")
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=NETWORK, help="What it is trained on, in a sentence for its file."
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(rich_help_panel=NETWORK, help="Licence of the weights.")
    ] = None,
    attribution: Annotated[
        str | None, typer.Option(rich_help_panel=NETWORK, help="Credit for the data.")
    ] = None,
    as_shipped: Annotated[
        bool,
        typer.Option(
            "--as-shipped",
            rich_help_panel=NETWORK,
            help="A run on its data, with its options: state the same.",
        ),
    ] = False,
    architecture: Annotated[
        Literal["dc-residual", "seed-kspace", "seed-image"] | None,
        typer.Option(rich_help_panel=NETWORK, help="What kind of network."),
    ] = None,
    given: Annotated[
        Literal["image", "kspace"] | None,
        typer.Option(
            "--input",
            rich_help_panel=NETWORK,
            help="What the network is given: magnitudes, or complex k-space, for which images get "
            "a phase.",
        ),
    ] = None,
    upscale: Annotated[
        int | None,
        typer.Option(
            "--upscale",
            "--upscale-factor",
            min=2,
            rich_help_panel=NETWORK,
            help="SR / LR (or --upscale-factor).",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            "--channels",
            min=1,
            rich_help_panel=NETWORK,
            help="Channels of the CNN (or --channels).",
        ),
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=NETWORK, help="Residual blocks.")
    ] = None,
    cascades: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=NETWORK, help="How often data consistency is applied."),
    ] = None,
    bias: Annotated[
        int | None,
        typer.Option(min=0, max=1, rich_help_panel=NETWORK, help="1: convolutions have a bias."),
    ] = None,
    data_consistency: Annotated[
        Consistency | None,
        typer.Option(rich_help_panel=NETWORK, help="What is done with measured samples."),
    ] = None,
    skip_connection: Annotated[
        int | None,
        typer.Option(
            min=0, max=1, rich_help_panel=NETWORK, help="1: --data-consistency additive; 0: none."
        ),
    ] = None,
    degradation: Annotated[Degradation | None, MADE_LR] = None,
    rim: Annotated[Rim | None, UNMEASURED] = None,
    matrix: Annotated[
        int | None, typer.Option(min=0, rich_help_panel=DATA, help="Nominal LR samples per axis.")
    ] = None,
    loss: Annotated[
        Literal["l1", "mse", "psnr", "charbonnier", "l1-ssim"] | None,
        typer.Option(rich_help_panel=TRAINING, help="The image term of the loss."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=TRAINING, help="Optimiser steps.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=TRAINING, help="Passes, instead of steps.")
    ] = None,
    random_subset: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=DATA, help="Slices per epoch.")
    ] = None,
    val_size: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=DATA, help="Slices to judge on, in all.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            "--batch-size",
            min=1,
            max=BATCH_MOST,
            rich_help_panel=TRAINING,
            help="Slices a step (or --batch-size).",
        ),
    ] = None,
    lr: Annotated[float | None, PEAK_RATE] = None,
    precision: Annotated[TrainingPrecision | None, PRECISION] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", rich_help_panel=TRAINING, help="Use torch.compile."),
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=TRAINING, help="Steps between.")
    ] = None,
    patience: Annotated[int | None, PATIENCE] = None,
    random_state: Annotated[int | None, RANDOM_STATE] = None,
    images: Annotated[
        bool, typer.Option(rich_help_panel=TRAINING, help="Draw HR, SR, difference at validations.")
    ] = False,
    vgg_weights: VggWeights = None,
    cache: SeriesCache = None,
    device: TrainingDevice = "auto",
    resume: Annotated[
        bool, typer.Option(rich_help_panel=TRAINING, help="Go on from the checkpoint.")
    ] = False,
    force: Force = False,
    threads: Threads = 0,
    show_paths: ShowPaths = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Train a generator on folders of DICOM, NIfTI, NRRD, .npy or fastMRI .h5 images.

    Several GPUs or machines: torchrun --nproc-per-node N -m kspacesr_rt train ...
    """
    from kspacesr_rt.train.file_failures import Reading
    from kspacesr_rt.train.recipe import find_recipe, read_recipe
    from kspacesr_rt.train.run import RunSettings, train_from_folders

    folders = [*(data or []), *(path_to_data or [])]
    if not folders:
        raise typer.BadParameter("name at least one folder of HR images", param_hint="DATA")
    if data_consistency is None and skip_connection is not None:
        data_consistency = "additive" if skip_connection else "none"
    options = read_recipe(
        find_recipe(recipe) if recipe else None,
        {
            "name": name,
            "training": training,
            "licence": licence,
            "attribution": attribution,
            "architecture": architecture,
            "input": given,
            "upscale": upscale,
            "width": width,
            "blocks": blocks,
            "cascades": cascades,
            "bias": None if bias is None else bool(bias),
            "data_consistency": data_consistency,
            "init": init,
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
            "patience": patience,
            "random_state": random_state,
        },
        as_shipped=as_shipped,
    )
    checkpoint = output or Path(f"{options.name}.pt")
    reading = Reading(show_paths=show_paths)
    with progress_bar("steps", quiet) as update:
        spec = train_from_folders(
            folders,
            checkpoint,
            options,
            validation=validation,
            raw=raw,
            settings=RunSettings(
                resume=resume,
                force=force,
                device=device,
                threads=threads,
                cache=cache,
                images=images,
                vgg_weights=vgg_weights,
            ),
            reading=reading,
            on_progress=lambda state: update(state.step, state.steps, state.as_text()),
            on_note=None if quiet else lambda sentence: print_text(sentence, err=True),
        )
    if not quiet:
        print_text(f"{checkpoint}: {spec.name}, {spec.architecture}, x{spec.upscale}")
    print_failures(reading)


@app.command("seed-table")
def seed_table(
    data: Annotated[list[Path], typer.Argument(exists=True, help="Folders to train on.")],
    judge_on: Annotated[
        list[Path], typer.Option(exists=True, rich_help_panel=DATA, help="Folders to judge on.")
    ],
    work: Annotated[
        Path,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Keeps checkpoints and models; an interrupted table goes on.",
        ),
    ] = Path("seed-table"),
    upscale: Annotated[
        list[int] | None, typer.Option(min=2, rich_help_panel=NETWORK, help="Default: 2 and 4.")
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            rich_help_panel=DATA,
            help="Folders that pick the best weights of each row; without, its last are judged.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, rich_help_panel=TRAINING, help="Optimiser steps of each row.")
    ] = 2000,
    core_hours: Annotated[
        float,
        typer.Option(
            min=0.0,
            rich_help_panel=TRAINING,
            help="Instead: as many steps as take each row these hours of one core.",
        ),
    ] = 0.0,
    patience: Annotated[int, PATIENCE] = 0,
    batch: Annotated[
        int,
        typer.Option(min=1, max=BATCH_MOST, rich_help_panel=TRAINING, help="Slices a step."),
    ] = 4,
    width: Annotated[
        int, typer.Option(min=1, rich_help_panel=NETWORK, help="Channels of each generator.")
    ] = 64,
    lr: Annotated[float, PEAK_RATE] = 1e-3,
    precision: Annotated[TrainingPrecision, PRECISION] = "fp32",
    degradation: Annotated[Degradation, MADE_LR] = "kspace-crop",
    rim: Annotated[Rim, UNMEASURED] = "crop",
    random_state: Annotated[int, RANDOM_STATE] = 0,
    per_series: Annotated[
        bool, typer.Option(rich_help_panel=OUTPUT, help="Also a row for each series.")
    ] = False,
    vgg_weights: VggWeights = None,
    cache: SeriesCache = None,
    device: TrainingDevice = "auto",
    threads: Threads = 0,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Train SR_kspace's methods and ours with one budget and print its comparison table."""
    from kspacesr_rt.bench.quality.seed_table import Budget, table, train_and_evaluate, verdict
    from kspacesr_rt.bench.run.environment import environment
    from kspacesr_rt.train.file_failures import Reading
    from kspacesr_rt.train.run import RunSettings

    budget = Budget(
        steps=steps,
        core_hours=core_hours,
        patience=patience,
        batch=batch,
        lr=lr,
        width=width,
        precision=precision,
        degradation=degradation,
        random_state=random_state,
        rim=rim,
    )
    reading = Reading(show_paths=show_paths)
    found = train_and_evaluate(
        data,
        judge_on,
        work,
        validation=validation,
        upscales=tuple(upscale or (2, 4)),
        budget=budget,
        settings=RunSettings(device=device, threads=threads, cache=cache, vgg_weights=vgg_weights),
        reading=reading,
        on_note=None if quiet else lambda sentence: print_text(sentence, err=True),
    )
    if as_json:
        echo_json(
            {
                "environment": environment(),
                "budget": dataclasses.asdict(budget),
                "trained": [dataclasses.asdict(row) for row in found.trained],
                "rows": [dataclasses.asdict(row) for row in found.rows],
                "verdict": verdict(found.rows),
                **failures_json(reading),
            }
        )
    else:
        print_text(table(found.rows, series=per_series))
    print_failures(reading)
