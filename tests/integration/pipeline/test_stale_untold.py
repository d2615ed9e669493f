"""A source whose file changed only in what no output tells is no changed source.

Whatever is done to a file: it is refused as stale if, and only if, a run into an empty folder would
give another output.
"""

import dataclasses
import io
import json
import zlib

import enhanced_cases
import fault_cases
import numpy as np
import pydicom
import pytest
from fault_cases import contents
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from kspacesr_rt import kspace
from kspacesr_rt.errors import StaleOutputError
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.sample import sample_folder

OPTIONS = {"backend": "zero-fill", "batch": 2}
REFUSE = InferOptions(**OPTIONS)
PRIVATE = InferOptions(**OPTIONS, keep_private=True)


@pytest.fixture(autouse=True)
def fixed_date(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)


def dressed(folder):
    """Give every file below a folder something of each kind that is changed here."""
    for path in paths(folder):
        dataset = pydicom.dcmread(path)
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-A0100", "SRT", "Brain"
        dataset.AnatomicRegionSequence = Sequence([code])
        dataset.RetrieveAETitle = "ARCHIVE"
        dataset.private_block(0x0029, "ACME", create=True).add_new(0x10, "LO", "first")
        dataset.save_as(path)
    return folder


@pytest.fixture
def classic(tmp_path):
    folder = tmp_path / "classic"
    for path in fault_cases.make_slices(folder, 2):
        dataset = pydicom.dcmread(path)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
        dataset.SmallestImagePixelValue, dataset.LargestImagePixelValue = 1, 2
        dataset.PixelPaddingValue = 0
        dataset.save_as(path)
    return dressed(folder)


@pytest.fixture
def multi_frame(tmp_path):
    frames = enhanced_cases.build(enhanced_cases.sample_frames(2))
    enhanced_cases.save(frames, tmp_path / "multi-frame" / "frames.dcm")
    return dressed(tmp_path / "multi-frame")


@pytest.fixture(params=["classic", "multi_frame"])
def study(request):
    return request.getfixturevalue(request.param)


def rewritten(path, change):
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def set_private(dataset):
    dataset[0x0029, 0x1010].value = "second"


def add_private(dataset):
    dataset.private_block(0x0031, "OTHER", create=True).add_new(0x01, "UN", bytes(6))


def undefined_lengths(dataset):
    dataset["AnatomicRegionSequence"].is_undefined_length = True
    dataset.AnatomicRegionSequence[0].is_undefined_length_sequence_item = True


def as_implicit(path):
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(path, implicit_vr=True, little_endian=True)


def as_big_endian(path):
    dataset = pydicom.dcmread(path)
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    for element in dataset.iterall():
        element.value  # noqa: B018 - decoded, so that it is encoded anew
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=False)
    path.write_bytes(buffer.getvalue())


def as_deflated(path):
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)


def as_rle(path):
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path)


UNTOLD = {
    "private element changed": lambda path: rewritten(path, set_private),
    "private element added": lambda path: rewritten(path, add_private),
    "private elements gone": lambda path: rewritten(path, Dataset.remove_private_tags),
    "fetched elsewhere": lambda path: rewritten(
        path, lambda dataset: setattr(dataset, "RetrieveAETitle", "MIRROR")
    ),
    "undefined lengths": lambda path: rewritten(path, undefined_lengths),
    "implicit VR": as_implicit,
    "big-endian": as_big_endian,
    "deflated": as_deflated,
    "RLE": as_rle,
}
CLASSIC_UNTOLD = {
    "value 3 that is dropped": lambda path: rewritten(
        path, lambda dataset: setattr(dataset, "ImageType", ["ORIGINAL", "PRIMARY", "M_SE", "NORM"])
    ),
    "extremes": lambda path: rewritten(
        path, lambda dataset: setattr(dataset, "LargestImagePixelValue", 7)
    ),
}


def shift_pixels(dataset):
    dataset.PixelData = dataset.PixelData[2:] + dataset.PixelData[:2]


TOLD = {
    "name": lambda dataset: setattr(dataset, "PatientName", "NEW^NAME"),
    "pixels": shift_pixels,
    "image type": lambda dataset: setattr(dataset, "ImageType", [*dataset.ImageType[:3], "DIS2D"]),
    "a code": lambda dataset: setattr(dataset.AnatomicRegionSequence[0], "CodeMeaning", "Head"),
    "spacing": lambda dataset: setattr(dataset, "SliceThickness", "7"),
}
CLASSIC_TOLD = {
    "padding": lambda dataset: setattr(dataset, "PixelPaddingValue", 3),
    "slope": lambda dataset: setattr(dataset, "RescaleSlope", "2"),
    "no extremes": lambda dataset: dataset.pop("LargestImagePixelValue"),
    "the lossy past": lambda dataset: setattr(dataset, "LossyImageCompression", "01"),
}


