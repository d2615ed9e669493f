"""A divergence is blamed on the node that makes it, and can be shown elsewhere."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
from foreign_networks import model as foreign_model
from foreign_networks import op, saved, shuffle_network, weight
from onnx import helper, numpy_helper
from phase_cases import spoil_phases
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.conversion.adoption import adopt_model
from kspacesr_rt.diagnosis import Difference, Side, diagnose, open_runner, write_repro
from kspacesr_rt.graph.phase_transforms import MARK
from kspacesr_rt.graph.precision import narrowed
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import OUTPUT_NAME, load_model
from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions

OPTIONS = BackendOptions(threads=1)
needs_openvino = pytest.mark.skipif(
    BACKENDS["openvino"].why_not() is not None, reason=str(BACKENDS["openvino"].why_not())
)


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def side(model, runner="ort-cpu"):
    lr = model.known_answer().lr
    opened = open_runner(runner, OPTIONS) if isinstance(runner, str) else runner
    return Side(bound=bind(model, lr.shape), runner=opened)


def compare(first, second, lr, **settings):
    return diagnose(first, second, lr, source="a test", **settings)


def convolutions(model):
    return [node for node in model.proto.graph.node if node.op_type == "Conv"]


def with_weight(model, node, change):
    """Return the model with one convolution's first weight changed."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for stored in proto.graph.initializer:
        if stored.name == node.input[1]:
            values = numpy_helper.to_array(stored).copy()
            values.flat[0] = change(values.flat[0])
            stored.CopyFrom(numpy_helper.from_array(values, stored.name))
    return dataclasses.replace(model, proto=proto)


class Faulty:
    """ONNX Runtime with an operator that computes something else."""

    name = "ort-cpu"

    def __init__(self, edit):
        self._real, self._edit = open_runner("ort-cpu", OPTIONS), edit
        self.rewritten = self._real.rewritten

    def run(self, proto, feeds):
        """Edit, then run."""
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        self._edit(changed)
        return self._real.run(changed, feeds)


def wrong_slope(proto):
    for node in proto.graph.node:
        if node.op_type == "LeakyRelu":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("alpha", 0.9))


def test_a_wrong_constant_is_found_at_its_convolution(model):
    """Everything behind it differs as well; only one node is to blame."""
    lr = model.known_answer().lr
    wrong = convolutions(model)[1]
    found = compare(side(model), side(with_weight(model, wrong, lambda w: w + 0.5)), lr).findings
    assert found.diverges
    assert found.culprit.place.node == found.first.place.node == wrong.name
    assert [row.place.node for row in found.rows if found.exceeds(row.own)] == [wrong.name]
    assert sum(found.exceeds(row.accumulated) for row in found.rows) > 5
    assert f"First wrong: node '{wrong.name}' (Conv" in found.verdict()


def test_what_is_left_of_values_that_cancel_is_no_divergence(tmp_path):
    """Its size is that of rounding, and so is what two runtimes differ by."""
    nodes, weights = shuffle_network()
    nodes[-1].input[0] = "five"
    nodes[-1:-1] = [
        op("Mul", "four third", "part"),
        op("Mul", "part thrice", "whole"),
        op("Sub", "whole four", "left"),
        op("Add", "four left", "five"),
    ]
    constants = [weight("third", np.float32(1 / 3)), weight("thrice", np.float32(3))]
    source = saved(tmp_path / "theirs.onnx", foreign_model(nodes, [*weights, *constants]))
    adopted = load_model(adopt_model(source, tmp_path / "m.onnx", upscale=2).path)
    lr = adopted.known_answer().lr
    found = compare(side(adopted), side(adopted, "reference"), lr).findings
    assert found.first.place.op_type == "Sub"
    assert found.first.accumulated.worst > 0.1
    assert not found.diverges
    assert found.verdict().startswith("AGREE: the result differs by")
    assert "values that cancel" in found.verdict()


