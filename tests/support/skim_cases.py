"""Whether a skimmed header says what the whole one says."""

from pathlib import Path

from pydicom.multival import MultiValue

from kspacesr_rt.dicom.fast.skim import SkimmedHeader, skim_header
from kspacesr_rt.dicom.fast.skimmed import TRIAGE_KEYWORDS
from kspacesr_rt.dicom.header import PixelFacts, read_header
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.dicom.triage import examine
from kspacesr_rt.errors import SliceError


def judged(read, path):
    """Return the header and what becomes of the file, with or without derived maps."""
    try:
        header = read(path)
    except SliceError as exc:
        return None, [(type(exc), exc.reason, str(exc), exc.hint)]
    found = []
    for include_derived in (False, True):
        try:
            found.append(examine(header, path, include_derived=include_derived))
        except SliceError as exc:
            found.append((type(exc), exc.reason, str(exc), exc.hint))
    return header, found


def pixel_facts(header):
    return {name: getattr(header, name) for name in PixelFacts.__slots__}


def plain(value):
    return list(value) if isinstance(value, MultiValue) else value


def agrees(path):
    """Compare a file's skimmed header to its whole one; return whether it was skimmed at all."""
    whole, expected = judged(read_header, path)
    skimmed, found = judged(skim_header, path)
    assert found == expected, path
    if not isinstance(skimmed, SkimmedHeader):
        return False
    assert pixel_facts(skimmed) == pixel_facts(whole), path
    with quiet_pydicom():
        for keyword in TRIAGE_KEYWORDS:
            assert (keyword in skimmed.dataset) == (keyword in whole.dataset), (path, keyword)
            value, wanted = (plain(one.dataset.get(keyword)) for one in (skimmed, whole))
            # Empty is empty, whichever way pydicom says it for a value representation.
            assert (value or 0) == (wanted or 0), (path, keyword)
        for keyword in ("MediaStorageSOPClassUID", "TransferSyntaxUID"):
            meta = (one.dataset.file_meta.get(keyword) for one in (skimmed, whole))
            assert len(set(meta)) == 1, (path, keyword)
    return True


def files(folder: Path):
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
