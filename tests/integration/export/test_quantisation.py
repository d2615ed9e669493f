"""8 bits are in the convolutions and nowhere else, come from real slices, and have to pay."""

from __future__ import annotations

import collections
import dataclasses
import json

import numpy as np
import onnx
import onnx.inliner
import onnx.reference
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper, shape_inference
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.conversion import mixed_precision
from kspacesr_rt.conversion.calibration import PHANTOM_MATRICES, calibration_set, observe
from kspacesr_rt.conversion.parity import SAMPLE_SLICES, TIER_OF, TIERS, Agreement, failures_of
from kspacesr_rt.dicom import read_slice, scan_folder
from kspacesr_rt.errors import ExportError, ParityError, TrainingDataError
from kspacesr_rt.export.exporter import export_model
from kspacesr_rt.graph.quantisation import (
    LARGEST,
    QUANTISED_TYPES,
    as_stored,
    best_scale,
    image_readers,
    network_convolutions,
    quantised,
)
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model
from kspacesr_rt.quality.metrics import relative_error
from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions, open_backend
from kspacesr_rt.runtime.self_test import verify_model
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.system.cpu import saturates_int8
from kspacesr_rt.train.checkpoint import save_checkpoint

ARCHITECTURES = ("seed-kspace", "seed-image", "dc-residual")
MATRIX = (24, 24)
RUNNABLE = ("ort-cpu", "openvino")


def scales_of(model, precision, slices=None):
    """Take ranges from a phantom, for tests that do not care where ranges come from."""
    nodes = network_convolutions(model.proto)
    names = [name for node in nodes for name in (node.input[0], node.output[0])]
    slices = slices or [brain_phantom(MATRIX).astype(np.float32)]
    return {key: best_scale(one, precision) for key, one in observe(model, slices, names).items()}


def in_eight_bits(model, precision, **options):
    """Quantise a model as export does, without its choice of layers."""
    proto = quantised(model.proto, precision, scales_of(model, precision), **options)
    spec = dataclasses.replace(model.spec, precision=precision)
    return dataclasses.replace(model, proto=proto, spec=spec)


def types_of(proto):
    """Return the element type of every value, as ONNX infers it."""
    inferred = shape_inference.infer_shapes(
        onnx.inliner.inline_local_functions(proto), strict_mode=True
    ).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {one.name: one.type.tensor_type.elem_type for one in values}
    return types | {one.name: one.data_type for one in inferred.initializer}


# --- the types ------------------------------------------------------------------------------------


def every_e4m3():
    """List the magnitudes of FLOAT8E4M3FN from its definition: bias 7, three bits, no infinity."""
    subnormal = [mantissa / 8 * 2.0**-6 for mantissa in range(8)]
    normal = [
        (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        for exponent in range(1, 16)
        for mantissa in range(8)
        if (exponent, mantissa) != (15, 7)  # NaN
    ]
    return np.array(subnormal + normal)


@given(st.floats(-2000, 2000, width=32), st.floats(0.015625, 4.0, width=32))
@pytest.mark.parametrize("precision", QUANTISED_TYPES)
def test_a_value_goes_to_the_nearest_that_can_be_stored(precision, value, scale):
    """Checked against the type's own list of numbers, clipping included."""
    known = {"int8": np.arange(128.0), "fp8": every_e4m3()}[precision]
    known = np.concatenate([-known, known])
    values = np.array([value], np.float32)
    stored = as_stored(values, np.float32(scale), precision).astype(np.float64)[0]
    ratio = float(values[0] / np.float32(scale))
    assert stored in known
    assert abs(stored - ratio) == pytest.approx(np.abs(known - ratio).min(), rel=1e-6, abs=1e-6)
    assert known.max() == LARGEST[precision]


@pytest.mark.parametrize("precision", QUANTISED_TYPES)
def test_a_range_is_chosen_by_its_error_not_by_its_outlier(precision):
    """One value in 100,000 that is ten times the rest must not cost the rest its digits."""
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(size=100_000)).astype(np.float32)
    values[7] = 45.0  # ten times the largest of the others
    top = np.float32(values.max() / LARGEST[precision])

    def error(scale):
        rounded = as_stored(values, scale, precision).astype(np.float32) * scale
        return float(np.square(rounded - values).mean())

    best = best_scale(values, precision)
    assert error(best) <= error(top)
    if precision == "int8":
        assert error(best) < 0.7 * error(top)
    assert best_scale(1000.0 * values, precision) == pytest.approx(1000.0 * best, rel=1e-5)


