"""The contract between export and runtime: read back whole, or refused with the reason."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kspacesr_rt.errors import ModelSpecError
from kspacesr_rt.model.spec import (
    METADATA_KEY,
    NEW_IN,
    OP_DOMAIN,
    RESEARCH_USE,
    SCHEMA,
    ModelSpec,
    Provenance,
)

FULL = ModelSpec(
    name="x2-fast",
    architecture="dc-residual",
    upscale=2,
    width=32,
    blocks=8,
    bias=True,
    matrix=(160, 123),
    lowering="gemm",
    data_consistency="hard",
    opset=20,
    adversarial=True,
    quality={"evaluation": {"psnr_db": 33.25, "ssim": 0.9625}},
    parity={"backend": "ort-cpu", "cases": [{"case": "phantom", "rim_error": 1e-4}]},
    provenance=Provenance(
        checkpoint_sha256="c" * 64,
        weights_sha256="d" * 64,
        created="2026-11-22T10:00:00+00:00",
        versions={"torch": "2.13.0", "onnx": "1.23.2"},
        training="480 slices of “Gehirn”, 12 000 steps",
        licence="CC0-1.0",
        attribution="A. Müller",
    ),
)


def document(**changes: object) -> dict[str, object]:
    """Return FULL as the JSON object a file holds, with some fields replaced."""
    return json.loads(FULL.to_json()) | changes


def read(values: object) -> ModelSpec:
    return ModelSpec.from_json(json.dumps(values), origin="some.onnx")


def test_a_full_specification_comes_back_equal():
    """Whatever export says of a model is what the runtime acts on, down to the last field."""
    assert ModelSpec.from_json(FULL.to_json()) == FULL


@given(
    name=st.text(min_size=1, max_size=256),
    upscale=st.integers(1, 16),
    matrix=st.tuples(st.integers(0, 4096), st.integers(0, 4096)),
    bias=st.booleans(),
    output=st.sampled_from(["real", "magnitude"]),
    consistency=st.sampled_from(["none", "additive", "hard"]),
    quality=st.dictionaries(st.text(), st.dictionaries(st.text(), st.floats(allow_nan=False))),
)
def test_every_valid_specification_comes_back_equal(
    name, upscale, matrix, bias, output, consistency, quality
):
    """Names in any script, any matrix and any measured number survive the metadata string."""
    spec = ModelSpec(
        name=name,
        architecture="seed-kspace",
        upscale=upscale,
        matrix=matrix,
        bias=bias,
        output=output,
        data_consistency=consistency,
        quality=quality,
    )
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_the_stored_form_is_one_line_with_a_schema_number():
    """ONNX metadata hold strings; a second reader must find the schema without our code."""
    text = FULL.to_json()
    assert "\n" not in text
    assert json.loads(text)["schema"] == SCHEMA == 5
    assert METADATA_KEY.startswith(f"{OP_DOMAIN}.")


def test_a_specification_says_what_it_is_not_for():
    """The research-use sentence is part of the contract, not of the documentation."""
    assert "Not a medical device" in RESEARCH_USE
    assert document()["intended_use"] == RESEARCH_USE


@pytest.mark.parametrize("text", ["", "{", "not json", "\x00\xff", "[1, 2"])
def test_text_that_is_not_json_is_refused(text):
    """A damaged string in the metadata is named as such, with the file it came from."""
    with pytest.raises(ModelSpecError, match=r"^some\.onnx: the model specification is not JSON: "):
        ModelSpec.from_json(text, origin="some.onnx")


@pytest.mark.parametrize("values", [[], 3, None, "text", {}, {"schema": "1"}, {"schema": None}])
def test_json_that_is_no_specification_is_refused(values):
    """JSON of another kind has no schema number, so nothing in it can be trusted."""
    with pytest.raises(ModelSpecError) as caught:
        read(values)
    assert str(caught.value) == "some.onnx: the model specification has no schema number"


def test_a_newer_schema_is_refused_with_the_upgrade_command():
    """A model from next year's version must not run by guessing what its fields mean."""
    with pytest.raises(ModelSpecError) as caught:
        read(document(schema=SCHEMA + 1))
    assert str(caught.value) == (
        "some.onnx: specification schema 6 is newer than 5, the newest this version understands"
    )
    assert caught.value.hint == "pip install --upgrade kspacesr-rt"


def test_a_file_of_the_first_schema_means_what_it_meant():
    """Models exported before grids were stated lie on the grid of k-space, and still load."""
    values = document(schema=1)
    for added in NEW_IN.values():
        for name in added:
            del values[name]
    found = read(values)
    assert found == FULL
    assert (found.output_grid, found.sample_grid) == ("kspace", "kspace")


