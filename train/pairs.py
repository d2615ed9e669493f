"""Training pairs: HR slices as they were measured, and the LR slices a shorter scan would give."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from kspacesr_rt.errors import InputError, OutputError, TrainingDataError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.train.augmentation import Augmentation as Augmentation
from kspacesr_rt.train.augmentation import cut_window, vary
from kspacesr_rt.train.balance import Balance, series_weights
from kspacesr_rt.train.cache import CachedArray, entry_key, forget_entry, read_entry, write_entry
from kspacesr_rt.train.degradation import DEGRADATIONS
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.noise import rician
from kspacesr_rt.train.volumes import (
    Source,
    Volume,
    band_of,
    nothing_found,
    sources,
    supported,
    training_planes,
)

Rim = Literal["crop", "keep", "mix"]
"""What is done with k-space that a series never measured, see `load_training_series`."""

TISSUE_LEVEL = 0.05
"""Share of the series maximum above which a pixel counts as tissue when the FOV is trimmed."""
TISSUE_SHARE = 0.02
"""A slice with less tissue than this share of its pixels is not trained on."""
MARGIN = 8
"""Pixels of air kept around the tissue."""
SMALLEST_MATRIX = 64
"""HR slices below this are not trained on: k-space of so few samples says nothing about edges."""
SHORTEST_NAME = 12
"""Columns of a series in the log's table."""
MAPPED_FILES = 512
"""Cached arrays that stay mapped, the rest is read: each holds a file open, and 1024 is the usual
limit of a process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSeries:
    """HR slices of one series, trimmed to the patient and scaled to a maximum of 1."""

    name: str
    """For logs only."""
    slices: FloatArray
    """Shape ``(n, y, x)``, float16 between 0 and 1."""
    patient: str = ""
    """Hash of whose series it is, to split by; see `kspacesr_rt.train.patients`."""
    band: tuple[float, float] = (1.0, 1.0)
    """Share of Nyquist along y and x that held signal in the series as it was stored."""
    cropped: bool = False
    """Whether k-space was cropped to that."""
    weight: float = 1.0
    """How often it is drawn beside a series of as many slices; its versions share 1."""


def prepared_versions(volume: Volume, rim: Rim = "crop") -> list[TrainingSeries]:
    """Crop to the measured k-space, drop air and empty slices, scale to a maximum of 1.

    Parameters
    ----------
    volume
        One plane of a series.
    rim
        ``keep`` leaves k-space as it was stored; ``mix`` prepares both if a rim of it is empty.

    Returns
    -------
        Nothing if nothing worth training on is left.
    """
    band = band_of(volume)
    measured = volume if rim == "keep" else supported(volume, band)
    kept = [measured] if rim != "mix" or measured is volume else [measured, volume]
    prepared = [
        TrainingSeries(
            name=volume.name,
            slices=trimmed,
            patient=volume.patient,
            band=band,
            cropped=one is not volume,
        )
        for one in kept
        if (trimmed := _trimmed(one)) is not None
    ]
    return [dataclasses.replace(one, weight=1.0 / len(prepared)) for one in prepared]


def _trimmed(volume: Volume) -> FloatArray | None:
    top = float(volume.slices.max())
    if top <= 0.0:
        return None
    scaled = volume.slices / top
    tissue = scaled > TISSUE_LEVEL
    keep = tissue.mean(axis=(1, 2)) >= TISSUE_SHARE
    if not keep.any():
        return None
    boxes = []
    for axis in (1, 2):
        other = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(tissue[keep].any(axis=other))
        length = scaled.shape[axis]
        low, high = max(0, used[0] - MARGIN), min(length, used[-1] + 1 + MARGIN)
        boxes.append(slice(low, high - (high - low) % 4))
    trimmed = scaled[keep][:, boxes[0], boxes[1]]
    return None if min(trimmed.shape[1:]) < SMALLEST_MATRIX else trimmed.astype(np.float16)


def load_training_series(
    roots: Iterable[Path],
    *,
    rim: Rim = "crop",
    cache: Path | None = None,
    reading: Reading | None = None,
) -> list[TrainingSeries]:
    """Read, prepare and keep in memory every series below the given folders.

    Parameters
    ----------
    roots
        Folders or files, see `kspacesr_rt.train.volumes.read_volumes`.
    rim
        ``crop``: each series is cropped to its measured k-space, so that no network learns that
        there is nothing to predict. ``keep``: as stored. ``mix``: both versions of a series whose
        rim is empty, each drawn half as often, because a network that only ever saw full k-space
        invents: trained on cropped series alone, it adds 1.1 to 1.7 times a full rim's energy
        where stored clinical series hold nothing (measured on the validation series, where it
        costs 0.2 to 0.35 dB at x2). The stored versions teach it restraint.
    cache
        Folder that keeps what was prepared; from then on nothing that is unchanged is decoded,
        and the processes of one machine share the arrays. None keeps nothing.
    reading
        Takes note of files that cannot be read, and the others are prepared; None raises.

    Raises
    ------
    TrainingDataError
        If nothing is left to train on.
    OutputError
        If the cache lies inside the data, or cannot be written.
    """
    if rim not in get_args(Rim):
        raise InputError(f"rim '{rim}' is not one of {', '.join(get_args(Rim))}")
    prepared: list[TrainingSeries] = []
    for root in roots:
        if cache is not None and cache.resolve().is_relative_to(root.resolve()):
            raise OutputError(
                f"the cache {cache} lies inside the data", hint="choose a folder beside it"
            )
        found = False
        for source in sources(root, reading):
            failed = _n_failures(reading)
            items = _prepared(
                source, rim, cache, mapped=len(prepared) < MAPPED_FILES, reading=reading
            )
            for item in items:
                found = True
                if item.array is not None:
                    prepared.append(_restored(source, item))
            found = found or _n_failures(reading) > failed
        if not found:
            raise nothing_found(root, reading)
    if not prepared:
        if reading is not None:
            reading.require_any(prepared)
        raise TrainingDataError("no slice holds enough tissue to train on")
    return prepared


def _n_failures(reading: Reading | None) -> int:
    return len(reading.failures) if reading else 0


def _prepared(
    source: Source, rim: Rim, cache: Path | None, *, mapped: bool, reading: Reading | None
) -> Iterable[CachedArray]:
    if cache is None or not source.files:
        return _decoded(source, rim, reading)
    key = entry_key(source.files, rim)
    if (kept := read_entry(cache, key, mapped=mapped)) is None:
        failed = _n_failures(reading)
        write_entry(cache, key, _decoded(source, rim, reading))
        kept = read_entry(cache, key, mapped=mapped)
        if _n_failures(reading) > failed:  # the next run is to tell of them, too
            forget_entry(cache, key)
    if kept is None:
        raise OutputError(
            f"{cache}: what was written to this cache does not read back",
            hint="is the disk full? name another folder, or none",
        )
    return kept


def _decoded(source: Source, rim: Rim, reading: Reading | None) -> Iterator[CachedArray]:
    """Yield the prepared series of a source; of a volume that gave none, that it was there."""
    for volume in source.read():
        found = False
        with nullcontext() if reading is None else reading.failing(volume.label):
            for plane in training_planes(volume):
                for one in prepared_versions(plane, rim):
                    found = True
                    facts = {
                        # Names of files can be names of patients, so only what follows is kept.
                        "suffix": one.name.removeprefix(source.label),
                        "patient": "" if one.patient == source.patient else one.patient,
                        "support": one.band,
                        "cropped": one.cropped,
                        "weight": one.weight,
                    }
                    yield CachedArray(facts=facts, array=one.slices)
        if not found:
            yield CachedArray(facts={})


def _restored(source: Source, item: CachedArray) -> TrainingSeries:
    facts = item.facts
    assert item.array is not None
    return TrainingSeries(
        name=source.label + facts["suffix"],
        slices=item.array,
        patient=facts["patient"] or source.patient,
        band=(facts["support"][0], facts["support"][1]),
        cropped=facts["cropped"],
        weight=facts["weight"],
    )


def describe(series: Sequence[TrainingSeries], *, show_names: bool = True) -> str:
    """Return a table for the log: slices, matrix and measured k-space of each series.

    Without `show_names`, which are those of files, series are numbered. Both versions of a series
    have its name, and are counted once.
    """
    numbers = {place: n for n, place in enumerate(dict.fromkeys(map(_place, series)), start=1)}
    names = [one.name if show_names else f"series {numbers[_place(one)]}" for one in series]
    width = max(SHORTEST_NAME, *map(len, names))
    lines = [f"{'series':<{width}} slices     matrix  support y, x  k-space"]
    for name, one in zip(names, series, strict=True):
        n, rows, columns = one.slices.shape
        lines.append(
            f"{name:<{width}} {n:>6} {rows:>4} x {columns:<4}   {one.band[0]:.2f}, "
            f"{one.band[1]:.2f}  {'cropped' if one.cropped else 'as stored'}"
        )
    n_series, patients = count_series(series), len({one.patient for one in series})
    total = f"in all: series {n_series}, patients {patients}, slices {count_slices(series)}"
    twice = len(series) - n_series
    lines.append(f"{total}; {twice} used twice, cropped and as stored" if twice else total)
    return "\n".join(lines)


def _place(one: TrainingSeries) -> tuple[str, str]:
    return one.patient, one.name


def count_series(series: Iterable[TrainingSeries]) -> int:
    """Count series, those in two versions once."""
    return round(sum(one.weight for one in series))


def count_slices(series: Iterable[TrainingSeries]) -> int:
    """Count HR slices, those in two versions once."""
    return round(sum(len(one.slices) * one.weight for one in series))


class PairSampler:
    """Draw random batches of (LR, HR) slices.

    A batch of whole slices comes from one series, whose slices share a matrix; a batch of windows
    from as many series as it has windows.

    Parameters
    ----------
    series
        What to draw from; without `balance` a series of n slices is drawn with weight sqrt(n), so
        that one 3-D scan does not outweigh many 2-D ones.
    upscale
        HR samples per LR sample and axis.
    batch
        Slices in a batch.
    augmentation
        How to vary them.
    rng
        Source of all randomness; give each process its own.
    degradation
        How LR is made, a key of `kspacesr_rt.train.degradation.DEGRADATIONS`.
    balance
        Shares of contrasts, see `kspacesr_rt.train.balance.series_weights`.
    """

    def __init__(
        self,
        series: list[TrainingSeries],
        *,
        upscale: int,
        batch: int,
        augmentation: Augmentation,
        rng: np.random.Generator,
        degradation: str = "kspace-crop",
        balance: Balance | None = None,
    ) -> None:
        if degradation not in DEGRADATIONS:
            raise InputError(f"degradation '{degradation}' is not one of {', '.join(DEGRADATIONS)}")
        self._series = series
        self._upscale = upscale
        self.batch = batch
        """Slices of a batch that states no other number."""
        self._augmentation = augmentation
        self._degrade = DEGRADATIONS[degradation]
        self.rng = rng
        if balance is not None:
            self._weights = series_weights(series, balance, upscale)
        else:
            weights = np.sqrt([len(one.slices) for one in series]) * [one.weight for one in series]
            self._weights = weights / weights.sum()

    @property
    def n_slices(self) -> int:
        """HR slices there are to draw, those of both versions of a series counted once."""
        return count_slices(self._series)

    def draw(self, window: int = 0, batch: int = 0) -> tuple[FloatArray, FloatArray]:
        """Return LR ``(n, 1, y, x)`` and HR ``(n, 1, s*y, s*x)``, float32.

        Parameters
        ----------
        window
            HR samples per axis of windows on the patient (see
            `kspacesr_rt.train.augmentation.cut_window`); 0 gives whole slices. Its remainder by
            the upscale is cut off.
        batch
            Pairs, if not as many as the sampler was made for.
        """
        hr = self.draw_hr(window, batch)
        lr, hr = self._noisy(self._degrade(hr, self._upscale), hr)
        return lr[:, None], hr[:, None]

    def draw_hr(self, window: int = 0, batch: int = 0) -> FloatArray:
        """Return varied HR slices alone, ``(n, s*y, s*x)``, float32; arguments as for `draw`."""
        n = batch or self.batch
        if not window:
            chosen = self._choose()
            index = self.rng.choice(len(chosen.slices), size=n, replace=True)
            hr = vary(
                chosen.slices[index].astype(np.float32),
                self._augmentation,
                upscale=self._upscale,
                rng=self.rng,
            )
        else:
            hr = np.concatenate([self._window(window - window % self._upscale) for _ in range(n)])
        return hr.astype(np.float32)

    def _choose(self) -> TrainingSeries:
        return self._series[int(self.rng.choice(len(self._series), p=self._weights))]

    def _window(self, length: int) -> FloatArray:
        options, chosen = self._augmentation, self._choose()
        one = chosen.slices[int(self.rng.integers(len(chosen.slices)))].astype(np.float32)
        factors = np.full(2, self.rng.uniform(options.matrix_shrink, 1.0))
        if options.gibbs_share > 0.0 and self.rng.random() < options.gibbs_share:
            factors = self.rng.uniform(options.gibbs_shrink, 1.0, 2)
        rows, columns = (2 * round(length / factor / 2) for factor in factors)
        cut = cut_window(one, (rows, columns), self.rng)
        turned = vary(
            cut[None], options, upscale=self._upscale, rng=self.rng, matrix=(length, length)
        )
        return turned

    def _noisy(self, lr: FloatArray, hr: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Add noise to some LR slices, and to HR what they show of it, which is measured.

        A target that held nothing of it would ask for what data consistency forbids: its errors,
        ten times those of the rim, drowned the gradient (after 240 steps a run stood 1.3 dB lower).
        """
        share = self._augmentation.rician_share
        if share == 0.0:
            return lr, hr
        lowest, highest = np.log(self._augmentation.rician_snr)
        for index in np.flatnonzero(self.rng.random(len(lr)) < share):
            snr = float(np.exp(self.rng.uniform(lowest, highest)))
            noisy = rician(lr[index][None], snr, self.rng)[0]
            hr[index] += zero_fill(noisy - lr[index], self._upscale)
            lr[index] = noisy
        return lr, hr
