"""Models that are judged side by side have names that tell them apart."""

from __future__ import annotations

import dataclasses

import pytest

from kspacesr_rt.bench.quality.open_model import with_distinct_names
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.model.spec import LONGEST_NAME

LONG = "x" * LONGEST_NAME


@pytest.fixture(scope="module")
def model():
    return load_model(shipped_models()["x2-fast"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("a", "fp32"), ("b", "int8")], ["a", "b"]),
        ([("a", "fp32"), ("a", "int8")], ["a", "a int8"]),
        ([("a", "int8"), ("a", "fp32"), ("a", "int8")], ["a int8 (1)", "a", "a int8 (2)"]),
        ([("a", "fp32"), ("a", "fp32"), ("b", "fp32")], ["a (1)", "a (2)", "b"]),
        ([("zero-fill", "fp32")], ["zero-fill (1)"]),
        ([(LONG, "fp32")] * 2, [LONG[:-4] + " (1)", LONG[:-4] + " (2)"]),
        ([(LONG, "fp32"), (LONG, "int8")], [LONG, LONG[:-5] + " int8"]),
    ],
)
def test_no_two_have_the_same_name(model, given, expected):
    """Nor one that a baseline has; what is alone keeps its own."""
    models = [
        dataclasses.replace(
            model, spec=dataclasses.replace(model.spec, name=name, precision=precision)
        )
        for name, precision in given
    ]
    named = with_distinct_names(models)
    assert [one.spec.name for one in named] == expected
    assert [one.spec.precision for one in named] == [precision for _, precision in given]
