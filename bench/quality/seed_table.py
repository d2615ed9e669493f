"""SR_kspace's comparison table: its methods and ours, trained on one data set with one budget.

What it measures: bicubic and zero-filling, SRResNet and SRGAN (image domain), the k-space net (both
domains, loss in the image) and the residual generator with data consistency, all from scratch on
the same slices, degradation, batch and seed, for as many steps or as much processor time each; MAE,
PSNR and SSIM on series that none of them saw, under every named convention.
What it leaves out: what more training would give each of them. SRGAN's loss trades PSNR for
texture on purpose.
How to read it: rows of one table compare; figures of two conventions never do.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

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
from kspacesr_rt.train.untrusted_checkpoint import read_document
from kspacesr_rt.train.volumes import read_volumes

VALIDATIONS = 20
"""How often a row is judged while it trains."""
WARM_UP, TRIED = 3, 8
"""Steps of a trial that are left out, and whose processor time counts."""
STEPS_FILE = "steps.json"
KSPACE_NET = "k-space net"
SEED_METHODS = ("bicubic", "SRResNet", "SRGAN", KSPACE_NET)
"""What SR_kspace compares with each other."""
CLAIMED = (CONVENTION, "tissue")
"""Conventions in which its claim is put to the test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What every trained row gets."""

    steps: int = 2000
    """Optimiser steps."""
    core_hours: float = 0.0
    """Processor time of a row, which then decides its steps, by a trial; 0: `steps` does."""
    patience: int = 0
    """Validations without a better one, after which a row ends; 0: it goes on."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRow:
    """What one row got of its budget."""

    method: str
    """Name in the table."""
    upscale: int
    """SR samples per LR sample and axis."""
    planned: int
    """Steps that its learning rate was laid out for."""
    steps: int
    """Steps that were done."""
    judged: int
    """Step whose weights are judged: the best by validation, or the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The table, and how each trained row of it came about."""

    rows: list[QualityRow]
    """Every method under every convention."""
    trained: list[TrainedRow]
    """In the order of training."""


def trained_rows(upscale: int, budget: Budget) -> list[TrainingOptions]:
    """Return the trained rows of the table for one upscale, in its order."""
    given = dataclasses.asdict(budget)
    del given["core_hours"]
    seed = read_recipe(
        None,
        {
            **given,
            "name": KSPACE_NET,
            "architecture": "seed-kspace",
            "upscale": upscale,
            "bias": True,
            "data_consistency": "additive",
            "matrix": 0,
            "loss": "mse",
            "adversarial": SEED_WEIGHTS.adversarial,
            "features": SEED_WEIGHTS.features,
            "total_variation": SEED_WEIGHTS.total_variation,
            "validate_every": max(1, budget.steps // VALIDATIONS),
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
    validation: list[Path] | None = None,
    upscales: tuple[int, ...] = (2, 4),
    budget: Budget | None = None,
    settings: RunSettings | None = None,
    reading: Reading | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Comparison:
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
    validation
        Folders by which the best weights of each contestant are picked; None: the last ones.
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
    trained: list[TrainedRow] = []
    for upscale in upscales:
        for options in trained_rows(upscale, what):
            stem = f"{options.name.replace(' ', '-').lower()}-x{upscale}"
            checkpoint = work / f"{stem}.pt"
            if what.core_hours:
                steps = _steps_within(what.core_hours, stem, data, options, work, how)
                options = dataclasses.replace(
                    options, steps=steps, validate_every=max(1, steps // VALIDATIONS)
                )
            note(f"{stem}: {options.steps} steps of {options.batch}")
            train_from_folders(
                data,
                checkpoint,
                options,
                validation=validation,
                settings=dataclasses.replace(how, resume=checkpoint.exists()),
                reading=reading,
                on_note=note,
            )
            judged = checkpoint.with_name(f"{stem}-best.pt") if validation else checkpoint
            exported = export_model(judged, work / f"{stem}.onnx", name=options.name, force=True)
            models.append(load_model(exported.path))
            trained.append(
                TrainedRow(
                    method=options.name,
                    upscale=upscale,
                    planned=options.steps,
                    steps=_steps_done(checkpoint),
                    judged=_steps_done(judged),
                )
            )
    rows = evaluate_models(
        folders,
        models,
        threads=how.threads,
        conventions=tuple(CONVENTIONS),
        degradation=what.degradation,
        on_interpolated="warn",  # as the tables before it: figures stay comparable
        reading=reading,
        on_note=note,
    )
    return Comparison(rows=rows, trained=trained)


def _steps_done(checkpoint: Path) -> int:
    return int(read_document(checkpoint)["training"]["step"])


def _steps_within(
    core_hours: float,
    stem: str,
    data: list[Path],
    options: TrainingOptions,
    work: Path,
    how: RunSettings,
) -> int:
    """Return how many steps take a row so long, by the processor time of a few.

    What was found stays in `work`, so that a table that is interrupted goes on with the same.
    """
    kept = work / STEPS_FILE
    found: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    if found.get(stem, {}).get("core_hours") != core_hours:
        marks: list[float] = []
        with TemporaryDirectory() as folder:
            train_from_folders(
                data,
                Path(folder) / "trial.pt",
                dataclasses.replace(options, steps=WARM_UP + TRIED, patience=0),
                settings=how,
                reading=Reading(),
                on_progress=lambda _: marks.append(time.process_time()),
            )
        each = float(np.median(np.diff(marks[WARM_UP - 1 :])))
        steps = max(1, round(core_hours * 3600.0 / each))
        found[stem] = {"core_hours": core_hours, "steps": steps}
        kept.write_text(json.dumps(found, indent=1))
    return int(found[stem]["steps"])


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
    """Say for each data set, upscale and convention whether the seed's claim holds.

    It is that the k-space net has the highest SSIM of the four methods that its authors compare.
    """
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    for row in means(rows):
        if row.convention in CLAIMED:
            group = found.setdefault((row.convention, row.data, row.upscale), {})
            group[row.method] = row.quality.ssim
    sentences = []
    for (convention, data, upscale), ssim in found.items():
        others = {name: ssim[name] for name in SEED_METHODS if name in ssim}
        own = others.pop(KSPACE_NET, None)
        if own is None or not others:
            continue
        word = "has" if own > max(others.values()) else "does not have"
        beside = ", ".join(f"{name} {value:.4f}" for name, value in others.items())
        sentences.append(
            f"{data}, x{upscale}, {convention}: the k-space net {word} the highest SSIM of "
            f"SR_kspace's methods ({own:.4f}; {beside})."
        )
    return sentences


def table(rows: list[QualityRow], *, series: bool = False) -> str:
    """Return the tables of every convention, and whether the seed's claim holds."""
    claims = [f"- {sentence}" for sentence in verdict(rows)]
    return "\n".join([as_text(rows, series=series), "", *claims])
