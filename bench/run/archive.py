"""Make archives of any size out of the shipped sample, for benchmarks, memory tests and soaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian

from kspacesr_rt.dicom.uids import stable_uid
from kspacesr_rt.sample import sample_folder


def make_archive(folder: Path, n_slices: int, *, matrix: tuple[int, int] | None = None) -> None:
    """Write `n_slices` classic MR slices, no two with the same pixels, a folder for each series.

    Parameters
    ----------
    folder
        Made if missing.
    n_slices
        A series has as many slices as the sample; the last one may have fewer.
    matrix
        LR rows and columns; None keeps the sample's. Others are cut out of the middle of the image,
        or the image is repeated, so only speed should be read off them.

    Notes
    -----
    Copy ``c`` of a slice is the sample's slice rolled by ``c`` rows, under UIDs of its own.
    """
    sample = [dcmread(path) for path in sorted(sample_folder().glob("*.dcm"))]
    pixels = [_cut(dataset.pixel_array, matrix) for dataset in sample]
    for number in range(n_slices):
        copy, index = divmod(number, len(sample))
        dataset = sample[index]
        stored = np.roll(pixels[index], copy, axis=0)
        dataset.Rows, dataset.Columns = stored.shape
        dataset.SOPInstanceUID = stable_uid("archive instance", number)
        dataset.SeriesInstanceUID = stable_uid("archive series", copy)
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.PixelData = stored.tobytes()
        place = folder / f"series-{copy:05d}"
        place.mkdir(parents=True, exist_ok=True)
        dataset.save_as(place / f"{index:03d}.dcm", enforce_file_format=True)


def _cut(stored: np.ndarray, matrix: tuple[int, int] | None) -> np.ndarray:
    if matrix is None:
        return stored
    stored = np.tile(
        stored, [-(-want // have) for have, want in zip(stored.shape, matrix, strict=True)]
    )
    rows, columns = ((have - want) // 2 for have, want in zip(stored.shape, matrix, strict=True))
    return np.ascontiguousarray(stored[rows:, columns:][: matrix[0], : matrix[1]])
