"""What is drawn how often, and how noise is measured and added: what a run's data depend on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import centre_crop, fft2c, ifft2c
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.quality.metrics import tissue_mask
from kspacesr_rt.train.augmentation import Augmentation, cut_window
from kspacesr_rt.train.balance import CONTRASTS, Balance, contrast_of, series_weights
from kspacesr_rt.train.noise import rician, rim_signal_share
from kspacesr_rt.train.pairs import PairSampler, TrainingSeries

AS_IS = Augmentation(matrix_shrink=1.0, noise_share=0.0)


def heads(n: int = 4, matrix: tuple[int, int] = (96, 80)) -> np.ndarray:
    return np.stack([brain_phantom(matrix, seed=seed) for seed in range(n)]).astype(np.float32)


def of(name: str, n: int = 4, patient: str = "", **more: object) -> TrainingSeries:
    slices = np.repeat(heads(1), n, axis=0).astype(np.float16)
    return TrainingSeries(name=name, slices=slices, patient=patient or name, **more)


# --- balance --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("patient12_study1_FLAIR.nii.gz", "flair"),
        ("sub-01_T2-FLAIR.nii", "flair"),
        ("patient12_study1_T2W.nii.gz", "t2"),
        ("sub-01_run-1_T2w.nii.gz", "t2"),
        ("study1_T1W.nii.gz", "t1"),
        ("brain_T1c.nrrd", "t1"),
        ("sub-02_MPRAGE.nii.gz:1", "t1"),
        ("ge_pd_axial", "pd"),
        ("sub-03_PDw.nii.gz", "pd"),
        ("patient12_knee.nii.gz", "other"),
        ("dicom series 1 (256x256)", "other"),
        ("dpd_phantom", "other"),
    ],
)
def test_names_tell_contrasts(name, contrast):
    """Not every ``t1`` is one: ``patient12`` holds those letters too."""
    assert contrast_of(name) == contrast


def test_contrasts_get_their_shares_however_many_series_they_have():
    """Six T1 scans and one T2: half and half if that is asked for, a third of it less if not."""
    series = [of("a_T2.npy"), *(of(f"{index}_T1.npy", n=40) for index in range(6))]
    weights = series_weights(series, Balance(t1=1.0, t2=1.0), 2)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] == pytest.approx(0.5)
    np.testing.assert_allclose(weights[1:], 0.5 / 6)
    assert series_weights(series, Balance(t1=1.0, t2=2.0), 2)[0] == pytest.approx(2 / 3)
    only = series_weights(series, Balance(t2=0.0), 2)
    assert only[0] == 0.0
    assert only.sum() == pytest.approx(1.0)


def test_within_a_contrast_no_volume_and_no_patient_dominates():
    """Four times the slices weigh twice; planes and versions share; so do scans of one patient."""
    single = of("one_T1.npy", n=4)
    planes = [of(f"three_T1.npy{end}", n=16, patient="p") for end in ("", ":1", ":2")]
    weights = series_weights([single, *planes], Balance(), 2)
    np.testing.assert_allclose(weights, np.array([2, 4 / 3, 4 / 3, 4 / 3]) / 6)
    versions = [of("two_T1.npy", patient="q", cropped=cropped) for cropped in (True, False)]
    weights = series_weights([single, *versions], Balance(), 2)
    np.testing.assert_allclose(weights, [0.5, 0.25, 0.25])
    again = [of(f"{index}_T1.npy", patient="r") for index in range(4)]
    weights = series_weights([single, *again], Balance(), 2)
    np.testing.assert_allclose(weights, np.array([2, 1, 1, 1, 1]) / 6)
    # Scans of one patient in two contrasts are no repetition.
    mixed = [single, of("s_T1.npy", patient="s"), of("s_T2.npy", patient="s")]
    np.testing.assert_allclose(series_weights(mixed, Balance(), 2), [0.25, 0.25, 0.5])


def test_series_whose_rim_is_noise_are_drawn_less():
    """A step on targets that nothing can predict teaches nothing, and costs as much as another."""
    rng = np.random.default_rng(0)
    clean = of("clean_T1.npy")
    slices = clean.slices + 0.1 * rng.standard_normal(clean.slices.shape)
    noisy = dataclasses.replace(clean, name="noisy_T1.npy", patient="n", slices=slices)
    weights = series_weights([clean, noisy], Balance(), 2)
    expected = rim_signal_share(clean.slices, 2) / rim_signal_share(slices, 2)
    assert weights[0] / weights[1] == pytest.approx(expected)
    assert weights[0] > 1.5 * weights[1]
    evenly = series_weights([clean, noisy], Balance(by_signal=False), 2)
    np.testing.assert_allclose(evenly, 0.5)


def test_a_balance_that_leaves_nothing_is_refused():
    """Found out before the first step, with where contrasts come from."""
    with pytest.raises(InputError, match="no series has a contrast") as caught:
        series_weights([of("a_T1.npy")], Balance(t1=0.0), 2)
    assert "names of files" in caught.value.hint
    with pytest.raises(InputError, match="every contrast has a share of 0"):
        Balance(**dict.fromkeys(CONTRASTS, 0.0))


@pytest.mark.parametrize("value", [0, 1.0, "yes", None])
def test_by_signal_is_yes_or_no(value):
    """A share there would be taken for a weight that nobody applies."""
    with pytest.raises(InputError, match=r"^balance: by_signal is "):
        Balance(by_signal=value)


@pytest.mark.parametrize("value", [-1.0, float("nan"), "much", True, None])
def test_impossible_shares_are_refused(value):
    """Before any data is read."""
    with pytest.raises(InputError, match=r"^balance: t2 is "):
        Balance(t2=value)


def test_the_sampler_draws_by_the_balance():
    """What a recipe says is what is drawn."""
    series = [
        TrainingSeries(name="a_T1.npy", slices=np.full((9, 64, 64), 0.5, np.float16)),
        TrainingSeries(name="b_T2.npy", slices=np.full((1, 72, 72), 0.5, np.float16)),
    ]
    sampler = PairSampler(
        series,
        upscale=2,
        batch=1,
        augmentation=AS_IS,
        rng=np.random.default_rng(0),
        balance=Balance(t1=1.0, t2=3.0),
    )
    rows = [sampler.draw()[1].shape[2] for _ in range(400)]
    assert abs(rows.count(72) - 300) < 4 * np.sqrt(75)


# --- noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("upscale", [2, 4])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_signal_share_of_the_rim_is_measured(upscale, share):
    """Signal in the missed band but not in the corners, noise everywhere: their ratio is known."""
    rng = np.random.default_rng(1)
    y, x = np.meshgrid(*(np.abs(np.arange(256) - 128) / 128,) * 2, indexing="ij")
    missed = (y > 1 / upscale) | (x > 1 / upscale)
    band = missed & ~((y > 0.8) & (x > 0.8))
    noise = rng.standard_normal((6, 256, 256))
    signal = fft2c(rng.standard_normal((6, 256, 256))) * band
    gain = np.sqrt(share / (1 - share) * missed.sum() / band.sum())
    slices = noise + gain * ifft2c(signal).real
    assert rim_signal_share(slices, upscale) == pytest.approx(share, abs=0.03)


def test_noise_is_looked_for_where_the_series_was_measured():
    """Beyond its support a stored series is empty: corners of nothing would make noise signal."""
    rng = np.random.default_rng(2)
    kspace = fft2c(rng.standard_normal((6, 128, 128)))
    frequency = np.abs(np.arange(128) - 64) / 64
    kspace[:, frequency > 0.75] = 0.0
    slices = ifft2c(kspace).real
    assert rim_signal_share(slices, 2, band=(0.75, 1.0)) < 0.1
    assert rim_signal_share(slices, 2) > 0.5


def test_clean_and_empty_slices_are_all_signal():
    """No corner holds anything: there is nothing to hold against the series."""
    assert rim_signal_share(np.zeros((3, 64, 64)), 2) == 1.0
    assert rim_signal_share(heads(), 1) == 1.0


@pytest.mark.parametrize("snr", [5.0, 20.0])
def test_added_noise_is_rician_of_the_ratio_asked_for(snr):
    """Against scipy's distribution, in air and in tissue."""
    import scipy.stats  # loads for half a second

    lr = np.zeros((1, 200, 200), np.float32)
    lr[0, 60:140, 60:140] = 0.6
    noisy = rician(lr, snr, np.random.default_rng(3))
    mean = lr[0][tissue_mask(lr)[0]].mean()
    deviation = mean / snr
    assert noisy.dtype == np.float32
    for where, value in (((0, slice(60, 140), slice(60, 140)), 0.6), ((0, slice(0, 40)), 0.0)):
        samples = noisy[where].ravel()
        expected = scipy.stats.rice(value / deviation, scale=deviation)
        assert scipy.stats.kstest(samples, expected.cdf).pvalue > 1e-3