def test_a_nan_in_the_middle_is_found_where_it_is_made(model):
    """NaN spreads to the result; the row says on which side and how many."""
    lr = model.known_answer().lr
    wrong = convolutions(model)[1]
    broken = with_weight(model, wrong, lambda w: np.nan)
    found = compare(side(model), side(broken), lr).findings
    assert found.culprit.place.node == wrong.name
    assert found.culprit.accumulated.bad[0] == 0
    assert found.culprit.accumulated.bad[1] > 0
    json.dumps(found.to_dict(), allow_nan=False)
    both = compare(side(broken), side(broken), lr).findings  # others may pad before or after
    assert not both.diverges
    assert both.not_finite.place.node == wrong.name
    assert "both are not finite" in both.verdict()


def test_an_operator_that_a_runtime_computes_wrongly_is_found(model):
    """Same file, two runtimes: what a user of a new runtime version meets."""
    lr = model.known_answer().lr
    first = next(node for node in model.proto.graph.node if node.op_type == "LeakyRelu")
    found = compare(side(model), side(model, Faulty(wrong_slope)), lr).findings
    assert found.culprit.place.node == first.name
    assert {row.place.op_type for row in found.rows if found.exceeds(row.own)} == {"LeakyRelu"}
    assert found.culprit.place.kind.startswith("CNN block")


def test_a_fault_inside_an_fft_layer_is_seen_inside_it(model):
    """Function bodies are inlined: the product is named, and the layer it belongs to."""

    def edit(proto):
        for node in proto.graph.node:
            if node.op_type == "MatMul" and node.output[0] == "fft":
                node.input[0], doubled = "doubled", node.input[0]
                at = list(proto.graph.node).index(node)
                proto.graph.node.insert(
                    at, helper.make_node("Add", [doubled, doubled], ["doubled"])
                )
                return

    found = compare(side(model), side(model, Faulty(edit)), model.known_answer().lr).findings
    assert (found.culprit.place.op_type, found.culprit.place.kind) == ("MatMul", "RealFFT2c")
    assert found.culprit.place.layer == "fft"


def test_a_fusion_that_exposing_hides_is_told(model):
    """Wrong only while nothing is exposed: no node can be named, and the verdict says why."""

    def edit(proto):
        if [one.name for one in proto.graph.output] == [OUTPUT_NAME] and len(proto.graph.node) > 30:
            wrong_slope(proto)

    found = compare(side(model), side(model, Faulty(edit)), model.known_answer().lr).findings
    assert found.hidden
    assert found.culprit is None
    assert found.first is None
    assert "a fusion of the runtime is the suspect" in found.verdict()


@needs_openvino
def test_what_a_backend_rewrites_is_what_is_compared(model, tmp_path):
    """A fault in FFT layers on phases is seen behind them, in the result and in the repro."""
    matrix = (128, 131)
    bound = bind(model, matrix)
    lr = np.random.default_rng(0).random(matrix, dtype=np.float32)

    class WrongPhases(Faulty):
        name = "openvino"

        def __init__(self):
            self._real, self._edit = open_runner("openvino", OPTIONS), lambda proto: None

        def rewritten(self, proto):
            """Rewrite with a wrong matrix."""
            return spoil_phases(self._real.rewritten(proto))

    first = Side(bound=bound, runner=open_runner("ort-cpu", OPTIONS))
    right = Side(bound=bound, runner=open_runner("openvino", OPTIONS))
    found = compare(first, right, lr).findings
    assert not found.diverges
    assert any(MARK in name for name in found.unpaired[1])
    assert all(row.paired_by == "name" for row in found.rows)
    wrong = compare(first, Side(bound=bound, runner=WrongPhases()), lr)
    assert wrong.findings.exceeds(wrong.findings.output)
    assert not wrong.findings.hidden
    assert (
        wrong.findings.culprit.place.op_type == "SpaceToDepth"
    )  # what takes the image in the file
    with zipfile.ZipFile(write_repro(wrong, tmp_path / "repro.zip")) as archive:
        shown = onnx.load_model_from_string(archive.read("model_b.onnx"))
    assert any(MARK in node.name for node in shown.graph.node)


