"""What the fast lane is made of: unit tests that are such, and a sample of every large matrix."""

import contextlib
import functools
import itertools
import os
import socket
import subprocess
import sys

import pytest
import torch
from covering import covering
from one_for_all import one_for_all
from one_process import NotAUnitTestError, is_watching, within_one_process

from kspacesr_rt.export.exporter import export_model
from kspacesr_rt.train import loop


def connect():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda: subprocess.run([sys.executable, "-c", ""], check=True),
        lambda: os.system("true"),
        lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ),
        connect,
        lambda: loop._Run.advance(None),
        lambda: torch.export.export(torch.nn.Identity(), (torch.ones(1),)),
    ],
    ids=["subprocess", "shell", "spawn", "connection", "training", "torch.export"],
)
def test_a_unit_test_that_leaves_this_process_or_trains_fails(forbidden):
    """Also where the code under test survives it: the seconds are lost all the same."""
    survived = functools.partial(contextlib.suppress, Exception)
    with pytest.raises(NotAUnitTestError), within_one_process():
        forbidden()
    with pytest.raises(NotAUnitTestError, match="move it"), within_one_process(), survived():
        forbidden()


def test_a_unit_test_that_exports_through_the_gate_fails(checkpoint_file, tmp_path):
    """The gate runs a dozen inputs through two runtimes."""
    with pytest.raises(NotAUnitTestError, match="exported"), within_one_process():
        export_model(checkpoint_file, tmp_path / "m.onnx")


def test_the_guard_is_on():
    """For this very test, and so for every one below tests/unit."""
    assert is_watching()


@pytest.mark.parametrize("strength", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(4,), (2, 3), (3, 3, 3), (8, 2, 4), (2, 3, 4, 5)])
def test_in_a_sample_of_a_matrix_all_values_meet_that_can(sizes, strength):
    """And it is smaller than the whole, if there are more parameters than must meet."""
    names = "abcd"[: len(sizes)]
    whole = [
        dict(zip(names, values, strict=True)) for values in itertools.product(*map(range, sizes))
    ]
    sample = [whole[at] for at in covering(whole, strength)]
    for some in itertools.combinations(names, min(strength, len(sizes))):
        wanted = {tuple(case[name] for name in some) for case in whole}
        assert {tuple(case[name] for name in some) for case in sample} == wanted
    assert len(sizes) <= strength or len(sample) <= 0.7 * len(whole)


def test_in_a_sample_of_a_matrix_with_gaps_is_what_there_is():
    """Not every combination may exist."""
    cases = [{"a": a, "b": b, "c": c} for a in range(4) for b in range(a + 1) for c in range(2)]
    sample = [cases[at] for at in covering(cases)]
    assert {(one["a"], one["b"]) for one in sample} == {(one["a"], one["b"]) for one in cases}
    assert covering([]) == []


MATRIX = """
import pytest

@pytest.mark.matrix{strength}
@pytest.mark.parametrize("a", range(4))
@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (1, 0)])
@pytest.mark.parametrize("d", [print, repr])
def test_matrix(a, b, c, d): pass

@pytest.mark.parametrize("a", range(4))
def test_other(a): pass
"""


@pytest.mark.parametrize(("strength", "least"), [("", 12), ("(strength=1)", 4)])
def test_the_option_samples_what_is_marked_and_nothing_else(pytester, strength, least):
    """Values that are set together are one value; every one of them meets every other one."""
    pytester.makeconftest("from sampling import *")
    pytester.makeini("[pytest]\nmarkers = matrix(strength): as ours\n")
    pytester.makepyfile(MATRIX.format(strength=strength))
    options = ("-p", "no:cacheprovider", "-p", "no:benchmark")  # which asks git
    whole = pytester.runpytest_inprocess(*options).parseoutcomes()
    sample = pytester.runpytest_inprocess(*options, "--sample").parseoutcomes()
    assert whole == {"passed": 28}
    assert sample == {"passed": least + 4, "deselected": 24 - least}


def test_what_all_workers_need_is_made_once_unless_it_fails(tmp_path_factory, monkeypatch):
    """The second worker waits for the first, and takes what it has made."""
    base, made = tmp_path_factory.mktemp("run"), []

    class Factory:
        def __init__(self, worker):
            self.own = base / worker
            self.own.mkdir()

        def getbasetemp(self):
            return self.own

        def mktemp(self, name):
            made.append(name)
            folder = self.own / f"{name}{len(made)}"
            folder.mkdir()
            return folder

    def fails(folder):
        raise OSError("no compiler")

    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    first, second = Factory("gw0"), Factory("gw1")
    with pytest.raises(OSError, match="no compiler"):
        one_for_all(first, "libraries", fails)
    folder = one_for_all(second, "libraries", lambda new: (new / "a").write_text("built"))
    assert folder == base / "libraries"
    assert (one_for_all(first, "libraries", fails) / "a").read_text() == "built"
    assert len(made) == 2
