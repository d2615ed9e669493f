"""What is declared of a network of others is checked on arrays, not on files alone."""

import dataclasses

import numpy as np
import pytest

from kspacesr_rt.errors import ResultError
from kspacesr_rt.kspace import centre_fill
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.quality.array_contracts import with_contracts

SPEC = ModelSpec(name="net", architecture="custom", upscale=2, matrix=(64, 64), normaliser="none")
BATCH = np.stack([brain_phantom((32, 24)), brain_phantom((32, 24))[::-1]])[:, None].astype("f4")


def doubled(batch):
    return batch.repeat(2, axis=-2).repeat(2, axis=-1)


def brighter(batch):
    return doubled(batch) + np.float32(0.1)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"homogeneous": True}, "another result"),
        ({"output_range": (0.0, 1.05)}, "0 to 1.05 is declared"),
        ({"data_consistency": "hard"}, "measured k-space samples"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_result_that_is_not_as_declared_is_not_returned(declared, says):
    spec = dataclasses.replace(SPEC, **declared)
    with pytest.raises(ResultError, match=says):
        with_contracts(brighter, spec)(BATCH)


def test_true_declarations_change_nothing():
    spec = dataclasses.replace(SPEC, homogeneous=True, output_range=(0.0, 1.0))
    np.testing.assert_array_equal(with_contracts(doubled, spec)(BATCH), doubled(BATCH))


def test_nothing_declared_costs_nothing():
    assert with_contracts(brighter, SPEC) is brighter


KSPACE = dataclasses.replace(
    SPEC, input="kspace", output="kspace", data_consistency="hard", matrix=(12, 9)
)


def filled(batch):
    return 2.0 * centre_fill(batch, (24, 18))


def test_kspace_keeps_what_was_measured():
    batch = np.random.default_rng(0).normal(size=(2, 2, 12, 9)).astype("f4")
    added = filled(batch)
    added[..., 0, :] = 3.0  # beyond the measured band anything may be
    np.testing.assert_array_equal(with_contracts(lambda _: added, KSPACE)(batch), added)
    for moved in (filled(batch) * np.float32(1.001), np.roll(added, 1, axis=-1)):
        with pytest.raises(ResultError, match="measured k-space samples are off by"):
            with_contracts(lambda _, result=moved: result, KSPACE)(batch)
    nan = filled(batch)
    nan[1, 0, 12, 9] = np.nan
    with pytest.raises(ResultError, match="measured k-space samples"):
        with_contracts(lambda _: nan, KSPACE)(batch)
