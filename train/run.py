"""Train from folders: read, prepare, hold out, train, write the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from kspacesr_rt.errors import OutputError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.spec import ModelSpec
from kspacesr_rt.train.loop import Progress, TrainingOptions, train
from kspacesr_rt.train.pairs import load_training_series
from kspacesr_rt.train.volumes import read_volumes

VALIDATION_SLICES_PER_SERIES = 5
"""Enough to steer by, few enough to cost little; `kspacesr-rt evaluate` judges whole series."""


def validation_slices(roots: Iterable[Path]) -> list[FloatArray]:
    """Pick slices from the middle half of every series, scaled to the series' maximum.

    Returns
    -------
        HR slices ``(y, x)`` at their native matrix: judged as they are, rim included.
    """
    picked: list[FloatArray] = []
    for root in roots:
        for volume in read_volumes(root):
            n = len(volume.slices)
            wanted = np.linspace(0.25 * (n - 1), 0.75 * (n - 1), VALIDATION_SLICES_PER_SERIES)
            top = float(volume.slices.max()) or 1.0
            picked += [volume.slices[index] / top for index in sorted(set(wanted.astype(int)))]
    return picked


def train_from_folders(
    data: list[Path],
    output: Path,
    options: TrainingOptions,
    *,
    validation: list[Path] | None = None,
    resume: bool = False,
    force: bool = False,
    threads: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> ModelSpec:
    """Train a generator on folders of images and write its checkpoint.

    Parameters
    ----------
    data
        Folders of DICOM, NIfTI, NRRD or ``.npy`` magnitude images.
    output
        Checkpoint to write; a CSV of the same stem beside it logs the run.
    options
        What to train and how.
    validation
        Folders that are only judged on.
    resume
        Go on from `output`.
    force
        Start anew although `output` exists.
    threads
        CPU threads of torch; 0 leaves its default.
    on_progress
        Called after every step.

    Raises
    ------
    TrainingDataError
        If a folder holds nothing to train on.
    CheckpointError
        If `resume` is asked for and the checkpoint belongs to another run.
    OutputError
        If `output` exists and neither `resume` nor `force` is asked for.
    """
    if output.exists() and not (resume or force):
        raise OutputError(
            f"{output} exists", hint="go on with --resume, or replace it with --force"
        )
    if threads:
        torch.set_num_threads(threads)
    series = load_training_series(data)
    return train(
        options,
        series,
        output,
        validation=validation_slices(validation or []),
        resume=resume,
        on_progress=on_progress,
    )