def paths(study):
    return sorted(study.rglob("*.dcm"))


@pytest.mark.parametrize("change", UNTOLD)
def test_what_no_output_tells_makes_nothing_stale(study, tmp_path, change):
    """Of either kind of file."""
    require_present(study, tmp_path, UNTOLD[change])


@pytest.mark.parametrize("change", CLASSIC_UNTOLD)
def test_what_classic_outputs_do_not_tell_makes_none_stale(classic, tmp_path, change):
    """Multi-frame outputs keep such words, and have no extremes."""
    require_present(classic, tmp_path, CLASSIC_UNTOLD[change])


def require_present(study, tmp_path, change, options=REFUSE, *, carried=False):
    """Require that outputs are known again, and the next time by the new bytes alone.

    `carried`: a fresh run would carry the change over, into files of the same names.
    """
    out = tmp_path / "out"
    n_files = infer(study, out, options).count("written")
    before, old = contents(out), [path.read_bytes() for path in paths(study)]
    for path in paths(study):
        change(path)
    assert all(path.read_bytes() != was for path, was in zip(paths(study), old, strict=True))
    report = infer(study, out, options)
    assert (report.count("present"), report.stale, n_files > 0) == (n_files, (), True)
    assert contents(out) == before
    if not options.random_uids:
        infer(study, tmp_path / "fresh", options)
        fresh = contents(tmp_path / "fresh")
        assert fresh.keys() == before.keys()
        assert (fresh != before) == carried
    assert without_told(out / ".kspacesr-rt" / "journal.jsonl") >= 2 * n_files
    assert infer(study, out, options).count("present") == n_files


def without_told(journal):
    """Take from all lines of a journal what no earlier version noted; return how many had it."""
    lines, n_told = [], 0
    for line in journal.read_bytes().splitlines():
        if line:
            entry = json.loads(line)
            del entry["crc"]
            n_told += entry.pop("told", None) is not None
            text = json.dumps(entry, separators=(",", ":")).encode()
            lines.append(b'%s,"crc":%d}\n' % (text[:-1], zlib.crc32(text)))
    journal.write_bytes(b"".join(lines))
    return n_told


@pytest.mark.parametrize("change", TOLD)
def test_what_an_output_tells_makes_it_stale(study, tmp_path, change):
    """Of either kind of file."""
    require_stale(study, tmp_path, TOLD[change])


@pytest.mark.parametrize("change", CLASSIC_TOLD)
def test_what_classic_outputs_tell_makes_them_stale(classic, tmp_path, change):
    """Multi-frame files have these in their frames, or their outputs have none."""
    require_stale(classic, tmp_path, CLASSIC_TOLD[change])


def require_stale(study, tmp_path, change):
    """Require that an output is stale, whether its source is encoded anew, too, or not."""
    out = tmp_path / "out"
    infer(study, out, REFUSE)
    before = contents(out)
    path = paths(study)[0]
    rewritten(path, change)
    for encode in (lambda path: None, as_implicit):
        encode(path)
        with pytest.raises(StaleOutputError, match="1 of sources that have changed"):
            infer(study, out, REFUSE)
    assert contents(out) == before
    infer(study, tmp_path / "fresh", REFUSE)
    assert contents(tmp_path / "fresh") != before


def test_what_a_lossy_encoding_told_is_missed_where_it_is_gone(tmp_path):
    """The same samples, but their output does not tell any more that they lost something."""
    study, out = tmp_path / "study", tmp_path / "out"
    [path] = fault_cases.make_slices(study, 1)
    dataset = pydicom.dcmread(path)
    samples = dataset.pixel_array
    stream = io.BytesIO()
    Image.fromarray((samples * (255 / samples.max())).astype(np.uint8)).save(stream, "JPEG")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.add_new("PixelData", "OB", encapsulate([stream.getvalue()]))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(path)
    infer(study, out, REFUSE)
    dataset = pydicom.dcmread(path)
    dataset.decompress(generate_instance_uid=False)
    dataset.pop("LossyImageCompression", None)
    dataset.save_as(path)
    with pytest.raises(StaleOutputError):
        infer(study, out, REFUSE)


def test_private_elements_count_where_they_are_kept(study, tmp_path):
    """Then outputs tell them."""
    out = tmp_path / "out"
    infer(study, out, PRIVATE)
    rewritten(paths(study)[0], set_private)
    with pytest.raises(StaleOutputError):
        infer(study, out, PRIVATE)


def test_outputs_under_random_uids_are_known_again(study, tmp_path):
    """Their names hang on what the folder has drawn."""
    options = InferOptions(**OPTIONS, random_uids=True)
    require_present(study, tmp_path, UNTOLD["fetched elsewhere"], options)


