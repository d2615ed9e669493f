"""The contact sheet of a series: a few of its slices, kept until the series is finished."""

from __future__ import annotations

import hashlib
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from kspacesr_rt.dicom import DecodedSlice
from kspacesr_rt.dicom.attributes import numbers
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.kspace import FloatArray, SampleGrid
from kspacesr_rt.model.trust_calibration import TrustCalibration
from kspacesr_rt.quality.trust_interval import half_width
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.volumes.output_names import is_volume_output, stem_of

PREVIEW_POSITIONS = (0.3, 0.5, 0.7)
"""Which slices of a series the contact sheet shows, as shares of its length."""


def preview_of(output: str) -> str:
    """Return what a contact sheet is called by: its series' folder, or its volume's name.

    Parameters
    ----------
    output
        Path of an output, relative to the output folder.
    """
    path = Path(output)
    if not is_volume_output(path.name):
        return path.parent.name
    return f"{stem_of(path.name)}_{hashlib.sha256(path.as_posix().encode()).hexdigest()[:6]}"


class Shown(NamedTuple):
    """A slice on a contact sheet."""

    number: int
    """In its series, counted from 0."""
    lr: FloatArray
    sr: FloatArray
    series_number: int | None
    """Series Number of the source."""
    half_width: FloatArray | None = None
    """Of the interval around each sample, if that is shown."""
    coverage: float = 0.0
    """Share of the samples that it is to hold."""

    @classmethod
    def of(
        cls,
        number: int,
        source: DecodedSlice,
        sr: FloatArray,
        calibration: TrustCalibration | None = None,
    ) -> Shown:
        """Return a slice by its source and its result, with intervals if these are calibrated."""
        series_numbers = [one for one in numbers(source.dataset, "SeriesNumber") if isfinite(one)]
        series_number = int(series_numbers[0]) if series_numbers else None
        if calibration is None:
            return cls(number, source.values, sr, series_number)
        width = half_width(source.values, sr, calibration)
        return cls(number, source.values, sr, series_number, width, calibration.coverage)


class Previews:
    """Keeps the few slices of a series that its contact sheet shows."""

    def __init__(self, n_slices: int, grid: SampleGrid = "kspace") -> None:
        self._grid: SampleGrid = grid
        self._wanted = {int(share * (n_slices - 1) + 0.5) for share in PREVIEW_POSITIONS}
        self._kept: list[Shown] = []
        self._series = ""

    def wants(self, number: int) -> bool:
        """Return whether a slice, counted from 0, is to be kept."""
        return number in self._wanted

    def keep(self, series: str, shown: list[Shown]) -> None:
        """Keep slices of the output series in a folder of this name, which the sheet has too."""
        if shown:
            self._series = series
            self._kept += shown

    def save(self, folder: Path) -> None:
        """Write the contact sheet, unless there is nothing on it.

        Raises
        ------
        SliceFailed
            If it cannot be drawn.
        OutputError
            If it cannot be written.
        """
        if not self._kept:
            return
        from kspacesr_rt.pipeline.contact_sheet import PreviewSlice, contact_sheet

        self._kept.sort(key=lambda shown: shown.number)
        with as_slice_failure():
            png = contact_sheet(
                [
                    PreviewSlice(
                        lr=one.lr,
                        sr=one.sr,
                        number=one.number + 1,
                        series_number=one.series_number,
                        grid=self._grid,
                        half_width=one.half_width,
                        coverage=one.coverage,
                    )
                    for one in self._kept
                ]
            )
        replace_file(folder / f"preview-{self._series}.png", png)