def test_a_value_that_is_always_zero_has_a_scale_all_the_same():
    """A dead channel is no reason to divide by zero."""
    assert best_scale(np.zeros(5, np.float32), "int8") == 1.0


# --- the graph ------------------------------------------------------------------------------------


@pytest.mark.parametrize("results", [False, True])
@pytest.mark.parametrize("precision", QUANTISED_TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_what_convolutions_take_is_in_8_bits(
    make_generator, make_model, architecture, precision, results
):
    """FFT, scaling, consistency, residual sums and magnitude have fp32 in and out, node by node."""
    model = in_eight_bits(make_model(*make_generator(architecture, 2)), precision, results=results)
    narrow = QUANTISED_TYPES[precision]
    inferred = types_of(model.proto)
    made_by = {name: node.op_type for node in model.proto.graph.node for name in node.output}
    seen = collections.Counter()
    for node in onnx.inliner.inline_local_functions(model.proto).graph.node:
        types = {inferred[name] for name in (*node.input, *node.output) if name}
        seen[node.op_type] += 1
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert types == {TensorProto.FLOAT, narrow}, node.name
        else:
            assert types <= {TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL}, node.name
    convolutions = network_convolutions(model.proto)
    for node in convolutions:
        assert [made_by[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2
    assert seen["QuantizeLinear"] == len(
        {node.input[0] for node in convolutions}
        | ({node.output[0] for node in convolutions} if results else set())
    )
    for one in (*model.proto.graph.input, *model.proto.graph.output):
        assert inferred[one.name] == TensorProto.FLOAT


@pytest.mark.parametrize("precision", QUANTISED_TYPES)
def test_it_is_symmetric_and_weights_have_a_scale_a_channel(make_generator, make_model, precision):
    """TensorRT takes no other zero-point, and a per-channel scale on no other axis."""
    proto = in_eight_bits(make_model(*make_generator()), precision).proto
    arrays = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    operators = ("QuantizeLinear", "DequantizeLinear")
    pairs = [node for node in proto.graph.node if node.op_type in operators]
    weights = 0
    for node in pairs:
        scale, zero = arrays[node.input[1]], arrays[node.input[2]]
        assert not zero.astype(np.float32).any()
        assert (scale > 0).all()
        if node.input[0] in arrays:
            weights += 1
            assert scale.shape == zero.shape == arrays[node.input[0]].shape[:1]
            assert [(item.name, item.i) for item in node.attribute] == [("axis", 0)]
        else:
            assert scale.shape == zero.shape == ()
    assert weights == len(network_convolutions(proto))


def test_layers_can_stay_in_fp32(make_generator, make_model):
    """Their weights are what they were; the others' are not."""
    model = make_model(*make_generator())
    names = [node.name for node in network_convolutions(model.proto)]
    proto = in_eight_bits(model, "int8", wide=[names[0], names[-1]]).proto
    types = {one.name: one.data_type for one in proto.graph.initializer}
    found = {name: types[f"{name}.weight"] for name in names}
    assert {name for name in names if found[name] == TensorProto.FLOAT} == {names[0], names[-1]}
    assert in_eight_bits(model, "int8", wide=names).proto.graph == model.proto.graph


def test_what_cannot_be_quantised_is_refused(make_generator, make_model):
    """A wrong type, and a value nobody calibrated."""
    model = make_model(*make_generator())
    with pytest.raises(ExportError, match="precision 'fp16' is not one of int8, fp8"):
        quantised(model.proto, "fp16", {})
    for scale in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ExportError, match="value 'phases' has no int8 scale"):
            quantised(model.proto, "int8", {"phases": np.float32(scale)})


# --- what runs it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", QUANTISED_TYPES)
@pytest.mark.parametrize("backend", RUNNABLE)
def test_backends_compute_what_the_graph_says(make_generator, make_model, backend, precision):
    """Integers or not, they agree with ONNX's own reference, in any unit."""
    if (reason := BACKENDS[backend].why_not()) is not None:
        pytest.skip(reason)
    wide = make_model(*make_generator(width=8))
    eight = in_eight_bits(
        wide, precision, results=precision == "int8", wide=image_readers(wide.proto)
    )
    lr = brain_phantom(MATRIX, 1).astype(np.float32)[None, None]
    flat = onnx.inliner.inline_local_functions(bind(eight, MATRIX).proto)
    expected = onnx.reference.ReferenceEvaluator(flat).run(None, {"lr": lr})[0]
    with open_backend("ort-cpu", bind(wide, MATRIX), BackendOptions(threads=1)) as opened:
        exact = opened.run(lr)
    with open_backend(backend, bind(eight, MATRIX), BackendOptions(threads=1)) as opened:
        result = opened.run(lr)
        louder, notes = opened.run(1000.0 * lr), opened.notes
    rounding = relative_error(expected, exact)
    assert 1e-3 < rounding < 0.1
    no_vnni = precision == "int8" and saturates_int8()
    if no_vnni and backend == "openvino":
        assert any("saturate" in note for note in notes)
        pytest.skip("OpenVINO's int8 sums saturate on this CPU, which has no VNNI; a note says so")
    # A value half-way between two steps may go either way. OpenVINO rounds fp8 in its own way,
    # which is as near to fp32 as the reference's, but not the same; so does ONNX Runtime int8 on a
    # CPU without VNNI (0.6 of the rounding, measured; saturating sums would be 4).
    allowed = {("openvino", "fp8"): 1.25}.get((backend, precision), 0.75 if no_vnni else 0.25)
    assert relative_error(result, expected) < allowed * rounding
    assert relative_error(result, exact) < 1.25 * rounding
    assert relative_error(louder, 1000.0 * result) < rounding


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_reads_an_image_or_kspace_is_known(make_generator, make_model, architecture):
    """OpenVINO gets such a layer wrong in int8, without an error."""
    model = make_model(*make_generator(architecture, 2))
    names = [node.name for node in network_convolutions(model.proto)]
    heads = [name for name in names if name.endswith("head")]
    assert image_readers(model.proto) == (heads or names[:1])


def optimised_by_onnxruntime(model, tmp_path):
    """Count the operators of the graph that ONNX Runtime really runs."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    settings.log_severity_level = 3
    onnxruntime.InferenceSession(
        bind(model, MATRIX).serialized(), settings, providers=["CPUExecutionProvider"]
    )
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    return collections.Counter(node.op_type for node in graph.node)


def test_onnxruntime_convolves_integers_if_results_are_rounded(
    make_generator, make_model, tmp_path
):
    """Otherwise it convolves fp32, with more work than before: that is what `results` is for."""
    model = make_model(*make_generator())
    convolutions = len(network_convolutions(model.proto))
    first = network_convolutions(model.proto)[0].name
    wide = [first]
    found = optimised_by_onnxruntime(
        in_eight_bits(model, "int8", results=True, wide=wide), tmp_path
    )
    assert found["QLinearConv"] == convolutions - 1
    assert sum(number for name, number in found.items() if name.endswith("Conv")) == convolutions
    found = optimised_by_onnxruntime(in_eight_bits(model, "int8", wide=wide), tmp_path)
    assert found["QLinearConv"] == 0
    # fp8 is emulated: rounded to 8 bits, convolved in fp32.
    found = optimised_by_onnxruntime(in_eight_bits(model, "fp8", results=True), tmp_path)
    assert found["QLinearConv"] == 0
    assert found["QuantizeLinear"] > 0


def test_biases_of_batch_norms_survive_integers(make_generator, make_model, tmp_path):
    """The seed's convolutions have one each, in fp32, which ONNX Runtime turns into integers."""
    model = make_model(*make_generator("seed-image", 2))
    eight = in_eight_bits(model, "int8", results=True)
    assert all(len(node.input) == 3 for node in network_convolutions(eight.proto))
    found = optimised_by_onnxruntime(eight, tmp_path)
    assert found["QLinearConv"] == len(network_convolutions(eight.proto))


# --- calibration ----------------------------------------------------------------------------------


def test_the_default_slices_are_not_those_that_judge():
    """A range that was fitted to the gate's slices would prove nothing."""
    chosen = calibration_set([], 2)
    slices = scan_folder(sample_folder()).series[0].slices
    assert len(chosen.slices) == len(slices) - len(SAMPLE_SLICES)
    for number in SAMPLE_SLICES:
        judged = read_slice(slices[number]).values
        judged = judged / judged.max()
        assert all(np.abs(one.hr - judged).max() > 0.05 for one in chosen.slices)
    assert [one.lr.shape for one in chosen.phantoms] == list(PHANTOM_MATRICES)
    assert {one.lr.shape for one in chosen.slices} == {(128, 128)}


def test_own_images_are_read_and_degraded(tmp_path):
    """Any format, any matrix, several folders; empty slices tell nothing."""
    rng = np.random.default_rng(0)
    for folder, shape in (("one", (9, 34, 42)), ("two", (3, 50, 37))):
        (tmp_path / folder).mkdir()
        images = rng.uniform(0, 4000, shape).astype(np.float32)
        images[0] = 0.0
        np.save(tmp_path / folder / "images.npy", images)
    chosen = calibration_set([tmp_path / "one", tmp_path / "two"], 4)
    assert [one.lr.shape for one in chosen.slices] == [(8, 10)] * 8 + [(12, 9)] * 2
    assert all(0.5 < one.hr.max() < 1.5 for one in chosen.slices)  # a k-space crop overshoots
    assert "given" in chosen.origin
    assert len(calibration_set([tmp_path / "one"], 4, most=3).slices) == 3
    np.save(tmp_path / "one" / "images.npy", np.zeros((3, 32, 32), np.float32))
    with pytest.raises(TrainingDataError, match="are all zero") as caught:
        calibration_set([tmp_path / "one"], 2)
    assert "--calibration" in caught.value.hint


def test_what_is_observed_is_what_pytorch_computes(make_generator, make_model):
    """The largest magnitude in front of every convolution, over slices of two matrices."""
    generator, spec = make_generator()
    model = make_model(generator, spec)
    largest = collections.defaultdict(float)

    def watch(name):
        def hook(module, inputs):
            largest[name] = max(largest[name], float(inputs[0].abs().max()))

        return hook

    for name, module in generator.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(watch(name))
    slices = [brain_phantom(matrix).astype(np.float32) for matrix in ((24, 24), (17, 30))]
    with torch.inference_mode():
        for one in slices:
            generator(torch.from_numpy(one)[None, None])
    nodes = network_convolutions(model.proto)
    met = observe(model, [7.0 * one for one in slices], [node.input[0] for node in nodes])
    assert len(nodes) == len(largest) > 0
    for node in nodes:
        assert met[node.input[0]].max() == pytest.approx(largest[node.name], rel=1e-4)
        assert met[node.input[0]].min() >= 0.0


# --- the gate -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(make_generator, tmp_path_factory):
    """Make a generator close to zero-filling, as trained ones are."""
    generator, spec = make_generator("dc-residual", 2, width=16, blocks=2, cascades=2)
    with torch.no_grad():
        for cascade in generator.cascades:
            cascade.tail.weight.mul_(0.05)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_checkpoint(path, spec, generator.state_dict())
    return path


@pytest.fixture(scope="module")
def few_images(tmp_path_factory):
    """Write four small images, for tests that calibrate but are not about the sample's ranges."""
    path = tmp_path_factory.mktemp("calibration") / "images.npy"
    np.save(path, np.stack([brain_phantom((96, 96), seed) for seed in range(4)]).astype(np.float32))
    return path


@pytest.fixture(scope="module", params=["int8", "fp8"])
def exported(request, checkpoint, tmp_path_factory):
    """Export once for each type: calibration takes a while."""
    output = tmp_path_factory.mktemp("model") / f"{request.param}.onnx"
    return export_model(checkpoint, output, precision=request.param)


def test_export_proves_a_quantised_model_and_says_how_it_was_made(exported):
    """The file carries tier, calibration, and the layers that stay in fp32."""
    model = load_model(exported.path)
    precision = model.spec.precision
    assert exported.report.tier == TIER_OF[precision] == "max"
    assert not exported.report.failures
    notes = model.spec.parity["quantisation"]
    types = {one.name: one.data_type for one in model.proto.graph.initializer}
    kept = {
        name.removesuffix(".weight")
        for name, kind in types.items()
        if name.endswith("weight") and kind == TensorProto.FLOAT
    }
    assert set(notes["fp32_layers"]) == kept
    assert notes["share_of_weights"] >= 1.0 - mixed_precision.MOST_WIDE
    assert notes["rounded_results"] == (precision == "int8")
    assert notes["calibration"].startswith("shipped sample")
    assert QUANTISED_TYPES[precision] in types.values()
    assert "% of its weights in 8 bits" in exported.remarks[0]
    assert "in 8 bits" in model.as_text()


@pytest.mark.parametrize("backend", RUNNABLE)
def test_a_quantised_file_verifies_and_binds_elsewhere(exported, checkpoint, backend):
    """Other matrices and batches, on both CPU runtimes, near PyTorch each time."""
    from kspacesr_rt.train.checkpoint import load_checkpoint

    if (reason := BACKENDS[backend].why_not()) is not None:
        pytest.skip(reason)
    model = load_model(exported.path)
    assert verify_model(model, backend, BackendOptions(threads=1)).passed
    generator = load_checkpoint(checkpoint).generator
    for matrix in ((40, 33), (64, 96)):
        lr = brain_phantom(matrix, 3).astype(np.float32)[None, None]
        batch = np.concatenate([lr, 1e3 * lr, lr[..., ::-1, :], np.zeros_like(lr)])
        with torch.inference_mode():
            expected = generator(torch.from_numpy(batch)).numpy()
        with open_backend(backend, bind(model, matrix), BackendOptions(threads=1)) as opened:
            result = opened.run(batch)
            alone = opened.run(lr)
        assert np.isfinite(result).all()
        assert not result[3].any()
        assert np.abs(alone[0] - result[0]).max() <= 1e-2 * np.abs(result[0]).max()
        for ours, theirs in zip(result[:3], expected[:3], strict=True):
            error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
            # Untrained, so the CNN adds noise, and E4M3 rounds to 1/16: 1.0e-2 was measured in fp8.
            assert 1e-6 < error < {"int8": 1e-2, "fp8": 2e-2}[model.spec.precision]


def test_a_runtime_that_needs_no_rounded_results_gets_none(checkpoint, few_images, tmp_path):
    """TensorRT fuses a convolution with what follows, and loses less."""
    exported = export_model(
        checkpoint,
        tmp_path / "model.onnx",
        precision="int8",
        runtime="tensorrt-rtx",
        calibration=[few_images],
    )
    proto = load_model(exported.path).proto
    quantisers = [node.input[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    assert quantisers
    notes = exported.spec.parity["quantisation"]
    assert not notes["rounded_results"]
    # Only what convolutions take: a value that one gives is rounded for the next one, if at all.
    taken = {node.input[0] for node in network_convolutions(proto)}
    assert {f"{name}.rounded" for name in quantisers} <= taken


def test_a_model_that_misses_its_tier_is_not_written(checkpoint, few_images, tmp_path, monkeypatch):
    """Ranges far too small clip everything; the command ends with 4 and leaves a report alone."""
    real = mixed_precision.best_scale
    monkeypatch.setattr(
        mixed_precision, "best_scale", lambda values, precision: real(values, precision) / 50
    )
    output, report = tmp_path / "model.onnx", tmp_path / "report.json"
    asked = ["export", str(checkpoint), "-o", str(output), "--report", str(report)]
    asked += ["--calibration", str(few_images)]
    result = CliRunner().invoke(app, [*asked, "--precision", "int8"])
    assert result.exit_code == ParityError.exit_code == 4
    assert "no file was written" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    stored = json.loads(report.read_text())
    assert stored["failures"]
    assert stored["quantisation"]["share_of_weights"] >= 1.0 - mixed_precision.MOST_WIDE


def test_the_layer_that_costs_most_stays_in_fp32(checkpoint, few_images, tmp_path, monkeypatch):
    """One layer with a useless range is found and left out, and only it is needed."""
    real = mixed_precision.quantised

    def spoilt(proto, precision, scales, **options):
        broken = dict(scales)
        name = "cascades_0_body_0_prelu"
        assert name in broken
        broken[name] = broken[name] / 100
        return real(proto, precision, broken, **options)

    monkeypatch.setattr(mixed_precision, "quantised", spoilt)
    exported = export_model(
        checkpoint,
        tmp_path / "model.onnx",
        precision="fp8",
        runtime="tensorrt",
        calibration=[few_images],
    )
    notes = exported.spec.parity["quantisation"]
    assert "cascades.0.body.0.conv2" in notes["fp32_layers"]


def test_the_command_takes_calibration_images(checkpoint, few_images, tmp_path):
    """As a user types it."""
    output = tmp_path / "model.onnx"
    asked = ["export", str(checkpoint), "-o", str(output), "--precision", "fp8", "--json"]
    result = CliRunner().invoke(app, [*asked, "--calibration", str(few_images)])
    assert result.exit_code == 0, result.stderr
    notes = json.loads(result.stdout)["parity"]["quantisation"]
    assert notes["calibration"] == "images given for calibration"
    assert notes["calibration_slices"] == 4
    assert str(few_images.parent) not in load_model(output).spec.to_json()


def agreement(**changes):
    values = {
        "case": "c",
        "matrix": (8, 8),
        "psnr_between_db": 60.0,
        "max_error": 0.0,
        "centre_error": 0.0,
        "rim_error": 0.0,
        "sign_share": 0.0,
        "delta_psnr_db": 0.0,
        "delta_ssim": 0.0,
        "delta_mae_share": 0.0,
        "finite": True,
    }
    return Agreement(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"delta_psnr_db": -0.11}, "PSNR change"),
        ({"delta_ssim": -1.1e-3}, "SSIM change"),
        ({"finite": False}, "NaN or infinity"),
        ({"psnr_between_db": 44.0}, "PSNR between"),
        ({"delta_psnr_db": float("nan")}, "PSNR change"),
    ],
)
def test_tier_max_is_a_loss_of_a_tenth_of_a_decibel(changes, word):
    """And of a thousandth of SSIM; a gain is none, but in a wider type it is suspicious."""
    (failure,) = failures_of(agreement(**changes), TIERS["max"])
    assert word in failure
    assert not failures_of(agreement(delta_psnr_db=0.2, delta_ssim=2e-3), TIERS["max"])
    assert len(failures_of(agreement(delta_psnr_db=0.2, delta_ssim=2e-3), TIERS["fast"])) == 3
