"""Complex pairs: LR is the centre of k-space whatever the phase, raw k-space what it says it is."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest

from kspacesr_rt import kspace
from kspacesr_rt.errors import InputError, TrainingDataError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.train.augmentation import Augmentation
from kspacesr_rt.train.complex_pairs import (
    ComplexPairSampler,
    RawSeries,
    coil_field,
    filled_image,
    kspace_crop,
    read_raw_series,
    smooth_phase,
)
from kspacesr_rt.train.file_failures import Reading
from kspacesr_rt.train.options import TrainingOptions
from kspacesr_rt.train.pairs import PairSampler, TrainingSeries

AS_IS = Augmentation(matrix_shrink=1.0, noise_share=0.0, raw_share=0.0, coil_share=0.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def phantom(rows: int = 64, columns: int = 72) -> np.ndarray:
    return brain_phantom((rows, columns)).astype(np.float32)


def sampler(options: Augmentation, raw: list[RawSeries] | None = None) -> ComplexPairSampler:
    series = TrainingSeries(name="phantom", slices=phantom()[None].astype(np.float16))
    magnitudes = PairSampler([series], upscale=2, batch=3, augmentation=options, rng=rng())
    return ComplexPairSampler(magnitudes, raw or [], upscale=2, augmentation=options)


def complex_of(pairs: np.ndarray) -> np.ndarray:
    return pairs[:, 0] + 1j * pairs[:, 1]


def test_a_phase_changes_no_magnitude_and_varies_smoothly():
    field = smooth_phase((96, 80), rng())
    assert np.abs(field) == pytest.approx(1.0, abs=1e-6)
    for axis in (0, 1):
        steps = np.angle(np.roll(field, -1, axis) / field)
        assert np.abs(np.take(steps, range(field.shape[axis] - 1), axis)).max() < 0.5
    assert not np.allclose(field, smooth_phase((96, 80), rng(1)))


def test_a_coil_fades_and_may_change_sign():
    fields = [coil_field((64, 64), rng(seed)) for seed in range(8)]
    assert all(np.abs(field).max() == pytest.approx(1.0, abs=1e-6) for field in fields)
    assert min(np.abs(field).min() for field in fields) < 0.05


@pytest.mark.parametrize("upscale", [2, 3])
def test_lr_is_the_centre_of_kspace_in_the_unit_of_images(upscale: int):
    hr = (phantom(60, 72) * smooth_phase((60, 72), rng()))[None]
    lr = kspace_crop(hr, upscale)
    assert lr.shape == (1, 60 // upscale, 72 // upscale)
    centre = kspace.centre_crop(kspace.fft2c(hr), lr.shape[1:])
    assert lr * upscale == pytest.approx(centre, abs=1e-5)
    # A phase that is constant leaves what a magnitude image would give.
    flat = kspace_crop(phantom(60, 72)[None].astype(np.complex64), upscale)
    assert np.abs(kspace.ifft2c(flat)) == pytest.approx(
        kspace.degrade(phantom(60, 72)[None], upscale), abs=1e-5
    )
    filled = filled_image(lr, upscale)
    assert filled.shape == hr.shape
    assert kspace.centre_crop(kspace.fft2c(filled), lr.shape[1:]) == pytest.approx(centre, abs=1e-5)


@pytest.mark.parametrize("window", [0, 64])
def test_a_batch_is_kspace_and_magnitudes_of_one_matrix(window: int):
    lr, hr = sampler(AS_IS).draw(window, 2)
    assert lr.dtype == hr.dtype == np.float32
    assert lr.shape[:2] == (2, 2)
    assert hr.shape[:2] == (2, 1)
    assert tuple(2 * n for n in lr.shape[2:]) == hr.shape[2:]
    assert (hr >= 0).all()
    # Without noise, coils and crops, the magnitude is the slice's own.
    if not window:
        assert hr.max() == pytest.approx(phantom().max(), rel=2e-2)
    assert len(sampler(AS_IS).draw()[0]) == 3


def test_noise_is_in_lr_and_what_shows_of_it_in_hr():
    noisy = dataclasses.replace(AS_IS, rician_share=1.0, rician_snr=(5.0, 5.0))
    lr, hr = sampler(noisy).draw(0, 1)
    clean_lr, clean_hr = sampler(AS_IS).draw(0, 1)
    added = complex_of(lr) - complex_of(clean_lr)
    tissue = np.abs(kspace.ifft2c(complex_of(clean_lr)))
    # Of the real part: as `rician` measures its SNR, from the mean of tissue.
    assert np.std(added.real) == pytest.approx(np.std(added.imag), rel=0.1)
    assert 0.5 < 5.0 * np.std(added.real) / tissue[tissue > 0.1].mean() < 1.5
    # The images differ by the zero-filled noise at most: a magnitude never differs by more.
    bound = np.abs(filled_image(added, 2)) + 1e-4
    assert (np.abs(hr[:, 0] - clean_hr[:, 0]) <= bound).all()
    assert np.abs(hr - clean_hr).max() > 0.01


def test_raw_kspace_joins_by_its_share(tmp_path):
    images = (phantom() * smooth_phase((64, 72), rng(3)))[None]
    np.save(tmp_path / "scan.npy", kspace.fft2c(7.0 * images).astype(np.complex64))
    (raw,) = read_raw_series([tmp_path])
    assert raw.label == "scan.npy"
    assert raw.images.shape == (1, 64, 72)
    assert np.abs(raw.images).max() == pytest.approx(1.0, abs=1e-6)
    # Its magnitude is the phantom's, and the phase is the one that was measured.
    assert raw.images * np.abs(images).max() == pytest.approx(images, abs=1e-4)
    always = dataclasses.replace(AS_IS, raw_share=1.0, matrix_shrink=0.8)
    lr, hr = sampler(always, [raw]).draw(96, 2)
    assert max(hr.shape[2:]) <= 72
    assert len(lr) == 2
    _, synthetic = sampler(dataclasses.replace(always, raw_share=0.0), [raw]).draw(96, 2)
    assert synthetic.shape[2:] == (96, 96)


def test_fastmri_kspace_is_taken_coil_by_coil(tmp_path):
    coils = np.stack([phantom() * coil_field((64, 72), rng(seed)) for seed in range(2)])
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["kspace"] = kspace.fft2c(coils[None]).astype(np.complex64)
    (raw,) = read_raw_series([tmp_path / "file.h5"])
    top = np.abs(coils).max()
    assert raw.images == pytest.approx(coils / top, abs=1e-5)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["reconstruction_rss"] = phantom()[None]
    with pytest.raises(TrainingDataError, match=r"holds no kspace, but reconstruction_rss"):
        read_raw_series([tmp_path / "file.h5"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (phantom()[None], "expected complex k-space"),
        (np.fft.ifftshift(kspace.fft2c(phantom())), "expected DC in the middle"),
        (np.full((1, 8, 8), np.nan + 0j), "NaN or infinity"),
        (np.zeros((1, 8, 8), np.complex64), "expected DC in the middle|is zero"),
        (np.zeros((0, 8, 8), np.complex64), "expected complex k-space"),
        (np.complex64(1.0), "expected complex k-space"),
    ],
    ids=["magnitudes", "corner", "nan", "zero", "empty", "number"],
)
def test_what_is_no_kspace_is_refused(values, message: str, tmp_path):
    np.save(tmp_path / "scan.npy", values)
    with pytest.raises(TrainingDataError, match=message):
        read_raw_series([tmp_path])
    reading = Reading()
    with pytest.raises(TrainingDataError, match="nothing is left"):
        read_raw_series([tmp_path], reading)
    assert "scan" not in reading.failures[0].as_text()


def test_a_folder_without_kspace_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no k-space")
    with pytest.raises(TrainingDataError, match="no k-space found"):
        read_raw_series([tmp_path])


def test_only_networks_with_data_consistency_take_kspace():
    spec = TrainingOptions(input="kspace").spec()
    assert (spec.input, spec.output, spec.data_consistency) == ("kspace", "kspace", "hard")
    for wrong in ({"architecture": "seed-kspace"}, {"degradation": "seed-resize"}):
        with pytest.raises(InputError, match="input 'kspace' is for"):
            TrainingOptions(input="kspace", **wrong)
