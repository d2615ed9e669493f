"""Quality figures, against scikit-image, against sums done by hand, and against stored values."""

from __future__ import annotations

import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from kspacesr_rt.errors import InputError, ShapeError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.quality import metrics
from kspacesr_rt.quality.metrics import (
    CONVENTIONS,
    JSON_INFINITE,
    Quality,
    evaluate,
    json_number,
    mae,
    psnr_between,
    psnr_db,
    relative_error,
    ssim,
    tissue_mask,
    tissue_slices,
)

REFERENCE = 1e-10
"""Two float64 implementations of one formula."""


def random_pair(shape: tuple[int, ...] = (3, 24, 31)) -> tuple[np.ndarray, np.ndarray]:
    """HR in [0, 0.8] with slices of different brightness, SR with an error and an offset."""
    rng = np.random.default_rng(11)
    hr = rng.uniform(0.0, 0.8, shape) * np.linspace(1.0, 0.4, shape[0]).reshape(-1, 1, 1)
    return hr + rng.normal(0.01, 0.05, shape), hr


def phantom_pair() -> tuple[np.ndarray, np.ndarray]:
    """Draw heads of two brightnesses, and the same smeared along the rows."""
    hr = np.stack([brain_phantom((40, 37), seed) * gain for seed, gain in ((0, 0.9), (1, 0.5))])
    hr = hr.astype(np.float64)
    return (hr + np.roll(hr, 1, axis=2)) / 2, hr


PAIRS = {"random": random_pair, "phantom": phantom_pair}


def fixed_pair() -> tuple[np.ndarray, np.ndarray]:
    """Two slices of formulas, without a random generator or a transform."""
    y, x = np.mgrid[0:16, 0:20]
    hr = np.stack([(3 * y + 5 * x) % 17 / 20, (y * x) % 11 / 16])
    return hr + 0.12 * np.sin(y + 2.0 * x) + 0.03, hr


WANG = {"gaussian_weights": True, "use_sample_covariance": False}
"""What makes scikit-image compute SSIM as its paper does: 11 x 11, sigma 1.5."""


def scipy_mask(hr: np.ndarray) -> np.ndarray:
    """Return tissue by the words of the convention, one slice."""
    smooth = gaussian_filter(hr, 3.0)
    return smooth > 0.08 * np.percentile(smooth, 99)


def scipy_tissue_quality(sr: np.ndarray, hr: np.ndarray) -> tuple[float, float, float]:
    """Return MAE, PSNR and SSIM inside the tissue, averaged over slices."""
    found = []
    for ours, theirs in zip(sr, hr, strict=True):
        mask = scipy_mask(theirs)
        _, similarity = skimage.metrics.structural_similarity(
            theirs, ours, data_range=1.0, full=True
        )
        centre = (slice(3, -3), slice(3, -3))
        found.append(
            (
                np.abs(ours - theirs)[mask].mean(),
                -10 * np.log10(((ours - theirs)[mask] ** 2).mean()),
                similarity[centre][mask[centre]].mean(),
            )
        )
    mae_mean, psnr_mean, ssim_mean = np.mean(found, axis=0)
    return mae_mean, psnr_mean, ssim_mean


def skimage_quality(sr: np.ndarray, hr: np.ndarray, convention: str) -> tuple[float, float, float]:
    """Return MAE, PSNR and SSIM of each convention, spelled out with scikit-image."""

    def mean_ssim(data_range: float) -> float:
        pairs = zip(sr, hr, strict=True)
        return float(
            np.mean(
                [
                    skimage.metrics.structural_similarity(h, s, data_range=data_range, **window)
                    for s, h in pairs
                ]
            )
        )

    if convention == "tissue":
        return scipy_tissue_quality(sr, hr)
    window = WANG if convention == "slice-range1-gaussian" else {}
    error = float(np.abs(sr - hr).mean())
    if convention == "fastmri-volume":
        top = hr.max()
        return (
            error / top,
            skimage.metrics.peak_signal_noise_ratio(hr, sr, data_range=top),
            mean_ssim(top),
        )
    psnr = np.mean(
        [
            skimage.metrics.peak_signal_noise_ratio(h, s, data_range=1.0)
            for s, h in zip(sr, hr, strict=True)
        ]
    )
    return error, float(psnr), mean_ssim(2.0 if convention == "seed" else 1.0)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("pair", PAIRS)
def test_every_convention_agrees_with_scikit_image(pair, convention):
    """Figures are compared with papers, and papers are computed with scikit-image."""
    sr, hr = PAIRS[pair]()
    found = evaluate(sr, hr, convention)
    expected = skimage_quality(sr, hr, convention)
    np.testing.assert_allclose(
        [found.mae, found.psnr_db, found.ssim], expected, rtol=REFERENCE, atol=REFERENCE
    )


