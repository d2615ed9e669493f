"""Two checkouts share an environment: what runs in one takes nothing from the other."""

import os
import shutil
import subprocess
import sys

import pytest
from repository import ROOT

ROOMS = ("kspacesr_rt", "kspacesr_rt.train", "kspacesr_rt.export", "kspacesr_rt.bench.run")
WHERE = (
    f"import importlib, sys\nfor name in {ROOMS!r}: print(importlib.import_module(name).__file__)\n"
)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Copy what Python needs of this checkout; it is not installed."""
    folder = tmp_path_factory.mktemp("other") / "checkout"
    unused = shutil.ignore_patterns("__pycache__", "*.onnx", "*.dcm", "suites", "results")
    for name in ("kspacesr_rt", "train", "export", "bench"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=unused)
    return folder


def found(**how):
    done = subprocess.run(
        [sys.executable, "-c", WHERE], check=True, capture_output=True, text=True, **how
    )
    return done.stdout.split()


def test_a_checkout_that_is_not_installed_is_whole(other):
    """In its folder, whatever is installed: an editable installation of another one, here."""
    assert all(path.startswith(str(other)) for path in found(cwd=other))


def test_a_checkout_on_the_path_is_whole(other, tmp_path):
    """From anywhere else."""
    paths = found(cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(other)})
    assert all(path.startswith(str(other)) for path in paths)


def test_the_installed_checkout_is_whole_elsewhere(tmp_path):
    """Which is this one, wherever the tests run from."""
    paths = found(cwd=tmp_path)
    assert len({os.path.commonpath([path, str(ROOT)]) for path in paths}) == 1


def test_the_links_lead_to_the_folders_beside():
    """A copy in their place would be a second, silent truth."""
    for name in ("train", "export", "bench"):
        link = ROOT / "kspacesr_rt" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name
