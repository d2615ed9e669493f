"""Checkpoints: weights with their ModelSpec, and the seed's bare state dicts.

Ours is a plain ``torch.save`` of tensors, strings and numbers, read with ``weights_only=True``.
A bare state dict with the seed's keys (``block1.0.weight`` ...), as ``.pth`` or safetensors, is
recognised by its keys and shapes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.spec import DataConsistency, ModelSpec
from kspacesr_rt.train.generators import build_generator

FORMAT = "kspacesr_rt.checkpoint"
SCHEMA = 1
SEED_MATRIX = {2: 160, 4: 80}
"""LR samples per axis the seed was trained with, by upscale (320 x 320 HR)."""

SPECTRUM_KEYS = {"h_LR": "h_lr.spectrum", "h_HR": "h_hr.spectrum"}
"""Mean spectra in a bare state dict, square and two-dimensional, to our names."""
NEUTRAL_SPECTRA = (
    "the checkpoint holds no mean spectra (tensors 'h_LR' and 'h_HR'): taken as 1 everywhere, "
    "which is wrong for a network that was trained on normalised k-space"
)

StateDict = dict[str, Tensor]

UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, struct.error),
    *(LookupError, AttributeError, TypeError, AssertionError),
)
"""What `torch.load` raises on files of other kinds and on truncated ones, format by format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A generator and what it is."""

    spec: ModelSpec
    """What the weights belong to; `matrix` is the LR matrix an export is bound to."""
    generator: nn.Module
    """In evaluation mode, float32, on the CPU."""
    sha256: str
    """Of the checkpoint file."""
    notes: tuple[str, ...] = ()
    """What the file did not say and was taken as stated here; shown to whoever exports it."""


def save_checkpoint(
    path: Path, spec: ModelSpec, weights: StateDict, training: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint so that no half-written file is ever seen under its name.

    Parameters
    ----------
    path
        Replaced if it exists.
    spec, weights
        What the generator is, and its state dict.
    training
        What a resumed run needs (optimiser, step, random states); tensors and plain values only.
    """
    document = {
        "format": FORMAT,
        "schema": SCHEMA,
        "spec": spec.to_json(),
        "state_dict": {name: value.detach().cpu() for name, value in weights.items()},
        "training": training or {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    with partial.open("wb") as file:
        torch.save(document, file)
        file.flush()
        os.fsync(
            file.fileno()
        )  # a machine that goes down must not leave an empty file by that name
    partial.replace(path)


def read_document(path: Path) -> dict[str, Any]:
    """Read a checkpoint file to its raw content, never running code from it.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, needs unpickling of objects, or is no mapping.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                return dict(load_file(path))
            except SafetensorError as exc:
                raise CheckpointError(f"{path}: not a readable safetensors file: {exc}") from exc
        document = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as exc:
        reason = str(exc).split("\n", 1)[0]
        raise CheckpointError(
            f"{path}: not a readable checkpoint: {reason}",
            hint="a checkpoint must hold weights only: save generator.state_dict()",
        ) from exc
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: expected a mapping, found {type(document).__name__}")
    return document


def load_checkpoint(
    path: Path,
    *,
    name: str | None = None,
    data_consistency: DataConsistency | None = None,
) -> Checkpoint:
    """Load a checkpoint of ours or a bare state dict of the seed's network.

    Parameters
    ----------
    path
        ``.pt``/``.pth`` or ``.safetensors``.
    name
        Name of the model; default: the stored one, or the file's stem.
    data_consistency
        Overrides what a seed k-space network does with the measured centre; a bare state dict
        of one gets the seed's ``additive`` skip otherwise.

    Raises
    ------
    CheckpointError
        If the file cannot be read, is newer than this version, or fits no generator.
    """
    document = read_document(path)
    if document.get("format") == FORMAT:
        if not isinstance(document.get("schema"), int) or document["schema"] > SCHEMA:
            raise CheckpointError(
                f"{path}: checkpoint schema {document.get('schema')} is newer than {SCHEMA}",
                hint="pip install --upgrade kspacesr-rt",
            )
        spec = ModelSpec.from_json(str(document.get("spec")), origin=path.name)
        weights = _tensors(document.get("state_dict"), path)
        notes: tuple[str, ...] = ()
    else:
        bare = _tensors(document.get("state_dict", document), path)
        spectra = {key: bare.pop(name) for name, key in SPECTRUM_KEYS.items() if name in bare}
        spec = infer_seed_spec(bare, name=path.stem)
        weights = {f"network.{key}": value for key, value in bare.items()}
        weights, spec, notes = _with_spectra(weights, spectra, spec)
    if data_consistency is not None:
        spec = dataclasses.replace(spec, data_consistency=data_consistency)
    if name is not None:
        spec = dataclasses.replace(spec, name=name)
    generator = build_generator(spec)
    try:
        problems = generator.load_state_dict(weights, strict=False)
    except RuntimeError as exc:
        reason = str(exc).split("\n\t", 1)[-1].split("\n", 1)[0]
        raise CheckpointError(
            f"{path}: weights do not fit '{spec.architecture}': {reason}"
        ) from exc
    if problems.missing_keys or problems.unexpected_keys:
        raise CheckpointError(
            f"{path}: weights do not fit '{spec.architecture}': "
            f"missing {problems.missing_keys[:3]}, unexpected {problems.unexpected_keys[:3]}"
        )
    if not all(bool(torch.isfinite(value).all()) for value in generator.state_dict().values()):
        raise CheckpointError(f"{path}: holds weights that are NaN or infinite")
    return Checkpoint(
        spec=spec,
        generator=generator.eval().float(),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        notes=notes,
    )


def _tensors(stored: object, path: Path) -> StateDict:
    """Return the tensors of a mapping, without the prefix that DataParallel adds."""
    mapping = stored if isinstance(stored, Mapping) else {}
    weights = {str(key): value for key, value in mapping.items() if isinstance(value, Tensor)}
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    if not weights:
        raise CheckpointError(f"{path}: holds no tensors")
    return weights


def _with_spectra(
    weights: StateDict, spectra: StateDict, spec: ModelSpec
) -> tuple[StateDict, ModelSpec, tuple[str, ...]]:
    """Add the spectra a bare k-space checkpoint brings, or neutral ones and a note that says so."""
    if spec.architecture != "seed-kspace":
        return weights, spec, ()
    if len(spectra) == len(SPECTRUM_KEYS):
        size = int(spectra["h_lr.spectrum"].shape[0])
        return {**weights, **spectra}, dataclasses.replace(spec, matrix=(size, size)), ()
    size = spec.matrix[0]
    neutral = {
        "h_lr.spectrum": torch.ones(size, size),
        "h_hr.spectrum": torch.ones(size * spec.upscale, size * spec.upscale),
    }
    return {**weights, **neutral}, spec, (NEUTRAL_SPECTRA,)


def infer_seed_spec(weights: StateDict, *, name: str) -> ModelSpec:
    """Read the seed network's shape from its keys: channels, width, upscale, bias, domain.

    Raises
    ------
    CheckpointError
        If the keys are not those of the seed network.
    """
    first = weights.get("block1.0.weight")
    steps = sum(f"block8.{step}.conv.weight" in weights for step in range(4))
    if first is None or first.ndim != 4 or steps == 0:
        raise CheckpointError(
            f"{name}: these weights are neither ours nor the seed network's",
            hint="expected keys such as 'block1.0.weight' and 'block8.0.conv.weight'",
        )
    width, channels = int(first.shape[0]), int(first.shape[1])
    if channels not in (1, 2, 3):
        raise CheckpointError(f"{name}: a network on {channels} channels is neither domain's")
    upscale = 2**steps
    kspace = channels == 2
    size = SEED_MATRIX.get(upscale, 320 // upscale)
    return ModelSpec(
        name=name,
        architecture="seed-kspace" if kspace else "seed-image",
        upscale=upscale,
        width=width,
        blocks=5,
        bias="block1.0.bias" in weights,
        image_channels=1 if kspace else channels,
        matrix=(size, size),
        data_consistency="additive" if kspace else "none",
        output="magnitude" if kspace else "real",
    )
