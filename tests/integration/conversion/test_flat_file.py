"""Flat graphs compute the same with standard ops alone; `--fft auto` knows its runtimes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from kspacesr_rt.conversion import flat_file
from kspacesr_rt.conversion.flat_file import flatten_model
from kspacesr_rt.conversion.lowering_choice import GEMM_REASONS, choose_lowering
from kspacesr_rt.errors import InputError, ModelFileError, OutputError, ParityError
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model
from kspacesr_rt.runtime.backends import BACKENDS


def run(content, batch):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["sr"], {"lr": batch})[0]


@pytest.mark.parametrize("matrix", [(24, 24), (27, 20)])
def test_a_flat_graph_has_standard_ops_only_and_computes_the_same(model, tmp_path, matrix):
    """Any ONNX runtime can take it, for the one matrix it was made for."""
    path = flatten_model(model, tmp_path / "flat.onnx", matrix=matrix)
    proto = onnx.load(path)
    assert not proto.functions
    assert {node.domain for node in proto.graph.node} == {""}
    assert [one.domain for one in proto.opset_import] == [""]
    batch = np.random.default_rng(0).random((3, 1, *matrix), dtype=np.float32)
    expected = run(bind(model, matrix).serialized(), batch)
    np.testing.assert_allclose(run(path.read_bytes(), batch), expected, rtol=1e-5, atol=1e-6)


def test_infer_does_not_take_a_flat_graph(model, tmp_path):
    """It cannot be bound to a patient's matrix, so it is no model file of ours."""
    path = flatten_model(model, tmp_path / "flat.onnx")
    with pytest.raises(ModelFileError, match=r"carries no 'kspacesr_rt\.model_spec' metadata"):
        load_model(path)


def test_a_flat_graph_that_differs_is_not_written(model, tmp_path, monkeypatch):
    """The inliner is somebody else's code, and is checked like the exporter."""

    def spoiled(proto):
        flat = onnx.inliner.inline_local_functions(proto)
        weight = next(one for one in flat.graph.initializer if one.name.endswith("tail.weight"))
        values = onnx.numpy_helper.to_array(weight) * np.float32(1.5)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return flat

    monkeypatch.setattr(flat_file, "flattened", spoiled)
    with pytest.raises(ParityError, match="the flat graph differs from the model by"):
        flatten_model(model, tmp_path / "flat.onnx")
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept_without_force(model, tmp_path):
    """As everywhere."""
    path = tmp_path / "flat.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        flatten_model(model, path)
    assert path.read_bytes() == b"mine"
    flatten_model(model, path, force=True)
    onnx.load(path)


@pytest.mark.parametrize("runtime", GEMM_REASONS)
def test_auto_takes_matrix_products_and_says_why(runtime):
    """The reason is about that runtime."""
    choice = choose_lowering("auto", runtime)
    assert choice.lowering == "gemm"
    assert choice.reason.startswith(f"for {runtime}: ")
    assert choose_lowering("dft", runtime).lowering == "dft"


def test_auto_takes_convolutions_where_there_is_no_fp32_gemm():
    """Turing under TensorRT-RTX; a newer GPU, or another runtime, gets matrix products."""
    assert choose_lowering("auto", "tensorrt-rtx", "sm75").lowering == "conv"
    assert (
        "no fp32 matrix product on sm75" in choose_lowering("auto", "tensorrt-rtx", "sm75").reason
    )
    assert choose_lowering("auto", "tensorrt-rtx", "sm86").lowering == "gemm"
    assert choose_lowering("auto", "ort-cuda", "sm75").lowering == "gemm"


def test_every_model_backend_is_a_runtime_to_export_for():
    """A backend that is added needs a line here, with its reason."""
    assert {name for name, info in BACKENDS.items() if info.model} <= GEMM_REASONS.keys()


@pytest.mark.parametrize(
    ("asked", "runtime", "message"),
    [
        ("auto", "coreml", "no runtime is called 'coreml'"),
        ("native", "ort-cpu", "FFT lowering 'native' is not one of auto, gemm"),
    ],
)
def test_unknown_names_are_refused(asked, runtime, message):
    """A misspelt runtime must not get a default."""
    with pytest.raises(InputError, match=message):
        choose_lowering(asked, runtime)
