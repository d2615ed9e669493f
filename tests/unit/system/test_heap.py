"""Only glibc is asked to keep what is freed."""

import pytest

from kspacesr_rt.system import heap


@pytest.mark.parametrize("failure", [AttributeError, ValueError, OSError])
def test_other_systems_are_left_alone(monkeypatch, failure):
    """Their C libraries have no such function, or give it another meaning."""

    def confstr(name):
        raise failure(name)

    monkeypatch.setattr(heap.os, "confstr", confstr)
    monkeypatch.setattr(heap.ctypes, "CDLL", pytest.fail)
    assert not heap.keep_freed_memory()
