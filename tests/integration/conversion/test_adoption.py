"""Networks that others made: adopted with what was measured of them, or refused in a sentence."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_networks import declaring, model, op, pooling_network, saved, shuffle_network, weight
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import kspacesr_rt as ks
from kspacesr_rt.cli import app
from kspacesr_rt.conversion.adoption import Contracts, Texts, adopt_model
from kspacesr_rt.conversion.foreign_graph import read_foreign
from kspacesr_rt.conversion.proof import ROUNDS_LESS
from kspacesr_rt.errors import InputError, ModelFileError, OutputError, ParityError
from kspacesr_rt.graph.opset import at_least_opset
from kspacesr_rt.graph.precision import narrowed, opset_of
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.file import load_model
from kspacesr_rt.runtime.self_test import verify_model
from kspacesr_rt.system.cpu import lacks_bf16


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Adopt the usual network: any matrix, any number of slices, values from 0 to 1."""
    folder = tmp_path_factory.mktemp("adopted")
    source = saved(folder / "theirs.onnx", model(*shuffle_network()))
    return source, adopt_model(
        source,
        folder / "ours.onnx",
        upscale=2,
        texts=Texts(description="# Of a colleague\n\nTrained on *heads*.", licence="CC0-1.0"),
    )


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_what_comes_out_is_what_the_file_itself_gives(plain):
    """Divided by the slice's maximum, and multiplied with it: on a matrix it never saw."""
    source, adopted = plain
    lr = brain_phantom((53, 38)).astype(np.float32) * 700
    expected = session(source).run(None, {"input": lr[None, None] / lr.max()})[0][0, 0] * lr.max()
    sr = ks.load(adopted.path, backend="ort-cpu")(np.stack([lr, 2 * lr]))
    assert np.allclose(sr[0], expected, rtol=1e-5, atol=1e-3)
    assert np.allclose(sr[1], 2 * expected, rtol=1e-5, atol=2e-3)


def test_the_specification_says_what_was_measured_and_what_is_not_declared(plain):
    """Nothing of a stranger's network is promised."""
    spec = load_model(plain[1].path).spec
    assert (spec.architecture, spec.upscale, spec.matrix_multiple) == ("adopted", 2, 1)
    assert (spec.output_grid, spec.grid_source) == ("pixel-centre", "measured")
    assert (spec.data_consistency, spec.output_range, spec.homogeneous) == ("none", (), False)
    assert (spec.fixed_matrix, spec.single_slice, spec.input_range) == ((0, 0), False, (0.0, 1.0))
    assert spec.description.startswith("# Of a colleague\n")
    assert spec.provenance.licence == "CC0-1.0"
    assert spec.provenance.versions["producer"] == "elsewhere 7"
    [grid] = [one for one in plain[1].remarks if "output grid" in one]  # said once
    assert grid.startswith("output grid 'pixel-centre', as measured: a blob comes back ")
    assert spec.parity["reference"] == "theirs.onnx itself in fp32 (ort-cpu)"


@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_it_is_verified_like_any_other(plain, backend):
    """By the answer that its own runtime gave."""
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    assert verify_model(load_model(plain[1].path), backend).passed


def test_distances_that_follow_from_the_matrix_are_the_same_on_any_runtime(tmp_path):
    """OpenVINO takes the sign for granted where it folds ``Abs`` of constants."""
    pytest.importorskip("openvino")
    nodes, weights = shuffle_network()
    nodes[-1].output[0] = "shuffled"
    nodes += [
        op("Shape", "input", "width", start=3),
        op("Squeeze", "width", "columns"),
        op("Range", "zero columns unit", "column"),
        op("Cast", "column", "place", to=TensorProto.FLOAT),
        op("Sub", "place centre", "from_centre"),
        op("Abs", "from_centre", "distance"),
        op("ReduceMean", "distance", "mean_distance", keepdims=0),
        op("Mul", "shuffled mean_distance", "output"),
    ]
    weights += [weight("zero", 0, np.int64), weight("unit", 1, np.int64), weight("centre", 20)]
    adopted = adopted_spec(tmp_path, model(nodes, weights))
    assert verify_model(load_model(adopted.path), "openvino").passed
    lr = brain_phantom((40, 43)).astype(np.float32)
    one, other = (ks.load(adopted.path, backend=name)(lr) for name in ("ort-cpu", "openvino"))
    np.testing.assert_allclose(other, one, atol=1e-4 * one.max())


