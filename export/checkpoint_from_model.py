"""Checkpoints without a training run: of a model file, and of random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.train.checkpoint import save_checkpoint
from kspacesr_rt.train.generator_from_model import generator_from_model
from kspacesr_rt.train.generators import build_generator


def checkpoint_from_model(model: ModelFile, path: Path) -> None:
    """Write the checkpoint that a model file could have been exported from.

    Parameters
    ----------
    model
        As for `kspacesr_rt.train.generator_from_model.generator_from_model`.
    path
        Checkpoint to write.

    Raises
    ------
    CheckpointError
        As from it.
    """
    generator = generator_from_model(model)
    save_checkpoint(path, model.spec, generator.state_dict())


def untrained_checkpoint(spec: ModelSpec, path: Path) -> None:
    """Write a checkpoint of random weights (always the same): for speed, never for quality."""
    torch.manual_seed(0)
    generator = build_generator(spec)
    save_checkpoint(path, spec, generator.state_dict())
