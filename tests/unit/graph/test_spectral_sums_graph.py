"""Sums over spectra, as a graph: those that NumPy takes, of any matrix, and the same refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import pytest

from kspacesr_rt.errors import SliceFailed
from kspacesr_rt.graph.spectral_sums_graph import (
    LR,
    SR,
    SUM_NAMES,
    can_be_summed,
    spectral_sums_graph,
)
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.quality import result_checks
from kspacesr_rt.quality.half_spectra import HalfSpectra
from kspacesr_rt.quality.result_checks import MEASURED_TOLERANCE, check_result, measure_slice
from kspacesr_rt.quality.spectral_sums import SpectralSums
from kspacesr_rt.runtime.backends import baseline_spec

MATRICES = [(40, 40), (41, 40), (40, 39), (39, 47), (7, 10), (2, 3)]
GRIDS = ("kspace", "first-sample", "pixel-centre")
SAME = 1e-3
"""Relative difference of figures that counts as none."""
FLOOR = 1e-11
"""Share of energy that rounding leaves: (1e-6)^2 a sample, over all of them."""


def summed(lr, sr, grid="kspace"):
    """Return the graph's sums of slices, on the CPU in fp32."""
    matrix = lr.shape[-2:]
    upscale = sr.shape[-1] // matrix[1]
    content = spectral_sums_graph(matrix, upscale, grid).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feeds = {LR: lr[:, None].astype(np.float32), SR: sr[:, None].astype(np.float32)}
    [sums] = session.run(None, feeds)
    assert sums.shape == (len(lr), 1, len(SUM_NAMES))
    return [
        SpectralSums(**dict(zip(SUM_NAMES, map(float, row), strict=True)), upscale=upscale)
        for row in sums[:, 0]
    ]


def slices(matrix, upscale, n=2, seed=0):
    """Return LR slices, and results that keep most of what was measured."""
    rng = np.random.default_rng(seed)
    lr = (brain_phantom(matrix) + 0.2 * rng.random((n, *matrix))) * 700
    sr = np.stack([zero_fill(one, upscale) for one in lr])
    sr *= 1 + 0.01 * rng.random(sr.shape)
    return lr.astype(np.float32), sr.astype(np.float32)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("matrix", MATRICES)
def test_the_graph_sums_what_numpy_sums(matrix, upscale):
    """Every figure of every slice of a batch, for odd, even and rectangular matrices."""
    lr, sr = slices(matrix, upscale)
    for given, result, sums in zip(lr, sr, summed(lr, sr), strict=True):
        unit = float(np.abs(given).max()) ** 2
        expected = dataclasses.asdict(HalfSpectra.of(result, given).sums())
        for name in SUM_NAMES:
            assert getattr(sums, name) * unit == pytest.approx(
                expected[name], rel=SAME, abs=FLOOR * expected["total"]
            ), name
        assert sums.agrees(HalfSpectra.of(result, given).sums())
        assert measure_slice(result, given, sums=sums).as_fields() == pytest.approx(
            measure_slice(result, given).as_fields(), rel=SAME
        )


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("matrix", [(24, 20), (23, 20), (21, 25)])
def test_results_on_another_grid_are_compared_where_they_lie(matrix, grid):
    """A ramp of the wrong sign would be no difference on the grid of k-space."""
    lr, sr = slices(matrix, 2)
    for given, result, sums in zip(lr, sr, summed(lr, sr, grid), strict=True):
        expected = HalfSpectra.of(result, given).measured_residual(grid)
        assert expected > 1e-4
        assert sums.measured_residual() == pytest.approx(expected, rel=SAME)


@pytest.mark.parametrize("factor", [1e-9, 1e9, 1e30])
def test_slices_of_any_brightness_are_summed(factor):
    """Squares of very large or small values leave fp32; figures have no unit."""
    lr, sr = slices((16, 18), 2)
    plain = summed(lr, sr)
    for one, scaled in zip(plain, summed(lr * factor, sr * factor), strict=True):
        assert dataclasses.asdict(scaled) == pytest.approx(dataclasses.asdict(one), rel=SAME)


def spec_of(matrix, **what):
    return dataclasses.replace(baseline_spec("zero-fill", 2, matrix), **what)


def without_transforms(monkeypatch):
    """Let NumPy's transforms fail."""

    def refuse(*args, **how):
        raise AssertionError("NumPy measured")

    monkeypatch.setattr(result_checks.HalfSpectra, "of", refuse)


