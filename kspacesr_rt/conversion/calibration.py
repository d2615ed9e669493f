"""What the convolutions of a model meet on real slices, for the ranges that 8-bit types need.

The fp32 graph runs with the values in front of its convolutions laid open. A slice is normalised by
its own maximum inside the graph, so the ranges found here hold for images in any unit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from kspacesr_rt.conversion.parity import SAMPLE_SLICES, Case, brought_to
from kspacesr_rt.errors import BackendUnavailableError, TrainingDataError, library_message
from kspacesr_rt.kspace import FloatArray, Matrix, degrade, divisible_crop, upscaled
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME, ModelFile
from kspacesr_rt.model.slice_arrays import network_input
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.system.interruption import deferred_signals
from kspacesr_rt.train.volumes import read_volumes

MOST_SLICES = 24
"""Real slices that calibration looks at, spread evenly over what it is given."""
PHANTOM_MATRICES: tuple[Matrix, ...] = ((96, 80), (48, 57))
"""LR matrices of the phantoms that are added. Their edges are sharper than anatomy: without them
x2-fast lost 2e-3 of SSIM on such an edge, clipped by ranges that only real slices had given."""
KEPT_PER_SLICE = 1 << 15
"""Samples that are kept of a value on a slice, in even steps; the largest one always is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSet:
    """HR slices degraded to LR, and where they come from in words that name no patient."""

    slices: tuple[Case, ...]
    """Real slices."""
    phantoms: tuple[Case, ...]
    """Edges sharper than theirs."""
    origin: str
    """Such as ``shipped sample``; stored in the model."""

    @property
    def cases(self) -> tuple[Case, ...]:
        """Return all of them."""
        return (*self.slices, *self.phantoms)


def calibration_set(
    folders: Sequence[Path],
    upscale: int,
    *,
    most: int = MOST_SLICES,
    matrix: Matrix | None = None,
) -> CalibrationSet:
    """Read the slices that ranges are taken from, and degrade them by the model's upscale.

    Parameters
    ----------
    folders
        Images in any format that `kspacesr_rt.train.volumes` reads, of any matrix; none means the
        shipped sample without the slices that the parity gate judges.
    upscale
        HR samples per LR sample and axis.
    most
        Slices to keep, spread evenly over the folders.
    matrix
        LR ``(rows, columns)`` that every slice is brought to; None leaves each its own.

    Raises
    ------
    TrainingDataError
        If there is nothing to read, or no slice with an image in it.
    """
    if folders:
        volumes = [volume for folder in folders for volume in read_volumes(folder)]
        images = [image for volume in volumes for image in volume.slices]
        origin = "images given for calibration"
    else:
        (sample,) = read_volumes(sample_folder())
        images = [one for number, one in enumerate(sample.slices) if number not in SAMPLE_SLICES]
        origin = "shipped sample, without the slices the gate judges"
    lit = [image for image in images if image.max() > 0]
    if not lit:
        raise TrainingDataError(
            "the images to calibrate on are all zero", hint="name others with --calibration"
        )
    chosen = np.unique(np.linspace(0, len(lit) - 1, min(most, len(lit))).round().astype(int))
    matrices = (matrix,) if matrix else PHANTOM_MATRICES
    phantoms = [brain_phantom(upscaled(one, upscale)) for one in matrices]
    if matrix is not None:
        lit = [brought_to(image, upscaled(matrix, upscale)) for image in lit]
    return CalibrationSet(
        slices=tuple(
            _case(f"calibration slice {at + 1}", lit[number], upscale)
            for at, number in enumerate(chosen)
        ),
        phantoms=tuple(
            _case(f"calibration phantom {at + 1}", phantom, upscale)
            for at, phantom in enumerate(phantoms)
        ),
        origin=origin,
    )


def _case(name: str, image: FloatArray, upscale: int) -> Case:
    hr = divisible_crop((image / image.max()).astype(np.float32), upscale)
    return Case(name=name, hr=hr, lr=degrade(hr, upscale).astype(np.float32))


def observe(
    model: ModelFile, slices: Iterable[FloatArray], names: Iterable[str]
) -> dict[str, FloatArray]:
    """Run a model in fp32 and keep samples of values inside its graph.

    Parameters
    ----------
    model
        A lowered model in fp32.
    slices
        LR slices ``(y, x)`` of any matrix.
    names
        Values of the graph, such as the inputs of convolutions.

    Returns
    -------
        Name to magnitudes, float32, one axis, in no order.

    Raises
    ------
    BackendUnavailableError
        If ONNX Runtime does not load.
    """
    wanted = list(dict.fromkeys(names))
    inside = [name for name in wanted if name != INPUT_NAME]
    kept: dict[str, list[FloatArray]] = {name: [] for name in wanted}
    sessions: dict[Matrix, Any] = {}
    for lr in slices:
        matrix = (lr.shape[0], lr.shape[1])
        if matrix not in sessions:
            sessions[matrix] = _open_session(model, matrix, inside)
        batch = network_input(lr, model.spec)
        results = sessions[matrix].run(inside, {INPUT_NAME: batch})
        found = {INPUT_NAME: batch, **dict(zip(inside, results, strict=True))}
        for name in wanted:
            magnitudes = np.abs(found[name]).ravel()
            # An odd step walks through all columns of a row, and all channels.
            step = max(magnitudes.size // KEPT_PER_SLICE, 1) | 1
            kept[name].append(np.append(magnitudes[::step], magnitudes.max()))
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def _open_session(model: ModelFile, matrix: Matrix, names: Sequence[str]) -> Any:
    try:
        with deferred_signals():
            import onnxruntime
    except ImportError as exc:
        raise BackendUnavailableError(
            f"calibration runs on ONNX Runtime, which does not load: {library_message(exc)}",
            hint="pip install 'kspacesr-rt[cpu]'",
        ) from exc
    from kspacesr_rt.runtime.ort_cpu import ERRORS_ONLY, PROVIDER

    bound = bind(model, matrix)
    proto = onnx.ModelProto()
    proto.CopyFrom(bound.proto)
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names
        if name != OUTPUT_NAME
    )
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = ERRORS_ONLY
    content = dataclasses.replace(bound, proto=proto).serialized()
    return onnxruntime.InferenceSession(content, settings, providers=[PROVIDER])
