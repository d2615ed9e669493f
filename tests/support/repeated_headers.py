"""Whether a file that is read by what it has in common with another says what it says by itself."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from pydicom.dataelem import RawDataElement

from kspacesr_rt.dicom import SourceSlice
from kspacesr_rt.dicom.pixels import decode_slice, load_slice
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.errors import SliceError


def as_source(path: Path) -> SourceSlice:
    """Return a source as a scan would, as far as reading asks for it."""
    return SourceSlice(
        path=path,
        sop_class_uid="",
        sop_instance_uid="",
        series_instance_uid="",
        study_instance_uid="",
        matrix=(1, 1),
        order=(0.0,),
    )


def plain_element(element):
    """Return what an element says, as plain values that can be compared."""
    if isinstance(element, RawDataElement):
        return element.VR, element.value or b""
    if element.VR == "SQ":
        return "SQ", element.is_undefined_length, [as_plain(item) for item in element.value]
    return element.VR, element.value


def as_plain(dataset):
    """Return all elements of a data set, and what they are understood by."""
    elements = {int(tag): plain_element(dataset.get_item(tag)) for tag in dataset.keys()}  # noqa: SIM118 - iterating gives elements
    return elements, dataset.original_character_set, dataset.original_encoding


def outcome(load, path: Path):
    """Return what is read of a file, header and pixels, or why it is not."""
    try:
        dataset = load(as_source(path))
        header = as_plain(dataset), str(dataset.file_meta.TransferSyntaxUID)
        decoded = decode_slice(dataset)
    except SliceError as exc:
        return type(exc), exc.reason, str(exc)
    except (ValueError, TypeError, AttributeError, struct.error) as exc:
        return type(exc)  # of a header that triage would have refused
    padding = None if decoded.padding is None else np.packbits(decoded.padding).tobytes()
    return header, decoded.values.tobytes(), padding


def reads_alike(reader, path: Path) -> bool:
    """Compare both ways; return whether the file was read by what it has in common."""
    before = n_repeated(reader)
    with quiet_pydicom():
        found = outcome(lambda source: reader.load(source).dataset, path)
        assert found == outcome(load_slice, path), path
    return n_repeated(reader) > before


def n_repeated(reader) -> int:
    return reader._counts.to_dict().get("read-repeated", 0)
