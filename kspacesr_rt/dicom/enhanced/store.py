"""Write a multi-frame file frame by frame, whole or not at all: Enhanced MR, or a Parametric Map.

All that is known of a file while it grows is in one `EnhancedWriter`: no frame waits in memory, and
frames may come in any order.
"""

from __future__ import annotations

import copy
import hashlib
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import UID, ParametricMapStorage

from kspacesr_rt.dicom import provenance
from kspacesr_rt.dicom.compress import packed_frames
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.header import read_header
from kspacesr_rt.dicom.output_identity import output_header_digest
from kspacesr_rt.dicom.output_places import OutputPlace
from kspacesr_rt.dicom.provenance import Derivation
from kspacesr_rt.dicom.raw_header import selected_elements
from kspacesr_rt.dicom.store import (
    create_new,
    encode,
    is_complete_output,
    publish,
    writing_outputs,
)
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import OutputError, SliceError, SliceFailed

UID_LENGTH: Final = 44
"""Bytes that the SOP Instance UID takes in the file: it is put in place when all pixels are known,
so its length must not depend on them. Of all UUIDs, 97 % make a UID of 43 or 44 characters."""
VALUE_MAX: Final = 2**32 - 2
"""Bytes in a value of explicit length (PS3.5 7.1.1, even)."""

_STAND_IN: Final = "2.25." + "9" * (UID_LENGTH - len("2.25."))
"""No UUID is that large, so nothing else in a header reads like it."""
LATE_LENGTH: Final = 16
"""Bytes of a decimal string that is put in place when all pixels are known (PS3.5 6.2)."""
_FLOAT_PIXEL_DATA: Final = 0x7FE00008


