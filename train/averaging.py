"""Average the weights of a run with those that it started from.

A run that goes on from trained weights moves in a straight enough valley that half-way between its
start and its end errors are low too, and what it has unlearned comes back: for `x4-fast` half-way
kept two thirds of the gain and gave back what phantoms had lost [1]_.

Run: ``python -m kspacesr_rt.train.averaging END.pt START.pt MEAN.pt``

References
----------
.. [1] Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv:2109.01903
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.train.checkpoint import load_checkpoint, save_checkpoint
from kspacesr_rt.train.initial_weights import SAME, read_start


def average_with_start(end: Path, start: str, output: Path) -> ModelSpec:
    """Write a checkpoint of the mean of a run's weights and those that it started from.

    Parameters
    ----------
    end
        Checkpoint of the run.
    start
        Name of a shipped model, an ``.onnx`` file of ours, or a checkpoint.
    output
        Checkpoint to write; replaced if it exists.

    Returns
    -------
        The specification of the mean: that of the run, saying what it is a mean with.

    Raises
    ------
    CheckpointError
        If the two are of different networks.
    """
    run, began = load_checkpoint(end), read_start(start)
    weights = run.generator.state_dict()
    different = [name for name in SAME if getattr(run.spec, name) != getattr(began.spec, name)]
    if different or weights.keys() != began.weights.keys():
        raise CheckpointError(
            f"{end.name} and {start} are different networks and have no mean",
            hint="name the weights that the run started from",
        )
    mean = {key: torch.lerp(value, began.weights[key], 0.5) for key, value in weights.items()}
    origin = run.spec.provenance
    training = f"{origin.training}; mean of these weights and those of {began.origin}"
    spec = dataclasses.replace(run.spec, provenance=dataclasses.replace(origin, training=training))
    save_checkpoint(output, spec, mean)
    return spec


if __name__ == "__main__":
    average_with_start(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