def test_noise_of_a_slice_follows_its_own_tissue():
    """A dark slice of a batch has the same ratio as a bright one; an empty one stays empty."""
    lr = np.stack([heads(1)[0], 0.01 * heads(1)[0], 0 * heads(1)[0]])
    noisy = rician(lr, 10.0, np.random.default_rng(4))
    assert np.abs(noisy[2]).max() == 0.0
    spread = [float(np.std(noisy[index] - lr[index])) for index in (0, 1)]
    assert spread[1] / spread[0] == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("upscale", [2, 4])
def test_noise_is_added_to_what_is_measured_and_to_nothing_else(upscale):
    """The rim of the target stays clean, so that a drowned one is best left alone.

    The band of the target is that of LR, which no prediction may change.
    """
    series = [of("a_T1.npy")]
    options = dataclasses.replace(AS_IS, rician_share=0.5, rician_snr=(5.0, 5.0))
    noisy, clean = (
        PairSampler(
            series, upscale=upscale, batch=100, augmentation=one, rng=np.random.default_rng(5)
        ).draw()
        for one in (options, AS_IS)
    )
    changed = [not np.array_equal(a, b) for a, b in zip(noisy[0], clean[0], strict=True)]
    assert 30 < sum(changed) < 70
    added = [
        new[:, 0].astype(np.float64) - old[:, 0] for new, old in zip(noisy, clean, strict=True)
    ]
    assert np.array_equal(changed, np.abs(added[1]).max(axis=(1, 2)) > 0)
    rows, columns = added[0].shape[1:]
    band = centre_crop(fft2c(added[1]), (rows, columns)) / upscale
    inner = (slice(None), slice(1, None), slice(1, None))  # an even axis' Nyquist line is halved
    np.testing.assert_allclose(band[inner], fft2c(added[0])[inner], atol=1e-4)
    rest = np.linalg.norm(added[1]) ** 2 - np.linalg.norm(upscale * band) ** 2
    assert rest < 0.02 * np.linalg.norm(added[1]) ** 2