def test_outputs_of_cropped_sources_are_known_again(tmp_path):
    """They tell of the crop, and hold less than the source shows."""
    study = tmp_path / "interpolated"
    study.mkdir()
    for path in sorted(sample_folder().glob("*.dcm"))[10:12]:
        dataset = pydicom.dcmread(path)
        lr = dataset.pixel_array[::2, ::2].astype(np.float32)
        wide = np.abs(kspace.zero_fill_image(lr, 2))
        dataset.PixelData = np.rint(wide.clip(0, 4095)).astype("<u2").tobytes()
        dataset.Rows, dataset.Columns = wide.shape
        dataset.AcquisitionMatrix = [0, lr.shape[1], lr.shape[0], 0]
        dataset.InPlanePhaseEncodingDirection = "COL"
        dataset.save_as(study / path.name)
    options = InferOptions(**OPTIONS, on_interpolated="crop")
    require_present(study, tmp_path, UNTOLD["fetched elsewhere"], options)
    report = infer(study, tmp_path / "out", options)
    assert {one.matrix for one in report.slices} == {lr.shape}


def test_lines_without_the_digest_know_bytes_alone(study, tmp_path):
    """Journals of earlier versions: what changed is refused, what did not is present."""
    out = tmp_path / "out"
    n_files = infer(study, out, REFUSE).count("written")
    assert without_told(out / ".kspacesr-rt" / "journal.jsonl") == n_files
    assert infer(study, out, REFUSE).count("present") == n_files
    rewritten(paths(study)[0], set_private)
    with pytest.raises(StaleOutputError):
        infer(study, out, REFUSE)
    before = contents(out)
    report = infer(study, out, dataclasses.replace(REFUSE, stale="replace"))
    assert (report.count("present"), list(report.stale)) == (n_files, [])
    assert contents(out) == before, "what the run gives is not stale after all"


def test_a_broken_file_is_not_taken_for_what_it_was(study, tmp_path):
    """What is wrong with it is told when it is processed."""
    out = tmp_path / "out"
    infer(study, out, REFUSE)
    for path in paths(study):
        as_rle(path)
        content = path.read_bytes()
        start = content.rindex(b"\xfe\xff\x00\xe0") + 8
        path.write_bytes(content[:start] + b"\xff" * 64 + content[start + 64 :])
    with pytest.raises(StaleOutputError, match=f"{len(paths(study))} of sources that have changed"):
        infer(study, out, REFUSE)


PADDED = {
    "a blank behind a name": ("PatientName", "KIMURA^A", "KIMURA^A  "),
    "blanks behind a protocol": ("ProtocolName", "T2 TSE", "T2 TSE      "),
    "blanks before it": ("ProtocolName", "T2 TSE", "  T2 TSE"),
    "blanks behind one of two": ("ScanOptions", ["SP", "PFP"], ["SP ", "PFP"]),
    "blanks in a code": ("AnatomicRegionSequence", "Brain", "Brain    "),
    "a name beyond ASCII": ("PatientName", "KÖNIG^Ä", "KÖNIG^Ä   "),
}


def said(dataset, keyword, value):
    if keyword == "AnatomicRegionSequence":
        dataset[keyword].value[0].CodeMeaning = value
    else:
        dataset.SpecificCharacterSet = "ISO_IR 100"
        setattr(dataset, keyword, value)


@pytest.mark.parametrize("how", PADDED)
def test_padding_is_no_part_of_what_is_said(study, tmp_path, how):
    """Values that differ in it alone are equal (PS3.5 6.2): the same UID, and nothing stale."""
    keyword, before, after = PADDED[how]
    for path in paths(study):
        rewritten(path, lambda dataset: said(dataset, keyword, before))

    def pad(path):
        return rewritten(path, lambda dataset: said(dataset, keyword, after))

    require_present(study, tmp_path, pad, carried=True)
    told = {path.name: path.read_bytes() for path in (tmp_path / "fresh").glob("*/*.dcm")}
    assert told.keys() == {path.name for path in (tmp_path / "out").glob("*/*.dcm")}
    sources = [pydicom.dcmread(path) for path in paths(study)]
    if keyword == "PatientName":  # and what comes is what goes, padding and all
        assert all(sources[0].get_item(keyword).value in content for content in told.values())


@pytest.mark.parametrize(
    ("keyword", "before", "after"),
    [
        ("PatientName", "KIMURA^A", "KIMURA^ A"),
        ("PatientName", "KIMURA^A", " KIMURA^A"),
        ("PatientComments", "a", " a"),
        ("PatientComments", "a \\b", "a\\b"),
    ],
)
def test_blanks_that_are_no_padding_are_said(classic, tmp_path, keyword, before, after):
    """In a name they begin a component; in a text they indent it."""
    for path in paths(classic):
        rewritten(path, lambda dataset: setattr(dataset, keyword, before))
    require_stale(classic, tmp_path, lambda dataset: setattr(dataset, keyword, after))
