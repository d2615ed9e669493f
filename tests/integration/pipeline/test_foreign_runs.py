"""Networks that are not ours in a run: what they declared is checked, the rest is not claimed."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pydicom
import pytest
from foreign_networks import declaring, model, op, saved, shuffle_network, weight
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import kspacesr_rt as ks
from kspacesr_rt.cli import app
from kspacesr_rt.conversion.adoption import Contracts, adopt_model
from kspacesr_rt.conversion.proof import finished
from kspacesr_rt.errors import InputError, ShapeError
from kspacesr_rt.kspace import centre_fill, fft2c, ifft2c
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.file import KnownAnswer, load_model, parse_model
from kspacesr_rt.model.slice_arrays import network_input, result_image
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime.self_test import verify_model
from kspacesr_rt.sample import sample_folder


@pytest.fixture(scope="module")
def two_slices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for path in sorted(sample_folder().glob("*.dcm"))[9:11]:
        shutil.copy(path, folder)
    return folder


def biased():
    """Return a network that adds a constant to what it is given: not homogeneous."""
    nodes, weights = shuffle_network()
    nodes[-1].input[0] = "lifted"
    nodes.insert(-1, op("Add", "four offset", "lifted"))
    return model(nodes, [*weights, weight("offset", 5.0)])


def adopted(tmp_path, proto, contracts=None, **options):
    source = saved(tmp_path / "theirs.onnx", proto)
    made = adopt_model(source, tmp_path / "ours.onnx", contracts=contracts, **options)
    return made.path


def infer(path, source, output):
    """Run it, and return the exit code and the report."""
    words = ["infer", str(source), str(output), "--model", str(path), "--backend", "ort-cpu"]
    shown = CliRunner().invoke(app, words)
    return shown, json.loads((output / "report.json").read_text())


def test_what_nobody_declared_is_not_claimed(tmp_path, two_slices):
    """No figure on measured samples, and a clause in every output and report."""
    path = adopted(tmp_path, model(*shuffle_network()))
    shown, report = infer(path, two_slices, tmp_path / "out")
    assert shown.exit_code == 0, shown.output
    assert report["contracts"]["data consistency"] == "not declared"
    assert report["contracts"]["output grid"] == "pixel-centre, measured"
    assert {one["measured_residual"] for one in report["slices"]} == {None}
    said = " ".join(shown.output.split())
    assert "not declared of this network, so not checked: data consistency, output range" in said
    output = pydicom.dcmread(next((tmp_path / "out").rglob("*.dcm")))
    assert "k-space" not in output.DerivationDescription
    assert (
        "network of the user's (adopted), data consistency not declared"
        in output.DerivationDescription
    )


@pytest.mark.parametrize(
    ("contracts", "reason"),
    [
        (Contracts(data_consistency="hard"), "data-consistency"),
        (Contracts(output_range=(0.2, 1.0)), "output-range"),
        (Contracts(homogeneous=True), "homogeneity"),
    ],
)
def test_a_slice_that_breaks_its_contract_is_not_written(tmp_path, two_slices, contracts, reason):
    """It is a result that must not be used: exit code 5."""
    path = declaring(adopted(tmp_path, biased(), limits=None), contracts)
    shown, report = infer(path, two_slices, tmp_path / "out")
    assert shown.exit_code == 5, shown.output
    assert [one["reason"] for one in report["slices"]] == [reason] * 2
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_a_contract_that_is_kept_says_so(tmp_path, two_slices):
    """The same network inside normalisation is homogeneous, and within its range."""
    contracts = Contracts(output_range=(-1.0, 10.0), homogeneous=True)
    path = adopted(tmp_path, biased(), contracts)
    shown, report = infer(path, two_slices, tmp_path / "out")
    assert shown.exit_code == 0, shown.output
    assert report["contracts"]["output range"] == "-1 to 10"
    assert report["contracts"]["homogeneity"] == "declared"


def test_series_of_other_matrices_are_named_with_the_reason(tmp_path, two_slices):
    axes = {"axes": ("n", 1, 48, 48), "sr_axes": ("n", 1, 96, 96)}
    path = adopted(tmp_path, model(*shuffle_network(), **axes))
    shown, report = infer(path, two_slices, tmp_path / "out")
    assert shown.exit_code == 8, shown.output
    assert {one["reason"] for one in report["slices"]} == {"matrix"}
    assert all("48 x 48 only" in one["message"] for one in report["slices"])


def kspace_model(coils: int, output: str) -> bytes:
    """Return a model file that fills k-space with zeros, as a network of k-space would be."""
    axes = (coils, 2) if coils else (2,)
    pads = [0] * (1 + len(axes)) + [10, 8]
    weights = [weight("pads", [*pads, *pads], np.int64), weight("gain", 2.0)]
    nodes = [helper.make_node("Pad", ["lr", "pads"], ["filled"], name="fill")]
    if output == "kspace":
        nodes.append(helper.make_node("Mul", ["filled", "gain"], ["sr"], name="gain"))
        out_axes = axes
    else:
        nodes.append(
            helper.make_node(
                "ReduceMean",
                ["filled"],
                ["mean"],
                axes=[*range(1, 1 + len(axes))],
                name="mean",
                keepdims=0,
            )
        )
        weights.append(weight("channel", [1], np.int64))
        nodes.append(helper.make_node("Unsqueeze", ["mean", "channel"], ["sr"], name="channel"))
        out_axes = (1,)
    graph = helper.make_graph(
        nodes,
        "k",
        [helper.make_tensor_value_info("lr", TensorProto.FLOAT, ["batch", *axes, 20, 16])],
        [helper.make_tensor_value_info("sr", TensorProto.FLOAT, ["batch", *out_axes, 40, 32])],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = ModelSpec(
        name="k",
        architecture="custom",
        upscale=2,
        input="kspace",
        coils=coils,
        output=output,
        matrix=(20, 16),
        fixed_matrix=(20, 16),
        lowering="none",
        normaliser="none",
    )
    lr = network_input(brain_phantom((20, 16)).astype(np.float32), spec)
    import onnxruntime

    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    sr = session.run(None, {"lr": lr})[0]
    answer = KnownAnswer(lr=lr[0], sr=sr[0] if output == "kspace" else sr[0, 0])
    return finished(proto, spec, answer)


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("output", ["kspace", "real"])
def test_a_network_of_k_space_runs_on_arrays(tmp_path, coils, output):
    """Complex, or in pairs, with any leading axes; and is verified."""
    (tmp_path / "k.onnx").write_bytes(kspace_model(coils, output))
    loaded = load_model(tmp_path / "k.onnx")
    assert verify_model(loaded, "ort-cpu").passed
    rng = np.random.default_rng(0)
    shape = (2, 3, *([coils] if coils else []), 20, 16)
    given = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    with ks.load(tmp_path / "k.onnx", backend="ort-cpu") as opened:
        made = opened(given)
        pairs = np.stack([given.real, given.imag], axis=-3)
        in_pairs = opened(pairs)
        with pytest.raises(ShapeError, match="expected k-space"):
            opened(pairs[..., :1, :, :])
        with pytest.raises(InputError, match="20 x 16 only"):
            opened(np.zeros((*shape[2:-2], 16, 20), np.complex64))
    if output == "kspace":
        assert np.allclose(made, 2 * centre_fill(given, (40, 32)), atol=1e-6)
        assert np.allclose(made, in_pairs[..., 0, :, :] + 1j * in_pairs[..., 1, :, :])
    else:
        assert made.shape == (2, 3, 40, 32)
        assert np.allclose(made, in_pairs)


def test_image_files_are_not_given_to_a_network_of_k_space(tmp_path, two_slices):
    """Magnitudes have lost the phase that it needs."""
    (tmp_path / "k.onnx").write_bytes(kspace_model(0, "kspace"))
    words = ["infer", str(two_slices), str(tmp_path / "out"), "--model", str(tmp_path / "k.onnx")]
    shown = CliRunner().invoke(app, [*words, "--backend", "ort-cpu"])
    assert shown.exit_code == 2
    assert "takes k-space, and image files hold magnitudes" in " ".join(shown.output.split())
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="expected real numbers"):
        ks.load("x2-fast", backend="ort-cpu")(np.ones((8, 8), complex))


@pytest.mark.parametrize("coils", [0, 4])
def test_what_a_network_of_k_space_is_given_becomes_the_image_again(coils):
    """Whatever the sensitivities of its coils: their squares sum to 1."""
    spec = ModelSpec(
        name="k", architecture="custom", upscale=1, input="kspace", coils=coils, output="kspace"
    )
    image = brain_phantom((21, 16)).astype(np.float32)
    given = network_input(image, spec)
    assert given.shape == (1, *spec.input_axes, 21, 16)
    assert np.allclose(result_image(given[0], spec), image, atol=1e-6)
    if not coils:
        assert np.allclose(ifft2c(fft2c(image)).real, image, atol=1e-6)


def test_half_precision_weights_stay_out_of_the_file(tmp_path):
    """One precision is made and proved from another; here it is fp32."""
    nodes, weights = shuffle_network()
    narrow = [weight(one.name, numpy_helper.to_array(one), np.float16) for one in weights]
    path = adopted(tmp_path, model(nodes, narrow, kind=TensorProto.FLOAT16))
    kinds = {one.data_type for one in onnx.load(path).graph.initializer}
    assert TensorProto.FLOAT16 not in kinds


def test_a_file_that_claims_what_it_has_not_is_refused(tmp_path):
    """The axes of the graph are those that its specification says."""
    content = kspace_model(0, "kspace")
    proto = onnx.load_from_string(content)
    spec = dataclasses.replace(parse_model(content, name="k").spec, coils=2)
    forged = finished(proto, spec, load_answer(content))
    from kspacesr_rt.errors import ModelFileError

    with pytest.raises(ModelFileError, match=r"has not the axes \(n, 2, 2, y, x\)"):
        parse_model(forged, name="k.onnx")


def load_answer(content):
    return parse_model(content, name="k").known_answer()


def test_engines_are_built_for_what_a_network_takes(tmp_path):
    """One slice at a time where its graph says so, and no k-space."""
    from kspacesr_rt.runtime.tensorrt.inputs import profile_of

    one = ModelSpec(name="m", architecture="adopted", upscale=2, single_slice=True)
    assert profile_of(one, (1, 1, 8)) == (1, 1, 1)
    assert profile_of(dataclasses.replace(one, single_slice=False), (1, 2, 8)) == (1, 2, 8)
    with pytest.raises(InputError, match="takes k-space"):
        profile_of(parse_model(kspace_model(0, "real"), name="k").spec, (1, 1, 8))
