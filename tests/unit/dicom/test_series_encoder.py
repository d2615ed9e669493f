"""Outputs whose headers are patched are, byte for byte, those that `derive` makes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from kspacesr_rt.dicom import provenance, read_slice, scan_folder
from kspacesr_rt.dicom.derive import derive
from kspacesr_rt.dicom.provenance import Derivation
from kspacesr_rt.dicom.series_encoder import SERIES_NAMES, SeriesEncoder, _Template
from kspacesr_rt.dicom.source_digest import SourceDigest
from kspacesr_rt.dicom.store import encode
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.sample import sample_folder

DERIVATION = Derivation(
    upscale=2,
    backend="zero-fill",
    model="zero-fill",
    weights_sha256=None,
    tool_version="1",
)


@pytest.fixture(autouse=True)
def _one_moment(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture(scope="module")
def first():
    """Cut a small slice out of the sample's first."""
    dataset = dcmread(sorted(sample_folder().glob("*.dcm"))[0])
    pixels = np.ascontiguousarray(dataset.pixel_array[100:116, 100:118])
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    return dataset


def as_slice(folder, dataset, number):
    place = folder / str(number)
    place.mkdir(parents=True)
    dcmwrite(place / "one.dcm", dataset)
    [series] = scan_folder(place).series
    [found] = series.slices
    return read_slice(found)


def sr_of(decoded, upscale=2):
    return decoded.values.repeat(upscale, 0).repeat(upscale, 1) * np.float32(1.01)


def reference(decoded, derivation=DERIVATION):
    derived = derive(decoded, sr_of(decoded, derivation.upscale), derivation)
    return (
        encode(derived),
        SourceDigest.of_slice(derived, decoded).hexdigest(),
        str(derived.SOPInstanceUID),
        str(derived.SeriesInstanceUID),
    )


def encoded(encoder, decoded, upscale=2):
    found = encoder.encode(decoded, sr_of(decoded, upscale))
    content = b"".join(found.parts) if found.dataset is None else encode(found.dataset)
    return (
        content,
        found.source_digest,
        found.sop_instance_uid,
        found.series_instance_uid,
    )


def another(dataset, number):
    """Return the next slice of the series: what differs in any series."""
    other = copy.deepcopy(dataset)
    other.SOPInstanceUID = f"{str(dataset.SOPInstanceUID)[:-2]}{number:02}"
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    other.InstanceNumber = number
    x, y, z = map(float, dataset.ImagePositionPatient)
    other.ImagePositionPatient = [x, y, round(z + 5 * number, 3)]
    other.SliceLocation = f"{z + 5 * number:.3f}"
    other.AcquisitionTime = f"1200{number:02}.5"
    other.PixelData = np.roll(dataset.pixel_array, number, 0).tobytes()
    return other


def test_a_series_is_patched_from_its_third_slice_on(first, tmp_path):
    """The first is the template, and the second its proof."""
    encoder = SeriesEncoder(DERIVATION)
    for number in range(11, 16):
        decoded = as_slice(tmp_path / "in", another(first, number), number)
        assert encoded(encoder, decoded) == reference(decoded)
    assert encoder._counts.to_dict()["encoded-repeated"] == 3


@pytest.mark.parametrize("cropped_to", [None, (15, 17)])
@pytest.mark.parametrize("upscale", [2, 3])
def test_an_origin_that_moves_is_moved_for_each(first, tmp_path, upscale, cropped_to):
    """Odd matrices, and odd upscales of even ones."""
    dataset = copy.deepcopy(first)
    if cropped_to:
        pixels = np.ascontiguousarray(first.pixel_array[: cropped_to[0], : cropped_to[1]])
        dataset.Rows, dataset.Columns, dataset.PixelData = *cropped_to, pixels.tobytes()
        if len(dataset.PixelData) % 2:
            dataset.PixelData += b"\0"
    derivation = Derivation(
        upscale=upscale, backend="b", model="m", weights_sha256="0" * 64, tool_version="2"
    )
    encoder = SeriesEncoder(derivation)
    for number in range(11, 15):
        decoded = as_slice(tmp_path / "in", another(dataset, number), number)
        assert encoded(encoder, decoded, upscale) == reference(decoded, derivation)
    assert encoder._counts.to_dict()["encoded-repeated"] == 2


