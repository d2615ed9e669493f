"""A matrix that a network cannot be computed at: the fault of a file, never the end of a run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from foreign_networks import model, op, saved, shuffle_network, weight
from typer.testing import CliRunner

import kspacesr_rt as ks
from kspacesr_rt.cli import app
from kspacesr_rt.conversion.adoption import adopt_model
from kspacesr_rt.errors import BackendUnavailableError, KspaceSRError, ShapeError
from kspacesr_rt.runtime.backends import run_failure
from kspacesr_rt.runtime.openvino_cpu import OpenVinoBackend
from kspacesr_rt.runtime.ort_cpu import OrtCpuBackend

BACKENDS = {"ort-cpu": OrtCpuBackend, "openvino": OpenVinoBackend}


@pytest.fixture(scope="module", params=["Einsum", "MatMul"])
def wide_model(request, tmp_path_factory):
    """Return a network that multiplies its first 11 columns by a matrix of 11 rows.

    What is wrong with fewer columns shows before anything runs, or when it does.
    """
    kind = {"equation": "nchw,wk->nchk"} if request.param == "Einsum" else {}
    nodes, weights = shuffle_network()
    nodes[-1].input[0] = "lifted"
    nodes[-1:-1] = [
        op("Slice", "input starts ends axes", "columns"),
        op(request.param, "columns product", "sums", **kind),
        op("ReduceMean", "sums rows", "offset"),
        op("Add", "four offset", "lifted"),
    ]
    weights += [
        weight("starts", [0], np.int64),
        weight("ends", [11], np.int64),
        weight("axes", [3], np.int64),
        weight("rows", [2], np.int64),
        weight("product", np.full((11, 1), 1e-4)),
    ]
    folder = tmp_path_factory.mktemp("wide")
    source = saved(folder / "theirs.onnx", model(nodes, weights))
    return adopt_model(source, folder / "ours.onnx", grid="pixel-centre").path


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_other_files_of_a_run_are_written(tmp_path, wide_model, backend, capfd):
    """One file fails as `matrix`, the runtime's own log stays silent."""
    source = tmp_path / "in"
    source.mkdir()
    for name, matrix in (("a", (16, 16)), ("b", (9, 8)), ("c", (16, 16))):
        np.save(source / f"{name}.npy", np.ones(matrix, np.float32))
    words = ["infer", str(source), str(tmp_path / "out"), "--model", str(wide_model)]
    shown = CliRunner().invoke(app, [*words, "--backend", backend])
    assert shown.exit_code == 8, shown.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [one["reason"] for one in report["reasons"]] == ["matrix"]
    assert any("9 x 8" in one["message"] for one in report["slices"])
    assert sorted(path.name for path in (tmp_path / "out").glob("*.npy")) == [
        "a_desc-SRx2.npy",
        "c_desc-SRx2.npy",
    ]
    assert "onnxruntime:" not in capfd.readouterr().err


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_arrays_the_matrix_is_named(wide_model, backend):
    """The error is one of ours, and the model goes on with other arrays."""
    with ks.load(wide_model, backend=backend, threads=1) as opened:
        with pytest.raises(ShapeError, match="cannot be computed at a matrix of 9 x 8"):
            opened(np.ones((9, 8)))
        assert opened(np.ones((12, 12))).shape == (24, 24)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_that_fails_at_every_matrix_is_at_fault(wide_model, backend, monkeypatch):
    """No matrix is blamed for it."""

    def fail(self, batch):
        raise run_failure("It", RuntimeError("no such instruction"))

    monkeypatch.setattr(BACKENDS[backend], "run", fail)
    with (
        ks.load(wide_model, backend=backend, threads=1) as opened,
        pytest.raises(BackendUnavailableError, match="no such instruction"),
    ):
        opened(np.ones((12, 12)))


def test_too_little_memory_is_no_fault_of_a_matrix():
    """A smaller batch may do."""
    error = run_failure("It", RuntimeError("std::bad_alloc"))
    assert isinstance(error, MemoryError)
    assert not isinstance(error, KspaceSRError)
