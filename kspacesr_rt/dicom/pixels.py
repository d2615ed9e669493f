"""From stored integers to real-world values and back, for every transfer syntax we can decode."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from kspacesr_rt.dicom.attributes import has_value, is_signed, numbers, term
from kspacesr_rt.dicom.codecs import decode_failure, find_decoder
from kspacesr_rt.dicom.element_counts import require_bounded_size
from kspacesr_rt.dicom.failures import as_slice_failure
from kspacesr_rt.dicom.header import PIXEL_DATA, parse_file
from kspacesr_rt.dicom.raw_header import RawHeader, fact_of, raw_header, shared_tags
from kspacesr_rt.dicom.source_slice import SourceSlice
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import NonFiniteError, SliceFailed
from kspacesr_rt.kspace import FloatArray, Matrix

_STREAM_STARTS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
"""Of JPEG and JPEG-LS, of JPEG 2000, and of JPEG 2000 in a box."""
_RLE_START: Final = bytes((0, 0, 0, 64, 0, 0, 0))
"""Behind the number of segments: the first of them follows the header (PS3.5 G.5)."""

VALUES: Final = (1e-15, 1e15)
"""Largest real-world value of a slice, at least and at most: energies, squares summed over k-space,
then neither vanish nor overflow in float32, whatever the matrix."""
STEPS_MAX: Final = 1 << 18
"""Largest real-world value in steps of one stored value, four times what 16 bits count. Rounding of
a transform, some 2e-7 of the largest value, must stay well below half a step; at 3e6 it did not."""

_NATIVE: Final = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian})
"""Transfer syntaxes of pixel data that are the samples, one after the other."""

_MODULE_TAGS: Final = shared_tags(
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
)
_RANGE_TAGS: Final = shared_tags("BitsStored", "PixelRepresentation")
_DTYPE_TAGS: Final = shared_tags("BitsAllocated", "PixelRepresentation")
_RESCALE_TAGS: Final = shared_tags("RescaleSlope", "RescaleIntercept")

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecodedSlice:
    """One slice in memory: what its header says and what its pixels mean."""

    dataset: Dataset
    """The header with `file_meta`, without pixel data; little endian whatever the file was."""
    values: FloatArray
    """Real-world values, float32 ``(y, x)``: stored * slope + intercept."""
    padding: npt.NDArray[np.bool_] | None
    """True where the scanner stored Pixel Padding Value, ``(y, x)``, if that value is no signal.
    There `values` is limited to the range of the others and zero, so that it cannot ring.

    None where nothing was padded, and where the padding value lies within the signal: GE writes 0,
    and imposing it again on every dark sample changed single pixels by 162 of 900 grey levels."""
    stored_digest: bytes = b""
    """SHA-256 of the stored values, of which and of the header `values` were made, the same for
    every encoding; empty of a slice that is not a whole file."""


def read_slice(source: SourceSlice) -> DecodedSlice:
    """Decode one slice.

    Raises
    ------
    SliceFailed
        ``truncated``: the file holds less than it announces; ``codec``: nothing installed decodes
        its compression; ``decode``: the decoder gave up; ``unreadable``: the file or a value in
        it; ``bad-rescale``: slope or intercept are no usable numbers, or lose stored values.
    """
    return decode_slice(load_slice(source))


def load_slice(source: SourceSlice) -> RawHeader:
    """Read the file of one slice, pixel data still encoded; see `read_slice`."""
    with as_slice_failure(), source.path.open("rb") as file:
        require_bounded_size(file)
        return parse_slice(file)


def parse_slice(file: BinaryIO) -> RawHeader:
    """Read an open file, which stands at its beginning; see `load_slice`."""
    with as_slice_failure(), quiet_pydicom():
        header, pixels, after = parse_file(file)
        dataset = raw_header(header.dataset)
        dataset.update(raw_header(after))
    if pixels is None or pixels.tag != PIXEL_DATA or not pixels.value:
        raise SliceFailed("truncated", "holds no complete pixel data")
    dataset[PIXEL_DATA] = pixels
    return dataset


def decode_slice(dataset: Dataset) -> DecodedSlice:
    """Decode what `load_slice` has read, which is used up; see `read_slice`."""
    stored = _stored_values(dataset)
    values = real_world_values(stored, dataset)
    padding = limit_padding(dataset, stored, values)
    for keyword in ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            del dataset[keyword]
    return DecodedSlice(
        dataset=dataset, values=values, padding=padding, stored_digest=_stored_digest(stored)
    )


def _stored_digest(stored: IntArray) -> bytes:
    """Return the SHA-256 of stored values, none of which has more than 16 bits."""
    digest = hashlib.sha256(repr(stored.shape).encode())
    narrow = stored if stored.dtype.itemsize == 2 else stored.astype(np.uint16)
    digest.update(np.ascontiguousarray(narrow.view("<u2")).data)
    return digest.digest()


def pixel_digest(source: SourceSlice) -> tuple[str, Dataset]:
    """Return the SHA-256 of the stored values, the same for every syntax, and the data set."""
    dataset = load_slice(source)
    stored = _stored_values(dataset)
    content = stored.astype(np.int32).tobytes()
    digest = hashlib.sha256(repr(stored.shape).encode() + content).hexdigest()
    return digest, dataset


def real_world_values(stored: IntArray, dataset: Dataset) -> FloatArray:
    """Return stored integers as real-world values, float32: stored * slope + intercept.

    Raises
    ------
    SliceFailed
        ``bad-rescale``: Rescale Slope or Intercept is no usable number, or float32 would not tell
        neighbouring stored values apart through the transforms that follow.
    """
    slope, intercept = rescale(dataset)
    extremes = [int(stored.min()) * slope + intercept, int(stored.max()) * slope + intercept]
    largest = max(map(abs, extremes))
    if largest > 0.0 and not VALUES[0] <= largest <= min(VALUES[1], STEPS_MAX * abs(slope)):
        raise SliceFailed(
            "bad-rescale", "Rescale Slope and Intercept take its values out of what is computed in"
        )
    if (slope, intercept) == (1.0, 0.0):
        return stored.astype(np.float32)
    wide = np.multiply(stored, slope, dtype=np.float64)  # rounded to float32 once, at the end
    wide += intercept
    values: FloatArray = wide.astype(np.float32)
    return values


def to_stored(values: FloatArray, dataset: Dataset) -> IntArray:
    """Turn real-world values into the integers that the data set's pixel module describes.

    Parameters
    ----------
    values
        Real-world values, any shape, finite.
    dataset
        Rescale Slope and Intercept, Bits Allocated and Stored, Pixel Representation.

    Returns
    -------
        Same shape; rounded half to even, then *clipped* to Bits Stored. A super-resolved edge
        overshoots: wrapping would turn black into white, a magnitude undershoot into signal.

    Raises
    ------
    NonFiniteError
        If a value is NaN or infinite.
    """
    slope, intercept = rescale(dataset)
    low, high = stored_range(dataset)
    if (slope, intercept) == (1.0, 0.0):
        unscaled = np.rint(values)
    else:
        # float64: an intercept far from zero would cost a float32 its last stored digits.
        unscaled = np.subtract(values, intercept, dtype=np.float64)
        unscaled /= slope
        np.rint(unscaled, out=unscaled)
    least, largest = (float(one(initial=0.0)) for one in (unscaled.min, unscaled.max))
    if not (math.isfinite(least) and math.isfinite(largest)):  # either is NaN if any value is
        raise NonFiniteError("the super-resolved slice holds values that are not finite")
    if least < low or largest > high:
        unscaled.clip(low, high, out=unscaled)
    return unscaled.astype(_dtype(dataset))


@dataclass(frozen=True, slots=True)
class _Module:
    """What the pixel module of a data set says of its samples."""

    matrix: Matrix
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool

    @classmethod
    def of(cls, dataset: Dataset) -> _Module:
        return fact_of(dataset, _MODULE_TAGS, cls._read)

    @classmethod
    def _read(cls, dataset: Dataset) -> _Module:
        return cls(
            (int(dataset.Rows), int(dataset.Columns)),
            int(dataset.BitsAllocated),
            int(dataset.BitsStored),
            int(dataset.HighBit),
            is_signed(dataset),
        )


def stored_range(dataset: Dataset) -> tuple[int, int]:
    """Return the lowest and highest integer that Bits Stored can hold."""
    return fact_of(dataset, _RANGE_TAGS, _stored_range)


def _stored_range(dataset: Dataset) -> tuple[int, int]:
    bits = int(dataset.BitsStored)
    if is_signed(dataset):
        return -(1 << bits - 1), (1 << bits - 1) - 1
    return 0, (1 << bits) - 1


def rescale(dataset: Dataset) -> tuple[float, float]:
    """Return Rescale Slope and Intercept; an absent one changes nothing."""
    return fact_of(dataset, _RESCALE_TAGS, _rescale)


def _rescale(dataset: Dataset) -> tuple[float, float]:
    slope = _number_or(1.0, dataset, "RescaleSlope")
    intercept = _number_or(0.0, dataset, "RescaleIntercept")
    if slope == 0.0 or not (math.isfinite(slope) and math.isfinite(intercept)):
        raise SliceFailed("bad-rescale", "Rescale Slope or Intercept is no usable number")
    return slope, intercept


def _number_or(absent: float, dataset: Dataset, keyword: str) -> float:
    if not has_value(dataset, keyword):
        return absent
    found = numbers(dataset, keyword)
    return found[0] if len(found) == 1 else float("nan")


def _dtype(dataset: Dataset) -> np.dtype[Any]:
    return fact_of(dataset, _DTYPE_TAGS, _read_dtype)


def _read_dtype(dataset: Dataset) -> np.dtype[Any]:
    kind = "i" if is_signed(dataset) else "u"
    return np.dtype(f"<{kind}{int(dataset.BitsAllocated) // 8}")


def _stored_values(dataset: Dataset) -> IntArray:
    """Return the stored integers, ``(y, x)``, unused bits removed."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    pixels = dataset[PIXEL_DATA]
    value = pixels.value
    if syntax in _NATIVE and (native := _native(value, dataset)) is not None:
        return stored_integers(native, dataset, syntax)
    decoder = find_decoder(syntax)
    try:
        with quiet_pydicom():
            if syntax.is_encapsulated:
                value = _of_one_frame(value)
            options = pixel_options(dataset, syntax, n_frames=1, vr=pixels.VR)
            array, _ = decoder.as_array(value, raw=True, **options)
    except SliceFailed:
        raise
    except Exception as exc:  # a decoder's error can be anything, and quotes what it likes
        raise decode_failure(exc, syntax) from exc
    return stored_integers(array, dataset, syntax)


