"""The training loop: pairs in, a checkpoint with its ModelSpec out."""

from __future__ import annotations

import copy
import csv
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.quality.metrics import Quality
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.interruption import deferred_signals
from kspacesr_rt.train.checkpoint import load_checkpoint, save_checkpoint
from kspacesr_rt.train.complex_pairs import ComplexPairSampler, RawSeries
from kspacesr_rt.train.discriminator import Discriminator, discriminator_loss
from kspacesr_rt.train.distributed import Ranks
from kspacesr_rt.train.generators import build_generator, magnitude_image
from kspacesr_rt.train.initial_weights import read_start, start_from
from kspacesr_rt.train.losses import GeneratorLoss, find_vgg_features
from kspacesr_rt.train.optimisers import build_optimiser
from kspacesr_rt.train.options import TrainingOptions
from kspacesr_rt.train.pairs import PairSampler, TrainingSeries
from kspacesr_rt.train.spectra import fill_spectra
from kspacesr_rt.train.untrusted_checkpoint import read_document
from kspacesr_rt.train.validation import ValidationQuality, triptych, validation_quality

GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm: one odd slice must not undo an hour."""
SAVE_EVERY_S = 600.0
SMOOTHING = 0.99
"""Share of the past in the running means of the log: they reach back about a hundred steps."""

COLUMNS = (
    *("step", "loss", "image", "adversarial", "features", "total_variation"),
    *("d_loss", "d_real", "d_fake", "mae", "psnr_db", "ssim", "lr", "seconds"),
    *("tissue_mae", "tissue_psnr_db", "tissue_ssim"),
)
"""Of the CSV beside the checkpoint; a term that is off leaves its column empty."""


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
    latest: Quality | None = None
    """The last quality that was measured."""
    tissue: Quality | None = None
    """Its part inside tissue."""

    def as_text(self) -> str:
        """Return loss and quality in a few words."""
        if self.latest is None:
            return f"loss {self.loss:.5f}"
        inside = f", {self.tissue.psnr_db:.2f} dB in tissue" if self.tissue else ""
        return f"loss {self.loss:.5f}, PSNR {self.latest.psnr_db:.2f} dB{inside}"


def train(
    options: TrainingOptions,
    series: list[TrainingSeries],
    output: Path,
    *,
    validation: list[FloatArray] | None = None,
    resume: bool = False,
    images: bool = False,
    ranks: Ranks | None = None,
    vgg_weights: Path | None = None,
    raw: list[RawSeries] | None = None,
    save_every_s: float = SAVE_EVERY_S,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> ModelSpec:
    """Train a generator and write its checkpoint.

    Parameters
    ----------
    options
        What to train and how; `epochs` already resolved to steps.
    series
        Prepared HR series, see `kspacesr_rt.train.pairs.load_training_series`.
    output
        Checkpoint to write, at every validation and at the end; a CSV of the same stem beside it
        gets one row each time. The weights that were best inside tissue stay in
        ``STEM-best.pt``: a run that begins to over-fit does not lose them.
    validation
        HR slices with a series maximum of 1, never trained on. A run that starts from trained
        weights is judged on them before its first step: its best weights are no worse than those.
    resume
        Go on from `output` where it stopped: weights, optimisers, step and random states. On one
        machine and device the result equals that of a run that never stopped, bit for bit.
    images
        Also draw a validation slice each time, into a folder beside the checkpoint.
    ranks
        This process among several, see `kspacesr_rt.train.distributed.joined`.
    vgg_weights
        VGG16 weights for the feature term; default: those in torch's cache.
    raw
        Measured k-space for a network of k-space, see
        `kspacesr_rt.train.complex_pairs.read_raw_series`.
    save_every_s
        Seconds between checkpoints, if validations are rarer: what a killed run loses at most.
    on_progress
        Called after every step.
    on_note
        Called with a sentence about what the options did not decide, such as a missing loss term.

    Returns
    -------
        The specification stored in the checkpoint.

    Raises
    ------
    CheckpointError
        If `resume` is asked for and the checkpoint belongs to another run.
    KeyboardInterrupt
        On Ctrl-C, after the step has been finished and the checkpoint written.
    """
    run = _Run(options, series, output, ranks or Ranks(), vgg_weights, raw or [], on_note)
    if resume:
        run.restore(validation)
    else:
        run.begin(on_note)
    latest: ValidationQuality | None = None
    if options.init and not resume and validation:  # `best` is to be no worse than the start
        latest = run.validate(validation) if run.ranks.first else None
        run.save(latest, row=True)
    with deferred_signals() as stop_requested:
        while run.step < options.steps and not run.out_of_patience:
            run.advance()
            stopping = run.ranks.any(bool(stop_requested()))
            due = run.step % options.validate_every == 0 or run.step == options.steps
            found = None
            if due and validation and run.ranks.first:
                latest = found = run.validate(validation)
                if images:
                    run.draw(validation[len(validation) // 2])
            if due or stopping:
                run.save(found, row=True)
            elif run.ranks.any(run.unsaved_s > save_every_s):
                run.save(None, row=False)
            if on_progress is not None and run.ranks.first:
                on_progress(
                    Progress(
                        step=run.step,
                        steps=options.steps,
                        loss=run.means["loss"],
                        validation=found.whole if found else None,
                        latest=latest.whole if latest else None,
                        tissue=latest.tissue if latest else None,
                    )
                )
            if stopping:
                break
            if run.ranks.any(run.out_of_patience):
                if on_note is not None and run.ranks.first:
                    on_note(
                        f"ends after {run.step} steps: the last {options.patience} validations "
                        "brought nothing better"
                    )
                break
    return run.spec


class _Run:
    """Everything that a run carries from step to step."""

    def __init__(
        self,
        options: TrainingOptions,
        series: list[TrainingSeries],
        output: Path,
        ranks: Ranks,
        vgg_weights: Path | None,
        raw: list[RawSeries],
        on_note: Callable[[str], None] | None,
    ) -> None:
        self.options, self.output, self.ranks = options, output, ranks
        self.spec = options.spec()
        self.log = output.with_suffix(".csv")
        self.device = ranks.device
        torch.manual_seed(options.random_state)
        generator = build_generator(self.spec)
        fill_spectra(generator, series, options.upscale, options.degradation)
        # torch's stubs leave memory_format out of Module.to.
        generator.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.generator = generator
        self.averaged = copy.deepcopy(generator)
        self.forward: Callable[[Tensor], Tensor] = (
            torch.compile(generator, dynamic=True) if options.compile else generator
        )
        self.optimiser = build_optimiser(
            options.optimiser, generator, options.lr, options.weight_decay
        )
        self.discriminator: Discriminator | None = None
        if options.adversarial:
            self.discriminator = Discriminator().to(self.device)
            self.d_optimiser = torch.optim.Adam(self.discriminator.parameters(), lr=options.lr)
        features = None
        if options.features:
            features, note = find_vgg_features(vgg_weights)
            if on_note is not None and ranks.first:
                on_note(note)
        self.loss = GeneratorLoss(options.loss, options.loss_weights, features).to(self.device)
        # Rank 0 draws what a run of one process draws.
        seed = [options.random_state, ranks.rank] if ranks.rank else options.random_state
        self.sampler: PairSampler | ComplexPairSampler
        self.sampler = magnitudes = PairSampler(
            series,
            upscale=options.upscale,
            batch=options.batch,
            augmentation=options.augmentation,
            rng=np.random.default_rng(seed),
            degradation=options.degradation,
            balance=options.balance,
        )
        if options.input == "kspace":
            self.sampler = ComplexPairSampler(
                magnitudes, raw, upscale=options.upscale, augmentation=options.augmentation
            )
        self.step = 0
        self.origin = ""
        self.best_db = -math.inf
        self.judged_on = ""  # digest of the slices that `best_db` is of
        self.since_best = 0  # validations
        self.means: dict[str, float] = {"loss": math.nan}
        self.seconds = 0.0
        self._since = time.monotonic()

    def begin(self, on_note: Callable[[str], None] | None) -> None:
        """Take the weights that the options start from, if any, and an empty log."""
        if self.options.init:
            start = read_start(self.options.init)
            new = start_from(start, self.generator, self.spec)
            self.averaged.load_state_dict(self.generator.state_dict())
            self.origin = start.origin
            if on_note is not None and self.ranks.first:
                added = f"; new, and without effect at first: {', '.join(new)}" if new else ""
                on_note(f"starts from {start.origin}{added}")
        if self.ranks.first:
            self.log.unlink(missing_ok=True)

    def advance(self) -> None:
        """Do one optimiser step."""
        options = self.options
        rate = options.rate(self.step)
        optimisers = [self.optimiser, *([self.d_optimiser] if self.discriminator else [])]
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        pair = (
            self.sampler.draw(options.window, options.window_batch)
            if options.window and self.step < options.window_until * options.steps
            else self.sampler.draw()
        )
        lr, hr = (torch.from_numpy(array).to(self.device) for array in pair)
        self.generator.train()
        autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=options.precision == "bf16"
        )
        with autocast:
            sr = self.forward(lr)
        sr = sr.float()
        if options.input == "kspace":
            sr = magnitude_image(sr)
        terms: dict[str, Tensor] = {}
        fake_probability = None
        if self.discriminator is not None:
            with autocast:
                terms |= self._train_discriminator(self.discriminator, sr.detach(), hr)
                fake_probability = self.discriminator(sr).float()
        loss, parts = self.loss(sr, hr, fake_probability)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average(self.generator)
        nn.utils.clip_grad_norm_(self.generator.parameters(), GRADIENT_NORM)
        self.optimiser.step()
        _average(
            self.averaged, self.generator, min(options.ema, (1 + self.step) / (10 + self.step))
        )
        self.step += 1
        self._update_means({"loss": loss.detach(), **parts, **terms})

    def _train_discriminator(
        self, discriminator: Discriminator, sr: Tensor, hr: Tensor
    ) -> dict[str, Tensor]:
        real, fake = discriminator(hr).float(), discriminator(sr).float()
        loss = discriminator_loss(real, fake)
        self.d_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.average(discriminator)
        self.d_optimiser.step()
        return {"d_loss": loss.detach(), "d_real": real.mean(), "d_fake": fake.mean()}

    def _update_means(self, values: dict[str, Tensor]) -> None:
        for name, tensor in values.items():
            value = float(tensor.detach())
            past = self.means.get(name, math.nan)
            self.means[name] = (
                value if math.isnan(past) else SMOOTHING * past + (1.0 - SMOOTHING) * value
            )

    @property
    def unsaved_s(self) -> float:
        """Seconds since the last checkpoint."""
        return time.monotonic() - self._since

    @property
    def out_of_patience(self) -> bool:
        """Whether too many validations brought nothing better; rank 0 alone validates."""
        return 0 < self.options.patience <= self.since_best

    @property
    def best(self) -> Path:
        """Checkpoint of the weights that were best so far."""
        return self.output.with_name(f"{self.output.stem}-best.pt")

    def validate(self, validation: list[FloatArray]) -> ValidationQuality:
        """Measure the averaged weights, and keep them if they are the best so far."""
        found = validation_quality(
            self.averaged,
            validation,
            self.options.upscale,
            degradation=self.options.degradation,
            given=self.options.input,
            device=self.device,
        )
        self.judged_on = _digest(validation)
        self.since_best += 1
        if (decides := _deciding_db(found)) > self.best_db:
            self.best_db, self.since_best = decides, 0
            weights, state = self.averaged.state_dict(), {"step": self.step}
            save_checkpoint(self.best, self.stated(), weights, state)
        return found

    def draw(self, one: FloatArray) -> None:
        """Write HR, SR and difference of a validation slice."""
        folder = self.output.with_name(f"{self.output.stem}-images")
        folder.mkdir(parents=True, exist_ok=True)
        picture = triptych(
            self.averaged,
            one,
            self.options.upscale,
            degradation=self.options.degradation,
            given=self.options.input,
            device=self.device,
        )
        replace_file(folder / f"step-{self.step:06d}.png", picture)

    def stated(self) -> ModelSpec:
        """Return what is true of the weights now: the steps that were done, not those planned."""
        done = f"{self.step} steps of {self.ranks.count * self.options.batch} slices"
        origin = f"from {self.origin}" if self.origin else ""
        training = ", ".join(part for part in (self.options.training, origin, done) if part)
        provenance = dataclasses.replace(self.spec.provenance, training=training)
        return dataclasses.replace(self.spec, provenance=provenance)

    def save(self, found: ValidationQuality | None, *, row: bool) -> None:
        """Write the checkpoint, with every rank's random state, and perhaps a row of the CSV."""
        states = self.ranks.gather(
            {"torch": torch.get_rng_state(), "numpy": dict(self.sampler.rng.bit_generator.state)}
        )
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        if self.ranks.first:
            state: dict[str, Any] = {
                "generator": self.generator.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "random_states": states,
                "step": self.step,
                "means": self.means,
                "seconds": self.seconds,
                "best_db": self.best_db,
                "judged_on": self.judged_on,
                "since_best": self.since_best,
                "options": self.options.identity(),
                "origin": self.origin,
            }
            if self.discriminator is not None:
                state["discriminator"] = self.discriminator.state_dict()
                state["d_optimiser"] = self.d_optimiser.state_dict()
            self.spec = self.stated()
            save_checkpoint(self.output, self.spec, self.averaged.state_dict(), state)
            if row:
                self._append_row(found)
        self.ranks.wait()

    def restore(self, validation: list[FloatArray] | None) -> None:
        """Put everything back as it was when the checkpoint was written.

        If the run is judged on other slices from now on, its best weights are, too: a figure of
        the earlier ones compares with nothing.
        """
        document = read_document(self.output)
        training = document.get("training") or {}
        if not self.options.continues(training.get("options"), int(training.get("step", 0))):
            raise CheckpointError(
                f"{self.output}: this checkpoint belongs to another run and cannot be resumed",
                hint="repeat the options it was trained with, or write to another file",
            )
        states = training["random_states"]
        if len(states) != self.ranks.count:
            raise CheckpointError(
                f"{self.output}: this run has {len(states)} processes, not {self.ranks.count}",
                hint=f"resume it with torchrun --nproc-per-node {len(states)}",
            )
        self.generator.load_state_dict(training["generator"])
        self.averaged.load_state_dict(document["state_dict"])
        self.optimiser.load_state_dict(training["optimiser"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(training["discriminator"])
            self.d_optimiser.load_state_dict(training["d_optimiser"])
        own = states[self.ranks.rank]
        torch.set_rng_state(own["torch"])
        self.sampler.rng.bit_generator.state = own["numpy"]
        self.step, self.seconds = int(training["step"]), float(training["seconds"])
        self.best_db = float(training.get("best_db", -math.inf))
        self.judged_on = str(training.get("judged_on", ""))
        self.since_best = int(training.get("since_best", 0))
        if validation and self.ranks.first and self.judged_on != _digest(validation):
            self.best_db, self.since_best = -math.inf, 0
            if self.best.exists():
                kept = load_checkpoint(self.best).generator.to(self.device)
                found = validation_quality(
                    kept,
                    validation,
                    self.options.upscale,
                    degradation=self.options.degradation,
                    given=self.options.input,
                    device=self.device,
                )
                self.best_db = _deciding_db(found)
        self.origin = str(training.get("origin", ""))
        self.means = {name: float(value) for name, value in training["means"].items()}

    def _append_row(self, found: ValidationQuality | None) -> None:
        values: dict[str, float] = {
            **self.means,
            "step": self.step,
            "lr": self.optimiser.param_groups[0]["lr"],
            "seconds": round(self.seconds, 1),
        }
        if found is not None:
            values |= dataclasses.asdict(found.whole)
            inside = dataclasses.asdict(found.tissue) if found.tissue else {}
            values |= {f"tissue_{name}": value for name, value in inside.items()}
        new = not self.log.exists()
        columns = list(COLUMNS)
        if not new:  # a log that an older version began keeps its columns
            with self.log.open(newline="") as file:
                columns = next(csv.reader(file), columns)
        with self.log.open("a", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(values)


def _deciding_db(found: ValidationQuality) -> float:
    """Return the figure by which weights are better than others."""
    return (found.tissue or found.whole).psnr_db


def _digest(slices: list[FloatArray]) -> str:
    """Return the SHA-256 of what a run is judged on."""
    digest = hashlib.sha256()
    for one in slices:
        digest.update(repr(one.shape).encode())
        digest.update(np.ascontiguousarray(one, dtype="<f4").data)
    return digest.hexdigest()


def _average(averaged: nn.Module, generator: nn.Module, decay: float) -> None:
    with torch.no_grad():
        pairs = zip(averaged.state_dict().values(), generator.state_dict().values(), strict=True)
        for kept, fresh in pairs:
            if kept.dtype.is_floating_point:
                kept.lerp_(fresh, 1.0 - decay)
            else:
                kept.copy_(fresh)
