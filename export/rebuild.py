"""From a model file back to PyTorch: the reference for tests and benchmarks of shipped models."""

from __future__ import annotations

from pathlib import Path

import torch
from onnx import numpy_helper
from torch import nn

from kspacesr_rt.binding import attributes_of
from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.model_file import ModelFile
from kspacesr_rt.spec import ModelSpec
from kspacesr_rt.train.checkpoint import save_checkpoint
from kspacesr_rt.train.generators import build_generator


def generator_from_model(model: ModelFile) -> nn.Module:
    """Rebuild the PyTorch generator whose weights a model file holds.

    Weights keep their state-dict names in the file; slopes of LeakyRelu nodes go back to the
    PReLU layer of the node's name.

    Parameters
    ----------
    model
        A model without folded layers, that is, of architecture ``dc-residual``.

    Returns
    -------
        The generator in evaluation mode, float32.

    Raises
    ------
    CheckpointError
        If the file's weights do not fill the generator: a folded BatchNorm cannot be undone.
    """
    generator = build_generator(model.spec)
    weights = {
        item.name: torch.from_numpy(numpy_helper.to_array(item).copy())
        for item in model.proto.graph.initializer
        if item.name in generator.state_dict()
    }
    for node in model.proto.graph.node:
        if node.op_type == "LeakyRelu":
            weights[f"{node.name}.weight"] = torch.tensor([attributes_of(node)["alpha"]])
    try:
        generator.load_state_dict(weights)
    except RuntimeError as exc:
        raise CheckpointError(
            f"{model.name}: architecture '{model.spec.architecture}' cannot be rebuilt from the "
            "graph, its BatchNorm layers are folded"
        ) from exc
    return generator.eval()


def checkpoint_from_model(model: ModelFile, path: Path) -> None:
    """Write the checkpoint that a model file could have been exported from.

    Parameters
    ----------
    model
        As for `generator_from_model`.
    path
        Checkpoint to write.

    Raises
    ------
    CheckpointError
        As from `generator_from_model`.
    """
    generator = generator_from_model(model)
    save_checkpoint(path, model.spec, generator.state_dict())


def untrained_checkpoint(spec: ModelSpec, path: Path) -> None:
    """Write a checkpoint of random weights (always the same): for speed, never for quality."""
    torch.manual_seed(0)
    generator = build_generator(spec)
    save_checkpoint(path, spec, generator.state_dict())