def _native(value: bytes, dataset: Dataset) -> IntArray | None:
    """Return uncompressed pixel data as an array; None if a decoder has to say what is wrong."""
    module = _Module.of(dataset)
    n_bytes, n_samples = module.bits_allocated // 8, module.matrix[0] * module.matrix[1]
    if module.bits_allocated not in (8, 16) or len(value) < n_samples * n_bytes:
        return None
    return np.frombuffer(value, f"<u{n_bytes}", n_samples).reshape(module.matrix)


def pixel_options(dataset: Dataset, syntax: UID, *, n_frames: int, vr: str) -> dict[str, Any]:
    """Return what a decoder of pydicom has to know of a data set that triage has passed."""
    return {
        "transfer_syntax_uid": syntax,
        "number_of_frames": n_frames,
        "rows": int(dataset.Rows),
        "columns": int(dataset.Columns),
        "samples_per_pixel": 1,
        "photometric_interpretation": term(dataset, "PhotometricInterpretation"),
        "bits_allocated": int(dataset.BitsAllocated),
        "bits_stored": int(dataset.BitsStored),
        "pixel_representation": int(dataset.PixelRepresentation),
        "pixel_keyword": "PixelData",
        "pixel_vr": vr,
        # Unused bits are ours to correct: pydicom takes High Bit to be Bits Stored - 1.
        "correct_unused_bits": False,
    }


