"""The contact sheet of a series: a few of its slices, kept until the series is finished."""

from __future__ import annotations

from pathlib import Path

from kspacesr_rt.dicom.failures import failing_the_file
from kspacesr_rt.files import replace_file
from kspacesr_rt.kspace import FloatArray, SampleGrid

PREVIEW_POSITIONS = (0.3, 0.5, 0.7)
"""Which slices of a series the contact sheet shows, as shares of its length."""

Shown = tuple[int, FloatArray, FloatArray]
"""Number of a slice in its series, LR and SR values."""


class Previews:
    """Keeps the few slices of a series that its contact sheet shows."""

    def __init__(self, n_slices: int, grid: SampleGrid = "kspace") -> None:
        self._grid = grid
        self._wanted = {int(share * (n_slices - 1) + 0.5) for share in PREVIEW_POSITIONS}
        self._kept: list[Shown] = []
        self._series_uid = ""

    def wants(self, number: int) -> bool:
        """Return whether a slice, counted from 0, is to be kept."""
        return number in self._wanted

    def keep(self, series_uid: str, shown: list[Shown]) -> None:
        """Keep slices of the output series `series_uid`."""
        if shown:
            self._series_uid = series_uid
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
        from kspacesr_rt.preview import PreviewSlice, contact_sheet

        self._kept.sort(key=lambda shown: shown[0])
        with failing_the_file():
            png = contact_sheet(
                [
                    PreviewSlice(lr=lr, sr=sr, number=number + 1, grid=self._grid)
                    for number, lr, sr in self._kept
                ]
            )
        replace_file(folder / f"preview-{self._series_uid}.png", png)
