"""Model files from strangers: ours and whole, or refused with the reason; never a traceback."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from kspacesr_rt.errors import InputError, ModelFileError, ModelSpecError, ShapeError
from kspacesr_rt.model.binding import LARGEST_MATRIX, SMALLEST_MATRIX, bind, require_bindable
from kspacesr_rt.model.file import (
    KNOWN_ANSWER_KEY,
    KnownAnswer,
    bound_constants,
    load_model,
    parse_model,
    resolve_model,
    shipped_kspace_models,
    shipped_models,
    weights_digest,
)
from kspacesr_rt.model.spec import METADATA_KEY, SCHEMA

EXPORT_HINT = "export it with: kspacesr-rt export CHECKPOINT -o MODEL.onnx"


@pytest.fixture
def proto(model) -> onnx.ModelProto:
    """Copy the tiny model's graph, to damage it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    return copy


def read(proto: onnx.ModelProto):
    return parse_model(proto.SerializeToString(), name="m.onnx")


def set_metadata(proto: onnx.ModelProto, key: str, value: str | None) -> None:
    kept = {item.key: item.value for item in proto.metadata_props if item.key != key}
    del proto.metadata_props[:]
    helper.set_model_props(proto, kept | ({} if value is None else {key: value}))


def restamped(proto: onnx.ModelProto, **changes: object) -> onnx.ModelProto:
    """Change the specification and make the digest right again: a forger who knows our format."""
    (text,) = (item.value for item in proto.metadata_props if item.key == METADATA_KEY)
    values = json.loads(text) | changes
    values["provenance"]["weights_sha256"] = weights_digest(proto)
    set_metadata(proto, METADATA_KEY, json.dumps(values))
    return proto


def test_our_own_file_is_read_whole(model, model_file):
    """What export wrote is what the runtime sees, from bytes or from a path."""
    loaded = load_model(model_file)
    assert loaded.spec == model.spec
    assert loaded.name == "tiny-dc-residual-x2.onnx"
    assert loaded.size_bytes == model_file.stat().st_size
    assert loaded.proto == model.proto


def test_a_description_names_what_a_user_answers_for(model):
    """`inspect`: what it is, where the weights come from, and what it must not be used for."""
    spec = dataclasses.replace(
        model.spec,
        parity={"cases": [{"psnr_between_db": 131.25}, {"psnr_between_db": 128.5}]},
        quality={"evaluation": {"psnr_db": 33.255, "ssim": 0.96}},
    )
    text = dataclasses.replace(model, spec=spec).as_text()
    assert text.startswith("tiny-dc-residual-x2: dc-residual, x2, ")
    assert re.match(r"[^\n]+, x2, \d+\.\d kB\n", text)  # not 0.0 or 0.1 MB
    assert "at least 128.5 dB with PyTorch over 2 cases" in text
    assert "quality      evaluation: psnr_db 33.26, ssim 0.96" in text
    assert f"SHA-256 of\n  weights    {spec.provenance.weights_sha256}\n" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("Research")) <= 80
    assert text.endswith("Not a medical device.")


def test_equal_results_agree_by_infinitely_many_decibels(model):
    """What JSON stores for that, 999, is no figure: `adopt` and `verify` print inf as well."""
    spec = dataclasses.replace(model.spec, parity={"cases": [{"psnr_between_db": 999.0}]})
    assert "at least inf dB with" in dataclasses.replace(model, spec=spec).as_text()