def adopted_spec(tmp_path, proto, **options):
    return adopt_model(saved(tmp_path / "theirs.onnx", proto), tmp_path / "ours.onnx", **options)


def test_a_network_that_pools_is_padded(tmp_path):
    """What it takes is found out, and every other matrix is brought to that, and back."""
    adopted = adopted_spec(tmp_path, model(*pooling_network()))
    assert adopted.spec.matrix_multiple == 4
    assert "padded by reflection to multiples of 4" in adopted.remarks[0]
    lr = brain_phantom((37, 42)).astype(np.float32)
    sr = ks.load(adopted.path, backend="ort-cpu")(lr)
    padded = np.pad(lr, ((0, 3), (0, 2)), mode="reflect")
    whole = session(tmp_path / "theirs.onnx").run(None, {"input": padded[None, None]})[0][0, 0]
    assert sr.shape == (74, 84)
    assert np.allclose(sr, whole[:74, :84], atol=1e-5)


@pytest.mark.parametrize("padding", ["reflect", "kspace"])
def test_a_padded_network_that_is_declared_consistent_keeps_measured_samples(tmp_path, padding):
    """What is cropped away had a share in them: they are put back behind the crop."""
    adopted = adopted_spec(
        tmp_path,
        model(*pooling_network()),
        padding=padding,
        grid="pixel-centre",
    )
    declaring(adopted.path, Contracts(data_consistency="hard"))
    from kspacesr_rt.quality.half_spectra import HalfSpectra

    for matrix in ((37, 42), (38, 41)):
        lr = brain_phantom(matrix).astype(np.float32)
        sr = ks.load(adopted.path, backend="ort-cpu")(lr)
        assert HalfSpectra.of(sr, lr).measured_residual("pixel-centre") < 1e-5


def test_a_network_of_one_matrix_says_so(tmp_path):
    """It is proved at that one, and no other is given to it."""
    axes = {"axes": (1, 1, 24, 40), "sr_axes": (1, 1, 48, 80)}
    adopted = adopted_spec(tmp_path, model(*shuffle_network(), **axes))
    assert adopted.spec.fixed_matrix == adopted.spec.matrix == (24, 40)
    assert load_model(adopted.path).known_answer().lr.shape == (24, 40)
    opened = ks.load(adopted.path, backend="ort-cpu")
    assert opened(np.ones((3, 24, 40), np.float32)).shape == (3, 48, 80)
    with pytest.raises(InputError, match="24 x 40 only"):
        opened(np.ones((40, 24), np.float32))


def test_a_network_of_one_slice_is_given_one_at_a_time(tmp_path):
    """Its graph has the number 1 in a shape; batches run all the same."""
    nodes, weights = shuffle_network()
    nodes[0].input[0] = "checked"
    nodes.insert(0, op("Reshape", "input one_slice", "checked"))
    proto = model(
        nodes,
        [*weights, weight("one_slice", [1, 1, 0, 0], np.int64)],
        axes=(1, 1, "h", "w"),
        sr_axes=(1, 1, "2*h", "2*w"),
    )
    adopted = adopted_spec(tmp_path, proto)
    assert adopted.spec.single_slice
    lr = np.stack([brain_phantom((40, 33)) * factor for factor in (1, 2, 3)]).astype(np.float32)
    with ks.load(adopted.path, backend="ort-cpu") as opened:
        sr = opened(lr)
        assert np.allclose(sr[2], opened(lr[2]), atol=1e-6)
        assert np.allclose(sr[1], 2 * sr[0], atol=1e-5)


