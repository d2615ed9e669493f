"""Whether sums that a GPU has taken are believed, told without one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kspacesr_rt.graph.spectral_sums_graph import SUM_NAMES
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.quality.half_spectra import HalfSpectra
from kspacesr_rt.runtime.backends import baseline_spec
from kspacesr_rt.runtime.ort_overlap import SUMS_DIFFER, OverlappedRuns

MATRIX = (24, 20)


@pytest.fixture
def runs():
    return OverlappedRuns(None, None, None, baseline_spec("zero-fill", 2, MATRIX), None)


@pytest.fixture
def slices():
    """Return LR slices, results with something added, and their sums."""
    rng = np.random.default_rng(0)
    lr = [np.zeros(MATRIX), *(brain_phantom(MATRIX) * 700 + rng.random((2, *MATRIX)))]
    sr = [zero_fill(one, 2) * (1 + 0.01 * rng.random((48, 40))) for one in lr]
    sums = []
    for given, result in zip(lr, sr, strict=True):
        unit = np.abs(given).max() or 1.0
        sums.append(HalfSpectra.of(result / unit, given / unit).sums())
    stacked = (np.stack(one)[:, None].astype(np.float32) for one in (lr, sr))
    return tuple(sums), *stacked


def test_sums_that_are_those_of_numpy_are_believed(runs, slices):
    """The first slice has no signal to tell by; the second decides, once."""
    sums, lr, sr = slices
    assert runs.believed(sums[:1], lr[:1], sr[:1]) == sums[:1]
    assert runs.believed(sums, lr, sr) == sums
    assert runs.notes == ()
    wrong = (dataclasses.replace(sums[1], outside=1.0),)
    assert runs.believed(wrong, lr[1:2], sr[1:2]) == wrong  # not looked at again


# Of slices with a ring no figure follows from "measured", which stands in for an empty one.
@pytest.mark.parametrize("name", [name for name in SUM_NAMES if name != "measured"])
def test_sums_that_are_others_are_not_and_that_is_said(runs, slices, name):
    """Kernels of a GPU that nobody tried: its sums go, its results are measured by NumPy."""
    sums, lr, sr = slices
    wrong = [dataclasses.replace(one, **{name: getattr(one, name) * 1.01}) for one in sums]
    assert runs.believed(tuple(wrong), lr, sr) == ()
    assert runs.notes == (SUMS_DIFFER,)
    assert runs.believed(sums, lr, sr) == ()


def test_sums_that_are_no_numbers_are_not_believed(runs, slices):
    """A comparison with one is false, whichever way it is put."""
    sums, lr, sr = slices
    wrong = tuple(dataclasses.replace(one, largest_off=np.nan) for one in sums)
    assert runs.believed(wrong, lr, sr) == ()


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_a_result_that_is_refused_anyway_settles_nothing(runs, slices, spoilt):
    """It says nothing of the sums of others: the next slice tells."""
    sums, lr, sr = slices
    broken = sr[1:2].copy()
    broken[0, 0, 3, 4] = spoilt
    runs.believed(sums[1:2], lr[1:2], broken)
    assert runs.notes == ()
    assert runs.believed(sums, lr, sr) == sums