class EnhancedWriter:
    """One output file that grows; a context manager that leaves nothing if it is not finished.

    >>> with EnhancedWriter(out, derived, derivation) as writer:         # doctest: +SKIP
    ...     for number, stored in enumerate(frames, start=1):
    ...         writer.write(number, stored)
    ...     path, fresh = writer.finish()
    """

    def __init__(
        self,
        root_out: Path,
        derived: Dataset,
        derivation: Derivation,
        *,
        syntax: UID | None = None,
        place: OutputPlace | None = None,
    ) -> None:
        """Lay the file out; nothing is written yet.

        Parameters
        ----------
        root_out
            Output folder.
        derived
            From `derive_enhanced`, or `kspacesr_rt.dicom.parametric_map`; not changed.
        derivation
            What made it; its identity enters the SOP Instance UID.
        syntax
            A lossless one to compress the frames with, once all are there; None leaves them native.
        place
            Where the output belongs; None: it is called by its UIDs.

        Raises
        ------
        SliceFailed
            ``too-large``: the pixels are more than a DICOM value can hold.
        """
        self._derivation = derivation
        self._source_uid = str(derived.SOPInstanceUID)
        self._series_uid = str(derived.SeriesInstanceUID)
        self._place = place or OutputPlace.by_uid(root_out, self._series_uid)
        self._shape = (int(derived.Rows), int(derived.Columns))
        self._frame_bytes = self._shape[0] * self._shape[1] * int(derived.BitsAllocated) // 8
        self._digests: list[bytes | None] = [None] * int(derived.NumberOfFrames)
        n_bytes = self._frame_bytes * len(self._digests)
        self._n_pixel_bytes = n_bytes + n_bytes % 2
        if self._n_pixel_bytes > VALUE_MAX:
            raise SliceFailed(
                "too-large",
                f"{len(self._digests)} frames of {self._shape[0]} x {self._shape[1]} are more than "
                "the 4 GiB that pixel data can hold",
                hint="a smaller --upscale fits",
            )
        with as_slice_failure():
            self._head = _before_pixels(derived, self._n_pixel_bytes)
            self.header_digest = output_header_digest(derived)  # beside the pixels
        self._syntax = syntax
        self.made_again = False  # whether a damaged file stood under its name
        self._late: Mapping[str, str] = {}
        self._temporary: Path | None = None
        self._file: BinaryIO | None = None

    def write(self, number: int, stored: npt.NDArray[Any]) -> None:
        """Put a frame in its place.

        Parameters
        ----------
        number
            From 1.
        stored
            Stored integers, or float32, as the header describes them, ``(rows, columns)``.

        Raises
        ------
        OutputError
            If the disk is full or the folder cannot be written.
        """
        if stored.shape != self._shape or stored.nbytes != self._frame_bytes:
            raise ValueError(f"frame of {stored.shape} {stored.dtype} does not fit {self._shape}")
        content = stored.tobytes()
        with writing_outputs():
            file = self._file or self._begin()
            file.seek(len(self._head) + (number - 1) * self._frame_bytes)
            file.write(content)
        self._digests[number - 1] = hashlib.sha256(content).digest()

    def _begin(self) -> BinaryIO:
        temporary = self._place.folder / f".{_STAND_IN}.dcm.{secrets.token_hex(4)}.part"
        self._file = os.fdopen(create_new(temporary), "wb")
        self._temporary = temporary
        return self._file

    def finish(
        self, *, trusted: bool = True, durable: bool = True, late: Mapping[str, str] | None = None
    ) -> tuple[Path, bool]:
        """Complete the file, read it back, and give it its name.

        Parameters
        ----------
        trusted
            Whether a file of that name that does not end early is believed.
        durable
            Whether it is on the disk before it gets its name; the name is not yet.
        late
            Decimal strings that follow from the pixels, by what stands for each in the header: it
            has `LATE_LENGTH` characters, and stands there once.

        Returns
        -------
            The path, and whether it is new: False if an earlier run had written the same pixels.

        Raises
        ------
        OutputError
            If it cannot be written or reads back differently, or something else stands under its
            name.
        """
        self._late = late or {}
        digests = [digest for digest in self._digests if digest is not None]
        file, temporary = self._file, self._temporary
        if file is None or temporary is None or len(digests) != len(self._digests):
            raise RuntimeError(f"{len(digests)} of {len(self._digests)} frames were written")
        uid = self._instance_uid(b"".join(digests))
        reference = Dataset()
        reference.SeriesInstanceUID, reference.SOPInstanceUID = self._series_uid, uid
        with writing_outputs():
            path = self._place.path(uid)
            padding = self._n_pixel_bytes - self._frame_bytes * len(digests)
            file.seek(len(self._head) + self._n_pixel_bytes - padding)
            file.write(bytes(padding))
            file.seek(0)
            file.write(self._head_of(uid))
            file.flush()
            if durable:
                os.fsync(file.fileno())
            file.close()
            existed = path.exists()
            if is_complete_output(path, str(reference.SOPInstanceUID), trusted=trusted):
                return path, False
            self.made_again = existed
            self._verify(temporary, uid)
            try:
                if self._syntax is None:
                    publish(temporary, path)
                else:
                    with packed_frames(temporary, self._syntax, durable=durable) as packed:
                        publish(packed, path)
            except FileExistsError:  # written by another process since
                if not is_complete_output(path, str(reference.SOPInstanceUID)):
                    raise
                return path, False
        return path, True

    def _instance_uid(self, digests: bytes) -> str:
        """Return the UID for all that is told: the first of the possible ones of the length."""
        pixels = hashlib.sha256(repr(self._shape).encode() + digests).hexdigest()
        content = f"{self.header_digest}/{pixels}"
        return next(
            uid
            for attempt in count()
            for uid in [
                provenance.instance_uid(self._source_uid, f"{content}/{attempt}", self._derivation)
            ]
            if len(uid) + len(uid) % 2 == UID_LENGTH
        )

    def _verify(self, temporary: Path, uid: str) -> None:
        """Read the file back: a full disk can leave one that opens without an error."""
        expected = len(self._head) + self._n_pixel_bytes
        with temporary.open("rb") as file:
            same = file.read(len(self._head)) == self._head_of(uid) and all(
                hashlib.sha256(file.read(self._frame_bytes)).digest() == digest
                for digest in self._digests
            )
        if not same or temporary.stat().st_size != expected:
            raise OutputError("an output reads back differently than it was written")
        try:
            with as_slice_failure():
                header = read_header(temporary)
        except SliceError as exc:
            message = "the header holds values that cannot be read back"
            raise SliceFailed("unreadable", message) from exc
        if (
            header.dataset.get("SOPInstanceUID") != uid
            or header.pixel_bytes != self._n_pixel_bytes
            or header.pixel_offset != len(self._head)
        ):
            raise SliceFailed("unreadable", "the header holds values that cannot be read back")

    def _head_of(self, uid: str) -> bytes:
        """Return what stands before the pixels, the UID in its place."""
        # A UID of 43 characters is padded to an even length with a NUL (PS3.5 9.1).
        value = uid.encode("ascii").ljust(UID_LENGTH, b"\0")
        head = self._head.replace(_STAND_IN.encode("ascii"), value)
        for stand_in, text in self._late.items():
            if head.count(stand_in.encode("ascii")) != 1:
                raise SliceFailed("unreadable", "the header holds a number that stands for another")
            head = head.replace(
                stand_in.encode("ascii"), text.encode("ascii").ljust(LATE_LENGTH, b" ")
            )
        return head

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is None or self._temporary is None:
            return
        with suppress(OSError):  # a full disk may complain once more
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # the folder, unless others wrote into it
            self._temporary.parent.rmdir()


def _before_pixels(derived: Dataset, n_pixel_bytes: int) -> bytes:
    """Return the bytes of a file up to the value of its pixel data, which stands last."""
    with quiet_pydicom():  # a copied UID is validated once more
        header = selected_elements(derived)
        header.file_meta, header.preamble = copy.deepcopy(derived.file_meta), derived.preamble
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = UID(_STAND_IN)
        if header.SOPClassUID == ParametricMapStorage:
            header.add_new(_FLOAT_PIXEL_DATA, "OF", b"")
        else:
            header.add_new(0x7FE00010, "OW" if header.BitsAllocated == 16 else "OB", b"")
    length = n_pixel_bytes.to_bytes(4, "little")
    return encode(header)[: -len(length)] + length
