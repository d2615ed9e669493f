"""From a model file back to the generator in PyTorch: to train on, and to compare with."""

from __future__ import annotations

import torch
from onnx import numpy_helper
from torch import nn

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.model.binding import attributes_of
from kspacesr_rt.model.file import ModelFile
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
