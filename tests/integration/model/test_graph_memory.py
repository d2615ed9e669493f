"""A graph that would make gigabytes is refused without making them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import onnx
import pytest
from graph_bombs import BOMBS, in_function, signed

ADDRESS_SPACE = 6 * 2**30
"""Bytes a process may map; the libraries alone take 2 GiB of it."""


MEMORY = """
import pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({space}, {space}))
from kspacesr_rt.errors import ModelFileError
from kspacesr_rt.model.file import load_model
from kspacesr_rt.runtime.self_test import verify_model
import onnxruntime
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    verify_model(load_model(pathlib.Path(sys.argv[1])), "ort-cpu")
except ModelFileError as exc:
    print("refused")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture
def proto(model) -> onnx.ModelProto:
    return copy.deepcopy(model.proto)


@pytest.mark.parametrize(
    "kind", ["constant of a shape", "expanded", "tiled", "resized", "padded", "joined"]
)
def test_refusing_takes_no_memory(proto, kind, tmp_path):
    """The check itself makes none of it, nor does a runtime that folds constants as it loads."""
    path = tmp_path / "m.onnx"
    path.write_bytes(signed(in_function(proto, BOMBS[kind]())).proto.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", MEMORY.format(space=ADDRESS_SPACE), str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    said, kilobytes = [*done.stdout.split(), "", "0"][:2]
    assert said == "refused", done.stdout + done.stderr
    assert int(kilobytes) < 200_000
