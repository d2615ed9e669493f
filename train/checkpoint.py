"""Checkpoints: weights with their ModelSpec, and the seed's bare state dicts.

Ours is a plain ``torch.save`` of tensors, strings and numbers, read with ``weights_only=True``.
A state dict with the seed's keys (``block1.0.weight`` ...), as ``.pth`` or safetensors, bare or
wrapped as trainers do, is recognised by its keys and shapes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.model.spec import (
    LARGEST,
    LONGEST_NAME,
    DataConsistency,
    FFTConvention,
    ModelSpec,
    OutputGrid,
)
from kspacesr_rt.system.plain_text import shortened
from kspacesr_rt.train.degradation import GRID_OF, grid_after
from kspacesr_rt.train.generators import build_generator
from kspacesr_rt.train.spectrum_files import read_spectra
from kspacesr_rt.train.state_dict_search import StateDict, find_network, tensors_of
from kspacesr_rt.train.untrusted_checkpoint import read_document, require_stored

FORMAT = "kspacesr_rt.checkpoint"
SCHEMA = 1
SEED_MATRIX = {2: 160, 4: 80}
"""LR samples per axis the seed was trained with, by upscale (320 x 320 HR)."""

SPECTRUM_KEYS = {"h_LR": "h_lr.spectrum", "h_HR": "h_hr.spectrum"}
"""Mean spectra in a bare state dict, square and two-dimensional, to our names."""
NEUTRAL_SPECTRA = (
    "the checkpoint holds no mean spectra (tensors 'h_LR' and 'h_HR'): taken as 1 everywhere, "
    "which is wrong for a network that was trained on normalised k-space (--h-lr, --h-hr)"
)

SEED_ANCHOR = "block1.0.weight"
"""The key that tells the seed network from whatever else a trainer saved."""


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
    source: str = ""
    """Where in the file the weights were, in words; empty if they were the file itself."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecOverrides:
    """What whoever exports a checkpoint says of it; None leaves it to the file."""

    name: str | None = None
    """Name of the model; else the stored one, or the file's stem."""
    data_consistency: DataConsistency | None = None
    """What a seed k-space network does with the measured centre; else its ``additive`` skip."""
    grid: OutputGrid | None = None
    """Where its SR samples lie: a matter of how LR was made for its training."""
    fft_convention: FFTConvention | None = None
    """Transforms and amplitudes of a seed k-space network."""
    h_lr: Path | None = None
    """``.npy`` file of its mean LR spectrum, square, DC in the middle."""
    h_hr: Path | None = None
    """``.npy`` file of its mean HR spectrum, `upscale` times as large."""


RESIZED = (
    "taken as trained on resized images, as SR_kspace's image-domain weights were: SR samples lie "
    "on pixel centres (--grid kspace if LR was the centre of k-space)"
)
CROPPED = (
    "SR samples are taken to lie on the grid of k-space (--grid pixel-centre if LR was resized)"
)