def test_a_file_of_the_second_schema_means_what_it_meant():
    """Models exported before networks of others were taken are ours, and promise what ours do."""
    values = document(schema=2, output_grid="pixel-centre")
    for name in (*NEW_IN[3], *NEW_IN[4], *NEW_IN[5]):
        del values[name]
    found = read(values)
    assert found == dataclasses.replace(FULL, output_grid="pixel-centre")
    assert found.is_own
    assert found.input_axes == found.output_axes == (1,)


FOREIGN = dataclasses.replace(
    FULL,
    architecture="custom",
    matrix=(160, 128),
    matrix_multiple=8,
    padding="kspace",
    fixed_matrix=(160, 128),
    grid_source="measured",
    homogeneous=True,
    input_range=(-1.0, 1.0),
    output_range=(0.0, 1.25),
    description="Two lines\nof *text*.",
)
"""A network of a user's own, with everything declared that can be."""


def test_a_network_of_others_comes_back_equal():
    """With pairs as pairs, and its text in lines."""
    assert ModelSpec.from_json(FOREIGN.to_json()) == FOREIGN
    assert FOREIGN.with_printable_texts() == FOREIGN


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"output_range": (1.0, 0.0)}, "output_range (1.0, 0.0) is not (low, high)"),
        ({"output_range": (0.0, float("inf"))}, "output_range (0.0, inf) is not (low, high)"),
        ({"input_range": ("0", "1")}, "input_range ('0', '1') is not (low, high)"),
        ({"matrix_multiple": 0}, "matrix_multiple 0 is not at least 1"),
        ({"matrix_multiple": 1000}, "matrix_multiple is larger than 512"),
        ({"fixed_matrix": (160, 160)}, "fixed_matrix is another than matrix"),
        ({"matrix_multiple": 7}, "fixed_matrix is no multiple of matrix_multiple"),
        ({"coils": 4}, "an image has no coils"),
        ({"coils": -1}, "coils is negative"),
        ({"output": "kspace"}, "a network that gives k-space takes k-space"),
        ({"input": "kspace"}, "only images are padded to a multiple"),
        ({"padding": "zero"}, "padding 'zero' is not one of reflect, kspace"),
        ({"grid_source": "guessed"}, "grid_source 'guessed' is not one of"),
        (
            {"architecture": "dc-residual"},
            "homogeneous is for the architectures custom and adopted",
        ),
    ],
)
def test_what_no_network_can_declare_is_refused(changes, reason):
    """Whoever reads a contract acts on it."""
    with pytest.raises(ModelSpecError) as caught:
        dataclasses.replace(FOREIGN, **changes)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "taken", "given"),
    [
        ({}, (1,), (1,)),
        ({"input": "kspace"}, (2,), (1,)),
        ({"input": "kspace", "coils": 4}, (4, 2), (1,)),
        ({"input": "kspace", "coils": 4, "output": "kspace"}, (4, 2), (4, 2)),
    ],
)
def test_the_axes_of_a_graph_follow_from_what_it_takes(changes, taken, given):
    """A complex number is a pair, a coil is an axis before it."""
    spec = dataclasses.replace(FOREIGN, matrix_multiple=1, **changes)
    assert (spec.input_axes, spec.output_axes) == (taken, given)


@pytest.mark.parametrize("n", range(1, 40))
def test_the_matrix_of_a_network_is_the_next_multiple(n):
    """Not one sample more than is needed."""
    spec = dataclasses.replace(FOREIGN, fixed_matrix=(0, 0))
    rows, columns = spec.network_matrix((n, 8))
    assert rows % 8 == 0
    assert 0 <= rows - n < 8
    assert columns == 8


def test_a_field_that_a_schema_did_not_have_is_refused_in_it():
    """Whoever wrote 1 and a grid wrote by hand: which of the two is meant cannot be known."""
    with pytest.raises(ModelSpecError, match="schema 1 does not have: output_grid"):
        read(document(schema=1, output_grid="pixel-centre"))


@pytest.mark.parametrize(
    ("changes", "matrix", "origin"),
    [
        ({}, (160, 123), (0.0, -0.5)),
        ({"output_grid": "pixel-centre"}, (160, 123), (-0.25, -0.25)),
        ({"output_grid": "pixel-centre", "upscale": 4}, (80, 41), (-0.375, -0.375)),
    ],
)
def test_a_specification_says_where_sr_samples_lie(changes, matrix, origin):
    """In LR samples: what becomes millimetres in Image Position (Patient)."""
    assert dataclasses.replace(FULL, **changes).sr_origin(matrix) == origin