def test_fp16_parts_from_fp32_at_the_first_narrow_node(make_generator, make_model):
    """Casts have no partner; the convolution behind the first of them is the first guilty."""
    generator, spec = make_generator()
    wide = make_model(generator, spec)
    narrow = dataclasses.replace(wide, proto=narrowed(wide.proto, "fp16"))
    found = compare(side(wide), side(narrow), wide.known_answer().lr).findings
    assert found.culprit.place.node == convolutions(wide)[0].name
    assert found.culprit.own.worst < 1e-2
    assert found.unpaired[1]
    assert found.unpaired[0] == ()


def test_two_lowerings_are_paired_at_the_ends_of_their_layers(make_generator, make_model):
    """Bodies differ and share names: comparing those would blame a healthy layer."""
    generator, spec = make_generator()
    gemm, conv = (make_model(generator, spec, lowering) for lowering in ("gemm", "conv"))
    found = compare(side(gemm), side(conv), gemm.known_answer().lr).findings
    assert not found.diverges
    layers = {row.place.kind for row in found.rows}
    assert {"RealFFT2c", "RealIFFT2c"} <= layers
    assert all(not row.place.inner for row in found.rows if row.place.kind == "RealFFT2c")


@needs_openvino
def test_openvino_agrees_and_its_wrong_dft_is_found(make_generator, make_model):
    """The bug for which the backend refuses such files is located at the operator."""
    generator, spec = make_generator()
    good, bad = (make_model(generator, spec, lowering) for lowering in ("gemm", "dft"))
    lr = good.known_answer().lr
    assert not compare(side(good), side(good, "openvino"), lr).findings.diverges
    found = compare(side(bad), side(bad, "openvino"), lr).findings
    assert found.culprit.place.op_type == "DFT"


