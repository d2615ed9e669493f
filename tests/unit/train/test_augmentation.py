"""How HR batches are varied, and how LR is made from them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kspacesr_rt import kspace
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace.acquired_band import BAND_DROP_DB, measured_band
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.train.augmentation import (
    APODISATION_DEPTH,
    BIAS,
    GAMMA,
    Augmentation,
    apodisation,
    vary,
)
from kspacesr_rt.train.degradation import DEGRADATIONS
from kspacesr_rt.train.pairs import PairSampler, TrainingSeries

AS_IS = Augmentation(matrix_shrink=1.0, noise_share=0.0)


def phantoms(n: int = 3, matrix: tuple[int, int] = (96, 88)) -> np.ndarray:
    return np.stack([brain_phantom(matrix, seed=seed) for seed in range(n)])


def test_what_is_off_draws_nothing():
    """A recipe keeps its meaning when options are added: here are its first draws, by hand."""
    options, hr = Augmentation(matrix_shrink=0.6, noise_share=0.5), phantoms(3, (96, 80))
    ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(20):
        varied = vary(hr, options, upscale=2, rng=ours)
        theirs.random(), theirs.random()
        shape = (96, 80)[:: -1 if theirs.random() < 0.5 else 1]
        if theirs.random() < 0.5:
            theirs.uniform(0.0, options.noise_level)
            theirs.standard_normal((2, 3, *shape), dtype=np.float32)
        shrink = theirs.uniform(0.6, 1.0)
        assert varied.shape == (3, *(2 * round(n * shrink / 2) for n in shape))
        assert varied.dtype == np.float32
        assert ours.bit_generator.state == theirs.bit_generator.state


@pytest.mark.parametrize("field", ["intensity", "gibbs_share"])
@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 70, 130), (1.0, 198, 200)])
def test_shares_are_shares_of_the_batches(field, share, least, most):
    """Off is never, one is always, and a half is about half of 200."""
    hr = phantoms(1, (96, 80))
    options = dataclasses.replace(AS_IS, **{field: share})
    rng = np.random.default_rng(1)
    varied = [vary(hr, options, upscale=1, rng=rng) for _ in range(200)]
    assert least <= sum(not is_turned(one, hr) for one in varied) <= most


def is_turned(image: np.ndarray, hr: np.ndarray) -> bool:
    """Tell whether an image is one of the eight ways to flip and transpose another."""
    flips = [hr[:, ::y, ::x] for y in (1, -1) for x in (1, -1)]
    ways = [one for flip in flips for one in (flip, flip.transpose(0, 2, 1))]
    return any(image.shape == way.shape and np.abs(image - way).max() < 1e-4 for way in ways)


def test_intensity_changes_contrast_and_shading_within_their_limits():
    """Two grey levels: their ratio shows the exponent, their course over the FOV the shading."""
    levels = np.full((2, 64, 64), 0.25, np.float32)
    options = dataclasses.replace(AS_IS, intensity=1.0)
    rng = np.random.default_rng(0)
    exponents, shading = [], []
    for _ in range(60):
        flat = vary(levels, options, upscale=1, rng=rng)[0].astype(float)
        mean = flat.mean()
        exponents.append(np.log(mean) / np.log(0.25))
        course = flat / mean - 1.0
        shading.append(np.abs(course).max())
        # Smooth: what a parabola in each direction cannot describe is rounding.
        y, x = np.meshgrid(*(np.linspace(-1, 1, 64),) * 2, indexing="ij")
        basis = np.stack([one.ravel() for one in (y**0, y, x, y * x, y**2, x**2)], axis=1)
        rest = course.ravel() - basis @ np.linalg.lstsq(basis, course.ravel(), rcond=None)[0]
        assert np.abs(rest).max() < 1e-4
    assert GAMMA[0] - 1e-3 <= min(exponents) < 0.9 < 1.1 < max(exponents) <= GAMMA[1] + 1e-3
    assert min(shading) < 0.02
    assert 0.2 < max(shading) <= BIAS + 1e-3


def test_gibbs_crops_each_axis_for_itself_and_leaves_no_rim_empty():
    """Other matrices and filters give other ringing; an empty rim would teach nothing but air."""
    rng = np.random.default_rng(0)
    noisy = np.abs(phantoms(4, (160, 160)) + 0.02 * rng.standard_normal((4, 160, 160)))
    options = dataclasses.replace(AS_IS, gibbs_share=1.0, gibbs_shrink=0.6)
    ratios = []
    for _ in range(40):
        varied = vary(noisy.astype(np.float32), options, upscale=2, rng=rng)
        rows, columns = varied.shape[1:]
        assert rows % 2 == columns % 2 == 0
        assert min(rows, columns) >= 0.6 * 160 - 2
        ratios.append(rows / columns)
        assert min(measured_band(varied)) > 0.95
    assert min(ratios) < 0.8
    assert max(ratios) > 1.25


@pytest.mark.parametrize("n", [1, 2, 63, 64])
@pytest.mark.parametrize(("start", "depth"), [(0.0, 0.6), (0.7, 0.3), (0.5, 0.0)])
def test_apodisation_falls_from_its_start_to_its_depth(n, start, depth):
    """1 where it has not begun, never below what support takes for empty, even around DC."""
    window = apodisation(n, start, depth)
    frequency = np.abs(np.arange(n) - n // 2) / (n / 2)
    assert window.dtype == np.float32
    np.testing.assert_allclose(window[frequency <= start], 1.0, atol=1e-6)
    assert (np.diff(window[np.argsort(frequency, kind="stable")]) <= 1e-6).all()
    assert window.min() >= 1.0 - depth - 1e-6
    if n % 2 == 0:
        assert window[0] == pytest.approx(1.0 - depth)
    assert 20 * np.log10(1 - APODISATION_DEPTH) > -BAND_DROP_DB


@pytest.mark.parametrize(
    "wrong",
    [
        {"intensity": 1.5}, {"gibbs_share": -0.1}, {"noise_share": "often"}, {"intensity": True},
        {"matrix_shrink": 0.0}, {"gibbs_shrink": 0.0}, {"noise_level": float("nan")},
    ],
)  # fmt: skip
def test_impossible_augmentation_is_refused(wrong):
    """Before any data is read."""
    with pytest.raises(InputError, match=r"^augmentation: "):
        Augmentation(**wrong)


# --- degradation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_every_degradation_keeps_its_contract(name, upscale):
    """Shape, type and mean intensity, for odd matrices too; the input is left alone."""
    hr = phantoms(2, (97, 91)) + np.float32(0.2)
    before = hr.copy()
    lr = DEGRADATIONS[name](hr, upscale)
    assert lr.shape == (2, 97 // upscale, 91 // upscale)
    assert lr.dtype == np.float32
    assert (lr >= 0).all()
    assert lr.mean() == pytest.approx(hr.mean(), rel=0.02)
    assert np.array_equal(hr, before)
    # A remainder is cut off in k-space: one LR sample is always `upscale` HR samples.
    even = kspace.divisible_crop(hr, upscale)
    np.testing.assert_allclose(lr, DEGRADATIONS[name](even, upscale), atol=1e-5)


def test_the_named_degradations_are_what_they_say():
    """One is this project's own; the other is near the resize of the library SR_kspace used."""
    from skimage.transform import resize

    hr = phantoms(2, (160, 160))
    assert sorted(DEGRADATIONS) == ["kspace-crop", "seed-resize"]
    assert np.array_equal(DEGRADATIONS["kspace-crop"](hr, 2), kspace.degrade(hr, 2))
    for upscale in (2, 4):
        size = 160 // upscale
        expected = np.stack([resize(one.astype(float), (size, size)) for one in hr])
        differs = {
            name: -10 * np.log10(np.mean((function(hr, upscale) - expected) ** 2))
            for name, function in DEGRADATIONS.items()
        }
        assert differs["seed-resize"] > 35.0
        assert differs["kspace-crop"] < 33.0


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_pairs_are_made_by_the_degradation_that_was_asked_for(name):
    """A comparison with the seed's LR must not silently train on ours."""
    series = [TrainingSeries(name="p", slices=phantoms(2).astype(np.float16))]
    sampler = PairSampler(
        series, upscale=2, batch=2, augmentation=AS_IS, rng=np.random.default_rng(0),
        degradation=name,
    )  # fmt: skip
    lr, hr = sampler.draw()
    assert np.array_equal(lr[:, 0], DEGRADATIONS[name](hr[:, 0], 2))
    with pytest.raises(InputError, match="degradation 'blur' is not one of kspace-crop, seed-r"):
        PairSampler(
            series, upscale=2, batch=2, augmentation=AS_IS, rng=np.random.default_rng(0),
            degradation="blur",
        )  # fmt: skip