def test_sums_spare_the_transforms(monkeypatch):
    """That is what they are for; what is reported is the same."""
    lr, _ = slices((24, 20), 2, n=1)
    sr = zero_fill(lr[0], 2).astype(np.float32)
    expected = check_result(sr, lr[0], spec_of((24, 20)))
    [sums] = summed(lr, sr[None])
    without_transforms(monkeypatch)
    found = check_result(sr, lr[0], spec_of((24, 20)), sums)
    assert found.as_fields() == pytest.approx(expected.as_fields(), rel=SAME, abs=1e-5)
    assert 0.0 < found.measured_residual < 1e-5


@pytest.mark.parametrize("moved", [0.4, 0.6, 2.0])
def test_refusals_are_those_of_numpy(monkeypatch, moved):
    """Below the limit by far the sums decide; from half of it on NumPy does, and it alone."""
    lr, _ = slices((24, 20), 2, n=1)
    sr = zero_fill(lr[0], 2)
    off = moved * MEASURED_TOLERANCE * np.abs(np.fft.fft2(lr[0])).max() / lr[0].size
    sr = (sr + off).astype(np.float32)  # DC alone
    [sums] = summed(lr, sr[None])
    assert sums.measured_residual() == pytest.approx(moved * MEASURED_TOLERANCE, rel=0.1)
    if moved > 1.0:
        with pytest.raises(SliceFailed, match="measured k-space samples are off") as plain:
            check_result(sr, lr[0], spec_of((24, 20)))
        with pytest.raises(SliceFailed) as caught:
            check_result(sr, lr[0], spec_of((24, 20)), sums)
        assert str(caught.value) == str(plain.value)
        return
    check_result(sr, lr[0], spec_of((24, 20)), sums)
    without_transforms(monkeypatch)
    if moved < 0.5:
        check_result(sr, lr[0], spec_of((24, 20)), sums)
    else:
        with pytest.raises(AssertionError, match="NumPy measured"):
            check_result(sr, lr[0], spec_of((24, 20)), sums)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda sr, lr: (sr[::-1] * 1.001, lr), id="another result arrived"),
        pytest.param(lambda sr, lr: (np.zeros_like(sr), lr), id="nothing arrived"),
        pytest.param(lambda sr, lr: (sr, np.zeros_like(lr)), id="an empty slice"),
    ],
)
def test_sums_of_something_else_are_not_believed(harm):
    """They are taken on a device; what is written is what came back from it."""
    lr, _ = slices((24, 20), 2, n=1)
    sr = zero_fill(lr[0], 2).astype(np.float32)
    [sums] = summed(lr, sr[None])
    arrived, given = harm(sr, lr[0])
    spec = spec_of((24, 20), data_consistency="none", name="bicubic")
    found = check_result(arrived, given, spec, sums)
    assert found == check_result(arrived, given, spec)


def test_not_a_number_is_refused_whatever_the_sums_say():
    """The words are those without sums."""
    lr, _ = slices((24, 20), 2, n=1)
    sr = zero_fill(lr[0], 2).astype(np.float32)
    [sums] = summed(lr, sr[None])
    sr[3, 4] = np.nan
    with pytest.raises(SliceFailed, match="NaN or infinity"):
        check_result(sr, lr[0], spec_of((24, 20)), sums)


def test_sums_that_are_no_numbers_say_nothing():
    """What a device gives for a slice that it cannot sum up: NumPy measures."""
    lr, _ = slices((24, 20), 2, n=1)
    sr = zero_fill(lr[0], 2).astype(np.float32)
    [sums] = summed(lr, sr[None])
    for name in SUM_NAMES:
        for value in (np.nan, np.inf):
            wrong = dataclasses.replace(sums, **{name: value})
            assert check_result(sr, lr[0], spec_of((24, 20)), wrong) == check_result(
                sr, lr[0], spec_of((24, 20))
            )


def test_only_slices_are_summed(model):
    """K-space in or out has no such spectra; nor has what does not upscale."""
    assert can_be_summed(model.spec)
    of_kspace = load_model(resolve_model("x2-complex", upscale=None)).spec
    assert not can_be_summed(of_kspace)
    assert not can_be_summed(dataclasses.replace(model.spec, upscale=1))