def _of_one_frame(value: bytes) -> bytes:
    """Return encapsulated pixel data without its offsets: a single frame takes all fragments.

    Some writers tell an offset for each fragment, or leave a frame's offset wrong.

    Raises
    ------
    SliceFailed
        ``decode``: a fragment begins another frame.
    """
    n_bytes = int.from_bytes(value[4:8], "little")
    _, *others = filter(None, generate_fragments(value[8 + n_bytes :]))
    if any(_is_another_frame(fragment) for fragment in others):
        raise SliceFailed("decode", "holds several frames and announces one")
    return value[:4] + bytes(4) + value[8 + n_bytes :]


def _is_another_frame(fragment: bytes) -> bool:
    """Return whether a fragment begins as frames do: with a code stream, or with RLE's header."""
    return fragment.startswith(_STREAM_STARTS) or fragment[1:8] == _RLE_START


def stored_integers(array: npt.NDArray[Any], dataset: Dataset, syntax: UID) -> IntArray:
    """Return what a decoder gave as the integers of a slice, unused bits removed.

    They are as narrow as what was decoded where that has nothing else in them, or int32.

    Raises
    ------
    SliceFailed
        ``decode``: the decoder gave another matrix than the header announces.
    """
    module = _Module.of(dataset)
    if array.shape != module.matrix:
        raise SliceFailed("decode", "its pixel data decodes to another matrix than it announces")
    bits = module.bits_stored
    # Other codecs know the precision; these two leave overlays and rubbish in unused bits.
    leaves_rubbish = not syntax.is_encapsulated or syntax == RLELossless
    unused = module.high_bit + 1 - bits if leaves_rubbish else 0
    if unused == 0 and (narrow := _without_unused_bits(array, dataset)) is not None:
        return narrow
    stored = array.astype(np.int32)
    stored = stored >> unused
    stored = stored & ((1 << bits) - 1)
    if module.is_signed:
        stored = stored - ((stored >> bits - 1) << bits)
    return stored


