"""Repositories for inference servers: what a server reads there, asks for and gives back."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from foreign_networks import model as foreign_model
from foreign_networks import op, saved, shuffle_network, weight
from google.protobuf import text_format
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.conversion import flat_file, model_repository
from kspacesr_rt.conversion.adoption import adopt_model
from kspacesr_rt.conversion.convert import convert_model
from kspacesr_rt.conversion.model_repository import write_model_repository
from kspacesr_rt.errors import InputError, OutputError, ParityError
from kspacesr_rt.graph.relowering import relowered
from kspacesr_rt.model.file import load_model, resolve_model

TYPES = {"TYPE_FP32": np.float32}


def invoke(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Return a repository of a shipped model at two matrices, one odd and not square."""
    folder = tmp_path_factory.mktemp("servers") / "models"
    done = invoke("x2-fast", "--triton", folder, "--matrix", "64x64", "--matrix", "41x36")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def model_config():
    """Return Triton's published message of a configuration."""
    found = importlib.util.find_spec("tritonclient")
    if found is None:
        pytest.skip("tritonclient, which has Triton's protobuf, is not installed")
    [folder] = found.submodule_search_locations
    spec = importlib.util.spec_from_file_location(
        "triton_model_config", Path(folder) / "grpc" / "model_config_pb2.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig


def tensors(config, kind):
    """Return name, type and dimensions of the only input or output that a configuration has."""
    pattern = rf'^{kind} \[ \{{ name: "(\w+)", data_type: (\w+), dims: \[([-\d, ]+)\] \}} \]$'
    [(name, data_type, dims)] = re.findall(pattern, config, re.MULTILINE)
    return name, TYPES[data_type], [int(n) for n in dims.split(",")]


class Server(ThreadingHTTPServer):
    """KServe's protocol v2 over a repository: plain ONNX Runtime, as `config.pbtxt` says.

    What differs from the configuration in a name, a type or a length is refused.
    """

    def __init__(self, repository, spoil=1.0):
        served = {}
        for path in repository.glob("*/config.pbtxt"):
            text = path.read_text()
            [name] = re.findall(r'^name: "([\w.-]+)"$', text, re.MULTILINE)
            [most] = map(int, re.findall(r"^max_batch_size: (\d+)$", text, re.MULTILINE))
            assert name == path.parent.name
            session = onnxruntime.InferenceSession(
                path.parent / "1" / "model.onnx", providers=["CPUExecutionProvider"]
            )
            served[name] = session, most, tensors(text, "input"), tensors(text, "output")

        def fits(shape, dims, most):
            given = list(shape)
            if most:
                if not 1 <= given[0] <= most:
                    return False
                given = given[1:]
            return len(given) == len(dims) and all(
                n in (m, -1) for m, n in zip(given, dims, strict=True)
            )

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                _, _, models, name, action = self.path.split("/")
                session, most, (lr, lr_type, lr_dims), (sr, sr_type, sr_dims) = served[name]
                [given] = asked["inputs"]
                values = np.array(given["data"], lr_type).reshape(given["shape"])
                ok = (models, action, given["name"]) == ("models", "infer", lr)
                ok = ok and given["datatype"] == "FP32" and asked["outputs"] == [{"name": sr}]
                if not (ok and fits(values.shape, lr_dims, most)):
                    self.send_error(400)
                    return
                [result] = session.run([sr], {lr: values})
                assert result.dtype == sr_type
                assert fits(result.shape, sr_dims, most)
                made = {"name": sr, "datatype": "FP32", "shape": list(result.shape)}
                body = json.dumps(
                    {"outputs": [{**made, "data": (result * spoil).ravel().tolist()}]}
                ).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format, *args):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *exc):
        self.shutdown()
        super().__exit__(*exc)


