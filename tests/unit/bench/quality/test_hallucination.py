"""Added energy, the phantom without a lesion, and the bounds: what is planted must be found."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import j1

from kspacesr_rt.bench.quality import hallucination
from kspacesr_rt.bench.quality.cards import card, stamp, write_card
from kspacesr_rt.bench.quality.evaluation import QualityRow
from kspacesr_rt.bench.quality.hallucination import (
    LIMIT_MARGIN,
    ROUNDING,
    Hallucination,
    RealSlice,
    as_text,
    bounds_from,
    largest_mean,
    noise_cases,
    phantom_cases,
    real_slices,
)
from kspacesr_rt.bench.quality.head_phantom import (
    CONTRASTS,
    HEAD,
    LESION_FREE,
    Ellipse,
    head_kspace,
    jinc,
    lesion_free,
)
from kspacesr_rt.bench.quality.proofs.measure import PREFIX as PROOF
from kspacesr_rt.errors import InputError, ShapeError
from kspacesr_rt.kspace import centre_crop, ifft2c, zero_fill_image
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.model.spec import BOUNDED
from kspacesr_rt.quality.added_energy import added_energy, intensity_drift
from kspacesr_rt.quality.metrics import Quality
from kspacesr_rt.runtime.backends import BackendOptions, baseline_spec, open_backend

EXACT = 1e-12
"""Rounding of energies in float64, relative to the slice's."""

sizes = st.integers(1, 24)


def wave(matrix, cycles_y, cycles_x):
    """Return a cosine of unit amplitude, by its own formula."""
    y, x = ((np.arange(n) - n // 2) / n for n in matrix)
    return np.cos(2 * np.pi * (cycles_y * y[:, None] + cycles_x * x[None, :]))


# --- added energy ---------------------------------------------------------------------------------


@given(sizes, sizes, st.integers(1, 4), st.integers(0, 9))
def test_zero_fill_adds_nothing(rows, columns, upscale, seed):
    """By definition, for odd and even matrices: a real zero-fill mirrors its Nyquist line."""
    lr = np.random.default_rng(seed).random((rows, columns))
    sr = zero_fill_image(lr, upscale).real
    assert added_energy(sr, lr).share <= EXACT
    assert added_energy(sr, lr).ratio <= 1e-6  # a ring of rounding only has this left


def test_the_share_of_two_components_is_that_of_their_amplitudes():
    """A constant c and a cosine a outside the band: a^2/2 of c^2 + a^2/2."""
    image = 3.0 + 0.5 * wave((32, 48), 3, 20)
    expected = 0.125 / (9.0 + 0.125)
    assert added_energy(image, np.ones((16, 24))).share == pytest.approx(expected, rel=EXACT)
    inside = 3.0 + 0.5 * wave((32, 48), 3, 9)
    assert added_energy(inside, np.ones((16, 24))).share <= EXACT


@pytest.mark.parametrize(("matrix", "last"), [((16, 24), 8), ((17, 24), 8), ((15, 24), 7)])
def test_the_band_ends_where_the_matrix_does(matrix, last):
    """|k| <= n // 2 is measured, the next sample is not, for even and odd n."""
    sr_matrix = (4 * matrix[0], 96)
    assert added_energy(wave(sr_matrix, last, 0), np.ones(matrix)).share <= EXACT
    assert added_energy(wave(sr_matrix, last + 1, 0), np.ones(matrix)).share == pytest.approx(1.0)


def test_the_ratio_compares_with_the_measured_ring_of_the_source():
    """Ring: from half of Nyquist on. 4 of 8 cycles counts, 3 does not."""
    lr = 2.0 + 0.4 * wave((16, 16), 4, 1) + 0.9 * wave((16, 16), 3, 1)
    sr = zero_fill_image(lr, 2).real + 0.2 * wave((32, 32), 1, 12)
    assert added_energy(sr, lr).ratio == pytest.approx(0.2**2 / 0.4**2, rel=1e-9)
    louder = sr + 5.0 * wave((32, 32), 6, 1)
    assert added_energy(louder, lr).ratio == pytest.approx(0.2**2 / 0.4**2, rel=1e-9)


@given(st.floats(1e-6, 1e6), st.integers(0, 9))
def test_neither_figure_depends_on_the_intensity_scale(gain, seed):
    """Scanner units are arbitrary, so a bound must hold in all of them."""
    rng = np.random.default_rng(seed)
    sr, lr = rng.random((20, 24)), rng.random((10, 12))
    one, other = added_energy(sr, lr), added_energy(gain * sr, gain * lr)
    assert other.share == pytest.approx(one.share, rel=1e-9)
    assert other.ratio == pytest.approx(one.ratio, rel=1e-9)
    assert intensity_drift(gain * sr, gain * lr) == pytest.approx(intensity_drift(sr, lr), rel=1e-9)


def test_air_adds_nothing():
    """An empty slice gives 0, not a division by zero."""
    sr, lr = np.zeros((8, 8), np.float32), np.zeros((4, 4), np.float32)
    assert dataclasses.asdict(added_energy(sr, lr)) == {"share": 0.0, "ratio": 0.0}
    assert intensity_drift(sr, lr) == 0.0


def test_a_source_without_detail_gives_a_finite_ratio():
    """A constant has an empty ring: what was added is then far beyond any bound, not infinite."""
    sr = 1.0 + 0.01 * wave((16, 16), 0, 7)
    ratio = added_energy(sr, np.ones((8, 8))).ratio
    assert 1e6 < ratio < 1e9
    assert np.isfinite(added_energy(sr, np.zeros((8, 8))).ratio)


def test_drift_is_the_relative_change_of_the_mean():
    """1 % brighter is 0.01, and so is 1 % darker."""
    lr = np.random.default_rng(0).random((8, 8))
    for gain in (1.01, 0.99):
        sr = gain * zero_fill_image(lr, 2).real
        assert intensity_drift(sr, lr) == pytest.approx(0.01, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: added_energy(np.ones((4, 4)), np.ones((8, 4))), r"LR matrix within \(4, 4\)"),
        (lambda: added_energy(np.ones((1, 4, 4)), np.ones((2, 2))), "one SR and one LR slice"),
        (lambda: added_energy(np.ones((4, 4)), np.ones((0, 2))), "at least one sample"),
    ],
)
def test_impossible_shapes_are_refused(call, message):
    """With what was expected and found."""
    with pytest.raises(ShapeError, match=message):
        call()