def test_the_seeds_convention_keeps_sample_0_of_odd_axes_too():
    """Its image origin is index 0 of both grids, where the centred one is at ``n // 2``."""
    spec = ModelSpec(
        name="s",
        architecture="seed-kspace",
        upscale=2,
        fft_convention="seed",
        normaliser="kspace-peak",
    )
    assert spec.sr_origin((21, 30)) == (0.0, 0.0)
    assert dataclasses.replace(spec, output_grid="pixel-centre").sr_origin((21, 30)) == (
        -0.25,
        -0.25,
    )


def test_a_newer_schema_is_refused_before_its_fields_are_looked_at():
    """The reason given is 'newer', not the unknown field that a newer schema naturally has."""
    with pytest.raises(ModelSpecError, match="is newer than"):
        read({"schema": 99, "brand_new": True})


@pytest.mark.parametrize("schema", [0, -1, True])
def test_a_schema_that_never_existed_is_refused(schema):
    """Schema numbers start at 1; anything below is damage."""
    with pytest.raises(ModelSpecError, match="schema"):
        read(document(schema=schema))


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(ModelSpec)])
def test_a_missing_field_is_refused_by_name(name):
    """A missing field is never guessed: a default could silently be another model."""
    values = document()
    del values[name]
    with pytest.raises(ModelSpecError) as caught:
        read(values)
    assert str(caught.value) == f"some.onnx: the specification lacks {name}"


def test_a_missing_provenance_field_is_refused_by_name():
    """Provenance is part of the contract: a digest that is not there cannot be checked."""
    values = document()
    del values["provenance"]["weights_sha256"]
    with pytest.raises(ModelSpecError) as caught:
        read(values)
    assert str(caught.value) == "some.onnx: provenance: the specification lacks weights_sha256"


def test_unknown_fields_are_refused_by_name():
    """A field we do not know may change what the model computes."""
    with pytest.raises(ModelSpecError) as caught:
        read(document(window="hann", phase=True))
    assert str(caught.value) == (
        "some.onnx: the specification has fields this version does not understand: phase, window"
    )


def test_unknown_provenance_fields_are_refused():
    """The same rule one level down; this is also where a patient's name would be smuggled in."""
    values = document()
    values["provenance"]["patient"] = "Doe^Jane"
    with pytest.raises(ModelSpecError, match="does not understand: patient"):
        read(values)