@settings(max_examples=25)
@given(
    st.integers(7, 30),
    st.integers(7, 30),
    st.floats(0.1, 5000.0),
    st.floats(0.0, 1.0),
    st.integers(0, 2**32 - 1),
)
def test_ssim_is_scikit_images_at_any_matrix(rows, columns, data_range, error, seed):
    """Windows that fit once, sizes of both parities, 12-bit units, good and useless images."""
    rng = np.random.default_rng(seed)
    hr = rng.uniform(0.0, data_range, (rows, columns))
    sr = hr + error * data_range * rng.standard_normal(hr.shape)
    expected = skimage.metrics.structural_similarity(hr, sr, data_range=data_range)
    assert ssim(sr, hr, data_range) == pytest.approx(expected, rel=1e-9, abs=1e-10)


STORED = {
    "slice-range1": (0.07896160, 20.8918660, 0.92275775),
    "slice-range1-gaussian": (0.07896160, 20.8918660, 0.92072047),
    "tissue": (0.07896160, 20.8918660, 0.92275775),
    "fastmri-volume": (0.09870200, 18.9536658, 0.92251348),
    "seed": (0.07896160, 20.8918660, 0.92473126),
}
"""MAE, PSNR in dB and SSIM of `fixed_pair`, computed with scikit-image 0.26."""


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_figures_stay_what_they_were(convention):
    """Tables of two releases can be compared only if the ruler is the same."""
    found = evaluate(*fixed_pair(), convention)
    np.testing.assert_allclose(
        [found.mae, found.psnr_db, found.ssim], STORED[convention], rtol=0, atol=1e-6
    )


def test_psnr_is_the_textbook_value():
    """An error of 0.1 everywhere is 20 dB on range 1, and 6.02 dB more on range 2."""
    hr = np.linspace(0.0, 1.0, 64).reshape(8, 8)
    assert psnr_between(hr + 0.1, hr, 1.0) == pytest.approx(20.0, abs=1e-9)
    assert psnr_between(hr + 0.1, hr, 2.0) == pytest.approx(20.0 + 20 * np.log10(2), abs=1e-9)
    assert psnr_between(hr, hr + 0.1, 1.0) == psnr_between(hr + 0.1, hr, 1.0)
    assert mae(hr - 0.1, hr) == pytest.approx(0.1)


def test_slices_are_averaged_in_db_and_volumes_in_error():
    """Two slices at 20 and 40 dB: 30 as a mean of slices, 22.97 as one volume."""
    hr = np.full((2, 8, 8), 0.5)
    hr[0, 0, 0] = 1.0  # fastMRI's data range is the maximum of the volume
    sr = hr + np.array([0.1, 0.01]).reshape(2, 1, 1)
    assert psnr_db(sr, hr) == pytest.approx(30.0, abs=1e-9)
    assert evaluate(sr, hr, "slice-range1").psnr_db == pytest.approx(30.0, abs=1e-9)
    volume = 10 * np.log10(2 / (0.1**2 + 0.01**2))
    assert evaluate(sr, hr, "fastmri-volume").psnr_db == pytest.approx(volume, abs=1e-9)


