"""Everything that decides a training run, so that a recipe file can repeat it."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from kspacesr_rt._version import __version__
from kspacesr_rt.errors import InputError
from kspacesr_rt.model.spec import Architecture, DataConsistency, Input, ModelSpec, Provenance
from kspacesr_rt.train.augmentation import Augmentation
from kspacesr_rt.train.balance import Balance
from kspacesr_rt.train.degradation import DEGRADATIONS, grid_after
from kspacesr_rt.train.losses import LOSSES, LossWeights
from kspacesr_rt.train.pairs import SMALLEST_MATRIX, Rim

Precision = Literal["fp32", "bf16"]
Optimiser = Literal["adam", "muon"]
Schedule = Literal["cosine", "flat"]
FLAT_UNTIL = 0.8
"""Share of the steps that a flat schedule stays at its peak."""

FREE = ("name", "training", "licence", "attribution", "validate_every", "val_size", "patience")
"""Options that a resumed run may change: they leave every weight as it is."""

WARM_UP_STEPS = 200
HR_MATRIX = 320
"""HR samples per axis that the seed's networks were made for."""

_OPTION_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
}
"""Annotation to type; the remaining ones are strings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOptions:
    """What is trained, on what, for how long."""

    name: str = "model"
    """Name of the model."""
    architecture: Architecture = "dc-residual"
    """Which generator."""
    input: Input = "image"
    """What it is given: magnitude images, or complex k-space (``dc-residual`` alone)."""
    upscale: int = 2
    """SR samples per LR sample and axis."""
    width: int = 32
    """Channels of the CNN."""
    blocks: int = 8
    """Residual blocks over all cascades (the seed's networks always have 5)."""
    cascades: int = 1
    """How often data consistency is applied, `blocks` shared out over them."""
    bias: bool = False
    """Additive bias in the convolutions."""
    data_consistency: DataConsistency = "hard"
    """What is done with the measured samples."""
    init: str = ""
    """Model to start from, see `kspacesr_rt.train.initial_weights`; empty: random weights."""
    matrix: int = 128
    """LR samples per axis of the spectra, and of the exported file; 0: 320 over the upscale."""
    degradation: str = "kspace-crop"
    """Key of `DEGRADATIONS`: how a LR slice is made from HR."""
    rim: Rim = "crop"
    """What is done with k-space that a series never measured, see `load_training_series`."""
    loss: str = "l1"
    """Key of `LOSSES`: the image term."""
    adversarial: float = 0.0
    """Weight of the adversarial term; above 0 a discriminator is trained too."""
    features: float = 0.0
    """Weight of the VGG16 feature term."""
    total_variation: float = 0.0
    """Weight of the total variation of SR."""
    steps: int = 2000
    """Optimiser steps, unless `epochs` is given."""
    epochs: int = 0
    """Passes over the training slices, or over `random_subset` of them; 0: `steps` decides."""
    random_subset: int = 0
    """Slices drawn per epoch, with replacement; 0: as many as there are."""
    batch: int = 4
    """Slices a step (on each rank of a distributed run)."""
    window: int = 0
    """HR samples per axis of the windows that a run begins with; 0: whole slices throughout."""
    window_batch: int = 16
    """Windows a step."""
    window_until: float = 0.8
    """Share of the steps that see windows; those behind see whole slices, as `infer` will."""
    optimiser: Optimiser = "adam"
    """Adam, or Muon for the convolutions between features and Adam for the rest."""
    lr: float = 1e-3
    """Peak learning rate, reached after a warm-up."""
    schedule: Schedule = "cosine"
    """How the rate falls to 1 %: half a cosine, or ``flat`` for four fifths of the steps and
    straight down from there. A flat run may be resumed with more or fewer steps until then."""
    weight_decay: float = 0.0
    """Share of a weight that a step at rate 1 takes away from it, decoupled from the gradient."""
    ema: float = 0.999
    """Decay of the averaged weights, which are what the checkpoint holds."""
    precision: Precision = "fp32"
    """Of the CNN during training; transforms, loss and weights are always fp32."""
    compile: bool = False
    """Let torch.compile fuse the generator."""
    held_out: float = 0.0
    """Share of the patients held out to be judged on, when no validation folder is named."""
    validate_every: int = 500
    """Steps between validations, checkpoints and CSV rows; with `epochs`, an epoch."""
    val_size: int = 0
    """Validation slices in all; 0: a few of each series. `evaluate` judges whole series."""
    patience: int = 0
    """Validations in a row without a better one, after which a run ends; 0: it goes on."""
    random_state: int = 0
    """Seed of every random choice."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How HR batches are varied."""
    balance: Balance | None = None
    """How often contrasts are drawn; None: each series by the root of its slices."""
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
            if item.name not in ("augmentation", "balance") and (
                not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)
            ):
                raise InputError(f"option {item.name} is {value!r}, expected {item.type}")
        for name, value, allowed in (
            ("precision", self.precision, get_args(Precision)),
            ("input", self.input, get_args(Input)),
            ("rim", self.rim, get_args(Rim)),
            ("optimiser", self.optimiser, get_args(Optimiser)),
            ("schedule", self.schedule, get_args(Schedule)),
            ("loss", self.loss, tuple(LOSSES)),
            ("degradation", self.degradation, tuple(DEGRADATIONS)),
        ):
            if value not in allowed:
                raise InputError(f"{name} '{value}' is not one of {', '.join(allowed)}")
        if self.input == "kspace" and (
            self.architecture != "dc-residual" or self.degradation != "kspace-crop"
        ):
            raise InputError(
                "input 'kspace' is for architecture 'dc-residual' and degradation 'kspace-crop'"
            )
        if not (self.lr > 0.0 and 0.0 <= self.ema < 1.0 and 0.0 <= self.weight_decay < 1.0):
            raise InputError("lr must be above 0, ema and weight_decay at least 0 and below 1")
        if not (0.0 <= self.window_until <= 1.0 and self.window >= 0 and self.window_batch >= 1):
            raise InputError(
                "window must be at least 0, window_batch at least 1, window_until between 0 and 1"
            )
        if self.window and self.window < SMALLEST_MATRIX:
            raise InputError(f"windows of {self.window} samples are below {SMALLEST_MATRIX}")
        if not 0.0 <= self.held_out < 1.0:
            raise InputError(f"held_out {self.held_out} is not a share of the patients")
        if min(self.adversarial, self.features, self.total_variation) < 0.0:
            raise InputError("weights of loss terms must not be negative")
        counts = (self.steps, self.batch, self.validate_every, self.width)
        if min(counts) < 1 or self.matrix < 0:
            raise InputError(
                "steps, batch, validate_every and width must be at least 1, matrix at least 0"
            )
        if min(self.epochs, self.random_subset, self.val_size, self.patience) < 0:
            raise InputError("epochs, random_subset, val_size and patience must not be negative")

    @property
    def loss_weights(self) -> LossWeights:
        """The weights of the generator's loss; the image term has weight 1."""
        return LossWeights(
            adversarial=self.adversarial,
            features=self.features,
            total_variation=self.total_variation,
        )

    def resolved(self, n_slices: int, *, ranks: int = 1) -> TrainingOptions:
        """Turn epochs into steps.

        Parameters
        ----------
        n_slices
            HR slices there are to train on.
        ranks
            Processes that each draw `batch` slices a step.

        Returns
        -------
            Options with `steps` and `validate_every` as they will be run; unchanged if `epochs`
            is 0.
        """
        if not self.epochs:
            return self
        per_epoch = math.ceil((self.random_subset or n_slices) / (self.batch * ranks))
        return dataclasses.replace(
            self, steps=self.epochs * per_epoch, validate_every=per_epoch, epochs=0
        )

    def identity(self) -> str:
        """Return what a resumed run must have in common with the one it goes on from."""
        values = dataclasses.asdict(self)
        for free in FREE:
            del values[free]
        return json.dumps(values, sort_keys=True)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / min(WARM_UP_STEPS, max(1, self.steps // 10)))
        if self.schedule == "flat":
            fall = min(1.0, (1.0 - step / self.steps) / (1.0 - FLAT_UNTIL))
        else:
            fall = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return self.lr * (warm * (0.01 + 0.99 * fall))

    def continues(self, identity: object, step: int = 0) -> bool:
        """Tell whether a run of some `identity`, `step` steps on, is this one.

        Options that it does not name yet count as what they are by default: those that are added
        later leave older runs as they were. How many steps there will be does not matter as long
        as nothing has depended on it.
        """
        try:
            found = json.loads(str(identity))
        except ValueError:
            return False
        ours, standard = json.loads(self.identity()), json.loads(type(self)().identity())
        if not isinstance(found, dict):
            return False
        kept = {name: value for name, value in found.items() if name not in FREE}
        theirs = _filled(kept, standard)
        until = min(FLAT_UNTIL, self.window_until if self.window else 1.0)
        if self.schedule == "flat" and isinstance(theirs["steps"], int):
            shorter = min(theirs["steps"], self.steps)
            if shorter >= WARM_UP_STEPS * 10 and step <= until * shorter:
                theirs["steps"] = self.steps
        return bool(ours == theirs)

    def spec(self) -> ModelSpec:
        """Return the specification of the model that this run trains."""
        seed = self.architecture.startswith("seed")
        matrix = self.matrix or HR_MATRIX // self.upscale
        consistency = "none" if self.architecture == "seed-image" else self.data_consistency
        return ModelSpec(
            name=self.name,
            architecture=self.architecture,
            upscale=self.upscale,
            width=self.width,
            blocks=5 if seed else self.blocks,
            cascades=1 if seed else self.cascades,
            bias=self.bias,
            matrix=(matrix, matrix),
            data_consistency=consistency,
            input=self.input,
            output="kspace"
            if self.input == "kspace"
            else ("magnitude" if self.architecture == "seed-kspace" else "real"),
            adversarial=self.adversarial > 0.0,
            output_grid=grid_after(self.degradation, consistency),
            provenance=Provenance(
                training=self.training,
                licence=self.licence,
                attribution=self.attribution,
                versions={"kspacesr-rt": __version__, "torch": torch.__version__},
            ),
        )


def _filled(values: dict[str, Any], standard: dict[str, Any]) -> dict[str, Any]:
    """Add what is missing, in tables within too."""
    filled = {**standard, **values}
    for name, table in (("augmentation", Augmentation()), ("balance", Balance())):
        if isinstance(filled[name], dict):
            inner = json.loads(json.dumps(dataclasses.asdict(table)))
            filled[name] = {**inner, **filled[name]}
    return filled
