"""What every worker of a run needs, made by the first that asks for it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def one_for_all(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that one process has filled for all of this run; treat it as read-only.

    Parameters
    ----------
    factory
        The fixture ``tmp_path_factory``.
    name
        Of the folder.
    make
        Fills a new folder. Where it fails, the next process that asks tries anew.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # a worker's own folder lies in that of the run
    folder = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            begun = factory.mktemp(name)
            make(begun)
            begun.rename(folder)
    return folder