def test_one_template_serves_uids_of_any_length(first, tmp_path):
    """UIDs of a number in decimals are of three lengths in any series: 2.25.x."""
    encoder = SeriesEncoder(DERIVATION)
    for number in range(11, 20):
        dataset = another(first, number)
        dataset.SOPInstanceUID = f"2.25.{7 ** (2 * number)}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        decoded = as_slice(tmp_path / "in", dataset, number)
        assert encoded(encoder, decoded) == reference(decoded)
    assert encoder._counts.to_dict()["encoded-repeated"] == 7


def test_a_slice_that_its_series_names_already_is_not_named_twice(first, tmp_path):
    """Derived from nobody knows what: the fourth slice is among its own references."""
    encoder = SeriesEncoder(DERIVATION)
    item = Dataset()
    item.SeriesInstanceUID = first.SeriesInstanceUID
    item.ReferencedInstanceSequence = _referenced(another(first, 14).SOPInstanceUID)
    for number in range(11, 16):
        dataset = another(first, number)
        dataset.ReferencedSeriesSequence = Sequence([item])
        decoded = as_slice(tmp_path / "in", dataset, number)
        assert encoded(encoder, decoded) == reference(decoded)
    assert encoder._counts.to_dict()["encoded-repeated"] > 0


def _referenced(uid):
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", uid
    return Sequence([item])


CHANGES = {
    "window": lambda ds, n: setattr(ds, "WindowCenter", 100 + n),
    "comment": lambda ds, n: setattr(ds, "ImageComments", "x" * n),
    "comment of one only": lambda ds, n: n == 14 and setattr(ds, "ImageComments", "one"),
    "no location": lambda ds, n: n == 14 and delattr(ds, "SliceLocation"),
    "scale": lambda ds, n: (
        setattr(ds, "RescaleSlope", str(1 + n)),
        setattr(ds, "RescaleIntercept", "-3"),
    ),
    "extremes": lambda ds, n: (
        ds.add_new("SmallestImagePixelValue", "US", n),
        ds.add_new("LargestImagePixelValue", "US", 99),
    ),
    "extremes of one only": lambda ds, n: (
        n == 14 and ds.add_new("LargestImagePixelValue", "US", 99)
    ),
    "references": lambda ds, n: setattr(ds, "ReferencedImageSequence", _referenced(f"1.2.{n}")),
    "reference to itself": lambda ds, n: setattr(
        ds, "ReferencedImageSequence", _referenced(ds.SOPInstanceUID)
    ),
    "sources": lambda ds, n: setattr(ds, "SourceImageSequence", _referenced(f"1.2.{n}")),
    "padding": lambda ds, n: ds.add_new("PixelPaddingValue", "US", 5 + (n > 13)),
    "padding that occurs": lambda ds, n: ds.add_new(
        "PixelPaddingValue", "US", int(ds.pixel_array.min())
    ),
    "type": lambda ds, n: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "M", f"N{n}"]),
    "length of UIDs": lambda ds, n: (
        setattr(ds, "SOPInstanceUID", f"1.2.3.{10 ** (n % 4)}.{n}"),
        setattr(ds.file_meta, "MediaStorageSOPInstanceUID", ds.SOPInstanceUID),
    ),
    "UID within another": lambda ds, n: (
        setattr(ds, "SOPInstanceUID", f"{ds.SeriesInstanceUID}.{n}"[:64]),
        setattr(ds.file_meta, "MediaStorageSOPInstanceUID", ds.SOPInstanceUID),
    ),
    "description": lambda ds, n: setattr(ds, "DerivationDescription", f"step {n}"),
    "zone": lambda ds, n: setattr(ds, "TimezoneOffsetFromUTC", f"+0{n % 9}00"),
    "private": lambda ds, n: ds.private_block(0x0029, "ACME", create=True).add_new(
        1, "LO", f"p{n}"
    ),
    "latin 1": lambda ds, n: (
        setattr(ds, "SpecificCharacterSet", "ISO_IR 100"),
        setattr(ds, "ProtocolName", f"Schädel {n}"),
        setattr(ds, "SeriesDescription", "Schädel"),
    ),
    "spacing": lambda ds, n: setattr(ds, "PixelSpacing", [1 + n / 100, 1]),
}