def _without_unused_bits(array: npt.NDArray[Any], dataset: Dataset) -> IntArray | None:
    """Return decoded samples as they are, if no bit is set that Bits Stored does not count."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize > 2 or not array.dtype.isnative:
        return None
    found: IntArray = array.view(f"{'i' if is_signed(dataset) else 'u'}{array.dtype.itemsize}")
    low, high = stored_range(dataset)
    return found if low <= int(found.min()) and int(found.max()) <= high else None


def is_between(stored: IntArray, first: float, last: float) -> npt.NDArray[np.bool_]:
    """Return which integers lie between two values, in any order, or are one of them.

    Compared as integers: with a float, each would be widened to 64 bits first.
    """
    if not (math.isfinite(first) and math.isfinite(last)):
        return (stored >= min(first, last)) & (stored <= max(first, last))
    low, high = math.ceil(min(first, last)), math.floor(max(first, last))
    kind = np.iinfo(stored.dtype)
    if high < max(low, kind.min) or low > kind.max:
        return np.zeros(stored.shape, np.bool_)
    if low == high:
        found: npt.NDArray[np.bool_] = stored == low
        return found
    return (stored >= max(low, kind.min)) & (stored <= min(high, kind.max))


def occurs(stored: IntArray, first: float, last: float | None = None) -> bool:
    """Return whether any integer lies between two values, or is one of them; see `is_between`."""
    if last is None or first == last:
        least, largest = int(stored.min()), int(stored.max())
        if not least < first < largest:
            return first in (least, largest)
    return bool(is_between(stored, first, first if last is None else last).any())


def limit_padding(
    dataset: Dataset, stored: IntArray, values: FloatArray
) -> npt.NDArray[np.bool_] | None:
    """Find the padded samples and limit `values` there to the signal's range, in place."""
    first = numbers(dataset, "PixelPaddingValue")
    if len(first) != 1:
        return None
    last = numbers(dataset, "PixelPaddingRangeLimit") or first
    if last == first and _is_within_signal(first[0], stored, dataset):
        return None
    mask = is_between(stored, first[0], last[0])
    signal = values[~mask]
    limited = values[mask].clip(signal.min(initial=0.0), signal.max(initial=0.0))
    if np.array_equal(limited, values[mask]):
        return None
    values[mask] = limited
    return mask


def _is_within_signal(padding: float, stored: IntArray, dataset: Dataset) -> bool:
    """Return whether to limit samples of one stored value would change none of them.

    It would not where the value means zero, nor where others lie on both sides of it.
    """
    slope, intercept = rescale(dataset)
    return padding * slope + intercept == 0.0 or int(stored.min()) < padding < int(stored.max())