def ask(repository, *arguments):
    """Run the client of a repository, as users do: beside its answers, without this package."""
    command = [sys.executable, "-I", str(repository / "client.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_the_client_gets_the_known_answers(shipped):
    """Through the names, types and shapes of the configuration alone."""
    with Server(shipped) as server:
        code, text = ask(shipped, "--url", server.url)
    assert code == 0, text
    found = re.findall(r"^(\S+): (inf|[\d.]+) dB against", text, re.MULTILINE)
    assert [name for name, _ in found] == ["x2-fast-41x36", "x2-fast-64x64"]
    assert all(float(psnr) >= 100 for _, psnr in found)


def test_the_client_says_what_is_wrong(shipped):
    """A wrong answer is 1; a server that cannot be asked is 2."""
    with Server(shipped, spoil=1.001) as server:
        code, text = ask(shipped, "--url", server.url, "--model", "x2-fast-64x64")
    assert code == 1
    assert float(re.search(r": ([\d.]+) dB", text)[1]) < 100
    code, text = ask(shipped, "--url", server.url)
    assert (code, text.count("gave no answer")) == (2, 1)
    code, text = ask(shipped, "--url", "http://127.0.0.1:80x")
    assert (code, text.count("gave no answer")) == (2, 1)
    code, text = ask(shipped, "--model", "other")
    assert code == 2
    assert "known: x2-fast-41x36, x2-fast-64x64" in text


def test_triton_can_read_the_configuration(shipped, model_config):
    """Against its own protobuf: a word it does not know is an error there."""
    for path in shipped.glob("*/config.pbtxt"):
        config = text_format.Parse(path.read_text(), model_config())
        assert config.name == path.parent.name
        assert config.backend == "onnxruntime"
        assert config.max_batch_size == 8
        assert config.HasField("dynamic_batching")
        [group] = config.instance_group
        assert group.count == 1
        [lr] = config.input
        [warm_up] = config.model_warmup
        slice_ = warm_up.inputs[lr.name]
        assert list(slice_.dims) == list(lr.dims)
        stored = path.parent / "warmup" / slice_.input_data_file
        assert stored.stat().st_size == 4 * warm_up.batch_size * np.prod(lr.dims)
    with pytest.raises(text_format.ParseError):
        text_format.Parse('backends: "onnxruntime"', model_config())


def test_the_graph_has_what_the_configuration_says(shipped):
    """Any batch, the matrix of the entry, and no operator of ours."""
    for path in shipped.glob("*/config.pbtxt"):
        session = onnxruntime.InferenceSession(
            path.parent / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )
        for kind, [value] in (("input", session.get_inputs()), ("output", session.get_outputs())):
            name, _, dims = tensors(path.read_text(), kind)
            assert (value.name, value.type) == (name, "tensor(float)")
            assert isinstance(value.shape[0], str)
            assert value.shape[1:] == dims


def test_openvino_model_server_finds_every_entry(shipped):
    listed = json.loads((shipped / "config.json").read_text())["model_config_list"]
    folders = {path.parent.name for path in shipped.glob("*/config.pbtxt")}
    assert {one["config"]["name"] for one in listed} == folders
    assert {one["config"]["base_path"] for one in listed} == {f"/models/{one}" for one in folders}


def test_a_dynamic_model_is_one_entry_for_every_matrix(tmp_path):
    made = convert_model("x2-fast", tmp_path / "any.onnx", lowering="dynamic")
    folder = tmp_path / "models"
    done = invoke(made.path, "--triton", folder, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["models"] == ["x2-fast"]
    assert tensors((folder / "x2-fast" / "config.pbtxt").read_text(), "input")[2] == [1, -1, -1]
    with Server(folder) as server:
        assert ask(folder, "--url", server.url)[0] == 0
    with pytest.raises(InputError, match="takes every matrix"):
        write_model_repository(load_model(made.path), tmp_path / "other", matrices=[(40, 40)])


@pytest.mark.parametrize("name", ["n" * 256, "client.py", "Readme.MD", "config.json"])
def test_any_name_of_a_model_makes_an_entry(model, tmp_path, name):
    """Longer than names of folders may be, or that of one of the repository's own files."""
    spec = dataclasses.replace(model.spec, name=name, lowering="dynamic")
    proto = relowered(model.proto, spec, "dynamic")
    made = write_model_repository(
        dataclasses.replace(model, proto=proto, spec=spec), tmp_path / "models"
    )
    (entry,) = made.entries
    assert (tmp_path / "models" / entry.name / "1" / "model.onnx").is_file()
    assert {"client.py", "README.md", "config.json", "known_answers.npz"} == {
        path.name for path in made.folder.iterdir() if path.is_file()
    }


def test_networks_of_others_are_served_with_their_scaling_inside(tmp_path):
    """One that takes a slice in 0..1, of one slice at a time; the server is given the slice."""
    nodes, weights = shuffle_network()
    nodes[0].input[0] = "checked"
    nodes.insert(0, op("Reshape", "input one_slice", "checked"))
    proto = foreign_model(
        nodes,
        [*weights, weight("one_slice", [1, 1, 0, 0], np.int64)],
        axes=(1, 1, "h", "w"),
        sr_axes=(1, 1, "2*h", "2*w"),
    )
    adopted = adopt_model(saved(tmp_path / "theirs.onnx", proto), tmp_path / "adopted.onnx")
    assert adopted.spec.input_range == (0.0, 1.0)
    folder = tmp_path / "models"
    made = write_model_repository(load_model(adopted.path), folder, matrices=[(40, 33)])
    [entry] = made.entries
    config = (folder / entry.name / "config.pbtxt").read_text()
    assert "max_batch_size: 0" in config
    assert "dynamic_batching" not in config
    assert tensors(config, "input")[2] == [1, 1, 40, 33]
    with Server(folder) as server:
        assert ask(folder, "--url", server.url)[0] == 0
    with np.load(folder / "known_answers.npz") as stored:
        lr = stored[f"{entry.name}/lr"]
    session = onnxruntime.InferenceSession(
        folder / entry.name / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    one, many = (session.run(["sr"], {"lr": lr * f})[0] for f in (np.float32(1), np.float32(800)))
    np.testing.assert_allclose(many, 800 * one, rtol=1e-4, atol=0.01)


def test_a_graph_that_differs_leaves_nothing(model, tmp_path, monkeypatch):
    real = flat_file.flattened

    def spoiled(proto):
        flat = real(proto)
        for one in flat.graph.initializer:
            if one.name.endswith("tail.weight"):
                one.raw_data = (np.frombuffer(one.raw_data, "<f4") * np.float32(1.5)).tobytes()
        return flat

    monkeypatch.setattr(flat_file, "flattened", spoiled)
    with pytest.raises(ParityError, match="differs from the model"):
        write_model_repository(model, tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_its_stored_answer_is_not_served(model, tmp_path, monkeypatch):
    real = model_repository.verify_model

    def failed(*arguments):
        import dataclasses

        return dataclasses.replace(real(*arguments), psnr_between_db=12.0)

    monkeypatch.setattr(model_repository, "verify_model", failed)
    with pytest.raises(ParityError):
        write_model_repository(model, tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_and_a_full_one_is_kept(model, tmp_path):
    """A volume that was mounted for it is there already."""
    folder = tmp_path / "models"
    folder.mkdir()
    write_model_repository(model, folder, matrices=[(24, 24)])
    before = sorted(folder.rglob("*"))
    assert folder.stat().st_mode & 0o777 == 0o755
    with pytest.raises(OutputError, match="exists and is not empty"):
        write_model_repository(model, folder)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("x2-fast", "--triton", "FILE"), 7, "exists and is not empty"),
        (("x2-fast", "--triton", "FILE/below"), 7, "cannot write"),
        (("x2-fast", "--triton", "NEW", "--matrix", "no"), 2, "'no' is no matrix"),
        (("x2-fast", "--triton", "NEW", "--matrix", "4x4"), 2, "is outside"),
        (("x2-fast", "--triton", "NEW", "--precision", "fp16"), 2, "--precision"),
        (("x2-fast", "-o", "NEW"), 2, "x2-fast is a model already"),
        (("none.onnx", "--triton", "NEW"), 2, "no model file"),
        (("FILE", "--matrix", "64x64", "-o", "NEW"), 2, "--matrix is of a model repository"),
        (("FILE", "--triton", "NEW"), 2, "nothing says where the model file goes"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(tmp_path, arguments, code, says):
    (tmp_path / "file").write_text("no model")
    places = {"FILE": tmp_path / "file", "FILE/below": tmp_path / "file" / "below"}
    places["NEW"] = tmp_path / "new"
    done = invoke(*(places.get(one, one) for one in arguments))
    assert done.exit_code == code, done.output
    assert says in done.output
    assert "Traceback" not in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_shipped_model_needs_no_torch():
    """Who runs servers has none."""
    code = (
        "import sys; import kspacesr_rt.cli.models, kspacesr_rt.conversion.model_repository as m;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert resolve_model("x2-fast", upscale=None).is_file()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x2-fsat", "is it x2-fast or x4-fast?"),
        ("x2-comlex", "is it x2-complex?"),
        ("nowhere.onnx", "shipped models: "),
        ("nowhere.pt", "shipped models: "),
    ],
)
def test_a_name_that_is_no_model_is_answered_with_those_that_are(source, words, tmp_path):
    """It was taken for a checkpoint, whose model file was asked for."""
    done = invoke(source, "--triton", tmp_path / "models")
    assert done.exit_code == 2
    assert f"no model file '{source}'" in done.stderr
    assert words in done.stderr
    assert "-o MODEL.onnx" not in done.stderr


def test_the_model_of_kspace_is_served_as_it_takes_it(tmp_path, model_config):
    """Two channels in and out, and the answer that the file itself gives."""
    folder = tmp_path / "models"
    done = invoke("x2-complex", "--triton", folder, "--matrix", "20x24")
    assert done.exit_code == 0, done.output
    [entry] = [path.parent for path in folder.glob("*/config.pbtxt")]
    config = text_format.Parse((entry / "config.pbtxt").read_text(), model_config())
    assert list(config.input[0].dims) == [2, 20, 24]
    assert list(config.output[0].dims) == [2, 40, 48]
    with np.load(folder / "known_answers.npz") as stored:
        answers = {name: stored[name] for name in stored.files}
    assert {value.shape[-3:] for value in answers.values() if value.ndim >= 3} == {
        (2, 20, 24),
        (2, 40, 48),
    }
