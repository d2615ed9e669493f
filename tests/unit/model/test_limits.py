"""Limits of a model: what a series is compared with, and what is left unsaid."""

import pytest

from kspacesr_rt.model.limits import ModelLimits
from kspacesr_rt.runtime.backends import baseline_spec

WORDS = ("low-snr", "empty-rim", "other-body-part")
LIMITS = ModelLimits(smallest_snr=8.0, smallest_share=0.7, body_parts=("BRAIN", "HEAD"))


@pytest.mark.parametrize(
    ("series", "words"),
    [
        ({"snr": 20.0, "share": 1.0, "body_part": "HEAD"}, []),
        ({"snr": 7.9, "share": 1.0, "body_part": "head "}, ["low-snr"]),
        ({"snr": 20.0, "share": 0.69, "body_part": ""}, ["empty-rim"]),
        ({"snr": None, "share": None, "body_part": "WRIST"}, ["other-body-part"]),
        ({"snr": 1.0, "share": 0.5, "body_part": "KNEE"}, [*WORDS]),
        ({"snr": None, "share": None}, []),
    ],
)  # fmt: skip
def test_each_limit_is_compared_by_itself(series, words):
    """What is not known of a series is not judged."""
    assert list(LIMITS.outside(**series)) == words


def test_a_clause_has_both_figures_and_no_value_of_the_header():
    """A reader sees how far outside; what a header says may be anything."""
    found = LIMITS.outside(snr=4.25, share=0.5, body_part="JOHN DOE")
    assert found["low-snr"] == "SNR is about 4.2, it helps from 8.0"
    assert found["empty-rim"] == "k-space is filled to 0.50, it helps from 0.70"
    assert "DOE" not in found["other-body-part"]


def test_a_model_without_limits_claims_none():
    """Nothing is outside of nothing."""
    spec = baseline_spec("zero-fill", 2, (8, 8))
    nothing = ModelLimits.of(spec)
    assert nothing.outside(snr=0.1, share=0.1, body_part="KNEE") == {}
    assert (nothing.to_dict(), nothing.as_text()) == ({}, "")


def test_limits_go_through_a_specification():
    """What is stated is what comes back."""
    import dataclasses

    spec = dataclasses.replace(baseline_spec("zero-fill", 2, (8, 8)), limits=LIMITS.to_dict())
    assert ModelLimits.of(type(spec).from_json(spec.to_json())) == LIMITS