def load_checkpoint(
    path: Path,
    *,
    name: str | None = None,
    data_consistency: DataConsistency | None = None,
    stated: SpecOverrides | None = None,
) -> Checkpoint:
    """Load a checkpoint of ours, or the seed's network from what a trainer saved.

    Parameters
    ----------
    path
        ``.pt``/``.pth`` or ``.safetensors``.
    name, data_consistency
        Short for the fields of `stated`.
    stated
        Overrides what the file says.

    Raises
    ------
    CheckpointError
        If the file cannot be read, is newer than this version, or fits no generator.
    """
    overrides = stated or SpecOverrides()
    overrides = dataclasses.replace(
        overrides,
        name=name if name is not None else overrides.name,
        data_consistency=data_consistency or overrides.data_consistency,
    )
    document = read_document(path)
    if document.get("format") == FORMAT:
        spec, weights, notes = _ours(document, path)
        source = ""
    else:
        found, choice = find_network(document, SEED_ANCHOR, path)
        bare, source = found.weights, found.where
        for outer in (document, document.get(found.path[0]) if found.path else None):
            beside = tensors_of(outer) if isinstance(outer, Mapping) else {}
            bare |= {key: beside[key] for key in SPECTRUM_KEYS if key in beside}
        spectra = {key: bare.pop(name) for name, key in SPECTRUM_KEYS.items() if name in bare}
        spec = infer_seed_spec(bare, name=path.stem[:LONGEST_NAME])
        spec, notes = _with_grid(document, spec, overrides)
        notes = (choice, *notes) if choice else notes
        weights = {f"network.{key}": value for key, value in bare.items()}
        weights, spec, missing = _with_spectra(
            weights, spectra, spec, neutral=overrides.h_lr is None
        )
        notes += missing
    require_stored(weights, path)
    spec, weights, said = _with_overrides(spec, weights, overrides, path)
    generator = _filled(spec, weights, path)
    if not all(bool(torch.isfinite(value).all()) for value in generator.state_dict().values()):
        raise CheckpointError(f"{path}: holds weights that are NaN or infinite")
    return Checkpoint(
        spec=spec,
        generator=generator.eval().float(),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        notes=notes + said,
        source=source,
    )


def _ours(document: dict[str, Any], path: Path) -> tuple[ModelSpec, StateDict, tuple[str, ...]]:
    schema = document.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise CheckpointError(
            f"{path}: checkpoint schema {shortened(schema, 40)} is newer than {SCHEMA}",
            hint="pip install --upgrade kspacesr-rt",
        )
    spec = ModelSpec.from_json(str(document.get("spec")), origin=path.name)
    spec = spec.with_printable_texts()
    stored = document.get("state_dict")
    weights = tensors_of(stored) if isinstance(stored, Mapping) else {}
    if not weights:
        raise CheckpointError(f"{path}: holds no tensors")
    named = _degradation(document)
    if named in GRID_OF:
        grid = grid_after(named, spec.data_consistency)
        spec = dataclasses.replace(spec, output_grid=grid)
    return spec, weights, ()


def _degradation(document: Mapping[str, object]) -> str | None:
    """Return how LR was made for the training, if a checkpoint says so."""
    named: object = document.get("degradation")
    training = document.get("training")
    options = training.get("options") if isinstance(training, Mapping) else None
    if isinstance(options, str):
        with suppress(ValueError, RecursionError):
            read = json.loads(options)
            named = read.get("degradation", named) if isinstance(read, dict) else named
    return named if isinstance(named, str) else None