@pytest.mark.parametrize("provenance", [None, [], "text", 3])
def test_provenance_of_another_type_is_refused(provenance):
    """A list where an object is expected is damage, not a traceback."""
    with pytest.raises(ModelSpecError) as caught:
        read(document(provenance=provenance))
    found = type(provenance).__name__
    assert str(caught.value) == f"some.onnx: provenance: expected a JSON object, found {found}"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("architecture", "unet", "architecture 'unet' is not one of seed-kspace, seed-image, dc-"),
        ("data_consistency", "soft", "data_consistency 'soft' is not one of none, additive, hard"),
        ("lowering", "native", "lowering 'native' is not one of gemm, conv, dft, dynamic, none"),
        ("output", "phase", "output 'phase' is not one of real, magnitude"),
        ("precision", "int4", "precision 'int4' is not one of fp32, fp16, bf16"),
        ("fft_convention", "corner", "fft_convention 'corner' is not one of centred"),
        ("fft_norm", "backward", "fft_norm 'backward' is not one of ortho"),
        ("normaliser", "min-max", "normaliser 'min-max' is not one of slice-max, none"),
        ("name", "", "name is empty"),
        ("upscale", 0, "upscale 0 is outside 1 to 16"),
        ("upscale", 17, "upscale 17 is outside 1 to 16"),
        ("image_channels", 2, "image_channels 2 is neither 1 nor 3"),
        ("matrix", [160], "matrix (160,) is not (rows, columns)"),
        ("matrix", [160, 160, 1], "matrix (160, 160, 1) is not (rows, columns)"),
        ("matrix", [160, -1], "matrix (160, -1) is not (rows, columns)"),
        ("matrix", [10**12, 8], "matrix is larger than 16384"),
        ("width", -4, "width is negative"),
        ("width", 10**9, "width is larger than 4096"),
        ("blocks", -1, "blocks is negative"),
        ("blocks", 100_000, "blocks is larger than 1024"),
        ("cascades", 2000, "cascades is larger than 1024; 8 blocks do not fill 2000 cascades"),
        ("opset", -1, "opset is negative"),
        ("name", "A" * 1_000_000, "name has 1000000 characters, 256 are allowed"),
        ("output_grid", "corner", "output_grid 'corner' is not one of kspace, pixel-centre"),
        ("fft_convention", "seed", "fft_convention 'seed' and normaliser 'kspace-peak' belong"),
        ("bounds", {"a": float("nan")}, "bounds hold a value that is not finite"),
        ("bounds", {"a": float("inf")}, "bounds hold a value that is not finite"),
        ("quality", {"a": {"b": "c"}}, "quality holds a value that is no number"),
        ("quality", {"a": {"b": float("nan")}}, "quality holds a value that is no number"),
        ("quality", {"a": {"b": 10**400}}, "quality holds a value that is no number"),
        ("limits", {"smallest_snr": 0.0}, "limit smallest_snr 0.0 is not possible"),
        ("limits", {"smallest_share": 1.5}, "limit smallest_share 1.5 is not possible"),
        ("limits", {"smallest_snr": "7"}, "limit smallest_snr '7' is not possible"),
        ("limits", {"body_parts": "HEAD"}, "limit body_parts 'HEAD' is no list of words"),
        ("limits", {"body_parts": []}, "limit body_parts [] is no list of words"),
        ("limits", {"contrast": "T1"}, "limits hold 'contrast', which is none"),
        ("parity", {"cases": 5}, "parity has cases that are no JSON objects"),
        ("parity", {"cases": ["a"]}, "parity has cases that are no JSON objects"),
        ("parity", {"cases": [{"psnr_between_db": "x"}]}, "parity has a figure that is no number"),
        ("parity", {"quantisation": 1}, "parity has a note on quantisation that cannot be read"),
        ("parity", {"quantisation": {}}, "parity has a note on quantisation that cannot be read"),
    ],
)
def test_impossible_values_are_refused_with_the_reason(field, value, reason):
    """Every instance that exists is valid, so the code behind the border need not ask again."""
    with pytest.raises(ModelSpecError) as caught:
        read(document(**{field: value}))
    assert str(caught.value).startswith(f"some.onnx: impossible model specification: {reason}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("upscale", "2"),
        ("upscale", None),
        ("upscale", 2.5),
        ("matrix", 160),
        ("matrix", None),
        ("matrix", ["a", "b"]),
        ("matrix", [160.5, 160]),
        ("architecture", ["dc-residual"]),
        ("parity", []),
        ("quality", None),
        ("width", "32"),
        ("name", 5),
    ],
)
def test_values_of_the_wrong_type_are_refused(field, value):
    """What passes here is later used as a number or a mapping, far from the file's name."""
    with pytest.raises(ModelSpecError, match=r"^some\.onnx: "):
        read(document(**{field: value}))


@pytest.mark.parametrize("field", ["name", "upscale", "width", "matrix", "normaliser"])
def test_a_refusal_quotes_a_bounded_part_of_what_it_refuses(field):
    """A value of megabytes in a file would be a log line of megabytes."""
    for value in ([["A" * 10**6]], "A" * 10**6, 10**4000, {"A" * 10**6: 1}):
        with pytest.raises(ModelSpecError) as caught:
            read(document(**{field: value}))
        assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "text", ["[" * 200_000 + "]" * 200_000, '{"a":' * 100_000, '"' + "a" * 5_000_000]
)
def test_a_specification_of_absurd_size_or_depth_is_refused(text):
    """JSON that exhausts the reader's stack, or megabytes of text, end in a sentence."""
    with pytest.raises(ModelSpecError, match=r"^some\.onnx: ") as caught:
        ModelSpec.from_json(text, origin="some.onnx")
    assert len(str(caught.value)) < 500


def test_versions_are_text():
    """They are printed as they are, beside their packages' names."""
    values = document()
    values["provenance"]["versions"] = {"torch": ["2"]}
    with pytest.raises(ModelSpecError, match="versions"):
        read(values)


def test_all_problems_are_said_at_once():
    """Whoever writes a converter should not meet the errors one run at a time."""
    with pytest.raises(ModelSpecError) as caught:
        ModelSpec(name="", architecture="dc-residual", upscale=0)
    assert str(caught.value) == (
        "impossible model specification: name is empty; upscale 0 is outside 1 to 16"
    )


def test_an_image_domain_seed_network_cannot_promise_data_consistency():
    """Its output goes through a tanh: a 'hard' in its specification would be a false promise."""
    with pytest.raises(ModelSpecError, match="image-domain seed network has no data consistency"):
        ModelSpec(name="n", architecture="seed-image", upscale=4, data_consistency="hard")


def test_a_specification_cannot_be_edited():
    """Binding makes a new one; nobody changes a model's contract in passing."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.upscale = 4


def test_the_sr_matrix_is_the_lr_matrix_times_upscale():
    """Rows stay rows: for a non-square matrix a swap would be visible at once."""
    assert dataclasses.replace(FULL, upscale=4).sr_matrix((67, 90)) == (268, 360)
