"""What becomes of a series that a scanner interpolated, or that is outside its model's limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from kspacesr_rt.dicom.scanner_interpolation import AcquiredBand
from kspacesr_rt.errors import SliceSkipped
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.limits import OUTSIDE_WARNING, ModelLimits, OnOutside
from kspacesr_rt.pipeline.run_state import RunState
from kspacesr_rt.pipeline.survey import Survey

Handled = Literal["as-stored", "cropped", "skipped"]
OutsideHandled = Literal["", "warned", "skipped", "zero-filled"]
OUTSIDE_LIMITS: Final = "outside-limits"
"""Reason word of slices that are left out for that."""


def handled_interpolation(run: RunState, band: AcquiredBand, *, multi_frame: bool) -> Handled:
    """Return what becomes of a series that the scanner interpolated."""
    wanted = run.options.on_interpolated
    if not band.interpolated or wanted == "warn":
        return "as-stored"
    if wanted == "skip" or multi_frame:
        return "skipped"
    return "as-stored" if band.cropped_matrix == band.matrix else "cropped"


def outside_of(run: RunState, survey: Survey, matrix: Matrix, handled: Handled) -> dict[str, str]:
    """Return the limits of the run's model that slices of one matrix are outside of, with words."""
    band = survey.bands[matrix]
    known = [share for share in band.profile if share is not None]
    return ModelLimits.of(run.backends.spec).outside(
        snr=survey.snr.get(matrix),
        share=min(band.shares) if known and handled == "as-stored" else None,
        body_part=survey.body_part,
    )


def handled_outside(run: RunState, outside: Mapping[str, str]) -> OutsideHandled:
    """Return what becomes of slices that are outside of these limits."""
    if not outside:
        return ""
    handled: dict[OnOutside, OutsideHandled] = {"warn": "warned", "skip": "skipped"}
    return handled.get(run.options.on_outside, "zero-filled")


def skipped_outside(outside: Mapping[str, str]) -> SliceSkipped:
    """Return the reason of slices that are left out for these limits."""
    return SliceSkipped(
        "outside-limits",
        f"{OUTSIDE_WARNING}{'; '.join(outside.values())}",
        hint="--on-outside zero-fill writes it zero-filled, warn uses the model all the same",
    )


def warnings_of_limits(run: RunState, survey: Survey) -> tuple[str, ...]:
    """Return what there is to warn about, each sentence once."""
    found = [
        f"{OUTSIDE_WARNING}{clause}"
        for matrix, band in survey.bands.items()
        for clause in outside_of(
            run, survey, matrix, handled_interpolation(run, band, multi_frame=False)
        ).values()
    ]
    return tuple(dict.fromkeys(found))


def reasons_to_skip(run: RunState, survey: Survey) -> tuple[str, ...]:
    """Return why slices of each matrix would be left out; an empty word if they would not be."""
    found = []
    for matrix, band in survey.bands.items():
        handled = handled_interpolation(run, band, multi_frame=False)
        outside = outside_of(run, survey, matrix, handled)
        if handled == "skipped":
            found.append("interpolated")
        else:
            skipped = handled_outside(run, outside) == "skipped"
            found.append(OUTSIDE_LIMITS if skipped else "")
    return tuple(found)