@pytest.mark.parametrize(
    ("name", "keep_private"), [*((name, False) for name in CHANGES), ("private", True)]
)
def test_whatever_differs_between_slices_the_output_is_that_of_derive(
    first, tmp_path, name, keep_private
):
    """Whether a template takes it or not."""
    derivation = Derivation(
        upscale=2,
        backend="b",
        model="m",
        weights_sha256=None,
        tool_version="1",
        keep_private=keep_private,
    )
    encoder = SeriesEncoder(derivation)
    for number in range(11, 16):
        dataset = another(first, number)
        CHANGES[name](dataset, number)
        decoded = as_slice(tmp_path / "in", dataset, number)
        assert encoded(encoder, decoded) == reference(decoded, derivation)


def of_series(dataset, number, **attributes):
    """Return a slice of another series, which differs in `attributes` too."""
    other = copy.deepcopy(dataset)
    other.SeriesInstanceUID = f"{str(dataset.SeriesInstanceUID)[:-2]}{number:02}"
    other.SOPInstanceUID = f"{str(dataset.SOPInstanceUID)[:-4]}{number:02}77"
    for keyword, value in attributes.items():
        setattr(other, keyword, value)
    return other


SERIES = {
    "alike": {},
    "another number": {"SeriesNumber": "7"},
    "no number": {"SeriesNumber": None},
    "another name": {"SeriesDescription": "another name of some length [x]"},
    "no name": {"SeriesDescription": ""},
    "another comment": {"ImageComments": "an element more"},
    "another patient": {"PatientID": "somebody"},
    "another type": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]},
    "another frame": {"FrameOfReferenceUID": "1.2.3"},
}


@pytest.mark.parametrize("name", SERIES)
def test_what_one_series_has_proved_is_tried_on_the_next(first, tmp_path, name):
    """And what comes of it is what `derive` makes, however they differ."""
    before, where = SeriesEncoder(DERIVATION), tmp_path / "in"
    for number in range(11, 14):
        encoded(before, as_slice(where, another(first, number), number))
    after = SeriesEncoder(DERIVATION, earlier=before)
    own = of_series(first, 44, **SERIES[name])
    for number in range(21, 26):
        decoded = as_slice(where, another(own, number), number)
        assert encoded(after, decoded) == reference(decoded)
    counts = after._counts.to_dict()
    same_kind = name not in ("another patient", "another type", "another comment")
    assert counts.get("encoded-first", 0) == (not same_kind)
    assert counts["encoded-proof"] == 1
    assert counts["encoded-repeated"] == 3 + same_kind


def test_another_run_takes_nothing_over(first, tmp_path):
    """Another derivation gives other outputs."""
    before, where = SeriesEncoder(DERIVATION), tmp_path / "in"
    for number in range(11, 14):
        encoded(before, as_slice(where, another(first, number), number))
    derivation = Derivation(
        upscale=2, backend="b", model="m", weights_sha256=None, tool_version="1"
    )
    after = SeriesEncoder(derivation, earlier=before)
    own = of_series(first, 44)
    for number in range(21, 24):
        decoded = as_slice(where, another(own, number), number)
        assert encoded(after, decoded) == reference(decoded, derivation)
    assert after._counts.to_dict()["encoded-first"] == 1


def test_a_template_that_another_series_disproves_is_its_own_again(first, tmp_path, monkeypatch):
    """Whatever it was: the second series makes one of its own, and the first keeps what it has."""
    before, where = SeriesEncoder(DERIVATION), tmp_path / "in"
    for number in range(11, 14):
        encoded(before, as_slice(where, another(first, number), number))
    monkeypatch.setattr(_Template, "of_series", lambda self, *args: unproved(self))
    after = SeriesEncoder(DERIVATION, earlier=before)
    own = of_series(first, 44)
    for number in range(21, 26):
        decoded = as_slice(where, another(own, number), number)
        assert encoded(after, decoded) == reference(decoded)
    decoded = as_slice(where, another(first, 14), 14)
    assert encoded(before, decoded) == reference(decoded)
    assert before._counts.to_dict()["encoded-repeated"] == 2


