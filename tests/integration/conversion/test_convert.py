"""`convert`: any model file in another precision or lowering, proved against itself in fp32."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import kspacesr_rt as ks
from kspacesr_rt.cli import app
from kspacesr_rt.conversion import mixed_precision, proof
from kspacesr_rt.conversion.convert import _lowering_of, convert_model
from kspacesr_rt.conversion.parity import TIER_OF
from kspacesr_rt.errors import BackendUnavailableError, InputError
from kspacesr_rt.export.exporter import export_model
from kspacesr_rt.kspace import fft2c, upscaled
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import KnownAnswer, load_model, parse_model, shipped_models
from kspacesr_rt.model.slice_arrays import network_input
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.runtime.self_test import verify_model


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["convert", *(str(argument) for argument in arguments)])


def digests(path):
    origin = load_model(path).spec.provenance
    return origin.weights_sha256, origin.graph_sha256


@pytest.mark.parametrize(
    ("precision", "lowering"), [("fp16", "gemm"), ("fp32", "conv"), ("fp16", "dynamic")]
)
def test_a_file_becomes_what_export_makes_of_its_checkpoint(
    checkpoint_file, model_file, tmp_path, precision, lowering
):
    """One code path: the same graph and weights, whether torch or the fp32 file is the truth."""
    exported = export_model(
        checkpoint_file, tmp_path / "e.onnx", precision=precision, lowering=lowering
    )
    made = convert_model(model_file, tmp_path / "c.onnx", precision=precision, lowering=lowering)
    assert digests(made.path) == digests(exported.path)
    assert made.report.tier == TIER_OF[precision]
    assert made.report.reference.endswith("in fp32 (ort-cpu)")
    stored = load_model(made.path)
    assert stored.spec.parity["reference"] == made.report.reference
    assert stored.spec.parity["converted_from"] == digests(model_file)[0]
    assert stored.spec.matrix == load_model(model_file).spec.matrix


def test_the_self_test_stays_that_of_the_first_export(model_file, tmp_path):
    """A converted file is verified against PyTorch's own answer, not against a copy of a copy."""
    made = convert_model(model_file, tmp_path / "c.onnx", precision="fp16", name="narrow")
    stored, source = load_model(made.path), load_model(model_file)
    np.testing.assert_array_equal(stored.known_answer().sr, source.known_answer().sr)
    assert stored.spec.name == "narrow"
    assert stored.spec.provenance.training == source.spec.provenance.training
    assert verify_model(stored, "ort-cpu").passed


def test_eight_bits_without_torch(calm_model_file, tmp_path):
    """As on a box beside a scanner: calibration, choice of layers, gate and file, no torch."""
    np.save(
        tmp_path / "images.npy",
        np.stack([brain_phantom((96, 96), seed) for seed in range(4)]).astype(np.float32),
    )
    arguments = ["convert", str(calm_model_file), "-o", str(tmp_path / "m.onnx"), "--json"]
    arguments += ["--precision", "int8", "--calibrate-on", str(tmp_path / "images.npy")]
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from kspacesr_rt.cli import main\n"
        f"sys.argv = ['kspacesr-rt', *{arguments!r}]\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    parity = shown["parity"]
    assert any("layers" in one for one in shown["remarks"])
    assert parity["tier"] == "max"
    assert parity["failures"] == []
    assert parity["quantisation"]["calibration"] == "images given for calibration"
    assert parity["quantisation"]["calibration_slices"] == 4
    stored = load_model(tmp_path / "m.onnx")
    assert stored.spec.precision == "int8"
    assert verify_model(stored, "ort-cpu").passed
    assert "parity" in stored.as_text()


@pytest.mark.parametrize("lacking", [False, True])
def test_a_shipped_name_is_a_model_and_bf16_is_proved_where_it_runs(tmp_path, monkeypatch, lacking):
    """The gate runs on OpenVINO by itself: ONNX Runtime has no such kernels.

    A CPU without bf16 arithmetic has rounded less than others will, and that is said.
    """
    monkeypatch.setattr(proof, "lacks_bf16", lambda: lacking)
    if (reason := BACKENDS["openvino"].why_not()) is not None:
        pytest.skip(reason)
    result = invoke("x2-fast", "-o", tmp_path / "m.onnx", "--precision", "bf16")
    assert result.exit_code == 0, result.stderr
    assert "parity with x2-fast in fp32 (ort-cpu) on openvino, tier fast" in result.stdout
    assert "FFT layers stay lowered as gemm" in result.stdout
    assert load_model(tmp_path / "m.onnx").spec.precision == "bf16"
    words = "without bf16 arithmetic"
    assert (words in " ".join(f"{result.stdout} {result.stderr}".split())) == lacking


