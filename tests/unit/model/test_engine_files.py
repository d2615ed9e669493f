"""An engine that is given as a model is named, with how it is used."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.errors import ModelFileError
from kspacesr_rt.model.engine_files import ENGINE_TAGS, require_no_engine
from kspacesr_rt.model.file import load_model

WRITES = ("export", "adopt", "convert", "build")
TAGGED = {tag: tag + bytes(60) for tag in ENGINE_TAGS}


@pytest.mark.parametrize(
    "words",
    [
        ["inspect"],
        ["verify"],
        ["infer", "{in}", "{out}", "--model"],
        ["export"],
        ["adopt", "--upscale", "2"],
        ["convert"],
        ["build"],
    ],
)
@pytest.mark.parametrize("name", ["m.engine", "m.plan", "m.onnx"])
def test_every_command_says_what_it_is(words, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(TAGGED[b"vtrt"])
    (tmp_path / "in").mkdir()
    places = {"{in}": str(tmp_path / "in"), "{out}": str(tmp_path / "out")}
    made = (
        ["-o", str(tmp_path / "made")]
        if words[0] in ("export", "adopt", "convert", "build")
        else []
    )
    done = CliRunner().invoke(app, [*(places.get(one, one) for one in words), str(path), *made])
    assert done.exit_code == 2, done.output
    assert f"{name} is a TensorRT engine" in done.stderr
    assert "kspacesr-rt cache add" in done.stderr
    assert "--backend tensorrt-rtx" in done.stderr


@pytest.mark.parametrize(("tag", "runtime"), ENGINE_TAGS.items())
def test_the_backend_that_runs_it_is_named(tag, runtime):
    with pytest.raises(ModelFileError) as caught:
        require_no_engine(TAGGED[tag], "m.onnx")
    assert caught.value.hint.endswith(f"--backend {runtime}")


@pytest.mark.parametrize("name", ["m.engine.json", "m.kernels", "gpu.timing"])
def test_what_stands_beside_one_is_no_engine(name):
    with pytest.raises(ModelFileError, match="stands beside a TensorRT engine"):
        require_no_engine(b"{}", name)


def test_a_context_of_onnx_runtime_is_named(tmp_path):
    """An ONNX file without weights, of the cache of `ort-tensorrt`."""
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")
    graph = helper.make_graph([node], "g", [value], [])
    path = tmp_path / "64x64-1.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(
        ModelFileError, match="what ONNX Runtime keeps of a TensorRT engine"
    ) as caught:
        load_model(path)
    assert "--backend ort-tensorrt" in caught.value.hint


def test_models_are_none():
    require_no_engine(b"\x08\x0a", "m.onnx")
