"""Errors: what a user reads of an output that cannot be written."""

import pytest

from kspacesr_rt.errors import OutputError, failing_the_output


def test_a_failing_output_says_what_the_system_says_and_what_to_do():
    with (
        pytest.raises(OutputError, match=r"^it cannot be used: No space left$") as caught,
        failing_the_output("it cannot be used", "make room"),
    ):
        raise OSError(28, "No space left", "/patients/one.dcm")
    assert caught.value.hint == "make room"


def test_an_error_that_says_nothing_is_told_by_its_type_and_never_by_its_path():
    with pytest.raises(OutputError, match=r"^it: PermissionError$"), failing_the_output("it"):
        raise PermissionError("/patients/one.dcm")


def test_an_output_error_passes_as_it_is():
    """It is an OSError itself, and has a hint already."""
    with pytest.raises(OutputError) as caught, failing_the_output("it", "other hint"):
        raise OutputError("full", hint="own hint")
    assert (str(caught.value), caught.value.hint) == ("full", "own hint")