def test_another_lowering_may_be_left_to_the_runtime(model_file, tmp_path):
    """`--fft auto` says why, as export does."""
    made = invoke(model_file, "-o", tmp_path / "m.onnx", "--fft", "dynamic")
    assert made.exit_code == 0, made.stderr
    back = invoke(tmp_path / "m.onnx", "-o", tmp_path / "b.onnx", "--fft", "auto")
    assert "FFT layers lowered as gemm (for ort-cpu: its DFT kernel" in back.stdout
    assert digests(tmp_path / "b.onnx") == digests(model_file)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_network_of_one_matrix_is_judged_and_calibrated_there(
    calm_model_file, tmp_path, precision
):
    """It runs nowhere else: neither the gate nor the ranges may ask it to."""
    model = load_model(calm_model_file)
    matrix = (48, 40)
    spec = dataclasses.replace(
        model.spec, architecture="custom", matrix=matrix, fixed_matrix=matrix
    )
    bound = bind(model, matrix)
    lr = brain_phantom(matrix).astype(np.float32)
    answer = proof.KnownAnswer(lr=lr, sr=proof.backend_runner(model, "ort-cpu")(lr))
    (tmp_path / "fixed.onnx").write_bytes(proof.finished(bound.proto, spec, answer))
    made = convert_model(tmp_path / "fixed.onnx", tmp_path / "m.onnx", precision=precision)
    assert {one.matrix for one in made.report.agreements} == {matrix}
    assert len(made.report.agreements) == 5
    stored = load_model(made.path)
    assert stored.spec.fixed_matrix == matrix
    assert verify_model(stored, "ort-cpu").passed


# --- what is refused ------------------------------------------------------------------------------


def test_a_model_that_misses_its_tier_leaves_no_file(model_file, tmp_path, monkeypatch):
    """Exit 4; what was measured is kept where it was asked for, and nothing else."""
    real = mixed_precision.best_scale
    monkeypatch.setattr(
        mixed_precision, "best_scale", lambda values, precision: real(values, precision) / 50
    )
    output, report = tmp_path / "m.onnx", tmp_path / "r.json"
    result = invoke(model_file, "-o", output, "--precision", "fp8", "--report", report)
    assert result.exit_code == 4
    assert "does not compute what" in result.stderr
    assert "no file was written" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert json.loads(report.read_text())["failures"]


def test_a_reference_that_is_wrong_here_proves_nothing(model_file, tmp_path):
    """The fp32 file must first give its own stored answer on this machine."""
    model = load_model(model_file)
    answer = model.known_answer()
    other = proof.KnownAnswer(lr=answer.lr, sr=answer.sr * np.float32(1.01))
    (tmp_path / "wrong.onnx").write_bytes(proof.finished(model.proto, model.spec, other))
    result = invoke(tmp_path / "wrong.onnx", "-o", tmp_path / "m.onnx", "--precision", "fp16")
    assert result.exit_code == 4
    assert "against its stored answer" in result.stderr
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.onnx", "--precision", "fp16"], 2, "no model file 'nowhere.onnx'"),
        (["x2-fast"], 2, "in fp32 with its FFT layers as 'gemm' already"),
        (["x2-fast", "--fft", "gemm"], 2, "say what to change"),
        (["{narrow}", "--precision", "int8"], 2, "is in fp16 already"),
        (["{text}", "--precision", "fp16"], 2, "error:"),
        (["{checkpoint}", "--precision", "fp16"], 2, "error:"),
        (["x2-fast", "--precision", "fp16", "--backend", "tensorrt"], 3, "tensorrt"),
        (["x2-fast", "--precision", "bf16", "--backend", "ort-cpu"], 3, "no bf16 kernels"),
        (["x2-fast", "--precision", "int8", "--calibration", "{text}"], 2, "error:"),
        (["x2-fast", "--precision", "fp16", "-o", "{folder}"], 7, "is a folder"),
        (["x2-fast", "--precision", "fp16", "-o", "{text}"], 7, "--force"),
        (["{own}", "--precision", "fp16", "-o", "{own}", "--force"], 2, "is the model itself"),
    ],
)
def test_what_cannot_be_converted_ends_in_a_sentence_and_no_file(
    arguments, code, words, model_file, checkpoint_file, tmp_path
):
    """Before anything is calibrated where that can be; never a traceback, never half a file."""
    model = load_model(model_file)
    narrow = dataclasses.replace(model.spec, precision="fp16")
    places = {
        "narrow": proof.finished(model.proto, narrow, model.known_answer()),
        "own": model_file.read_bytes(),
        "text": b"no model",
    }
    for name, content in places.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    named = {name: tmp_path / f"{name}.onnx" for name in places}
    named |= {"folder": tmp_path / "folder", "checkpoint": checkpoint_file}
    filled = [one.format(**named) for one in arguments]
    if "-o" not in filled:
        filled += ["-o", str(tmp_path / "m.onnx")]
    if "tensorrt" in filled and BACKENDS["tensorrt"].why_not() is None:
        pytest.skip("TensorRT can run here")
    result = invoke(*filled)
    assert result.exit_code == code, result.output
    assert words in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert {name: (tmp_path / f"{name}.onnx").read_bytes() for name in places} == places


