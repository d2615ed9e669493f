"""Which convolutions can be in 8 bits: as many as the quality allows, and the largest first.

Layers differ by a thousand in what their rounding does to the image. The first one sees the image
itself, and always stays in fp32; behind a rectifier with a small slope most values are smaller than
a step. So each one's error is measured alone, and those that cost most for their size stay in fp32
until slices that the gate does not judge keep their PSNR and SSIM.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from kspacesr_rt.conversion.calibration import CalibrationSet, calibration_set, observe
from kspacesr_rt.conversion.parity import TIER_OF, Case, Run, compare, failures_of, tolerances
from kspacesr_rt.errors import ExportError
from kspacesr_rt.graph.quantisation import (
    best_scale,
    image_readers,
    quantisable,
    quantised,
)
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.spec import Precision

MOST_WIDE = 0.5
"""Share of the weights that may stay in fp32; a file with more would not be what its name says."""
SCORED_SLICES = 3
"""Real slices among those that layers are chosen on; the phantoms always are."""
MARGIN = 0.7
"""Share of the tier's loss that is used up here, since the gate judges other slices."""
ROUNDED_RESULTS = ("ort-cpu",)
"""Runtimes that convolve integers only between two pairs; see `quantisation.quantised`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantised:
    """A model in 8 bits, and what was decided."""

    proto: onnx.ModelProto
    """The graph."""
    notes: dict[str, Any]
    """For the model's specification: calibration, layers in fp32, share of weights in 8 bits."""

    def as_text(self) -> str:
        """Return what was decided in a sentence."""
        wide = ", ".join(self.notes["fp32_layers"]) or "none"
        return (
            f"{self.notes['share_of_weights']:.0%} of its weights in 8 bits, calibrated on "
            f"{self.notes['calibration_slices']} slices ({self.notes['calibration']}); "
            f"layers in fp32: {wide}"
        )


def quantise_model(
    model: ModelFile,
    reference: Run,
    runner: Callable[[ModelFile], Run],
    precision: Precision,
    *,
    calibration: Sequence[Path] = (),
    runtime: str = "ort-cpu",
) -> Quantised:
    """Calibrate a model, choose its layers and rewrite its graph.

    Parameters
    ----------
    model
        The lowered model in fp32.
    reference
        PyTorch in fp32.
    runner
        Makes a function from a model that runs slices through it.
    precision
        ``int8`` or ``fp8``.
    calibration
        Folders of images; none means the shipped sample.
    runtime
        What it is made for.

    Raises
    ------
    ExportError
        If there is no convolution with stored weights, or none that reads features.
    """
    fixed = model.spec.fixed_matrix if any(model.spec.fixed_matrix) else None
    chosen = calibration_set(calibration, model.spec.upscale, matrix=fixed)
    layers = quantisable(model.proto)
    if not layers:
        raise ExportError(f"no convolution in it could compute in {precision}")
    results = precision == "int8" and runtime in ROUNDED_RESULTS
    names = [name for layer in layers for name in (layer.input[0], layer.output[0])]
    met = observe(model, (case.lr for case in chosen.cases), names)
    scales = {name: best_scale(values, precision) for name, values in met.items()}

    def rewritten(wide: Sequence[str]) -> onnx.ModelProto:
        return quantised(model.proto, precision, scales, wide=wide, results=results)

    trial = _Trial(
        cases=_scored_cases(chosen),
        references=[reference(case.lr) for case in _scored_cases(chosen)],
        run=lambda wide: runner(dataclasses.replace(model, proto=rewritten(wide))),
        allowed=tolerances(TIER_OF[precision], model.spec.lowering),
    )
    sizes = _sizes(model.proto)
    kept = image_readers(model.proto)
    if len(kept) == len(layers):
        raise ExportError(
            f"no convolution in it could compute in {precision}: each reads an image or k-space",
            hint="bf16 and fp16 narrow all of its layers: --precision bf16",
        )
    wide = kept
    if not trial.passes(kept):  # what each layer costs takes as many trials as there are layers
        others = [name for name in _costliest_first(trial, sizes) if name not in kept]
        wide = trial.fewest([*kept, *others], sizes, at_least=len(kept))
    share = 1.0 - sum(sizes[name] for name in wide) / sum(sizes.values())
    notes = {
        "calibration": chosen.origin,
        "calibration_slices": len(chosen.slices),
        "fp32_layers": sorted(wide),
        "share_of_weights": share,
        "rounded_results": results,
    }
    return Quantised(proto=rewritten(wide), notes=notes)


def _scored_cases(chosen: CalibrationSet) -> list[Case]:
    middle = np.linspace(0, len(chosen.slices) - 1, SCORED_SLICES + 2)[1:-1].round().astype(int)
    return [*(chosen.slices[number] for number in np.unique(middle)), *chosen.phantoms]


def _sizes(proto: onnx.ModelProto) -> dict[str, int]:
    """Return the number of weights of every convolution, by its name."""
    weights = {item.name: item for item in proto.graph.initializer}
    return {
        node.name: int(numpy_helper.to_array(weights[node.input[1]]).size)
        for node in quantisable(proto)
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trial:
    """Slices to try a choice of layers on."""

    cases: list[Case]
    references: list[FloatArray]
    run: Callable[[Sequence[str]], Run]
    """From the layers that stay in fp32 to the model that results."""
    allowed: Any

    def error(self, wide: Sequence[str]) -> float:
        """Return the mean squared error of a choice, relative to each slice's maximum."""
        run = self.run(wide)
        return float(
            np.mean(
                [
                    np.square((run(case.lr) - expected) / np.abs(expected).max()).mean()
                    for case, expected in zip(self.cases, self.references, strict=True)
                ]
            )
        )

    def passes(self, wide: Sequence[str]) -> bool:
        """Tell whether a choice stays within the tier, with some to spare."""
        strict = dataclasses.replace(
            self.allowed,
            delta_psnr_db=MARGIN * self.allowed.delta_psnr_db,
            delta_ssim=MARGIN * self.allowed.delta_ssim,
        )
        run = self.run(wide)
        return not any(
            failures_of(compare(case, expected, run(case.lr)), strict)
            for case, expected in zip(self.cases, self.references, strict=True)
        )

    def fewest(self, order: Sequence[str], sizes: dict[str, int], *, at_least: int) -> list[str]:
        """Return the shortest beginning of `order` that passes, or the longest that is allowed."""
        room = MOST_WIDE * sum(sizes.values())
        fits = np.cumsum([sizes[name] for name in order]) <= room
        low, high = at_least, max(int(fits.sum()), at_least)
        while low < high:
            middle = (low + high) // 2
            if self.passes(order[:middle]):
                high = middle
            else:
                low = middle + 1
        return list(order[:high])


def _costliest_first(trial: _Trial, sizes: dict[str, int]) -> list[str]:
    """Sort layers by the error that each alone brings, for its size."""
    names = list(sizes)
    costs = {
        name: trial.error([other for other in names if other != name]) / sizes[name]
        for name in names
    }
    return sorted(names, key=lambda name: -costs[name])
