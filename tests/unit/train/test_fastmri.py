"""fastMRI's HDF5 files: reconstructions, raw k-space, and everything that is neither."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from kspacesr_rt.errors import TrainingDataError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.train.volumes import read_volumes


def phantoms(n: int = 3, matrix: tuple[int, int] = (96, 88)) -> np.ndarray:
    return np.stack([brain_phantom(matrix, seed=seed) for seed in range(n)])


def header(encoded=(160, 100, 1), matrix=(80, 96, 1), fov=(160.0, 144.0, 5.0)) -> bytes:
    """Write the part of an ISMRMRD header that says how large things are."""

    def triple(name, values):
        x, y, z = values
        return f"<{name}><x>{x}</x><y>{y}</y><z>{z}</z></{name}>"

    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        f"<encodedSpace>{triple('matrixSize', encoded)}"
        f"{triple('fieldOfView_mm', (320, 150, 7.5))}</encodedSpace>"
        f"<reconSpace>{triple('matrixSize', matrix)}{triple('fieldOfView_mm', fov)}</reconSpace>"
        "</encoding></ismrmrdHeader>"
    ).encode()


def write_h5(path: Path, attributes: dict[str, object] | None = None, **datasets) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
        for name, value in (attributes or {}).items():
            file.attrs[name] = value
    return path


def plain_kspace(image: np.ndarray) -> np.ndarray:
    """Centred, orthonormal k-space with NumPy alone."""
    shifted = np.fft.ifftshift(image, axes=(-2, -1))
    return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1)).astype(np.complex64)


def refusal(path: Path) -> TrainingDataError:
    with pytest.raises(TrainingDataError) as caught:
        list(read_volumes(path))
    return caught.value


@pytest.mark.parametrize("name", ["reconstruction_rss", "reconstruction_esc"])
def test_a_fastmri_reconstruction_is_taken_as_it_is(tmp_path, name):
    """With its spacing from the header: rows are the readout, x, as fastMRI writes them."""
    image = phantoms(3, (80, 96)) * 1e-4
    path = write_h5(
        tmp_path / "file1.h5",
        {"patient_id": "abc", "max": 3.0, "norm": 5.0},
        **{name: image, "kspace": plain_kspace(image), "ismrmrd_header": header()},
    )
    (volume,) = read_volumes(path)
    assert np.array_equal(volume.slices, image)
    assert (volume.name, volume.slices.dtype) == ("file1.h5", np.float32)
    assert volume.spacing_mm == (5.0, 2.0, 1.5)


def test_the_combined_reconstruction_comes_before_the_emulated_one(tmp_path):
    """Files of the single-coil challenge hold both; the root of the sum of squares is all coils."""
    write_h5(
        tmp_path / "a.hdf5",
        reconstruction_esc=phantoms(2) * 0.5,
        reconstruction_rss=phantoms(2),
    )
    (volume,) = read_volumes(tmp_path)
    assert np.array_equal(volume.slices, phantoms(2))


@pytest.mark.parametrize("readout", ["rows", "columns"])
@pytest.mark.parametrize("coils", [None, 4])
def test_raw_kspace_is_reconstructed_without_its_oversampling(tmp_path, coils, readout):
    """Against the object itself: padded to twice the FOV along x, seen by coils, transformed."""
    image = phantoms(2, (80, 96)).astype(float)
    wide = np.pad(image, ((0, 0), (40, 40), (2, 2)))  # 160 x 100; the origin stays at n // 2
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(-1, 1, 160), np.linspace(-1, 1, 100), indexing="ij")
    seen = wide * np.exp(1j * (y - 0.5 * x))  # a reconstruction has no use for its phase
    if coils:
        maps = np.exp(-((y - rng.uniform(-1, 1, (coils, 1, 1))) ** 2) - x**2).astype(complex)
        maps *= np.exp(2j * np.pi * rng.random((coils, 1, 1)))
        maps /= np.sqrt((np.abs(maps) ** 2).sum(axis=0))
        seen = seen[:, None] * maps
    raw = plain_kspace(seen)
    if readout == "columns":
        raw, image = raw.swapaxes(-2, -1), image.swapaxes(-2, -1)
    path = write_h5(tmp_path / "raw.h5", kspace=raw, ismrmrd_header=header())
    (volume,) = read_volumes(path)
    np.testing.assert_allclose(volume.slices, image, atol=1e-5)
    edges = {"rows": (5.0, 2.0, 1.5), "columns": (5.0, 1.5, 2.0)}
    assert volume.spacing_mm == edges[readout]


def test_raw_kspace_without_a_header_keeps_its_fov(tmp_path):
    """Nothing says how much of it is oversampling, so nothing is cut."""
    image = phantoms(2)
    (volume,) = read_volumes(write_h5(tmp_path / "raw.h5", kspace=plain_kspace(image)))
    np.testing.assert_allclose(volume.slices, image, atol=1e-5)
    assert volume.spacing_mm is None


def test_a_reconstruction_wider_than_its_kspace_is_cropped_to_what_there_is(tmp_path):
    """Some brain files announce more columns than were encoded."""
    image = phantoms(1, (80, 72))
    path = write_h5(
        tmp_path / "raw.h5",
        kspace=plain_kspace(image),
        ismrmrd_header=header(encoded=(80, 72, 1), matrix=(80, 96, 1)),
    )
    (volume,) = read_volumes(path)
    assert volume.slices.shape == (1, 80, 72)


def test_kspace_with_lines_left_out_is_refused_unless_reconstructed(tmp_path):
    """Its inverse transform shows the patient several times over: no network should learn that."""
    image, mask = phantoms(2), np.arange(88) % 4 == 0
    raw = plain_kspace(image) * mask
    path = write_h5(tmp_path / "test.h5", kspace=raw, mask=mask)
    error = refusal(path)
    assert str(error) == ("test.h5: k-space of which lines were left out, without a reconstruction")
    assert error.hint == "train on fully sampled files; fastMRI's test and challenge sets are not"
    write_h5(path, kspace=raw, mask=mask, reconstruction_rss=image)
    assert len(list(read_volumes(path))) == 1
    write_h5(path, kspace=plain_kspace(image), mask=np.ones(88, bool))
    assert len(list(read_volumes(path))) == 1


def test_another_hdf5_file_is_refused_with_what_it_holds(tmp_path):
    """One array of the right shape could be anything, a probability map or an atlas."""
    path = write_h5(tmp_path / "other.h5", image=np.ones((3, 80, 80), np.float32))
    with h5py.File(path, "a") as file:
        file.create_group("labels")
    error = refusal(path)
    assert str(error) == (
        "other.h5: holds no fastMRI data, but image: float32 (3, 80, 80), labels: a group"
    )
    assert error.hint == (
        "expected reconstruction_rss, reconstruction_esc or kspace; "
        "save other arrays as .npy or NIfTI"
    )
    assert str(refusal(write_h5(path))) == "other.h5: holds no fastMRI data, but nothing"


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"kspace": np.ones((2, 8, 8), np.float32)}, "kspace is float32 (2, 8, 8), expected compl"),
        ({"kspace": np.ones((8, 8), complex)}, "kspace is complex128 (8, 8), expected an array of"),
        ({"kspace": np.ones((0, 8, 8), complex)}, "kspace is complex128 (0, 8, 8), expected an ar"),
        ({"reconstruction_rss": np.ones((8, 8))}, "reconstruction_rss is float64 (8, 8), expected"),
        ({"reconstruction_rss": np.full((1, 8, 8), np.nan)}, "holds NaN or infinity"),
        ({"reconstruction_rss": "text"}, "reconstruction_rss is object (), expected an array of 3"),
    ],
)
def test_arrays_of_another_kind_are_refused_by_name(tmp_path, datasets, message):
    """The shape is said, because it is what the user has to change."""
    path = write_h5(tmp_path / "a.h5", **datasets)
    assert str(refusal(path)).startswith(f"a.h5: {message}")


@pytest.mark.parametrize(
    "broken",
    [
        b"<ismrmrdHeader>",
        b"",
        b"<ismrmrdHeader/>",
        header(matrix=(0, 96, 1)),
        header(fov=("nan", 1.0, 1.0)),
        header(matrix=("many", 96, 1)),
        header().replace(b"reconSpace", b"other"),
    ],
)
def test_a_header_that_cannot_be_understood_is_refused(tmp_path, broken):
    """Guessing the FOV would train on images that are half air, or wrap around."""
    image = phantoms(1, (80, 96))
    path = write_h5(tmp_path / "a.h5", kspace=plain_kspace(image), ismrmrd_header=broken or b" ")
    assert str(refusal(path)).startswith("a.h5: ismrmrd_header cannot be understood: ")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_hdf5_file_is_refused(tmp_path, share):
    """A download that was interrupted, at any point."""
    path = write_h5(tmp_path / "cut.h5", reconstruction_rss=phantoms(3))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert str(refusal(path)).startswith("cut.h5: not a readable HDF5 file: ")