KSPACE_MATRIX = (40, 36)


def kspace_file(path):
    """Write a network of k-space: zero-filling, and a little of what convolutions make of it."""
    rng = np.random.default_rng(0)
    (rows, columns), shapes = KSPACE_MATRIX, ((8, 2), (8, 8), (2, 8))
    pads = [0, 0, rows // 2, columns // 2, 0, 0, rows - rows // 2, columns - columns // 2]
    stored = {
        "two": np.float32(2),
        "pads": np.array(pads, np.int64),
        **{
            f"w{at}": rng.normal(0, 0.03, (*shape, 3, 3)).astype(np.float32)
            for at, shape in enumerate(shapes)
        },
    }
    same = {"pads": [1] * 4}
    nodes = [
        helper.make_node("Mul", ["lr", "two"], ["scaled"]),
        helper.make_node("Pad", ["scaled", "pads"], ["filled"]),
        helper.make_node("Conv", ["filled", "w0"], ["a"], name="first", **same),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="second", **same),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "w2"], ["e"], name="third", **same),
        helper.make_node("Add", ["filled", "e"], ["sr"]),
    ]
    axes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, *matrix])
        for name, matrix in (("lr", KSPACE_MATRIX), ("sr", upscaled(KSPACE_MATRIX, 2)))
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    proto = helper.make_model(
        helper.make_graph(nodes, "kspace", axes[:1], axes[1:], weights),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    spec = ModelSpec(
        **{"name": "k", "architecture": "custom", "upscale": 2, "opset": 20},
        **{"input": "kspace", "output": "kspace", "lowering": "none", "normaliser": "none"},
        **{"matrix": KSPACE_MATRIX, "fixed_matrix": KSPACE_MATRIX},
    )
    lr = network_input(brain_phantom(KSPACE_MATRIX).astype(np.float32), spec)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    answer = KnownAnswer(lr=lr[0], sr=session.run(None, {"lr": lr})[0][0])
    path.write_bytes(proof.finished(proto, spec, answer))
    return path


@pytest.mark.parametrize(("precision", "mark"), [("fp16", "Cast"), ("int8", "QuantizeLinear")])
def test_a_network_of_kspace_is_converted_too(tmp_path, precision, mark):
    """It is proved on the k-space of the slices that others are proved on."""
    source = load_model(kspace_file(tmp_path / "k.onnx"))
    made = convert_model(tmp_path / "k.onnx", tmp_path / "n.onnx", precision=precision)
    assert made.spec.input == made.spec.output == "kspace"
    assert made.report.tier == TIER_OF[precision]
    narrow = load_model(made.path)
    assert mark in {node.op_type for node in narrow.proto.graph.node}
    assert verify_model(narrow, "ort-cpu").passed
    kspace = fft2c(brain_phantom(KSPACE_MATRIX).astype(np.complex64) * np.exp(0.3j))
    with (
        ks.load(made.path, backend="ort-cpu") as ours,
        ks.load(tmp_path / source.name, backend="ort-cpu") as wide,
    ):
        found, expected = ours(kspace), wide(kspace)
    assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_a_name_that_changes_alone_is_a_change(model_file, tmp_path):
    """A copy under another name is proved like any other file."""
    made = convert_model(model_file, tmp_path / "c.onnx", name="other")
    assert parse_model(made.path.read_bytes(), name="c.onnx").spec.name == "other"
    assert digests(made.path) == digests(model_file)


@pytest.mark.parametrize(
    ("precision", "lowering", "words"),
    [
        ("bf16", "gemm", "has no bf16 kernels for all of"),
        ("fp16", "dynamic", "its FFT layers are lowered as 'dynamic'"),
        ("fp32", "dft", "its FFT layers are lowered as 'dft'"),
    ],
)
def test_what_its_runtime_cannot_run_is_not_made(model_file, tmp_path, precision, lowering, words):
    """A file for a GPU box must not turn out there to be for none."""
    output = tmp_path / "c.onnx"
    with pytest.raises(BackendUnavailableError, match=words) as caught:
        convert_model(
            model_file,
            output,
            precision=precision,
            lowering=lowering,
            runtime="ort-cuda",
            backend="ort-cpu",
        )
    assert caught.value.hint.startswith("export with ")
    assert not output.exists()


def test_a_gpu_decides_how_layers_are_lowered():
    """Also where ``--fft`` is not given: a file that its GPU refuses is of no use."""
    source = load_model(shipped_models()["x2-fast"])
    lowering, reason = _lowering_of(source, "keep", "tensorrt-rtx", "T4")
    assert (lowering, reason.startswith("FFT layers lowered as conv")) == ("conv", True)
    assert _lowering_of(source, "keep", "tensorrt-rtx", None)[0] == source.spec.lowering
    with pytest.raises(InputError, match="Foo9000"):
        _lowering_of(source, "keep", "ort-cuda", "Foo9000")