def in_the_shapes(batch, *, matrix=None):
    """Write the batch into reshapes, as an exporter does that is not told to leave it open.

    With a matrix, into windows of 8 x 8; without, into lengths that are joined in the graph too.
    """
    nodes, weights = shuffle_network()
    nodes[2].input[0] = "back"
    if matrix is None:
        nodes[2:2] = [
            op("Reshape", "two rows", "flat"),
            op("Softmax", "flat", "soft", axis=1),
            op("Add", "flat soft", "sum"),
            op("Shape", "two", "all_lengths"),
            op("Slice", "all_lengths of_rows end", "lengths"),
            op("Concat", "begin lengths", "whole", axis=0),
            op("Reshape", "sum whole", "back"),
        ]
        shapes = {"rows": [batch, 4, -1], "begin": [batch, 4], "of_rows": [2], "end": [4]}
    else:
        rows, columns = (length // 8 for length in matrix)
        nodes[2:2] = [
            op("Reshape", "two windows", "parts"),
            op("Transpose", "parts", "moved", perm=[0, 2, 4, 1, 3, 5]),
            op("Reshape", "moved tokens", "flat"),
            op("Softmax", "flat", "soft", axis=1),
            op("Reshape", "soft parted", "again"),
            op("Transpose", "again", "placed", perm=[0, 3, 1, 4, 2, 5]),
            op("Reshape", "placed whole", "back"),
        ]
        shapes = {
            "windows": [batch, 4, rows, 8, columns, 8],
            "tokens": [batch * rows * columns, 4, 64],
            "parted": [batch, rows, columns, 4, 8, -1],
            "whole": [batch, 4, *matrix],
        }
    weights += [weight(name, shape, np.int64) for name, shape in shapes.items()]
    size, sr_size = (matrix, [2 * one for one in matrix]) if matrix else ("hw", ("2*h", "2*w"))
    return model(nodes, weights, axes=(batch, 1, *size), sr_axes=(batch, 1, *sr_size))


def in_a_constant(batch):
    """Join something to the features that has the length of the batch."""
    nodes, weights = shuffle_network()
    nodes[2].input[0] = "features"
    nodes[2:2] = [
        op("Concat", "two more", "joined", axis=1),
        op("Slice", "joined begin end axis", "features"),
    ]
    weights += [
        weight("more", np.zeros((batch, 1, 24, 40))),
        *(weight(name, [n], np.int64) for name, n in (("begin", 0), ("end", 4), ("axis", 1))),
    ]
    return model(nodes, weights, axes=(batch, 1, 24, 40), sr_axes=(batch, 1, 48, 80))


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("where", ["nowhere", "shapes", "windows", "constant"])
def test_a_batch_that_is_stated_takes_any_number_of_slices(tmp_path, where, batch):
    """Wherever it stands: opened, or filled up with the slice, and the same as the file's own."""
    proto = {
        "nowhere": lambda: model(
            *shuffle_network(), axes=(batch, 1, "h", "w"), sr_axes=(batch, 1, "2*h", "2*w")
        ),
        "shapes": lambda: in_the_shapes(batch),
        "windows": lambda: in_the_shapes(batch, matrix=(24, 40)),
        "constant": lambda: in_a_constant(batch),
    }[where]()
    adopted = adopted_spec(tmp_path, proto)
    alone = where == "constant" or (batch == 1 and where != "nowhere")
    assert adopted.spec.single_slice == alone
    assert (f"computed {batch} times" in adopted.remarks[0]) == (alone and batch > 1)
    rng = np.random.default_rng(0)
    lr = rng.random((7, 24, 40), dtype=np.float32)
    own = session(tmp_path / "theirs.onnx")
    given = np.concatenate([lr / lr.max(axis=(1, 2), keepdims=True)] * 6)[:, None]
    expected = np.concatenate(
        [own.run(None, {"input": given[at : at + batch]})[0] for at in range(0, 42, batch)]
    )[:7, 0] * lr.max(axis=(1, 2), keepdims=True)
    for backend in ("ort-cpu", "openvino"):
        if backend == "openvino":
            pytest.importorskip("openvino")
        with ks.load(adopted.path, backend=backend) as opened:
            assert np.allclose(opened(lr), expected, atol=1e-5)
            assert np.allclose(opened(lr[6]), expected[6], atol=1e-5)


def test_colours_get_the_grey_image_and_their_mean_comes_back(tmp_path):
    proto = model(
        *shuffle_network(channels=3), axes=("n", 3, "h", "w"), sr_axes=("n", 3, "2*h", "2*w")
    )
    adopted = adopted_spec(tmp_path, proto, limits=(-1.0, 1.0))
    assert (adopted.spec.image_channels, adopted.spec.input_range) == (3, (-1.0, 1.0))
    lr = brain_phantom((40, 33)).astype(np.float32)
    given = np.repeat(lr[None, None] / lr.max() * 2 - 1, 3, axis=1)
    made = session(tmp_path / "theirs.onnx").run(None, {"input": given})[0].mean(axis=1)[0]
    expected = (made + 1) / 2 * lr.max()
    assert np.allclose(ks.load(adopted.path, backend="ort-cpu")(lr), expected, atol=1e-5)


def test_half_precision_is_widened_and_compared_with_what_it_was(tmp_path):
    """Model files hold fp32, from which other precisions are made and proved."""
    nodes, weights = shuffle_network()
    narrow = [weight(one.name, numpy_helper.to_array(one), np.float16) for one in weights]
    adopted = adopted_spec(tmp_path, model(nodes, narrow, kind=TensorProto.FLOAT16))
    assert adopted.spec.precision == "fp32"
    assert any("widened to fp32" in remark for remark in adopted.remarks)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20, 24])
