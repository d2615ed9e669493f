"""Look at a few slices of a series before it is processed, for how much of k-space they hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from kspacesr_rt.dicom import (
    DecodedSlice,
    Series,
    SourceSlice,
    decode_slice,
    dropped_elements,
    read_slices,
)
from kspacesr_rt.dicom.attributes import acquired_matrix, is_marked_interpolated, term
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.scanner_interpolation import AcquiredBand, kspace_profile, surveyed_numbers
from kspacesr_rt.dicom.series_reader import SeriesReader
from kspacesr_rt.errors import SliceError, SliceFailed
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.pipeline.journal_entries import FileState
from kspacesr_rt.pipeline.report import SeriesRecord
from kspacesr_rt.pipeline.slice_processes.process import SliceProcess
from kspacesr_rt.quality.noise import series_snr
from kspacesr_rt.volumes import SourceVolume, read_volume, volume_slices

Surveyed = dict[Path, tuple[DecodedSlice, FileState]]
"""Slices that a survey has read, and what their files were then."""
INTERPOLATION_WARNINGS = ("interpolated ", "k-space measured ")
"""How warnings begin that speak of interpolation: those of the header (`kspacesr_rt.dicom.triage`)
and those of `AcquiredBand.warning`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What is known of a series before it is processed."""

    bands: dict[Matrix, AcquiredBand]
    """For each stored matrix of the series."""
    read: Surveyed = field(default_factory=dict)
    """Slices that were read on the way, so that nobody need read them again."""
    reader: SeriesReader = field(default_factory=SeriesReader)
    """What has read them, for the other slices of the series."""
    process: SliceProcess | None = None
    """What has read, and keeps, those of `kept`; None: this one."""
    kept: frozenset[Path] = frozenset()
    """Files of slices that `process` has read."""
    snr: dict[Matrix, float | None] = field(default_factory=dict)
    """Tissue over noise of each of these, where air shows it."""
    body_part: str = ""
    """Body Part Examined, as the header of one of them says."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Elements, by kind, that the output of the first of them leaves out."""

    def restore(self, records: Iterable[SeriesRecord]) -> None:
        """Take what an earlier run found, so that slices which came later join its series."""
        for record in records:
            if record.matrix in self.bands and any(record.measured_shares):
                self.bands[record.matrix] = AcquiredBand(
                    matrix=record.matrix,
                    profile=record.measured_shares,
                    acquired=record.acquired,
                    header_says=record.interpolated,
                    n_slices=self.bands[record.matrix].n_slices,
                )
                self.snr[record.matrix] = record.snr

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to warn about, a sentence for each matrix that the scanner interpolated."""
        texts = (band.warning for band in self.bands.values())
        return tuple(text for text in texts if text is not None)


def survey_series(
    series: Series, *, keep_private: bool = False, reader: SeriesReader | None = None
) -> Survey:
    """Measure the k-space of a series over a few of its slices, and hear its header.

    `reader` reads them, and is then there for the others. Slices that cannot be read are passed
    over: they fail by themselves when their turn comes.
    """
    by_matrix: defaultdict[Matrix, list[SourceSlice]] = defaultdict(list)
    for item in series.slices:
        by_matrix[item.matrix].append(item)
    read: Surveyed = {}
    reader = reader or SeriesReader()
    bands: dict[Matrix, AcquiredBand] = {}
    snr: dict[Matrix, float | None] = {}
    part = ""
    for matrix, slices in by_matrix.items():
        found: list[DecodedSlice] = []
        for number in surveyed_numbers(len(slices)):
            found += _read(slices[number], reader, read)
        bands[matrix] = _band(matrix, slices, found)
        snr[matrix] = _snr(found)
        if found and not part:
            part = term(found[0].dataset, "BodyPartExamined")
    first = next((decoded for decoded, _ in read.values()), None)
    dropped: dict[str, int] = {}
    for item in series.slices[:1]:
        dropped = dict(item.dropped) if isinstance(item, SourceVolume) else {}
    if first is not None:
        with suppress(SliceFailed), as_slice_failure():
            dropped = dropped_elements(first, keep_private=keep_private)
    return Survey(bands=bands, read=read, reader=reader, snr=snr, body_part=part, dropped=dropped)


def unread_survey(series: Series) -> Survey:
    """Return what is known of a series none of whose slices can be read."""
    by_matrix: defaultdict[Matrix, list[SourceSlice]] = defaultdict(list)
    for item in series.slices:
        by_matrix[item.matrix].append(item)
    return Survey(
        bands={matrix: _band(matrix, slices, []) for matrix, slices in by_matrix.items()},
        snr=dict.fromkeys(by_matrix),
    )


def _read(source: SourceSlice, reader: SeriesReader, read: Surveyed) -> list[DecodedSlice]:
    with suppress(SliceError), as_slice_failure():
        if source.n_frames is None:
            loaded = reader.load(source)
            decoded = decode_slice(loaded.dataset)
            read[source.path] = decoded, FileState.of_loaded(loaded)
            return [decoded]
        if isinstance(source, SourceVolume):
            return _read_volume(source)
        # Frames are decoded in their order, so the earliest of the middle ones cost the least.
        first, *_ = numbers = surveyed_numbers(source.n_frames)
        return list(islice(read_slices(source), first, first + len(numbers)))
    return []


def _read_volume(source: SourceVolume) -> list[DecodedSlice]:
    """Return slices of the middle of a volume: of the first one of a file that holds several."""
    numbers = surveyed_numbers(source.layout.slices_of_block)
    slices = enumerate(islice(volume_slices(read_volume(source)), numbers[-1] + 1))
    return [decoded for number, decoded in slices if number in numbers]


def _snr(found: list[DecodedSlice]) -> float | None:
    with suppress(SliceError), as_slice_failure():
        return series_snr(np.stack([decoded.values for decoded in found])) if found else None
    return None


def _band(matrix: Matrix, slices: list[SourceSlice], found: list[DecodedSlice]) -> AcquiredBand:
    headers = [decoded.dataset for decoded in found]
    in_headers = any(item.interpolated_from is not None for item in slices)
    # A few files must not keep all others from being processed: then nothing is known of k-space.
    with suppress(SliceError), as_slice_failure():
        acquired = acquired_matrix(headers[0]) if headers else (None, None)
        return AcquiredBand(
            matrix=matrix,
            profile=kspace_profile([decoded.values for decoded in found], acquired),
            acquired=acquired,
            header_says=in_headers or any(is_marked_interpolated(header) for header in headers),
            n_slices=len(found),
        )
    return AcquiredBand(matrix=matrix, profile=(None, None), header_says=in_headers)
