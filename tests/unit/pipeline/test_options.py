"""Every `InferOptions` that exists is valid; what is wrong with one is said by its field."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import kspacesr_rt as ks
from kspacesr_rt.errors import InputError
from kspacesr_rt.pipeline import InferOptions
from kspacesr_rt.pipeline.options import _LEAST, _SWITCHES, _WORDS
from kspacesr_rt.train.run import RunSettings

WRONG = {
    "upscale": (-1, 0, 17, 2.0, "2", True),
    "batch": (0, None, 1.5, 65_537),
    "threads": (-2, "all", 1025, 2**63),
    "streams": (-1, 1025),
    "workers": (-1, 1025),
    "processes": (-1, 1025),
    "compress": ("zip", None, []),
    "backend": ("foo", None, 3),
    "model": (3, b"x2-fast"),
    "tier": ("turbo", None),
    "preview": ("yes", 1, None),
    "strict": ("no",),
    "on_interpolated": ("drop",),
    "on_outside": ("drop",),
    "stale": ("perhaps",),
    "plane": ("oblique",),
    "format": ("bmp",),
    "name": (3,),
    "limits": ({"samples": 4},),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_an_impossible_value_is_refused_by_the_name_of_its_field(name, value):
    """In Python nobody has typed an option: the message does not speak of one."""
    with pytest.raises(InputError) as caught:
        InferOptions(**{name: value})
    if (name, value) != ("backend", "foo"):  # which names the backends
        assert str(caught.value).startswith(name)
    assert "--" not in str(caught.value)


def test_every_field_is_looked_at():
    """A field that is added is checked, or the list says that it is not."""
    checked = {*_WORDS, *_LEAST, *_SWITCHES, "backend", "model", "name", "limits"}
    assert {one.name for one in dataclasses.fields(InferOptions)} - checked == {"sources"}


@pytest.mark.parametrize("value", [2**63, 1025, -1, 1.5, "2", True, None])
def test_functions_of_a_model_refuse_threads_that_cannot_be(value):
    """A runtime would blame the model, or start them."""
    for call in (
        lambda: ks.load("x2-fast", backend="ort-cpu", threads=value),
        lambda: ks.verify("x2-fast", backend="ort-cpu", threads=value),
        lambda: RunSettings(threads=value),
    ):
        with pytest.raises(InputError, match="threads is a whole number from 0 to 1024"):
            call()


def test_paths_and_numbers_of_numpy_are_taken_as_plain_values():
    """They end up in a report as JSON."""
    options = InferOptions(model=Path("folder") / "m.onnx", batch=np.int64(3))
    assert options.model == str(Path("folder") / "m.onnx")
    assert (options.batch, type(options.batch)) == (3, int)


def test_an_unknown_backend_is_told_with_those_there_are():
    with pytest.raises(InputError, match="no backend is called 'foo'") as caught:
        InferOptions(backend="foo")
    assert "ort-cpu" in caught.value.hint
