"""Train from folders: read, prepare, hold out, train, write the checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from kspacesr_rt.errors import InputError, OutputError
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.system.counts import THREADS_MOST, is_count
from kspacesr_rt.system.cpu import lacks_bf16
from kspacesr_rt.system.files import require_place_for_file
from kspacesr_rt.train.complex_pairs import read_raw_series
from kspacesr_rt.train.distributed import joined
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.loop import Progress, train
from kspacesr_rt.train.options import TrainingOptions
from kspacesr_rt.train.pairs import (
    count_series,
    count_slices,
    describe,
    load_training_series,
)
from kspacesr_rt.train.patients import split_by_patient
from kspacesr_rt.train.validation import judged_series, validation_slices, zero_fill_quality
from kspacesr_rt.train.volumes import read_volumes

EMULATED = (
    "this CPU has no bf16 arithmetic, so a step takes many times as long as with --precision fp32"
)
"""Measured with x2-fast on a CPU with AVX2 alone: eleven times the processor time."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """How a run is carried out; nothing here changes what it computes, except the device."""

    resume: bool = False
    """Go on from the checkpoint."""
    force: bool = False
    """Start anew although the checkpoint exists."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    threads: int = 0
    """CPU threads of torch; 0 leaves its default."""
    cache: Path | None = None
    """Folder that keeps decoded and prepared series for the next run."""
    images: bool = False
    """Draw a validation slice at every validation."""
    vgg_weights: Path | None = None
    """VGG16 weights for the feature term; default: those in torch's cache."""

    def __post_init__(self) -> None:
        """Reject a number of threads that would be started and never end."""
        if not is_count(self.threads, THREADS_MOST):
            raise InputError(
                f"threads is a whole number from 0 to {THREADS_MOST}, not {self.threads!r}"
            )


def train_from_folders(
    data: list[Path],
    output: Path,
    options: TrainingOptions,
    *,
    validation: list[Path] | None = None,
    raw: list[Path] | None = None,
    settings: RunSettings | None = None,
    reading: Reading | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> ModelSpec:
    """Train a generator on folders of images and write its checkpoint.

    Parameters
    ----------
    data
        Folders of DICOM, NIfTI, NRRD, ``.npy`` or fastMRI ``.h5``.
    output
        Checkpoint to write; a CSV of the same stem beside it logs the run.
    options
        What to train and how.
    validation
        Folders that are only judged on; without them `options.held_out` of the patients are.
    raw
        Folders of measured k-space, for a network of k-space; see
        `kspacesr_rt.train.complex_pairs.read_raw_series`.
    settings
        How the run is carried out.
    reading
        Takes note of files that cannot be read, and the run goes on without them; None: they end
        it, since leaving them out unasked would change the data set.
    on_progress
        Called after every step.
    on_note
        Called with sentences for the log: the data, the device, what is off and why.

    Raises
    ------
    TrainingDataError
        If a folder holds nothing to train on, or too few patients to hold any out.
    InputError
        If k-space is named for a network of images, or patience without anything to validate on.
    CheckpointError
        If a resumed checkpoint belongs to another run.
    OutputError
        If `output` exists and is neither to be resumed nor replaced, or is no file.
    BackendUnavailableError
        If a GPU is asked for and there is none.
    """
    how = settings or RunSettings()
    require_place_for_file(output)
    if output.exists() and not (how.resume or how.force):
        raise OutputError(
            f"{output} exists", hint="go on with --resume, or replace it with --force"
        )
    if raw and options.input != "kspace":
        raise InputError(
            "raw k-space is for a network of k-space", hint="train it with --input kspace"
        )
    measured = read_raw_series(raw or [], reading)
    if how.threads:
        torch.set_num_threads(how.threads)
    note = on_note or (lambda sentence: None)
    with joined(how.device) as ranks:
        if not ranks.first:
            ranks.wait()  # until rank 0 has filled the cache
        note("reading the images")
        series = load_training_series(data, rim=options.rim, cache=how.cache, reading=reading)
        if ranks.first:
            ranks.wait()
        val_slices: list[FloatArray] = []
        if validation:
            volumes = [volume for root in validation for volume in read_volumes(root, reading)]
            if reading is not None:
                reading.require_any(volumes)
            val_slices = validation_slices(judged_series(volumes, options.rim), options.val_size)
        elif options.held_out:
            series, held = split_by_patient(
                series, share=options.held_out, random_state=options.random_state
            )
            val_slices = validation_slices(held, options.val_size)
        if options.patience and not val_slices:
            raise InputError(
                "patience counts validations, and there are none",
                hint="name --validation folders or a share of patients with --held-out",
            )
        n_slices = count_slices(series)
        resolved = options.resolved(n_slices, ranks=ranks.count)
        if ranks.first:
            shown = describe(series, show_names=reading is None or reading.show_paths)
            for line in [*shown.splitlines(), *(reading.lines() if reading else ())]:
                note(line)
            note(f"{resolved.steps} steps of {ranks.count} x {options.batch} on {ranks.device}")
            if resolved.precision == "bf16" and ranks.device.type == "cpu" and lacks_bf16():
                note(EMULATED)
            if val_slices:
                base = zero_fill_quality(
                    val_slices,
                    options.upscale,
                    degradation=options.degradation,
                    given=options.input,
                )
                for where, found in (("", base.whole), (" inside tissue", base.tissue)):
                    if found is not None:
                        note(
                            f"zero-fill on the {len(val_slices)} validation slices{where}: PSNR "
                            f"{found.psnr_db:.2f} dB, SSIM {found.ssim:.4f}, MAE {found.mae:.5f}"
                        )
        seen = f"{n_slices} slices of {count_series(series)} series"
        if measured:
            n_measured = sum(len(one.images) for one in measured)
            seen += f", {n_measured} of k-space of {len(measured)}"
        description = f"{resolved.training} ({seen})" if resolved.training else seen
        return train(
            dataclasses.replace(resolved, training=description),
            series,
            output,
            validation=val_slices,
            resume=how.resume,
            images=how.images,
            ranks=ranks,
            vgg_weights=how.vgg_weights,
            raw=measured,
            on_progress=on_progress,
            on_note=on_note,
        )