# --- not ours, or not whole -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"not a model", b"\x89PNG\r\n\x1a\n" + bytes(200), b"\xff" * 64, b"PK\x03\x04" + b"a" * 80],
    ids=["text", "png", "ones", "zip"],
)
def test_a_file_of_another_kind_is_refused(content):
    """The first thing people try is the checkpoint itself."""
    with pytest.raises(ModelFileError) as caught:
        parse_model(content, name="m.onnx")
    assert str(caught.value) == "m.onnx: not an ONNX file, or a truncated one"
    assert caught.value.hint == (
        "copy the file again, or export it: kspacesr-rt export CHECKPOINT -o MODEL.onnx"
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", onnx.ModelProto(producer_name="x").SerializeToString()])
def test_a_model_without_our_metadata_is_refused(content):
    """Somebody else's model may run, but nobody knows what goes in and what comes out."""
    with pytest.raises(ModelFileError) as caught:
        parse_model(content, name="m.onnx")
    assert str(caught.value) == (
        "m.onnx carries no 'kspacesr_rt.model_spec' metadata, so it is not one of our models "
        "(or a truncated one)"
    )
    assert caught.value.hint == EXPORT_HINT


def test_a_truncated_file_is_refused_at_every_length(model_file):
    """Protobuf reads many prefixes without complaint: metadata and digest must catch those."""
    content = model_file.read_bytes()
    lengths = {*range(64), *range(len(content) - 64, len(content))}
    lengths |= set(range(64, len(content), max(1, len(content) // 400)))
    for length in sorted(lengths):
        with pytest.raises(InputError, match=r"^m\.onnx"):
            parse_model(content[:length], name="m.onnx")


@settings(max_examples=150, derandomize=True)
@given(st.data())
def test_a_flipped_byte_never_ends_in_a_traceback(model_file, data):
    """Damage is refused, or it hit something that changes no result (a name, a producer)."""
    content = bytearray(model_file.read_bytes())
    # The first third is structure, the rest mostly long runs of weights and constants.
    position = data.draw(st.integers(0, len(content) - 1) | st.integers(0, len(content) // 3))
    content[position] ^= data.draw(st.integers(1, 255))
    try:
        bind(parse_model(bytes(content), name="m.onnx"), (9, 10))
    except InputError as error:
        assert str(error)  # noqa: PT017


def drop_attribute(proto: onnx.ModelProto) -> None:
    node = next(node for node in proto.graph.node if node.op_type == "RealFFT2c")
    del node.attribute[0]


def retype_attribute(proto: onnx.ModelProto) -> None:
    node = next(node for node in proto.graph.node if node.op_type == "RealFFT2c")
    node.attribute[0].CopyFrom(helper.make_attribute(node.attribute[0].name, "two"))


def drop_inputs(proto: onnx.ModelProto) -> None:
    del next(node for node in proto.graph.node if node.op_type == "RealFFT2c").input[:]


def shorten_a_weight(proto: onnx.ModelProto) -> None:
    weight = next(item for item in proto.graph.initializer if item.name == "cascades.0.head.weight")
    weight.raw_data = weight.raw_data[:-4]


def unshape_the_input(proto: onnx.ModelProto) -> None:
    del proto.graph.input[0].type.tensor_type.shape.dim[2:]


@pytest.mark.parametrize(
    "damage", [drop_attribute, retype_attribute, drop_inputs, shorten_a_weight, unshape_the_input]
)
def test_a_damaged_structure_is_refused(proto, damage):
    """Each of these is one flipped byte away from a good file, and met before any image is."""
    damage(proto)
    with pytest.raises(InputError):
        bind(read(proto), (9, 10))


def test_a_name_that_is_no_text_is_refused(model_file):
    """A flipped bit in a name: protobuf hands it over as bytes, or refuses it later."""
    content = model_file.read_bytes().replace(b"cascades.0.head.weight", b"\xffead.weight")
    with pytest.raises(InputError):
        parse_model(content, name="m.onnx")


def test_a_missing_file_is_refused(tmp_path):
    """The reason of the operating system, without its traceback."""
    with pytest.raises(ModelFileError) as caught:
        load_model(tmp_path / "gone.onnx")
    assert str(caught.value) == "gone.onnx: cannot be read: No such file or directory"


def test_a_newer_schema_is_refused(proto):
    """A model of a later version asks for an upgrade, not for luck."""
    with pytest.raises(ModelSpecError) as caught:
        read(restamped(proto, schema=SCHEMA + 1))
    assert str(caught.value).startswith("m.onnx: specification schema 6 is newer than 5")
    assert caught.value.hint == "pip install --upgrade kspacesr-rt"


# --- altered --------------------------------------------------------------------------------------


def altered(proto: onnx.ModelProto) -> None:
    with pytest.raises(ModelFileError) as caught:
        read(proto)
    assert (
        str(caught.value)
        == "m.onnx: its weights or its graph differ from the digest stored at export"
    )
    assert caught.value.hint == "the file was damaged or edited: export it again"


def test_an_edited_weight_is_refused(proto):
    """One ulp in one weight of one layer: whoever answers for the model must know."""
    (weight,) = (item for item in proto.graph.initializer if item.name == "cascades.0.head.weight")
    values = numpy_helper.to_array(weight).copy()
    values.flat[3] = np.nextafter(values.flat[3], np.float32(9))
    weight.CopyFrom(numpy_helper.from_array(values, "cascades.0.head.weight"))
    altered(proto)


def test_an_added_weight_is_refused(proto):
    """The digest covers names, so nothing can be slipped in beside the weights."""
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "extra"))
    altered(proto)


def test_an_edited_spectrum_is_refused(make_generator, make_model):
    """h_LR and h_HR sit in node attributes; they decide the result as much as weights do."""
    model = make_model(*make_generator("seed-kspace", 2))
    node = next(node for node in model.proto.graph.node if node.name == "h_lr")
    (spectrum,) = (item for item in node.attribute if item.name == "spectrum")
    values = numpy_helper.to_array(spectrum.t) * np.float32(1.01)
    spectrum.t.CopyFrom(numpy_helper.from_array(values, "spectrum"))
    altered(model.proto)


def test_an_edited_slope_is_refused(proto):
    """A PReLU's slope is a trained weight, although the graph holds it as an attribute."""
    node = next(node for node in proto.graph.node if node.op_type == "LeakyRelu")
    node.attribute[0].f += 0.01
    altered(proto)


def test_a_rewired_graph_is_refused(proto):
    """Same weights, another computation: the last block is skipped."""
    tail = next(node for node in proto.graph.node if node.name == "cascades.1.tail")
    head = next(node for node in proto.graph.node if node.name == "cascades.0.head")
    tail.input[0] = head.output[0]
    altered(proto)


def test_edited_fft_constants_are_not_used(proto, model):
    """The digest leaves them out because binding makes them: then it must, for every matrix."""
    derived = bound_constants(proto)
    for item in proto.graph.initializer:
        if item.name in derived:
            values = numpy_helper.to_array(item) * np.float32(1.01)
            item.CopyFrom(numpy_helper.from_array(values, item.name))
    try:
        edited = read(proto)
    except ModelFileError:
        return
    bound = bind(edited, edited.spec.matrix).proto.graph.initializer
    assert [item.raw_data for item in bound] == [
        item.raw_data for item in model.proto.graph.initializer
    ]


def test_an_edited_function_body_is_refused(proto):
    """What stands in the FFT layers was proved by the gate; another body was not."""
    body = next(body for body in proto.functions if body.name == "RealIFFT2c")
    masking = next(node for node in body.node if node.op_type == "Mul")
    masking.op_type = "Add"
    altered(proto)


# --- unsafe or foreign ----------------------------------------------------------------------------


def refused(proto: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        read(restamped(proto))
    assert str(caught.value) == message


def test_weights_in_another_file_are_refused(proto):
    """A path inside a model could point anywhere on the machine that opens it."""
    (weight,) = (item for item in proto.graph.initializer if item.name == "cascades.0.head.weight")
    text = restamped(proto)
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(ModelFileError) as caught:
        read(text)
    assert str(caught.value) == "m.onnx: keeps weights in another file, which is refused"


def test_external_data_in_an_attribute_is_refused(make_generator, make_model):
    """The spectra are tensors too: the same rule wherever a tensor can stand."""
    model = make_model(*make_generator("seed-kspace", 2))
    node = next(node for node in model.proto.graph.node if node.name == "h_lr")
    (spectrum,) = (item for item in node.attribute if item.name == "spectrum")
    spectrum.t.data_location = onnx.TensorProto.EXTERNAL
    spectrum.t.external_data.add(key="location", value="/etc/hostname")
    with pytest.raises(ModelFileError, match="keeps weights in another file, which is refused"):
        read(model.proto)


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.contrib", "kspacesr"])
def test_operators_of_a_foreign_domain_are_refused(proto, domain):
    """A runtime with that domain registered would run code that nobody proved."""
    proto.graph.node[3].domain = domain
    refused(proto, f"m.onnx: uses operators of foreign domains: {domain}")


def test_foreign_operators_inside_a_body_are_refused(proto):
    """Function bodies are where they would be overlooked."""
    proto.functions[0].node[1].domain = "com.evil"
    refused(proto, "m.onnx: uses operators of foreign domains: com.evil")


def test_foreign_operators_inside_a_branch_are_refused(proto):
    """A graph inside a node's attribute is run as well."""
    value = helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, None)
    branch = helper.make_graph(
        [helper.make_node("Evil", ["lr"], ["b"], domain="com.evil")], "branch", [], [value]
    )
    proto.graph.node.append(
        helper.make_node("If", ["lr"], ["c"], then_branch=branch, else_branch=branch)
    )
    refused(proto, "m.onnx: uses operators of foreign domains: com.evil")


def test_another_input_is_refused(proto):
    """The runtime feeds 'lr' and reads 'sr'; anything else is not our contract."""
    proto.graph.input[0].name = "image"
    refused(
        proto,
        "m.onnx: expected one input 'lr' and one output 'sr', found ['image'] and ['sr']",
    )


def test_a_second_output_is_refused(proto):
    """With two outputs nobody knows which one is the image."""
    proto.graph.output.append(proto.graph.output[0])
    refused(
        proto,
        "m.onnx: expected one input 'lr' and one output 'sr', found ['lr'] and ['sr', 'sr']",
    )


# --- known answer ---------------------------------------------------------------------------------


def test_a_known_answer_survives_its_text_form():
    """Bit for bit: a self-test that rounds cannot tell fp32 from TF32."""
    rng = np.random.default_rng(0)
    answer = KnownAnswer(
        lr=rng.standard_normal((5, 7), dtype=np.float32),
        sr=rng.standard_normal((10, 14), dtype=np.float32) * np.float32(1e-20),
    )
    back = KnownAnswer.from_json(answer.to_json())
    assert np.array_equal(back.lr, answer.lr)
    assert np.array_equal(back.sr, answer.sr)


def test_a_missing_known_answer_is_said(proto):
    """`verify` on such a file must not pass by having nothing to compare."""
    set_metadata(proto, KNOWN_ANSWER_KEY, None)
    with pytest.raises(ModelFileError) as caught:
        read(proto).known_answer()
    assert str(caught.value) == "m.onnx carries no known answer to verify against"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"lr": 3, "sr": 4}', '{"lr": {"shape": [2], "zlib_f4": "eA=="}}',
     '{"lr": {"shape": 4, "zlib_f4": ""}, "sr": {}}',
     '{"lr": {"shape": [-1], "zlib_f4": "!"}, "sr": {}}'],
)  # fmt: skip
def test_a_damaged_known_answer_is_refused(proto, text):
    """The digest covers the weights alone, so this text can be damaged without any other sign."""
    set_metadata(proto, KNOWN_ANSWER_KEY, text)
    with pytest.raises(ModelFileError) as caught:
        read(proto).known_answer()
    assert str(caught.value) == "m.onnx: the stored known answer is damaged"


# --- binding limits -------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [(7, 64), (64, 7), (0, 0), (2049, 64), (64, 2049), (-8, 64)])
def test_a_matrix_outside_the_limits_is_refused(model, matrix):
    """A one-pixel-high slice means nothing, and a huge one would not fit an ONNX file."""
    with pytest.raises(ShapeError) as caught:
        bind(model, matrix)
    assert str(caught.value) == (
        f"a matrix of {matrix[0]} x {matrix[1]} is outside the {SMALLEST_MATRIX} to "
        f"{LARGEST_MATRIX} samples per axis a model can be bound to"
    )


@pytest.mark.parametrize("matrix", [(8, 8), (8, 300), (1024, 64), (2048, 2048)])
def test_the_limits_themselves_are_allowed(matrix):
    """64 to 1024 are promised; the limits lie well outside."""
    require_bindable(matrix)
    assert SMALLEST_MATRIX <= 64 < 1024 <= LARGEST_MATRIX


# --- finding a model ------------------------------------------------------------------------------


def test_a_path_is_taken_as_it_is(model_file):
    """A file by its name, relative or absolute, comes before nothing else."""
    assert resolve_model(str(model_file), upscale=None) == model_file


def test_an_unknown_name_lists_what_is_shipped():
    """A typo in a shipped model's name looks like a missing file: say both."""
    with pytest.raises(InputError) as caught:
        resolve_model("x2-fats", upscale=None)
    assert str(caught.value) == "no model file 'x2-fats'"
    named = ", ".join((*shipped_models(), *shipped_kspace_models()))
    assert caught.value.hint == f"is it x2-fast or x4-fast? shipped models: {named}"


def test_a_folder_in_place_of_a_model_is_named_as_one(tmp_path):
    """Who wants to look at a study types `inspect FOLDER`."""
    with pytest.raises(InputError, match="is a folder, not a model file") as caught:
        resolve_model(str(tmp_path), upscale=None)
    assert "kspacesr-rt infer FOLDER OUT" in caught.value.hint


def test_an_upscale_without_a_shipped_model_is_refused():
    """Not the nearest one instead: x3 was asked for."""
    with pytest.raises(InputError) as caught:
        resolve_model(None, upscale=3)
    assert str(caught.value) == "no model for upscale 3 is shipped"
    assert caught.value.hint == (f"shipped: {', '.join(shipped_models())}; or name a model file")


def test_bounds_are_a_line_and_a_table_where_more_is_asked_for(model):
    """Three numbers flag a slice; thirty more say where they come from, one a line."""
    bounds = {
        "phantom_lesion_free_rms_ratio": 0.99,
        "measured_residual": 1e-5,
        "added_energy_ratio": 0.30571,
    }
    told = dataclasses.replace(model, spec=dataclasses.replace(model.spec, bounds=bounds))
    line = "bounds       added_energy_ratio 0.3057, measured_residual 1e-05 (-v: 1 figures more)"
    assert line in told.as_text().splitlines()
    lines = told.as_text(verbose=True).splitlines()
    start = lines.index("bounds       a slice is flagged beyond")
    assert lines[start + 1 : start + 5] == [
        "  added_energy_ratio             0.3057",
        "  measured_residual              1e-05",
        "figures      that the bounds come from",
        "  phantom_lesion_free_rms_ratio  0.99",
    ]
    without = dataclasses.replace(model, spec=dataclasses.replace(model.spec, bounds={}))
    for verbose in (False, True):
        text = without.as_text(verbose=verbose).splitlines()
        assert "bounds       none: no slice is flagged" in text