def test_ssim_of_one_window_is_the_formula():
    """Means, sample variances and the two stabilisers of Wang et al., with no library between."""
    rng = np.random.default_rng(4)
    a, b = rng.uniform(0.0, 3.0, (2, 7, 7))
    c1, c2 = (0.01 * 3.0) ** 2, (0.03 * 3.0) ** 2
    covariance = np.cov(a.ravel(), b.ravel())
    expected = (
        (2 * a.mean() * b.mean() + c1)
        * (2 * covariance[0, 1] + c2)
        / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2))
    )
    assert ssim(a, b, 3.0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_perfect_agreement_is_perfect(convention):
    """No rounding: 1.0000000002 or 310 dB for equal images would be a bug in disguise."""
    _, hr = phantom_pair()
    assert evaluate(hr, hr.copy(), convention) == Quality(mae=0.0, psnr_db=float("inf"), ssim=1.0)


def test_fastmri_figures_do_not_depend_on_the_unit():
    """The data range is the volume's own maximum: 12-bit values and shares of it agree."""
    sr, hr = phantom_pair()
    shares, stored = (evaluate(sr * g, hr * g, "fastmri-volume") for g in (1.0, 4095.0))
    for name in ("mae", "psnr_db", "ssim"):
        assert getattr(stored, name) == pytest.approx(getattr(shares, name), rel=1e-10)


def test_single_precision_is_judged_in_double():
    """Float32 windows cancel: scikit-image loses digits on them, this does not."""
    sr, hr = (image.astype(np.float32) for image in phantom_pair())
    for convention in CONVENTIONS:
        wide = evaluate(sr.astype(np.float64), hr.astype(np.float64), convention)
        assert evaluate(sr, hr, convention) == wide


def test_leading_axes_are_slices():
    """(series, slice, y, x) and (slice, y, x) and a single slice: same figures."""
    sr, hr = random_pair((4, 12, 13))
    for convention in CONVENTIONS:
        folded = evaluate(sr.reshape(2, 2, 12, 13), hr.reshape(2, 2, 12, 13), convention)
        assert folded == evaluate(sr, hr, convention)
    singles = [ssim(one, other) for one, other in zip(sr, hr, strict=True)]
    assert ssim(sr, hr) == pytest.approx(np.mean(singles), rel=1e-12)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_result_that_is_not_a_number_has_no_quality(convention):
    """One NaN pixel must not be averaged away."""
    sr, hr = random_pair()
    sr[1, 12, 12] = np.nan
    found = evaluate(sr, hr, convention)
    assert np.isnan([found.mae, found.psnr_db, found.ssim]).all()


def test_nothing_is_clipped_or_changed():
    """Clipping is the caller's choice, named in the table's caption."""
    sr, hr = random_pair()
    sr -= 0.5
    before = sr.copy(), hr.copy()
    sr.flags.writeable = hr.flags.writeable = False
    unclipped = evaluate(sr, hr, "slice-range1")
    np.testing.assert_array_equal(sr, before[0])
    np.testing.assert_array_equal(hr, before[1])
    assert unclipped.mae > evaluate(np.maximum(sr, 0.0), hr, "slice-range1").mae + 0.01


# --- relative error -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([3.0, 4.0], [0.0, 5.0], 10**0.5 / 5),
        ([1.0 + 1.0j, 0.0], [1.0, 0.0], 1.0),  # the imaginary part counts
        ([1.0, 0.0], [1.0 + 1.0j, 0.0], 1 / 2**0.5),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1e-30, 0.0], [0.0, 0.0], float("inf")),
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]], 0.0),
    ],
)
def test_relative_error_is_the_norm_of_the_difference(a, b, expected):
    """Over the norm of the second: worked out by hand, complex values and empty ones too."""
    assert relative_error(np.array(a), np.array(b)) == pytest.approx(expected, rel=1e-12)


def test_relative_error_of_stored_integers_does_not_wrap():
    """uint16 minus uint16 below zero is 65,535 to NumPy."""
    a, b = np.array([3, 4], dtype=np.uint16), np.array([4, 4], dtype=np.uint16)
    assert relative_error(a, b) == pytest.approx(1 / 32**0.5)
    assert mae(a[None], b[None]) == 0.5


# --- slices with tissue ---------------------------------------------------------------------------


def test_empty_slices_are_left_out():
    """An empty slice is infinitely good: one of them would make the mean of a series infinite."""
    hr = np.zeros((4, 10, 10))
    hr[0, 2:8, 2:8] = 0.7
    hr[1, 0, 0] = 0.99  # one hot pixel: a mean of 0.0099
    hr[2, 0, :2] = 0.8, 0.3  # 0.011: the emptiest slice worth judging
    hr[0, 5, 5] = 1.0
    kept = tissue_slices(hr)
    assert kept.tolist() == [True, False, True, False]
    assert kept.dtype == bool
    sr = hr + 0.1 * (hr > 0)
    assert psnr_db(sr, hr) == float("inf")
    assert np.isfinite(psnr_db(sr[kept], hr[kept]))


@pytest.mark.parametrize("unit", [1e-4, 1.0, 4095.0])
def test_tissue_is_a_share_of_the_series(unit):
    """Real-world values have any unit, and float16 slices a mean that would lose digits."""
    head = np.stack([brain_phantom((32, 32)), np.full((32, 32), 0.005, dtype=np.float32)])
    assert tissue_slices(head * unit).tolist() == [True, False]
    assert tissue_slices((head[::-1] * unit).astype(np.float32)).tolist() == [False, True]


def test_a_series_of_air_holds_no_tissue():
    """0 > 0.01 * 0 is false: nothing is judged, rather than everything."""
    assert not tissue_slices(np.zeros((3, 8, 8))).any()


# --- JSON and errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [(40, 37), (33, 64), (7, 9)])
def test_tissue_is_what_a_smoothed_slice_shows(matrix):
    """The mask by the words of the convention, on matrices smaller than the Gaussian too."""
    hr = np.stack([brain_phantom(matrix, seed) for seed in (0, 1)]).astype(np.float64)
    expected = np.stack([scipy_mask(one) for one in hr])
    assert expected.any()
    assert np.array_equal(tissue_mask(hr), expected)
    assert np.array_equal(tissue_mask(4095.0 * hr[1]), expected[1])