@pytest.mark.parametrize("value", [(5.0,), (0.0, 5.0), (9.0, 5.0), (5.0, float("inf")), "no"])
def test_impossible_ratios_are_refused(value):
    """Before any data is read."""
    with pytest.raises(InputError, match=r"^augmentation: rician_snr is "):
        Augmentation(rician_snr=value)


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [(64, 64), (120, 96), (90, 200)])
def test_a_window_lies_on_the_patient_and_fades(matrix):
    """Without an edge that would ring, smaller or larger than the slice."""
    hr = np.zeros((100, 140), np.float32)
    hr[10:90, 100:135] = 0.8
    rng = np.random.default_rng(6)
    for _ in range(20):
        window = cut_window(hr, matrix, rng)
        assert window.shape == matrix
        assert window.dtype == np.float32
        assert window.max() > 0.3
        edges = (window[0], window[-1], window[:, 0], window[:, -1])
        assert max(edge.max() for edge in edges) < 0.05
        assert window.max() <= hr.max()


def test_a_window_of_nothing_is_nothing():
    """An empty slice has no sample on the patient to begin at."""
    window = cut_window(np.zeros((80, 80), np.float32), (64, 64), np.random.default_rng(0))
    assert window.shape == (64, 64)
    assert not window.any()


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_a_batch_of_windows_has_one_matrix_and_many_series(upscale):
    """So every step sees every contrast; LR is made of a window as of a slice."""
    series = [
        TrainingSeries(name=f"{level}", slices=np.full((3, n, n), level, np.float16))
        for level, n in ((0.25, 72), (0.5, 80), (1.0, 104))
    ]
    options = Augmentation(matrix_shrink=0.7, noise_share=0.0, gibbs_share=0.5)
    rng = np.random.default_rng(7)
    sampler = PairSampler(series, upscale=upscale, batch=1, augmentation=options, rng=rng)
    lr, hr = sampler.draw(64, 12)
    length = 64 - 64 % upscale
    assert hr.shape == (12, 1, length, length)
    assert lr.shape == (12, 1, length // upscale, length // upscale)
    middle = length // 2
    levels = {round(4 * float(one[0, middle, middle])) for one in hr}
    assert levels == {1, 2, 4}
    assert lr.mean() == pytest.approx(hr.mean(), rel=0.02)
