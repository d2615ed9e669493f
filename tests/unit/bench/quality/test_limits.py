"""Where a model stops helping is found from its gains, in figures that `infer` estimates."""

import numpy as np
import pytest

from kspacesr_rt.bench.quality.limits import (
    SHARES,
    SNRS,
    LimitCase,
    as_text,
    limit_cases,
    limits_from,
)
from kspacesr_rt.runtime.backends import BackendOptions, baseline_spec, open_backend


def case(kind, level, gain_db, estimate=None):
    return LimitCase(
        kind=kind,
        level=level,
        data="d",
        series="s",
        gain_db=gain_db,
        estimate=level if estimate is None else estimate,
    )


def test_a_limit_lies_where_the_gain_crosses_zero():
    """Between the last level that helped and the first that did not, in estimated units."""
    cases = [
        case("snr", 20.0, 1.0, 22.0),
        case("snr", 10.0, 0.5, 12.0),
        case("snr", 5.0, -0.5, 6.0),
    ]
    assert limits_from(cases).smallest_snr == pytest.approx(9.0, abs=0.011)
    assert limits_from(cases).smallest_share is None


def test_no_limit_is_claimed_where_none_was_met():
    """Every level helped: what is beyond was not measured."""
    cases = [case("snr", level, 0.1) for level in SNRS] + [case("share", s, 0.2) for s in SHARES]
    assert limits_from(cases).to_dict() == {}
    assert "no limit was met" in as_text({"m": (limits_from(cases), cases)})


def test_a_model_that_never_helps_is_limited_at_the_mildest_level():
    """Not beyond it: nobody measured there."""
    assert limits_from([case("share", 0.9, -1.0), case("share", 0.8, -2.0)]).smallest_share == 0.9


def test_one_relapse_is_a_limit():
    """What helps again at a worse level is chance."""
    cases = [case("share", 0.9, 0.4), case("share", 0.8, -0.4), case("share", 0.7, 0.4)]
    assert limits_from(cases, ["head"]).smallest_share == pytest.approx(0.85, abs=0.011)
    assert limits_from(cases, ["head", "BRAIN"]).body_parts == ("BRAIN", "HEAD")


def test_zero_filling_gains_nothing_over_itself(tmp_path):
    """The truth of every level is HR without it, and the baseline gets the same LR."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] - 32
    disc = np.where(np.hypot(y, x) < 20, 1.0, 0.02) * (1.0 + 0.1 * rng.random((2, 64, 64)))
    np.save(tmp_path / "s.npy", disc.astype(np.float32))

    def opener(matrix):
        return open_backend("zero-fill", baseline_spec("zero-fill", 2, matrix), BackendOptions())

    cases = limit_cases(opener, 2, [tmp_path])
    assert {(one.kind, one.level) for one in cases} == {
        *(("snr", level) for level in SNRS),
        *(("share", level) for level in SHARES),
    }
    assert all(one.gain_db == pytest.approx(0.0, abs=1e-6) for one in cases)