def test_air_does_not_count_inside_tissue():
    """What a method does beside the head moves the whole slice's figures and not these."""
    hr = np.zeros((64, 64))
    hr[20:44, 18:46] = 0.7
    sr, cleaner = hr + 0.02, hr + 0.02
    air = ~tissue_mask(hr[None])[0]
    # Beyond the reach of SSIM's window around the tissue.
    far = np.zeros_like(air)
    far[:8] = True
    assert air[far].all()
    cleaner[far] = 0.0
    assert evaluate(cleaner, hr, "tissue") == evaluate(sr, hr, "tissue")
    assert evaluate(cleaner, hr, "slice-range1").psnr_db > evaluate(sr, hr, "slice-range1").psnr_db
    assert evaluate(sr, hr, "tissue").psnr_db == pytest.approx(-20 * np.log10(0.02))


def test_a_broken_sample_in_air_is_no_quality_either():
    """A figure of the tissue must not hide that the result is broken beside it."""
    hr = np.zeros((64, 64))
    hr[20:44, 18:46] = 0.7
    sr = hr.copy()
    sr[0, 0] = np.inf
    found = evaluate(sr, hr, "tissue")
    assert np.isnan([found.mae, found.psnr_db, found.ssim]).all()


def test_a_slice_without_tissue_is_refused():
    """A mean over nothing is no figure; which slices count is the caller's to say."""
    hr = np.stack([np.zeros((16, 16)), np.ones((16, 16))])
    with pytest.raises(InputError, match="no tissue to judge") as caught:
        evaluate(hr, hr, "tissue")
    assert caught.value.hint == "leave empty slices out (tissue_slices)"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (32.5, 32.5),
        (float("inf"), JSON_INFINITE),
        (float("-inf"), -JSON_INFINITE),
        (float("nan"), None),
    ],
)
def test_json_gets_figures_it_can_hold(value, stored):
    """``Infinity`` is no JSON: other tools refuse the whole report."""
    assert json_number(value) == stored


def test_the_convention_must_be_named():
    """A default would end up in a table that does not say which."""
    sr, hr = random_pair()
    with pytest.raises(TypeError, match="convention"):
        evaluate(sr, hr)
    with pytest.raises(InputError) as caught:
        evaluate(sr, hr, "usual")
    assert str(caught.value) == "no metric convention is called 'usual'"
    assert caught.value.hint == f"one of: {', '.join(CONVENTIONS)}"


SLICE = np.ones((8, 8))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: evaluate(SLICE, np.ones((8, 9)), "seed"),
            ShapeError,
            "expected two images of one shape, found (8, 8) and (8, 9)",
        ),
        (
            lambda: relative_error(SLICE, SLICE[None]),
            ShapeError,
            "expected two images of one shape, found (8, 8) and (1, 8, 8)",
        ),
        (
            lambda: mae(np.ones(8), np.ones(8)),
            ShapeError,
            "expected at least one slice (..., y, x), found shape (8,)",
        ),
        (
            lambda: evaluate(np.ones((0, 8, 8)), np.ones((0, 8, 8)), "slice-range1"),
            ShapeError,
            "expected at least one slice (..., y, x), found shape (0, 8, 8)",
        ),
        (
            lambda: evaluate(np.ones((0, 8, 8)), np.ones((0, 8, 8)), "fastmri-volume"),
            ShapeError,
            "expected at least one slice (..., y, x), found shape (0, 8, 8)",
        ),
        (
            lambda: ssim(np.ones((2, 6, 9)), np.ones((2, 6, 9))),
            ShapeError,
            "SSIM needs slices of at least 7 x 7 samples, found shape (2, 6, 9)",
        ),
        (
            lambda: ssim(SLICE, SLICE, 0.0),
            InputError,
            "expected a positive data range, found 0.0",
        ),
        (
            lambda: psnr_between(SLICE, 2 * SLICE, float("nan")),
            InputError,
            "expected a positive data range, found nan",
        ),
        (
            lambda: psnr_between(SLICE, 2 * SLICE, float("inf")),
            InputError,
            "expected a positive data range, found inf",
        ),
        (
            lambda: evaluate(SLICE, 0 * SLICE, "fastmri-volume"),
            InputError,
            "expected a positive data range, found 0.0",
        ),
        (
            lambda: tissue_slices(SLICE),
            ShapeError,
            "expected the slices of one series (n, y, x), found shape (8, 8)",
        ),
        (
            lambda: tissue_slices(np.ones((0, 8, 8))),
            ShapeError,
            "expected the slices of one series (n, y, x), found shape (0, 8, 8)",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(call, kind, message):
    """A broadcast of two shapes gives a figure, too: a wrong one."""
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message


def test_every_convention_has_a_caption():
    """Tables print it; the one that flatters says so."""
    assert list(CONVENTIONS) == [
        *("slice-range1", "slice-range1-gaussian", "tissue", "fastmri-volume", "seed")
    ]
    assert all("data range" in caption for caption in CONVENTIONS.values())
    assert "flatters" in metrics.CONVENTIONS["seed"]