def test_every_opset_computes_the_same_in_its_own_words(tmp_path, opset):
    """Reductions took their axes as attributes until 18."""
    graph = read_foreign(saved(tmp_path / "m.onnx", model(*shuffle_network(), opset=opset)))
    from kspacesr_rt.conversion.normalising import Normalisation, normalised
    from kspacesr_rt.model.binding import bind
    from kspacesr_rt.model.file import ModelFile
    from kspacesr_rt.model.spec import ModelSpec
    from kspacesr_rt.runtime.backends import open_backend

    how = Normalisation(limits=(0.0, 255.0), channels=1)
    proto = normalised(graph, how, (40, 33), 2, output_channels=1, single_slice=False)
    onnx.checker.check_model(proto)
    spec = ModelSpec(name="m", architecture="adopted", upscale=2, matrix=(40, 33))
    lr = brain_phantom((40, 33)).astype(np.float32)[None, None]
    bound = bind(ModelFile(name="m", proto=proto, spec=spec, size_bytes=0), (40, 33))
    with open_backend("ort-cpu", bound) as opened:
        found = opened.run(lr)
    given, top = how.before(lr)
    raw = session(tmp_path / "m.onnx").run(None, {"input": given})[0]
    assert np.allclose(found, how.after(raw, top), atol=1e-5)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_graph_of_an_old_opset_is_raised_for_a_type_that_is_newer(tmp_path, opset, channels):
    """``convert`` to bf16 ended in an internal error: reductions had attributes that are gone."""
    theirs = model(
        *shuffle_network(channels=channels),
        axes=("n", channels, 12, 9),
        sr_axes=("n", channels, 24, 18),
        opset=opset,
    )
    wide = load_model(adopted_spec(tmp_path, theirs).path).proto
    lr = brain_phantom((12, 9)).astype(np.float32)[None, None]
    results = []
    for precision in ("fp32", "int8", "fp8", "bf16"):
        raised = at_least_opset(wide, precision)
        names = [node.name for node in raised.graph.node]
        assert len({*names}) == len(names), "weights are called as the constants that they were"
        runner = onnxruntime.InferenceSession(raised.SerializeToString())
        results.append(runner.run(None, {"lr": lr})[0])
    assert opset_of(at_least_opset(wide, "fp32")) == opset
    assert all(np.array_equal(one, results[0]) for one in results)
    onnx.checker.check_model(narrowed(raised, "bf16"))


