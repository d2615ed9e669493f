"""The training loop: pairs in, a checkpoint with its ModelSpec out."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from kspacesr_rt._version import __version__
from kspacesr_rt.errors import CheckpointError, InputError
from kspacesr_rt.kspace import FloatArray, degrade, divisible_crop, fft2c
from kspacesr_rt.metrics import Quality, evaluate
from kspacesr_rt.spec import Architecture, DataConsistency, ModelSpec, Provenance
from kspacesr_rt.spectrum import resample_spectrum
from kspacesr_rt.train.checkpoint import read_document, save_checkpoint
from kspacesr_rt.train.generators import build_generator
from kspacesr_rt.train.layers import MeanSpectrum
from kspacesr_rt.train.losses import LOSSES
from kspacesr_rt.train.pairs import Augmentation, PairSampler, TrainingSeries

GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm: one odd slice must not undo an hour."""
WARM_UP_STEPS = 200
SPECTRUM_SLICES = 64
"""Slices whose spectra are averaged for h_LR and h_HR."""


_OPTION_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
}
"""Annotation to type; the remaining ones are strings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOptions:
    """Everything that decides a run, so that a recipe file can repeat it."""

    name: str = "model"
    """Name of the model."""
    architecture: Architecture = "dc-residual"
    """Which generator."""
    upscale: int = 2
    """SR samples per LR sample and axis."""
    width: int = 32
    """Channels of the CNN."""
    blocks: int = 8
    """Residual blocks (the seed's networks always have 5)."""
    bias: bool = False
    """Additive bias in the convolutions."""
    data_consistency: DataConsistency = "hard"
    """What is done with the measured samples."""
    matrix: int = 128
    """LR samples per axis of the spectra, and of the exported file."""
    loss: str = "l1"
    """Key of `LOSSES`."""
    steps: int = 2000
    """Optimiser steps."""
    batch: int = 4
    """Slices a step."""
    lr: float = 1e-3
    """Peak learning rate of Adam; warm-up, then half a cosine down to 1 % of it."""
    ema: float = 0.999
    """Decay of the averaged weights, which are what the checkpoint holds."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the CNN during training; transforms, loss and weights are always fp32."""
    validate_every: int = 500
    """Steps between validations, checkpoints and CSV rows."""
    random_state: int = 0
    """Seed of every random choice."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How HR batches are varied."""
    training: str = ""
    """Sentence on the data for the model card."""
    licence: str = ""
    """Licence of the weights."""
    attribution: str = ""
    """Credit for the data."""

    def __post_init__(self) -> None:
        """Reject what cannot be trained."""
        for item in dataclasses.fields(self):
            value, wanted = getattr(self, item.name), _OPTION_TYPES.get(str(item.type), (str,))
            if item.name != "augmentation" and (
                not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)
            ):
                raise InputError(f"option {item.name} is {value!r}, expected {item.type}")
        if self.precision not in ("fp32", "bf16"):
            raise InputError(f"precision '{self.precision}' is not one of fp32, bf16")
        if not (self.lr > 0.0 and 0.0 <= self.ema < 1.0):
            raise InputError("lr must be above 0, and ema at least 0 and below 1")
        if self.loss not in LOSSES:
            raise InputError(f"loss '{self.loss}' is not one of {', '.join(LOSSES)}")
        if min(self.steps, self.batch, self.validate_every, self.width, self.matrix) < 1:
            raise InputError("steps, batch, validate_every, width and matrix must be at least 1")

    def identity(self) -> str:
        """Return what a resumed run must have in common with the one it goes on from."""
        values = dataclasses.asdict(self)
        for free in ("training", "licence", "attribution", "validate_every"):
            del values[free]
        return json.dumps(values, sort_keys=True)

    def spec(self) -> ModelSpec:
        """Return the specification of the model that this run trains."""
        seed = self.architecture.startswith("seed")
        consistency = "none" if self.architecture == "seed-image" else self.data_consistency
        return ModelSpec(
            name=self.name,
            architecture=self.architecture,
            upscale=self.upscale,
            width=self.width,
            blocks=5 if seed else self.blocks,
            bias=self.bias,
            matrix=(self.matrix, self.matrix),
            data_consistency=consistency,
            output="magnitude" if self.architecture == "seed-kspace" else "real",
            provenance=Provenance(
                training=self.training,
                licence=self.licence,
                attribution=self.attribution,
                versions={"kspacesr-rt": __version__, "torch": torch.__version__},
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a caller may show while training runs."""

    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    loss: float
    """Loss, averaged over about the last hundred steps."""
    validation: Quality | None = None
    """Quality of the averaged weights, on the steps that validate."""

    def as_text(self) -> str:
        """Return loss and quality in a few words."""
        if self.validation is None:
            return f"loss {self.loss:.5f}"
        return f"loss {self.loss:.5f}, PSNR {self.validation.psnr_db:.2f} dB"


def measure_spectrum(
    series: list[TrainingSeries], upscale: int, size: int, *, of_lr: bool
) -> FloatArray:
    """Average the magnitude spectra of LR slices, or of their HR ones.

    Parameters
    ----------
    series
        What is trained on.
    upscale
        HR samples per LR sample and axis.
    size
        Samples per axis of the result.
    of_lr
        True for h_LR, False for h_HR.

    Returns
    -------
        Shape ``(size, size)``, float32, positive, in the unit the generators work in: the LR
        slice's maximum is 1, and LR k-space has the amplitude of the centre of HR k-space.
    """
    rng = np.random.default_rng(0)
    total = np.zeros((size, size))
    for _ in range(SPECTRUM_SLICES):
        chosen = series[int(rng.integers(len(series)))]
        one = chosen.slices[int(rng.integers(len(chosen.slices)))].astype(np.float32)
        hr = divisible_crop(one, upscale)
        lr = degrade(hr, upscale)
        image = lr * upscale if of_lr else hr
        spectrum = np.abs(fft2c(image / max(float(lr.max()), 1e-6))) + 1e-6
        total += resample_spectrum(spectrum, (size, size))
    mean: FloatArray = (total / SPECTRUM_SLICES).astype(np.float32)
    return mean


def validation_quality(generator: nn.Module, slices: list[FloatArray], upscale: int) -> Quality:
    """Judge a generator on HR slices (each scaled to its series' maximum, any matrix)."""
    qualities = []
    generator.eval()
    with torch.inference_mode():
        for one in slices:
            hr = divisible_crop(one.astype(np.float32), upscale)
            lr = torch.from_numpy(degrade(hr, upscale).astype(np.float32))[None, None]
            sr = generator(lr)[0, 0].clamp_min(0.0).numpy()
            qualities.append(evaluate(sr[None], hr[None], "slice-range1"))
    return Quality(
        mae=float(np.mean([one.mae for one in qualities])),
        psnr_db=float(np.mean([one.psnr_db for one in qualities])),
        ssim=float(np.mean([one.ssim for one in qualities])),
    )


def train(
    options: TrainingOptions,
    series: list[TrainingSeries],
    output: Path,
    *,
    validation: list[FloatArray] | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ModelSpec:
    """Train a generator and write its checkpoint.

    Parameters
    ----------
    options
        What to train and how.
    series
        Prepared HR series, see `kspacesr_rt.train.pairs.load_training_series`.
    output
        Checkpoint to write, at every validation and at the end; a CSV of the same stem beside it
        gets one row each time.
    validation
        HR slices with a series maximum of 1, never trained on.
    resume
        Go on from `output` where it stopped: weights, optimiser, step and random state.
    on_progress
        Called after every step.

    Returns
    -------
        The specification stored in the checkpoint.

    Raises
    ------
    CheckpointError
        If `resume` is asked for and the checkpoint belongs to another run.
    """
    spec = options.spec()
    torch.manual_seed(options.random_state)
    generator = build_generator(spec)
    for module in generator.modules():
        if isinstance(module, MeanSpectrum):
            spectrum = measure_spectrum(
                series, options.upscale, module.spectrum.shape[-1], of_lr=module.divide
            )
            module.spectrum.copy_(torch.from_numpy(spectrum))
    # torch's stubs leave memory_format out of Module.to.
    generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = copy.deepcopy(generator)
    optimiser = torch.optim.Adam(generator.parameters(), lr=options.lr)
    rng = np.random.default_rng(options.random_state)
    sampler = PairSampler(
        series,
        upscale=options.upscale,
        batch=options.batch,
        augmentation=options.augmentation,
        rng=rng,
    )
    first, running = 0, math.nan
    if resume:
        first, running = _restore(output, options, generator, averaged, optimiser, rng)
    else:
        output.with_suffix(".csv").unlink(missing_ok=True)
    loss_of = LOSSES[options.loss]
    started = time.monotonic()
    for step in range(first, options.steps):
        for group in optimiser.param_groups:
            group["lr"] = options.lr * _schedule(step, options.steps)
        lr, hr = (torch.from_numpy(array) for array in sampler.draw())
        generator.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            predicted = generator(lr)
        loss = loss_of(predicted.float(), hr)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(generator.parameters(), GRADIENT_NORM)
        optimiser.step()
        _average(averaged, generator, min(options.ema, (1 + step) / (10 + step)))
        value = float(loss.detach())
        running = value if math.isnan(running) else 0.99 * running + 0.01 * value
        done = step + 1
        quality = None
        if done % options.validate_every == 0 or done == options.steps:
            if validation:
                quality = validation_quality(averaged, validation, options.upscale)
            state = {
                "generator": generator.state_dict(),
                "optimiser": optimiser.state_dict(),
                "torch_rng": torch.get_rng_state(),
                "numpy_rng": dict(rng.bit_generator.state),
                "step": done,
                "running_loss": running,
                "options": options.identity(),
            }
            save_checkpoint(output, spec, averaged.state_dict(), state)
            _append_row(output.with_suffix(".csv"), done, running, quality, started)
        if on_progress is not None:
            on_progress(Progress(step=done, steps=options.steps, loss=running, validation=quality))
    return spec


def _schedule(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / min(WARM_UP_STEPS, max(1, steps // 10)))
    return warm * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * step / steps)))


def _average(averaged: nn.Module, generator: nn.Module, decay: float) -> None:
    with torch.no_grad():
        pairs = zip(averaged.state_dict().values(), generator.state_dict().values(), strict=True)
        for kept, fresh in pairs:
            if kept.dtype.is_floating_point:
                kept.lerp_(fresh, 1.0 - decay)
            else:
                kept.copy_(fresh)


def _restore(
    path: Path,
    options: TrainingOptions,
    generator: nn.Module,
    averaged: nn.Module,
    optimiser: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> tuple[int, float]:
    """Put everything back as it was; return the steps done and the running loss."""
    document = read_document(path)
    training = document.get("training") or {}
    if training.get("options") != options.identity():
        raise CheckpointError(
            f"{path}: this checkpoint belongs to another run and cannot be resumed",
            hint="repeat the options it was trained with, or write to another file",
        )
    generator.load_state_dict(training["generator"])
    averaged.load_state_dict(document["state_dict"])
    optimiser.load_state_dict(training["optimiser"])
    torch.set_rng_state(training["torch_rng"])
    rng.bit_generator.state = training["numpy_rng"]
    return int(training["step"]), float(training["running_loss"])


def _append_row(
    path: Path, step: int, loss: float, quality: Quality | None, started: float
) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "loss", "mae", "psnr_db", "ssim", "seconds"])
        row = ["", "", ""] if quality is None else [quality.mae, quality.psnr_db, quality.ssim]
        writer.writerow([step, loss, *row, round(time.monotonic() - started, 1)])