# --- the phantom ----------------------------------------------------------------------------------


def test_the_transform_of_a_disc_is_that_of_scipy():
    """Two polynomials of 1964 against SciPy's Bessel function, up to the corners of k-space."""
    x = np.linspace(1e-3, 1500.0, 200_001)
    assert np.abs(jinc(x) - 2 * j1(x) / x).max() <= 1e-7
    assert jinc(np.zeros(1))[0] == 1.0


def drawn(matrix, contrast, degrees, parts=HEAD):
    """Paint the head sample by sample: no Fourier transform, and nothing of the code under test."""
    y, x = np.meshgrid(*(2 * ((np.arange(n) + 0.5) / n - 0.5) for n in matrix), indexing="ij")
    turn = np.exp(-1j * np.deg2rad(degrees))
    position = (x - 1j * y) * turn
    image = np.zeros(matrix)
    for part in parts:
        own = (position - (part.x + 1j * part.y)) * np.exp(-1j * np.deg2rad(part.degrees))
        inside = (own.real / part.half_x) ** 2 + (own.imag / part.half_y) ** 2 <= 1
        assert (image[inside] == CONTRASTS[contrast][part.around]).all()
        image[inside] = CONTRASTS[contrast][part.tissue]
    return image


@pytest.mark.parametrize("degrees", [0.0, 37.0])
def test_the_formula_is_the_head_that_is_drawn(degrees):
    """Same place, same turn, same contrast; and every part lies where it says it lies."""
    fine = drawn((1024, 1280), "T2", degrees)
    to_y, to_x = (
        np.exp(-2j * np.pi * np.outer(np.arange(to) - to // 2, (np.arange(n) + 0.5) / n - 0.5)) / n
        for to, n in zip((24, 31), fine.shape, strict=True)
    )
    expected = to_y @ fine @ to_x.T  # the Fourier integral as a sum over the drawing
    found = head_kspace((24, 31), "T2", degrees) / np.sqrt(24 * 31)
    # What a step drawn on 1024 samples is off by.
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("degrees", [0.0, 37.0])
def test_the_lesion_free_region_is_homogeneous(degrees):
    """All of it is white matter, and so is a margin of 4 % of the FOV around it."""
    wide = Ellipse("white", "white", LESION_FREE.half_x + 0.08, LESION_FREE.half_y + 0.08)
    wide = dataclasses.replace(wide, x=LESION_FREE.x, y=LESION_FREE.y)
    for contrast in CONTRASTS:
        drawn((400, 400), contrast, degrees, (*HEAD, wide))
    matrix = (200, 240)
    white = drawn(matrix, "T2", degrees) == CONTRASTS["T2"]["white"]
    assert white[lesion_free(matrix, degrees)].all()
    assert lesion_free(matrix, degrees).mean() == pytest.approx(
        np.pi * LESION_FREE.half_x * LESION_FREE.half_y / 4, rel=0.05
    )


@pytest.mark.parametrize("matrix", [(32, 48), (33, 47)])
def test_a_smaller_matrix_is_the_centre_of_a_larger_one(matrix):
    """A shorter scan of the same FOV measures the same coefficients; intensities are kept."""
    large = head_kspace((64, 96), "T1", 11.0)
    gain = np.sqrt(matrix[0] * matrix[1] / (64 * 96))
    small = head_kspace(matrix, "T1", 11.0)
    assert np.abs(centre_crop(large, matrix) * gain - small).max() <= EXACT * np.abs(small).max()


def test_the_largest_mean_is_that_of_a_plain_loop():
    """Windows that stick out of the region do not count; the sign does not matter."""
    rng = np.random.default_rng(0)
    values, region = rng.normal(size=(12, 14)), np.zeros((12, 14), bool)
    region[2:9, 3:12] = True
    values[0:3, 0:3] = 100.0
    expected = max(
        abs(values[y : y + 3, x : x + 3].mean()) for y in range(2, 7) for x in range(3, 10)
    )
    assert largest_mean(values, region, 3) == pytest.approx(expected)
    assert largest_mean(values, region, 9) == 0.0


# --- what is planted is found ---------------------------------------------------------------------


class Inventor:
    """A backend that zero-fills and then adds what nobody measured."""

    def __init__(self, matrix, invent, upscale=2):
        self.spec = baseline_spec("zero-fill", upscale, matrix)
        self.invent = invent

    def run(self, batch):
        sr = zero_fill(batch, self.spec.upscale)
        return sr + np.float32(batch.max()) * self.invent(sr.shape[-2:]).astype(np.float32)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None


def nothing(matrix):
    return np.zeros(matrix)


def lesion(matrix):
    """Draw a bright spot of 4 samples in the middle of the region without a lesion."""
    y, x = np.meshgrid(*(2 * (np.arange(n) - n // 2) / n for n in matrix), indexing="ij")
    width = 4.0 / matrix[0]
    return 0.2 * np.exp(-((x - LESION_FREE.x) ** 2 + (y + LESION_FREE.y) ** 2) / (2 * width**2))


def texture(matrix):
    """Draw a ripple of 3 samples: outside the band, so data consistency has nothing against it."""
    return 0.1 * wave(matrix, matrix[0] // 3, 2)


def opener_of(invent):
    return lambda matrix: Inventor(matrix, invent)


FEW = {"matrices": [(128, 128)], "contrasts": ["T2"], "rotations": [0.0]}


@pytest.fixture(scope="module")
def model():
    return load_model(shipped_models()["x2-fast"])


@pytest.fixture(scope="module")
def shipped(model):
    return lambda matrix: open_backend("ort-cpu", bind(model, matrix), BackendOptions(threads=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two series of heads with noise, as a folder of real data."""
    root = tmp_path_factory.mktemp("heads")
    rng = np.random.default_rng(0)
    for contrast in ("T1", "FLAIR"):
        clean = np.abs(ifft2c(head_kspace((96, 128), contrast, 5.0)))
        np.save(root / f"{contrast}.npy", clean + 0.01 * rng.random((2, 96, 128)))
    return root


def test_zero_fill_is_its_own_reference():
    """Errors as large as zero-fill's, and nothing added."""
    (case,) = phantom_cases(opener_of(nothing), 2, **FEW, noise_levels=[0.01])
    assert case.rms_ratio == pytest.approx(1.0)
    assert (case.speck, case.blob) == (0.0, 0.0)
    assert case.ratio < 1e-9 < case.true_ratio
    cases = noise_cases(opener_of(nothing), 2, matrices=[(24, 30)], seeds=1)
    assert [case.kind for case in cases] == ["noise", "constant"]
    for case in cases:
        assert case.gain == pytest.approx(1.0)
        assert case.share <= EXACT


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_planted_lesion_is_caught(noise):
    """0.2 of the maximum over 0.4 of white matter: the blob is that spot, whatever the noise."""
    honest, invented = (
        phantom_cases(opener_of(invent), 2, **FEW, noise_levels=[noise])[0]
        for invent in (nothing, lesion)
    )
    assert invented.zero_fill_rms == honest.zero_fill_rms
    assert invented.rms_ratio > (2.0 if noise == 0.0 else 1.2)
    assert invented.blob > 0.3
    assert invented.speck > invented.blob


def test_a_planted_ripple_is_caught(folder):
    """Measured samples are kept, so only energy and texture can tell."""
    (case,) = phantom_cases(opener_of(texture), 2, **FEW, noise_levels=[0.0])
    assert case.rms_ratio > 3.0
    assert case.largest > 0.2
    slices = real_slices(opener_of(texture), 2, [folder])
    assert max(one.measured_residual for one in slices) < ROUNDING


def test_planted_inventions_exceed_the_bounds_of_the_shipped_model(shipped, folder):
    """The limits made from its slices let them pass, and neither inventor's."""

    def figures(opener):
        return real_slices(opener, 2, [folder])

    limits = bounds_from(
        Hallucination(model="x2", upscale=2, keeps_measured=True, slices=tuple(figures(shipped)))
    )
    for one in figures(shipped):
        assert one.ratio <= limits["added_energy_ratio"]
        assert one.intensity_drift <= limits["intensity_drift"]
        assert one.measured_residual <= limits["measured_residual"]
    for one in figures(opener_of(texture)):
        assert one.ratio > limits["added_energy_ratio"]
    for one in figures(opener_of(lesion)):
        assert one.intensity_drift > limits["intensity_drift"]
        assert one.measured_residual > limits["measured_residual"]


def test_the_shipped_model_leaves_white_matter_alone(shipped):
    """Nearer to the truth than zero-fill, without and with noise, and no blob of 3 %."""
    for case in phantom_cases(shipped, 2, **FEW, noise_levels=[0.0, 0.01]):
        assert case.rms_ratio < 1.0
        assert case.blob < 0.03
        assert 0.0 < case.ratio < case.true_ratio


def test_the_shipped_model_does_not_feed_on_noise(shipped):
    """Noise becomes at most a tenth louder, and what is added is a fraction of its ring."""
    for case in noise_cases(shipped, 2, matrices=[(48, 40)], seeds=2):
        assert case.gain < 1.1
        assert case.ratio < 0.5
        assert case.share < 0.05


# --- bounds, tables and cards ---------------------------------------------------------------------


def one_slice(ratio, **overrides):
    values = dict.fromkeys((item.name for item in dataclasses.fields(RealSlice)), 1e-7)
    return RealSlice(**(values | {"data": "unseen", "series": "one", "ratio": ratio} | overrides))


@pytest.fixture(scope="module")
def small():
    """Measure zero-fill under the name of the shipped model, with known real slices."""
    opener = opener_of(nothing)
    return Hallucination(
        model="x2-fast",
        upscale=2,
        keeps_measured=True,
        phantom=tuple(phantom_cases(opener, 2, **FEW, noise_levels=[0.0, 0.01])),
        noise=tuple(noise_cases(opener, 2, matrices=[(24, 30)], seeds=1)),
        slices=(one_slice(0.1), one_slice(0.2), one_slice(0.16, data="all")),
    )


def test_limits_are_the_largest_values_with_a_margin(small):
    """1.25 times the largest; rounding gets a floor that other libraries fit under."""
    limits = bounds_from(small)
    assert limits["added_energy_ratio"] == pytest.approx(LIMIT_MARGIN * 0.2)
    assert limits["intensity_drift"] == limits["measured_residual"] == ROUNDING
    drifting = dataclasses.replace(small, slices=(one_slice(0.1, intensity_drift=0.02),))
    assert bounds_from(drifting)["intensity_drift"] == pytest.approx(0.025)
    assert bounds_from(small)["data_n_slices"] == 3


def test_nobody_is_held_to_what_was_not_promised_or_measured(small):
    """No limit on measured samples without data consistency; no limit at all without series."""
    free = bounds_from(dataclasses.replace(small, keeps_measured=False))
    assert set(BOUNDED) - free.keys() == {"measured_residual"}
    unmeasured = bounds_from(dataclasses.replace(small, slices=()))
    assert not set(BOUNDED) & unmeasured.keys()
    assert unmeasured["phantom_lesion_free_rms_ratio"] == pytest.approx(1.0)


def test_measure_goes_through_all_of_it(model, folder, monkeypatch):
    """The one call the command line makes; bounds from it fit a specification."""
    monkeypatch.setattr(hallucination, "phantom_cases", lambda *_: [])  # measured above
    found = hallucination.measure(model, [folder], threads=1)
    assert (found.model, found.upscale, found.keeps_measured) == ("x2-fast", 2, True)
    assert len(found.slices) == 4
    assert len(found.noise) == 24
    dataclasses.replace(model.spec, bounds=bounds_from(found))


def test_who_predicts_signs_is_held_to_magnitudes(make_generator, make_model, folder, monkeypatch):
    """Measured k-space samples of its results are free to change; what LR stored is not."""
    generator, spec = make_generator("dc-residual", 2, data_consistency="magnitude")
    monkeypatch.setattr(hallucination, "phantom_cases", lambda *_: [])
    monkeypatch.setattr(hallucination, "noise_cases", lambda *_: [])
    found = hallucination.measure(make_model(generator, spec), [folder], threads=1)
    assert found.keeps_measured
    assert max(one.measured_residual for one in found.slices) < 1e-5
    assert bounds_from(found)["measured_residual"] < 1e-3
    free = real_slices(
        lambda matrix: open_backend(
            "ort-cpu", bind(make_model(generator, spec), matrix), BackendOptions(threads=1)
        ),
        2,
        [folder],
    )
    assert min(one.measured_residual for one in free) > 1e-3


def test_tables_and_json_hold_every_figure(small):
    """Markdown for people and strict JSON for machines, of the same rows."""
    text = as_text([small])
    for words in ("Region without lesion", "Noise alone", "Real series", "Limits"):
        assert words in text
    assert "| x2-fast | 0.25 | 1e-05 | 1e-05 |" in text
    values = json.loads(json.dumps(small.to_dict(), allow_nan=False))
    assert [row["data"] for row in values["data"]] == ["unseen", "all", "all"]
    assert [row["n_slices"] for row in values["data"]] == [2, 1, 3]
    assert values["bounds"] == bounds_from(small)


@pytest.fixture
def path(model, tmp_path):
    return shutil.copy(shipped_models()["x2-fast"], tmp_path / "x2-fast.onnx")


def test_stamping_changes_neither_weights_nor_graph(path, model, small):
    """Bounds are beside the network, so its digests must not know of them."""
    proofs = {name: value for name, value in model.spec.bounds.items() if name.startswith(PROOF)}
    stamped = stamp(path, [], small)
    assert stamped.spec.bounds == bounds_from(small) | proofs
    assert stamped.spec.provenance == model.spec.provenance
    assert stamped.proto.graph == model.proto.graph
    # Quality alone, later: the bounds stay.
    assert stamp(path, []).spec.bounds == bounds_from(small) | proofs


def test_the_card_shows_the_stored_figures(path, small):
    """Each in the unit a reader can use, and the command that makes them."""
    text = write_card(path, [], small).read_text()
    section = text.split("## No invented structure")[1].split("\n## ")[0]
    assert "evaluate VALIDATION EVALUATION --model x2-fast --cards" in section
    assert "| 1 % | 1.00 | 1.00 | 0.0% | 0.0% |" in section
    assert "| 3 real slices | 1.0e-07 | 0.200 |" in section
    assert "| 0.250 | 1e-05 | 1e-05 |" in section
    assert "not measured" not in section
    bounds = load_model(path).spec.bounds
    assert len(section) > 500
    assert bounds["data_added_energy_ratio_max"] == 0.2


def test_the_card_shows_tissue_before_the_whole_slice(path):
    """Half of a slice is air: the first figure a reader meets is of what is read."""
    rows = [
        QualityRow(
            data="d",
            series="s",
            method=method,
            upscale=2,
            n_slices=7,
            convention=convention,
            quality=Quality(mae=0.01, psnr_db=psnr_db, ssim=ssim),
        )
        for convention, method, psnr_db, ssim in (
            ("slice-range1", "zero-fill", 38.0, 0.95),
            ("slice-range1", "x2-fast", 39.5, 0.96),
            ("tissue", "zero-fill", 34.0, 0.92),
            ("tissue", "x2-fast", 35.75, 0.94),
        )
    ]
    text = write_card(path, rows).read_text()
    section = text.split("## Measured quality")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| d |")]
    assert lines == [
        "| d | 7 | tissue | zero-fill | 0.01000 | 34.00 | 0.9200 |  |  |",
        "| d | 7 | tissue | x2-fast | 0.01000 | 35.75 | 0.9400 | +1.75 | +0.0200 |",
        "| d | 7 | slice | zero-fill | 0.01000 | 38.00 | 0.9500 |  |  |",
        "| d | 7 | slice | x2-fast | 0.01000 | 39.50 | 0.9600 | +1.50 | +0.0100 |",
    ]
    kept = load_model(path).spec.quality["d"]
    assert (kept["psnr_db"], kept["tissue_psnr_db"], kept["n_slices"]) == (39.5, 35.75, 7)
    older = write_card(path, [row for row in rows if row.convention != "tissue"]).read_text()
    assert "| tissue | x2-fast | not measured | not measured | not measured |  |  |" in older


def test_a_card_without_bounds_says_so(model):
    """Nothing stands for a figure that nobody measured."""
    bare = dataclasses.replace(model, spec=dataclasses.replace(model.spec, bounds={}))
    section = card(bare).split("## No invented structure")[1].split("\n## ")[0]
    assert "Not measured" in section
    assert "|" not in section
    partial = dataclasses.replace(
        model, spec=dataclasses.replace(model.spec, bounds={"noise_gain": 1.0})
    )
    assert "Limits: not measured" in card(partial)


def test_bounds_of_another_model_are_refused(path, small):
    """A limit is worth something only for the network it was measured of."""
    other = dataclasses.replace(small, model="x4-fast", upscale=4)
    before = path.read_bytes()
    with pytest.raises(InputError, match="holds model 'x2-fast'") as caught:
        stamp(path, [], other)
    assert "measure" in (caught.value.hint or "")
    assert path.read_bytes() == before
