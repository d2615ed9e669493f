"""The weights that a run starts from: of a shipped model, a model file of ours, or a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.train.checkpoint import load_checkpoint
from kspacesr_rt.train.state_dict_search import StateDict

SAME = ("architecture", "upscale", "width", "blocks", "cascades", "bias", "image_channels")
"""Fields of a specification that decide which weights there are, and of what shape."""
NEW = "sign_heads."
"""What `magnitude` consistency adds to `hard`: heads that start at zero, all signs positive."""
DIGITS = 16
"""Of a SHA-256, as a sentence quotes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a run starts from."""

    spec: ModelSpec
    """Of the model that the weights are of."""
    weights: StateDict
    """State dict of its generator, float32."""
    origin: str
    """Its name and a digest, in words: ``x2-fast (weights sha256 440d0e055545ecb8)``."""


def read_start(name_or_path: str) -> Start:
    """Read the weights that a run is to start from.

    Parameters
    ----------
    name_or_path
        Name of a shipped model, an ``.onnx`` file of ours, or a checkpoint.

    Raises
    ------
    InputError
        If there is no such model, or the file is not ours or damaged.
    CheckpointError
        If a model file does not hold the generator's weights as they are trained: 16 or 8 bits, or
        normalisation that export has folded.
    """
    from kspacesr_rt.model.file import resolve_model

    path = resolve_model(name_or_path, upscale=None)
    if path.suffix != ".onnx":
        loaded = load_checkpoint(path)
        origin = f"{loaded.spec.name} (checkpoint sha256 {loaded.sha256[:DIGITS]})"
        return Start(spec=loaded.spec, weights=loaded.generator.state_dict(), origin=origin)
    return _of_model_file(path)


def _of_model_file(path: Path) -> Start:
    from kspacesr_rt.model.file import load_model
    from kspacesr_rt.train.generator_from_model import generator_from_model

    model = load_model(path)
    spec = model.spec
    if spec.architecture != "dc-residual" or spec.precision != "fp32":
        raise CheckpointError(
            f"{path.name}: a model of architecture '{spec.architecture}' in {spec.precision} does "
            "not hold weights as they are trained",
            hint="start from the checkpoint that it was exported from",
        )
    origin = f"{spec.name} (weights sha256 {spec.provenance.weights_sha256[:DIGITS]})"
    return Start(spec=spec, weights=generator_from_model(model).state_dict(), origin=origin)


def start_from(start: Start, generator: nn.Module, spec: ModelSpec) -> tuple[str, ...]:
    """Give a new generator the weights of a trained one.

    Parameters
    ----------
    start
        What was read.
    generator
        Made for `spec`; keeps its memory, so optimisers may hold its weights already.
    spec
        What is to be trained. It may have ``magnitude`` consistency where the start has ``hard``:
        the result is then the same at first, but for the Nyquist lines.

    Returns
    -------
        Names of weights that the start does not have; they stay as they were made.

    Raises
    ------
    CheckpointError
        If the two differ in anything else that decides what weights there are.
    """
    different = [name for name in SAME if getattr(start.spec, name) != getattr(spec, name)]
    consistencies = (start.spec.data_consistency, spec.data_consistency)
    if consistencies[0] != consistencies[1] and consistencies != ("hard", "magnitude"):
        different.append("data_consistency")
    if different:
        listed = ", ".join(
            f"{name} {getattr(start.spec, name)!r}, not {getattr(spec, name)!r}"
            for name in different
        )
        raise CheckpointError(
            f"{start.spec.name} cannot start a run of '{spec.name}': it has {listed}",
            hint="repeat its options, or take its recipe",
        )
    own = generator.state_dict()
    new = tuple(key for key in own if key not in start.weights and key.startswith(NEW))
    generator.load_state_dict({**start.weights, **{key: own[key] for key in new}})
    return new
