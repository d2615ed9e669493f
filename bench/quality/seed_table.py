"""SR_kspace's comparison table: its methods and ours, trained on one data set with one budget.

What it measures: bicubic and zero-filling, SRResNet and SRGAN (image domain), the k-space net (both
domains, loss in the image) and the residual generator with data consistency, all from scratch on
the same slices, degradation, steps, batch and seed; MAE, PSNR and SSIM on series that none of them
saw, under every named convention.
What it leaves out: what more training would give each of them. SRGAN's loss trades PSNR for
texture on purpose.
How to read it: rows of one table compare; figures of two conventions never do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kspacesr_rt.bench.quality.evaluation import (
    CONVENTION,
    QualityRow,
    as_text,
    evaluate_models,
    means,
)
from kspacesr_rt.errors import InputError
from kspacesr_rt.export.exporter import export_model
from kspacesr_rt.model.file import ModelFile, load_model
from kspacesr_rt.quality.metrics import CONVENTIONS
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.losses import SEED_WEIGHTS
from kspacesr_rt.train.options import TrainingOptions
from kspacesr_rt.train.recipe import read_recipe
from kspacesr_rt.train.run import RunSettings, train_from_folders
from kspacesr_rt.train.volumes import read_volumes


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What every trained row gets."""

    steps: int = 2000
    """Optimiser steps."""
    batch: int = 4
    """Slices a step."""
    lr: float = 1e-3
    """Peak learning rate of Adam, the seed's."""
    width: int = 64
    """Channels of every generator, the seed's."""
    precision: str = "fp32"
    """Of the CNNs during training."""
    degradation: str = "kspace-crop"
    """How LR is made, for training and judging alike."""
    random_state: int = 0
    """Seed of every random choice."""
    rim: str = "crop"
    """What is done with k-space that a series never measured."""


def trained_rows(upscale: int, budget: Budget) -> list[TrainingOptions]:
    """Return the trained rows of the table for one upscale, in its order."""
    seed = read_recipe(
        None,
        {
            **dataclasses.asdict(budget),
            "name": "k-space net",
            "architecture": "seed-kspace",
            "upscale": upscale,
            "bias": True,
            "data_consistency": "additive",
            "matrix": 0,
            "loss": "mse",
            "adversarial": SEED_WEIGHTS.adversarial,
            "features": SEED_WEIGHTS.features,
            "total_variation": SEED_WEIGHTS.total_variation,
            "validate_every": budget.steps,
        },
    )
    srgan = dataclasses.replace(
        seed, name="SRGAN", architecture="seed-image", data_consistency="none"
    )
    srresnet = dataclasses.replace(
        srgan, name="SRResNet", adversarial=0.0, features=0.0, total_variation=0.0
    )
    ours = dataclasses.replace(
        srresnet,
        name="dc-residual",
        architecture="dc-residual",
        data_consistency="hard",
        loss="l1",
        bias=False,
        cascades=2,
    )
    return [srresnet, srgan, seed, ours]


def train_and_evaluate(
    data: list[Path],
    folders: list[Path],
    work: Path,
    *,
    upscales: tuple[int, ...] = (2, 4),
    budget: Budget | None = None,
    settings: RunSettings | None = None,
    reading: Reading | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[QualityRow]:
    """Train every contestant, export it through the parity gate, and judge it.

    Parameters
    ----------
    data
        Folders of HR images to train on.
    folders
        Folders that none of them sees in training.
    work
        Keeps checkpoints and models; a contestant whose checkpoint is complete there is not
        trained again, and one that was interrupted goes on.
    upscales
        Tables to make.
    budget
        The same for every contestant.
    settings
        Device, threads and cache of the training runs.
    reading
        Takes note of files that cannot be read, and the table goes on without them; None raises.
    on_note
        Called with a sentence now and then.

    Raises
    ------
    InputError
        If no folder to judge on is named.
    ParityError
        If an export does not compute what PyTorch computes.
    """
    if not folders:
        raise InputError("name at least one folder to judge on")
    _require_images(folders, show_paths=reading is not None and reading.show_paths)
    what, how = budget or Budget(), settings or RunSettings()
    note = on_note or (lambda sentence: None)
    work.mkdir(parents=True, exist_ok=True)
    models: list[ModelFile] = []
    for upscale in upscales:
        for options in trained_rows(upscale, what):
            stem = f"{options.name.replace(' ', '-').lower()}-x{upscale}"
            checkpoint = work / f"{stem}.pt"
            note(f"{stem}: {options.steps} steps of {options.batch}")
            train_from_folders(
                data,
                checkpoint,
                options,
                settings=dataclasses.replace(how, resume=checkpoint.exists()),
                reading=reading,
                on_note=note,
            )
            exported = export_model(
                checkpoint, work / f"{stem}.onnx", name=options.name, force=True
            )
            models.append(load_model(exported.path))
    return evaluate_models(
        folders,
        models,
        threads=how.threads,
        conventions=tuple(CONVENTIONS),
        degradation=what.degradation,
        on_interpolated="warn",  # as the tables before it: figures stay comparable
        reading=reading,
        on_note=note,
    )


def _require_images(folders: list[Path], *, show_paths: bool) -> None:
    """Raise if there is nothing to judge on, before hours of training.

    Raises
    ------
    TrainingDataError
        If no folder holds an image that can be read, or one holds nothing at all.
    """
    trial = Reading(show_paths=show_paths)
    trial.require_any([root for root in folders if next(read_volumes(root, trial), None)])


def verdict(rows: list[QualityRow]) -> list[str]:
    """Say for each data set and upscale whether the k-space net has the higher SSIM."""
    found = {
        (row.data, row.upscale, row.method): row.quality.ssim
        for row in means(rows)
        if row.convention == CONVENTION
    }
    sentences = []
    for (data, upscale, method), ssim in found.items():
        if method != "k-space net":
            continue
        other = found[data, upscale, "SRResNet"]
        word = "beats" if ssim > other else "does not beat"
        sentences.append(
            f"{data}, x{upscale}: the k-space net {word} SRResNet in SSIM "
            f"({ssim:.4f} against {other:.4f})."
        )
    return sentences


def table(rows: list[QualityRow], *, series: bool = False) -> str:
    """Return the tables of every convention, and whether the seed's claim holds."""
    claims = [f"- {sentence}" for sentence in verdict(rows)]
    return "\n".join([as_text(rows, series=series), "", *claims])
