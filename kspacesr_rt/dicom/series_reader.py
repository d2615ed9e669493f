"""Read the files of a series, each once: its bytes, what they say, and their digest.

What does not vary within the series is parsed once (`kspacesr_rt.dicom.fast.repeated_header`). A
file that does not fit is read as `kspacesr_rt.dicom.pixels.load_slice` reads any.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from kspacesr_rt.dicom.element_counts import require_bounded_size
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.fast.element_steps import UnusualEncodingError
from kspacesr_rt.dicom.fast.repeated_header import RepeatedHeader
from kspacesr_rt.dicom.header_counts import HeaderCounts
from kspacesr_rt.dicom.pixels import parse_slice
from kspacesr_rt.dicom.raw_header import RawHeader
from kspacesr_rt.dicom.source_slice import SourceSlice

TEMPLATES_MAX: Final = 8
"""Files of a series that become the one which others are compared to: each that does not fit, until
so many did not. What is different every time is not worth the comparison."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedSlice:
    """The file of a slice as it was at one moment."""

    dataset: RawHeader
    """What it says, pixel data still encoded; elements may be shared with others of its series."""
    status: os.stat_result
    """Of the file, before it was read."""
    sha256: str
    """Of its content."""
    seen_ns: int
    """When it was read, by the clock of this machine."""


class SeriesReader:
    """Reads the files of one series; for any threads."""

    def __init__(
        self, counts: HeaderCounts | None = None, *, earlier: SeriesReader | None = None
    ) -> None:
        """Begin with nothing, or with what another series of the run had.

        Parameters
        ----------
        counts
            Told of every header.
        earlier
            Of the other series.
        """
        self._counts = counts or HeaderCounts()
        self._template: RepeatedHeader | None = earlier._template if earlier else None
        self._is_of_another = self._template is not None
        self._n_templates = 0

    def load(self, source: SourceSlice) -> LoadedSlice:
        """Read the file of one slice.

        Raises
        ------
        SliceFailed
            As `kspacesr_rt.dicom.pixels.load_slice`.
        """
        with as_slice_failure():
            seen_ns = time.time_ns()
            with source.path.open("rb") as file:
                status = os.fstat(file.fileno())
                require_bounded_size(file)
                content = file.read()
            return LoadedSlice(
                dataset=self._parsed(content),
                status=status,
                sha256=hashlib.sha256(content).hexdigest(),
                seen_ns=seen_ns,
            )

    def _parsed(self, content: bytes) -> RawHeader:
        template = self._template
        if template is not None:
            with suppress(UnusualEncodingError, struct.error):
                found = template.read(content)
                self._is_of_another = False
                self._counts.add("read-repeated")
                return found
        found = parse_slice(io.BytesIO(content))
        is_first = template is None or self._is_of_another
        self._is_of_another = False
        self._counts.add("read-first" if is_first else "read-differing")
        if self._n_templates < TEMPLATES_MAX:
            self._n_templates += 1
            with suppress(UnusualEncodingError, struct.error):
                self._template = RepeatedHeader(content, found)
                found.share_values(self._template.values)
        return found