def _with_grid(
    document: Mapping[str, object], spec: ModelSpec, overrides: SpecOverrides
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Say where the samples of foreign weights lie: by what they name, or by what they are."""
    named = GRID_OF.get(_degradation(document) or "")
    if overrides.grid is not None or named is not None:
        return dataclasses.replace(spec, output_grid=overrides.grid or named or "kspace"), ()
    if spec.architecture == "seed-image":
        return dataclasses.replace(spec, output_grid="pixel-centre"), (RESIZED,)
    return spec, (CROPPED,) if overrides.fft_convention == "seed" else ()


def _with_overrides(
    spec: ModelSpec, weights: StateDict, overrides: SpecOverrides, path: Path
) -> tuple[ModelSpec, StateDict, tuple[str, ...]]:
    """Apply what whoever exports says, and say what it replaced."""
    changes: dict[str, Any] = {}
    if overrides.name is not None:
        changes["name"] = overrides.name
    if overrides.data_consistency is not None:
        changes["data_consistency"] = overrides.data_consistency
    if overrides.grid is not None:
        changes["output_grid"] = overrides.grid
    kspace_only = (overrides.fft_convention, overrides.h_lr, overrides.h_hr)
    if any(value is not None for value in kspace_only) and spec.architecture != "seed-kspace":
        raise CheckpointError(
            f"{path}: --fft-convention, --h-lr and --h-hr are for a seed-kspace network, "
            f"this is {spec.architecture}"
        )
    if overrides.fft_convention is not None:
        changes["fft_convention"] = overrides.fft_convention
        changes["normaliser"] = "kspace-peak" if overrides.fft_convention == "seed" else "slice-max"
    notes: tuple[str, ...] = ()
    if overrides.h_lr is not None or overrides.h_hr is not None:
        spectra = read_spectra(overrides.h_lr, overrides.h_hr, spec.upscale)
        if spectra.keys() <= weights.keys():
            notes = ("--h-lr and --h-hr replace the mean spectra of the checkpoint",)
        weights = weights | spectra
        size = int(spectra["h_lr.spectrum"].shape[0])
        changes["matrix"] = (size, size)
    return dataclasses.replace(spec, **changes), weights, notes


def _filled(spec: ModelSpec, weights: StateDict, path: Path) -> nn.Module:
    """Build the generator and give it its weights, which are first compared with its shapes.

    Compared without memory: what a specification claims is not asked for before it is there.
    """
    with torch.device("meta"):
        wanted = {key: value.shape for key, value in build_generator(spec).state_dict().items()}
    missing = [shortened(key, 80) for key in wanted if key not in weights]
    unexpected = [shortened(key, 80) for key in weights if key not in wanted]
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: weights do not fit '{spec.architecture}': "
            f"missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    for key, shape in wanted.items():
        if weights[key].shape != shape:
            raise CheckpointError(
                f"{path}: weights do not fit '{spec.architecture}': {key} has shape "
                f"{shortened(tuple(weights[key].shape), 80)}, expected {tuple(shape)}"
            )
    generator = build_generator(spec)
    try:
        generator.load_state_dict(weights)
    except (RuntimeError, TypeError) as exc:  # a type that no float can be copied from
        raise CheckpointError(
            f"{path}: weights do not fit '{spec.architecture}': {shortened(exc)}"
        ) from exc
    return generator


def _with_spectra(
    weights: StateDict, spectra: StateDict, spec: ModelSpec, *, neutral: bool
) -> tuple[StateDict, ModelSpec, tuple[str, ...]]:
    """Add the spectra a bare k-space checkpoint brings, or neutral ones and a note that says so."""
    if spec.architecture != "seed-kspace":
        return weights, spec, ()
    if len(spectra) == len(SPECTRUM_KEYS):
        lr = spectra["h_lr.spectrum"]
        size = int(lr.shape[0]) if lr.ndim == 2 else 0
        if not 0 < size <= LARGEST["matrix"]:
            raise CheckpointError(f"h_LR has shape {tuple(lr.shape)}, expected a square")
        return {**weights, **spectra}, dataclasses.replace(spec, matrix=(size, size)), ()
    if not neutral:
        return weights, spec, ()
    size = spec.matrix[0]
    ones = {
        "h_lr.spectrum": torch.ones(size, size),
        "h_hr.spectrum": torch.ones(size * spec.upscale, size * spec.upscale),
    }
    return {**weights, **ones}, spec, (NEUTRAL_SPECTRA,)


def infer_seed_spec(weights: StateDict, *, name: str) -> ModelSpec:
    """Read the seed network's shape from its keys: channels, width, upscale, bias, domain.

    Raises
    ------
    CheckpointError
        If the keys are not those of the seed network.
    """
    first = weights.get(SEED_ANCHOR)
    steps = sum(f"block8.{step}.conv.weight" in weights for step in range(4))
    if first is None or first.ndim != 4 or steps == 0:
        raise CheckpointError(
            f"{name}: these weights are neither ours nor the seed network's",
            hint="expected keys such as 'block1.0.weight' and 'block8.0.conv.weight'",
        )
    width, channels = int(first.shape[0]), int(first.shape[1])
    if channels not in (1, 2, 3):
        raise CheckpointError(f"{name}: a network on {channels} channels is neither domain's")
    upscale: int = 2**steps
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
