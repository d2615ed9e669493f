"""NIfTI files of known content: a blob at a known place, in any orientation."""

import gzip
from pathlib import Path

import nibabel
import numpy as np


def save_nifti(path: Path, data, affine=None, *, sform=1, qform=1, qaffine=None, **fields):
    """Write a NIfTI-1 file with the header that is asked for."""
    image = nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine)
    header = image.header
    image.set_sform(np.eye(4) if affine is None else affine, sform)
    image.set_qform(
        np.eye(4)
        if qaffine is None and affine is None
        else qaffine
        if qaffine is not None
        else affine,
        qform,
    )
    for name, value in fields.items():
        header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def set_field(path: Path, name: str, value) -> Path:
    """Change one field of a file's header, sound or not, and leave its samples as they are."""
    packed = path.name.endswith(".gz")
    content = path.read_bytes()
    content = gzip.decompress(content) if packed else content
    header = nibabel.Nifti1Header(content[:348], check=False)
    header[name] = value
    content = bytes(header.binaryblock) + content[348:]
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return path


def smooth(shape, seed=0):
    """Return a positive volume without contrast at its edges, float64."""
    axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape]
    grid = np.meshgrid(*axes, indexing="ij")
    rng = np.random.default_rng(seed)
    places = rng.uniform(-0.15, 0.15, len(shape))
    squares = sum(((one - place) / 0.2) ** 2 for one, place in zip(grid, places, strict=True))
    return 800.0 * np.exp(-squares / 2)


def centre_of_mass(data):
    """Return the centroid of a volume, in its own indices."""
    index = np.indices(data.shape)
    return np.array([(one * data).sum() / data.sum() for one in index])