def test_memory_is_bounded_by_more_passes(model):
    """The findings do not depend on how many values are exposed at once."""
    lr = model.known_answer().lr
    wrong = with_weight(model, convolutions(model)[1], lambda w: w + 0.5)
    once = compare(side(model), side(wrong), lr).findings
    often = compare(side(model), side(wrong), lr, memory_bytes=400_000).findings
    assert once.passes == 1 < often.passes
    assert [row.value for row in once.rows] == [row.value for row in often.rows]
    assert once.culprit.place == often.culprit.place


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (helper.make_node("Gelu", ["x"], ["y"]), 0.8413447461),
        (helper.make_node("HardSwish", ["x"], ["y"]), 0.5 + 1 / 6),
        (helper.make_node("Mish", ["x"], ["y"]), 0.8650983883),
    ],
)
def test_operators_that_are_functions_of_others_are_evaluated_too(node, expected):
    """ONNX's evaluator knows of these only what they are made of, some of them by type."""
    types = [helper.make_tensor_value_info(name, 1, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph([node], "one", types[:1], types[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    [found] = open_runner("reference", OPTIONS).run(proto, {"x": np.float32([[0.0, 1.0]])})
    np.testing.assert_allclose(found, [[0.0, expected]], atol=3e-6)


def test_errors_are_relative_and_count_what_is_not_finite():
    """Worked by hand."""
    gap = Difference.between([3.0, 4.0], [3.0, 4.5])
    assert (gap.norm, gap.largest) == (pytest.approx(0.1), pytest.approx(0.125))
    assert gap.db == pytest.approx(20.0)
    assert Difference.between([1.0, np.nan], [1.0, np.nan]).worst == 0.0
    assert Difference.between([1.0, np.nan], [1.0, np.nan]).bad == (1, 1)
    assert Difference.between([1.0, 2.0], [1.0, np.inf]).worst == np.inf
    assert Difference.between([0.0], [1e-9]).worst == np.inf


def test_the_zip_shows_the_divergence_elsewhere(model, tmp_path):
    """Unpacked in another folder, by a script that knows nothing of this package."""
    lr = model.known_answer().lr
    wrong = convolutions(model)[1]
    found = compare(side(model), side(with_weight(model, wrong, lambda w: w + 0.5)), lr)
    path = write_repro(found, tmp_path / "repro.zip")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "elsewhere")
        script = archive.read("run.py").decode()
        rows = list(csv.DictReader(io.StringIO(archive.read("nodes.csv").decode())))
        report = json.loads(archive.read("report.json"))
        assert np.array_equal(np.load(io.BytesIO(archive.read("input.npy")))[0, 0], lr)
        stored = onnx.load_from_string(archive.read("model_b.onnx"))
    assert len(script.splitlines()) < 30
    assert "kspacesr" not in script
    assert not stored.metadata_props
    assert report["guilty"] == wrong.name
    assert wrong.name in {row["node"] for row in rows}
    away = tmp_path / "away"
    away.mkdir()
    printed = subprocess.run(
        [sys.executable, str(tmp_path / "elsewhere" / "run.py")],
        check=True,
        capture_output=True,
        text=True,
        cwd=away,
    ).stdout
    shown = float(printed.split("relative error ")[1].split()[0])
    assert shown == pytest.approx(found.findings.output.norm, rel=1e-3)
    assert shown > 1e-4


def test_the_command_agrees_and_exits_zero(model_file):
    """One model, no option: against ONNX's own evaluator, in float64."""
    result = invoke("diagnose", model_file, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "AGREE" in result.stdout
    assert "on reference" in result.stdout


def test_the_command_exits_4_and_warns_of_the_users_image(model_file, tmp_path):
    """A tolerance that nothing meets; the zip holds what the user gave, and says so."""
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).random((24, 20)))
    zipped = tmp_path / "repro.zip"
    command = ("diagnose", model_file, "--threads", 1, "--tolerance", 1e-12)
    result = invoke(*command, "--input", tmp_path / "mine.npy", "-o", zipped, "--json")
    assert result.exit_code == 4, result.output
    assert json.loads(result.stdout)["matrix"] == [24, 20]
    assert "holds the image of --input" in result.stderr
    assert zipped.is_file()
    again = invoke(*command, "-o", zipped)
    assert again.exit_code == 7
    assert "holds the image" not in again.stderr


def test_bad_requests_are_refused(model, model_file, tmp_path, monkeypatch):
    """Each with the exit code of its kind."""
    stranger = tmp_path / "other.onnx"
    stranger.write_bytes(b"no model")
    assert invoke("diagnose", stranger).exit_code == 2
    same = invoke("diagnose", model_file, "--against", "ort-cpu")
    assert same.exit_code == 2
    assert "is no comparison" in same.stderr
    upscales = invoke("diagnose", "x2-fast", "x4-fast")
    assert upscales.exit_code == 2
    assert "different upscales: 2 and 4" in upscales.stderr
    assert invoke("diagnose", model_file, "--against", "zero-fill").exit_code == 2
    wrong = invoke("diagnose", model_file, "--input", stranger, "--matrix", 8, 8)
    assert wrong.exit_code == 2
    gone = dataclasses.replace(BACKENDS["openvino"], needs="no_such_package")
    monkeypatch.setitem(BACKENDS, "openvino", gone)
    missing = invoke("diagnose", model_file, "--against", "openvino")
    assert missing.exit_code == 3
    assert "no_such_package" in missing.stderr


def test_the_sample_stands_in_for_another_matrix(model_file):
    """Odd and not square, as real series are."""
    result = invoke("diagnose", model_file, "--matrix", 33, 26, "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["input"].startswith("a slice of the shipped sample")