def unproved(template):
    """Return a template as if it had been taken over, with the names of the series before."""
    twin = copy.copy(template)
    twin.proved, twin.adopted = False, True
    twin._decisive = [(tag, one) for tag, one in twin._decisive if tag not in SERIES_NAMES]
    return twin


@given(
    attributes=st.fixed_dictionaries(
        {},
        optional={
            "SeriesNumber": st.integers(-99999, 99999),
            "SeriesDescription": st.text("ab [SRx2]", max_size=70),
            "FrameOfReferenceUID": st.sampled_from(["1.2.3", "1.2.34"]),
            "ProtocolName": st.text("xyz", max_size=8),
        },
    ),
    tail=st.integers(0, 10**6),
)
@settings(
    max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_any_names_of_a_series_may_differ(first, tmp_path_factory, attributes, tail):
    """Numbers and names of any length, and UIDs of other lengths."""
    where = tmp_path_factory.mktemp("series")
    before = SeriesEncoder(DERIVATION)
    for number in range(11, 13):
        encoded(before, as_slice(where, another(first, number), number))
    with quiet_pydicom():
        own = of_series(first, 44, **attributes)
        own.SeriesInstanceUID = f"{str(first.SeriesInstanceUID)[:-6]}{tail}"
    after = SeriesEncoder(DERIVATION, earlier=before)
    for number in range(21, 24):
        decoded = as_slice(where, another(own, number), number)
        assert encoded(after, decoded) == reference(decoded)


@given(data=st.data())
@settings(
    max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_any_elements_of_the_sample_may_differ(first, tmp_path_factory, data):
    """An element of a header takes another one's text, or goes."""
    where = tmp_path_factory.mktemp("any")
    texts = [e.tag for e in first if e.VR in ("LO", "SH", "CS", "DS", "IS", "TM", "DA", "ST", "LT")]
    encoder = SeriesEncoder(DERIVATION)
    for number in range(11, 15):
        dataset = another(first, number)
        for tag in data.draw(st.lists(st.sampled_from(texts), max_size=4, unique=True)):
            value = data.draw(st.sampled_from(["", "1", "12", "0.5"]))
            if tag.group != 0x28 and dataset[tag].keyword not in KEPT:
                with quiet_pydicom():  # not every text is one of every kind
                    dataset[tag].value = value
        decoded = as_slice(where / "in", dataset, number)
        assert encoded(encoder, decoded) == reference(decoded)


KEPT = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Modality", "ImageType")
"""Without which there would be no slice."""


def test_what_decides_holds_all_that_derive_asks_for(first, tmp_path, monkeypatch):
    """A new question to the source would make templates wrong: it has to be named here, too."""
    from kspacesr_rt.dicom import series_encoder
    from kspacesr_rt.dicom.raw_header import RawHeader

    decoded = as_slice(tmp_path / "in", another(first, 11), 11)
    asked = set()
    real_get, real_item = RawHeader.get, RawHeader.__getitem__

    def get(self, key, default=None):
        if self is decoded.dataset:
            asked.add(key)
        return real_get(self, key, default)

    def item(self, key):
        if self is decoded.dataset and not isinstance(key, slice):
            asked.add(key)
        return real_item(self, key)

    monkeypatch.setattr(RawHeader, "get", get)
    monkeypatch.setattr(RawHeader, "__getitem__", item)
    derive(decoded, sr_of(decoded), DERIVATION, moment=provenance.now_for(decoded.dataset))
    monkeypatch.undo()
    tags = {
        series_encoder.tag_for_keyword(key) if isinstance(key, str) else int(key) for key in asked
    }
    of_pixels = {0x00281052, 0x00281053}  # Rescale Intercept and Slope: taken anew for each slice
    assert tags - {None} <= series_encoder.DECISIVE | series_encoder._HANDLED | of_pixels