def test_weights_beside_the_file_come_along(tmp_path):
    """And the file stays whole when they are gone."""
    proto = model(*shuffle_network())
    onnx.save_model(
        proto, tmp_path / "t.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    read = read_foreign(tmp_path / "t.onnx")
    assert {one.name for one in read.weights} == {
        f"network.{one}" for one in ("first", "first_bias", "second", "repeat")
    }
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelFileError, match=r"keeps weights in w\.bin, which cannot be read"):
        read_foreign(tmp_path / "t.onnx")


def test_what_a_file_says_of_its_makers_machine_stays_behind(tmp_path):
    """Exporters write paths and lines of code into notes."""
    proto = model(*shuffle_network())
    proto.graph.node[0].doc_string = "/home/somebody/net.py"
    proto.graph.doc_string = proto.doc_string = "/home/somebody"
    helper.set_model_props(proto, {"host": "somebodys-machine"})
    for node in proto.graph.node:
        node.metadata_props.add(key="stack", value="/home/somebody/net.py")
    adopted = adopted_spec(tmp_path, proto)
    assert b"somebody" not in adopted.path.read_bytes()


def test_a_branch_that_is_always_taken_is_written_out(tmp_path):
    nodes, weights = shuffle_network()
    branches = {
        name: helper.make_graph(
            [op(kind, "two", f"{name}.made")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}.made", TensorProto.FLOAT, None)],
        )
        for name, kind in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes[2].input[0] = "chosen"
    nodes.insert(2, helper.make_node("If", ["always"], ["chosen"], **branches))
    proto = model(nodes, [*weights, weight("always", True, np.bool_)])
    read = read_foreign(saved(tmp_path / "t.onnx", proto))
    assert [one.op_type for one in read.nodes].count("Relu") == 2
    assert "If" not in {one.op_type for one in read.nodes}


def other_type(kind):
    nodes, weights = shuffle_network()
    return model([op("Cast", "input", "x", to=1), *nodes], weights, kind=kind)


def with_nodes(change, **options):
    nodes, weights = shuffle_network()
    return model(*change(nodes, weights), **options)


def two_inputs():
    proto = model(*shuffle_network())
    proto.graph.input.append(helper.make_tensor_value_info("sigma", TensorProto.FLOAT, [1]))
    return proto


def of_microsoft(nodes, weights):
    nodes[1].domain = "com.microsoft"
    return nodes, weights


def decided_by_data(nodes, weights):
    branch = helper.make_graph(
        [op("Relu", "one", "r")], "b", [], [helper.make_tensor_value_info("r", 1, None)]
    )
    nodes[1:2] = [
        op("ReduceMax", "one", "most", keepdims=0),
        op("Greater", "most zero", "positive"),
        helper.make_node("If", ["positive"], ["two"], then_branch=branch, else_branch=branch),
    ]
    return nodes, [*weights, weight("zero", 0.0)]


def not_finite(nodes, weights):
    nodes[-1].input[0] = "nan"
    nodes.insert(-1, op("Div", "four zero", "inf"))
    nodes.insert(-1, op("Sub", "inf inf", "nan"))
    return nodes, [*weights, weight("zero", 0.0)]


def mixing_slices(nodes, weights):
    nodes[-1].input[0] = "mixed"
    nodes[-1:-1] = [
        op("ReduceMean", "four first_axis", "average", keepdims=1),
        op("Add", "four average", "mixed"),
    ]
    return nodes, [*weights, weight("first_axis", [0], np.int64)]


def of_the_batch(nodes, weights):
    """Add the mean of all samples of the batch, as of a slice."""
    nodes[-1].input[0] = "mixed"
    nodes[-1:-1] = [
        op("ReduceMean", "input", "average", keepdims=1),
        op("Add", "four average", "mixed"),
    ]
    return nodes, weights


def by_place(nodes, weights):
    """Add more to the second slice than to the first."""
    nodes[-1].input[0] = "added"
    nodes.insert(-1, op("Add", "four places", "added"))
    return nodes, [*weights, weight("places", np.asarray([0.1, 0.4]).reshape(2, 1, 1, 1))]


def half_again(nodes, weights):
    nodes[-1] = op("Resize", "one  scales", "output", mode="nearest")
    nodes[-1].input[:] = ["repeated", "", "scales"]
    return nodes, [*weights, weight("scales", [1.0, 0.25, 1.5, 1.5])]


def random_network(nodes, weights):
    nodes[-1].input[0] = "noisy"
    nodes[-1:-1] = [op("RandomNormalLike", "four", "noise"), op("Add", "four noise", "noisy")]
    return nodes, weights


REFUSED = {
    "an upscale that it has not": (model(*shuffle_network()), {"upscale": 4}, "upscales by 2"),
    "an upscale that is none": (with_nodes(half_again), {}, "no whole multiple"),
    "two inputs": (two_inputs(), {}, "expected one image as input, found 2: input, sigma"),
    "integers": (other_type(TensorProto.UINT8), {}, "of the type uint8"),
    "three axes": (
        model(*shuffle_network(), axes=("n", "h", "w")),
        {},
        "has 3 axes, expected an image",
    ),
    "slices that influence each other in a batch of four": (
        with_nodes(of_the_batch, axes=(4, 1, "h", "w"), sr_axes=(4, 1, "2*h", "2*w")),
        {},
        "depends on the others or on its place",
    ),
    "slices that are told apart by their place": (
        with_nodes(by_place, axes=(2, 1, "h", "w"), sr_axes=(2, 1, "2*h", "2*w")),
        {},
        "depends on the others or on its place",
    ),
    "channels last": (
        model(*shuffle_network(), axes=("n", "h", "w", 3)),
        {"channels": 3},
        "does not take an image of",
    ),
    "two channels": (
        model(*shuffle_network(), axes=("n", 2, "h", "w")),
        {},
        "takes images of 2 channels, 1 or 3 are possible",
    ),
    "other channels than asked": (
        model(*shuffle_network()),
        {"channels": 3},
        "takes 1 channels, --channels says 3",
    ),
    "operators of a runtime": (with_nodes(of_microsoft), {}, "com.microsoft::Relu"),
    "a way that depends on data": (with_nodes(decided_by_data), {}, "depends on its data"),
    "an old opset": (model(*shuffle_network(), opset=9), {}, "is of ONNX's opset 9"),
    "no finite result": (with_nodes(not_finite), {}, "gives NaN or infinity"),
    "random numbers": (with_nodes(random_network), {}, "memory cannot be bounded"),
    "a multiple that it does not take": (
        model(*pooling_network()),
        {"matrix_multiple": 3},
        "does not take an image of",
    ),
    "another grid": (model(*shuffle_network()), {"grid": "kspace"}, "does not answer on the grid"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_adopted_is_refused_in_a_sentence(tmp_path, kind):
    """With exit code 2 or 4, and no file is left."""
    proto, options, reason = REFUSED[kind]
    with pytest.raises((InputError, ParityError)) as caught:
        adopted_spec(tmp_path, proto, **options)
    assert reason in str(caught.value)
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    assert caught.value.hint, "nothing says what to do"
    assert caught.value.exit_code in (2, 4)
    assert [one.name for one in tmp_path.iterdir()] == ["theirs.onnx"]


def test_slices_that_influence_each_other_are_computed_one_at_a_time(tmp_path):
    """As a network whose norm was left in training mode does."""
    assert adopted_spec(tmp_path, with_nodes(mixing_slices)).spec.single_slice


def test_a_mean_of_the_batch_is_seen_though_slices_are_normalised(tmp_path):
    """Mirror images of one slice have one mean, maximum and spread."""
    assert adopted_spec(tmp_path, with_nodes(of_the_batch)).spec.single_slice


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x09" * 30])
def test_what_is_no_onnx_file_is_refused(tmp_path, content):
    (tmp_path / "t.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match="not an ONNX file"):
        adopt_model(tmp_path / "t.onnx", tmp_path / "o.onnx")


def test_one_of_ours_is_not_adopted_again(plain, tmp_path):
    with pytest.raises(ModelFileError, match="is a model file of this project already"):
        adopt_model(plain[1].path, tmp_path / "again.onnx")


def test_what_is_there_is_replaced_only_when_asked(plain):
    source, adopted = plain
    with pytest.raises(OutputError, match="exists"):
        adopt_model(source, adopted.path)
    with pytest.raises(InputError, match="is the network itself"):
        adopt_model(source, source, force=True)


def test_a_precision_that_fails_names_one_that_passes(plain, tmp_path):
    """bf16 keeps 8 bits, fp16 11: it is measured before it is said, and nothing is written.

    A CPU without bf16 arithmetic cannot show it, and the file that it makes says so.
    """
    pytest.importorskip("openvino")
    output = tmp_path / "narrow.onnx"
    if lacks_bf16():
        assert ROUNDS_LESS in ks.convert_model(plain[1].path, output, precision="bf16").remarks
        return
    with pytest.raises(ParityError, match="PSNR between the two") as caught:
        ks.convert_model(plain[1].path, output, precision="bf16")
    assert "--precision fp16 passes the gate (" in caught.value.hint
    assert " dB on openvino)" in caught.value.hint
    assert not output.exists()
    assert ks.convert_model(plain[1].path, output, precision="fp16").spec.precision == "fp16"


def test_matrices_that_were_tried_are_named(plain):
    """Of a network of others nothing is known about the rest."""
    said = "any matrix (tried 128 x 128, 67 x 90)"
    assert said in plain[1].remarks[0]
    shown = CliRunner().invoke(app, ["inspect", str(plain[1].path)])
    assert said in " ".join(shown.output.split())
    shown = CliRunner().invoke(app, ["inspect", str(plain[1].path), "--json"])
    assert said in json.loads(shown.stdout)["takes"]


@pytest.mark.parametrize("words", [["--json"], ["-q"]])
def test_what_limits_its_use_is_said_to_scripts_too(tmp_path, words):
    """On stderr, where nothing of it is read as the answer."""
    source = saved(tmp_path / "theirs.onnx", model(*pooling_network()))
    arguments = ["adopt", str(source), "-o", str(tmp_path / "o.onnx"), *words]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    said = " ".join(shown.stderr.split())
    assert "warning: " in said
    assert "padded by reflection to multiples of 4" in said
    if "--json" in words:
        remarks = json.loads(shown.stdout)["remarks"]
        assert any("padded by reflection to multiples of 4" in one for one in remarks)
        assert any("output grid" in one for one in remarks)
    else:
        assert not shown.stdout


def test_the_command_says_what_it_measured(tmp_path):
    """And keeps the user's text for the card."""
    source = saved(tmp_path / "theirs.onnx", model(*shuffle_network()))
    (tmp_path / "card.md").write_text("What it is.")
    arguments = ["adopt", str(source), "-o", str(tmp_path / "o.onnx"), "--upscale", "2"]
    more = ["--range", "0..255", "--card", str(tmp_path / "card.md"), "--name", "colleague"]
    shown = CliRunner().invoke(app, [*arguments, *more, "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["parity"]["tier"] == "exact"
    spec = load_model(tmp_path / "o.onnx").spec
    assert (spec.name, spec.input_range, spec.description) == (
        "colleague",
        (0.0, 255.0),
        "What it is.",
    )
    wrong = CliRunner().invoke(app, [*arguments, "--force", "--range", "1..0"])
    assert wrong.exit_code == 2
    assert "--range is LOW..HIGH" in wrong.output


def test_a_grid_that_no_blob_tells_of_is_assumed_and_said_to_be(tmp_path):
    """An untrained network puts a blob nowhere."""
    nodes, weights = shuffle_network()
    weights[-1] = weight("repeat", np.asarray([1, -1, 1, -1]).reshape(4, 1, 1, 1))
    adopted = adopted_spec(tmp_path, model(nodes, weights))
    assert adopted.spec.grid_source == "assumed"
    [remark] = [one for one in adopted.remarks if "output grid" in one]
    assert "is assumed" in remark
    assert remark.endswith("; say --grid if you know it")
    assert dataclasses.replace(adopted.spec, grid_source="declared").output_grid == "pixel-centre"


def test_a_benchmark_measures_it_as_it_is_and_in_other_precisions(plain, tmp_path):
    """Where networks of ours are lowered anew from their weights, it is converted."""
    from kspacesr_rt.bench.run.model_variants import VariantFailed, Variants
    from kspacesr_rt.bench.run.plans import RowPlan

    variants = Variants(tmp_path)

    def path_of(lowering, precision):
        return variants.path_for(
            RowPlan(
                contestant="ort-cpu",
                model=str(plain[1].path),
                lowering=lowering,
                precision=precision,
            )
        )

    assert path_of("gemm", "fp32") == plain[1].path
    assert load_model(path_of("gemm", "fp16")).spec.precision == "fp16"
    with pytest.raises(VariantFailed, match="measured as it is lowered"):
        path_of("dft", "fp32")


def test_what_a_slice_costs_is_counted(tmp_path):
    """Transposed convolutions and products of matrices, too: a multiplication and an addition."""
    from kspacesr_rt.graph.flops import count_flops
    from kspacesr_rt.model.file import ModelFile
    from kspacesr_rt.model.spec import ModelSpec

    nodes = [
        op("ConvTranspose", "lr up", "twice", strides=[2, 2]),
        op("Flatten", "twice", "flat", axis=3),
        op("Gemm", "flat square", "mixed"),
        op("Reshape", "mixed shape", "again"),
        op("MatMul", "again square", "sr"),
    ]
    weights = [
        weight("up", np.ones((1, 1, 2, 2))),
        weight("square", np.eye(32)),
        weight("shape", [-1, 1, 24, 32], np.int64),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("lr", TensorProto.FLOAT, ["batch", 1, 12, 16])],
        [helper.make_tensor_value_info("sr", TensorProto.FLOAT, ["batch", 1, 24, 32])],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = ModelSpec(
        name="m",
        architecture="adopted",
        upscale=2,
        matrix=(12, 16),
        fixed_matrix=(12, 16),
        single_slice=False,
    )
    counted = count_flops(ModelFile(name="m", proto=proto, spec=spec, size_bytes=0), (12, 16))
    assert counted.cnn == 2 * 4 * 12 * 16 + 2 * (2 * 32 * 24 * 32)
    assert (counted.fft, counted.uncounted) == (0.0, ())


def test_the_grid_of_a_padded_network_is_found_whatever_its_file_states(tmp_path):
    """Cropping follows the stated grid, so a padded blob would be on none."""
    from kspacesr_rt.conversion.grid_check import find_placement
    from kspacesr_rt.conversion.proof import backend_runner

    nodes, weights = pooling_network()
    weights[2] = weight("second", numpy_helper.to_array(weights[2]) * 0.01)
    made = adopted_spec(tmp_path, model(nodes, weights), grid="pixel-centre")
    stated = load_model(made.path)
    spec = dataclasses.replace(stated.spec, output_grid="kspace")
    other = dataclasses.replace(stated, spec=spec)
    placement = find_placement(spec, backend_runner(other, "ort-cpu"))
    assert (placement.passed, placement.fitting) == (False, "pixel-centre")
