"""Look at a few slices of a series before it is processed, for how much of k-space they hold."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from kspacesr_rt.dicom import (
    DecodedSlice,
    Series,
    SourceSlice,
    dropped_elements,
    read_slice,
    read_slices,
)
from kspacesr_rt.dicom.attributes import acquired_matrix, says_interpolated
from kspacesr_rt.dicom.failures import failing_the_file
from kspacesr_rt.errors import SliceError, SliceFailed
from kspacesr_rt.interpolated import KspaceSupport, kspace_profile, surveyed_numbers
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.report import SeriesRecord

INTERPOLATION_WARNINGS = ("interpolated ", "k-space measured ")
"""How warnings begin that speak of interpolation: those of the header (`kspacesr_rt.dicom.triage`)
and those of `KspaceSupport.warning`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What is known of a series before it is processed."""

    supports: dict[Matrix, KspaceSupport]
    """For each stored matrix of the series."""
    read: dict[Path, tuple[DecodedSlice, os.stat_result]] = field(default_factory=dict)
    """Slices that were read on the way, so that nobody need read them again, and the status that
    their files had before."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Elements, by kind, that the output of the first of them leaves out."""

    def recall(self, records: Iterable[SeriesRecord]) -> None:
        """Take what an earlier run found, so that slices which came later join its series."""
        for record in records:
            if record.matrix in self.supports and any(record.measured_shares):
                self.supports[record.matrix] = KspaceSupport(
                    matrix=record.matrix,
                    profile=record.measured_shares,
                    acquired=record.acquired,
                    header_says=record.interpolated,
                    n_slices=self.supports[record.matrix].n_slices,
                )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to warn about, a sentence for each matrix that the scanner interpolated."""
        told = (support.warning for support in self.supports.values())
        return tuple(text for text in told if text is not None)


def survey_series(series: Series, *, keep_private: bool = False) -> Survey:
    """Measure the k-space of a series over a few of its slices, and hear its header.

    Slices that cannot be read are passed over: they fail by themselves when their turn comes.
    """
    by_matrix: defaultdict[Matrix, list[SourceSlice]] = defaultdict(list)
    for item in series.slices:
        by_matrix[item.matrix].append(item)
    read: dict[Path, tuple[DecodedSlice, os.stat_result]] = {}
    supports: dict[Matrix, KspaceSupport] = {}
    for matrix, slices in by_matrix.items():
        found: list[DecodedSlice] = []
        for number in surveyed_numbers(len(slices)):
            found += _read(slices[number], read)
        supports[matrix] = _support(matrix, slices, found)
    first = next((decoded for decoded, _ in read.values()), None)
    dropped: dict[str, int] = {}
    if first is not None:
        with suppress(SliceFailed), failing_the_file():
            dropped = dropped_elements(first, keep_private=keep_private)
    return Survey(supports=supports, read=read, dropped=dropped)


def _read(
    source: SourceSlice, read: dict[Path, tuple[DecodedSlice, os.stat_result]]
) -> list[DecodedSlice]:
    with suppress(SliceError), failing_the_file():
        if source.n_frames is None:
            before = source.path.stat()
            decoded = read_slice(source)
            read[source.path] = decoded, before
            return [decoded]
        # Frames are decoded in their order, so the earliest of the middle ones cost the least.
        first, *_ = numbers = surveyed_numbers(source.n_frames)
        return list(islice(read_slices(source), first, first + len(numbers)))
    return []


def _support(matrix: Matrix, slices: list[SourceSlice], found: list[DecodedSlice]) -> KspaceSupport:
    headers = [decoded.dataset for decoded in found]
    in_headers = any(item.interpolated_from is not None for item in slices)
    # A few files must not keep all others from being processed: then nothing is known of k-space.
    with suppress(SliceError), failing_the_file():
        acquired = acquired_matrix(headers[0]) if headers else (None, None)
        return KspaceSupport(
            matrix=matrix,
            profile=kspace_profile([decoded.values for decoded in found], acquired),
            acquired=acquired,
            header_says=in_headers or any(says_interpolated(header) for header in headers),
            n_slices=len(found),
        )
    return KspaceSupport(matrix=matrix, profile=(None, None), header_says=in_headers)
