"""Model files from strangers: tensors in odd places, absurd sizes, text that a terminal obeys."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError, ModelFileError
from kspacesr_rt.model.content_checks import MOST_NODES
from kspacesr_rt.model.file import (
    KNOWN_ANSWER_KEY,
    LARGEST_ANSWER,
    LARGEST_QUESTION,
    METADATA_KEY,
    graph_digest,
    load_model,
    parse_model,
    weights_digest,
)
from kspacesr_rt.model.spec import OP_DOMAIN

ESCAPES = "\x1b[2J\x1b[31mOWNED\x07\n2026 event=fake \x9b31m \u202eevil\u2066"
"""Clears a screen, colours it, rings, starts a log line, turns what follows around."""


@pytest.fixture
def proto(model) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model.proto)
    return copied


def stored(proto: onnx.ModelProto, key: str) -> onnx.StringStringEntryProto:
    return next(item for item in proto.metadata_props if item.key == key)


def respecified(proto: onnx.ModelProto, **changes: object) -> onnx.ModelProto:
    """Replace fields of the specification, as a text editor would."""
    item = stored(proto, METADATA_KEY)
    item.value = json.dumps(json.loads(item.value) | changes)
    return proto


def resigned(proto: onnx.ModelProto) -> bytes:
    """Give a forged graph the digests that belong to it: a forger can compute them too."""
    item = stored(proto, METADATA_KEY)
    spec = json.loads(item.value)
    spec["provenance"]["weights_sha256"] = weights_digest(proto)
    spec["provenance"]["graph_sha256"] = graph_digest(proto)
    item.value = json.dumps(spec)
    return proto.SerializeToString()


def outside(tensor: TensorProto) -> TensorProto:
    """Point a tensor at a file of this machine."""
    tensor.data_type = TensorProto.FLOAT
    tensor.dims[:] = [4]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "/etc/passwd"), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def inside() -> TensorProto:
    return numpy_helper.from_array(np.ones(4, np.float32), "weights")


def sparse(values: TensorProto) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "indices")
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[8])


def subgraph(tensor: TensorProto) -> onnx.GraphProto:
    return onnx.GraphProto(name="inner", initializer=[tensor])


def in_node(proto: onnx.ModelProto, **fields: object) -> None:
    attribute = onnx.AttributeProto(name="value", **fields)
    proto.graph.node.add(op_type="Constant", name="extra", output=["extra"], attribute=[attribute])


KIND = onnx.AttributeProto
PLACES: dict[str, Callable[[onnx.ModelProto, TensorProto], object]] = {
    "sparse initialiser": lambda p, t: p.graph.sparse_initializer.append(sparse(t)),
    "indices of a sparse initialiser": lambda p, t: p.graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=inside(), indices=t, dims=[8])
    ),
    "list of tensors": lambda p, t: in_node(p, type=KIND.TENSORS, tensors=[t]),
    "sparse value": lambda p, t: in_node(p, type=KIND.SPARSE_TENSOR, sparse_tensor=sparse(t)),
    "sparse values": lambda p, t: in_node(p, type=KIND.SPARSE_TENSORS, sparse_tensors=[sparse(t)]),
    "graph": lambda p, t: in_node(p, type=KIND.GRAPH, g=subgraph(t)),
    "graphs": lambda p, t: in_node(p, type=KIND.GRAPHS, graphs=[subgraph(t)]),
    "tensor under another type": lambda p, t: in_node(p, type=KIND.INT, i=1, t=t),
    "tensor under no type": lambda p, t: in_node(p, t=t),
    "function body": lambda p, t: p.functions[0].node.add(
        op_type="Constant", output=["z"], attribute=[KIND(name="value", type=KIND.TENSOR, t=t)]
    ),
    "function default": lambda p, t: p.functions[0].attribute_proto.append(
        KIND(name="value", type=KIND.TENSOR, t=t)
    ),
    "training": lambda p, t: p.training_info.add(initialization=subgraph(t)),
    "training algorithm": lambda p, t: p.training_info.add(algorithm=subgraph(t)),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_in_another_file_is_refused_wherever_it_stands(proto, place):
    """ONNX Runtime opens such files; none may be, whatever the digests say."""
    PLACES[place](proto, outside(TensorProto(name="weights")))
    with pytest.raises(ModelFileError, match="keeps weights in another file, which is refused"):
        parse_model(resigned(proto), name="m.onnx")


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_where_export_writes_none_is_refused(proto, place):
    """The digests of a file do not cover these places, so nothing may compute from them."""
    PLACES[place](proto, inside())
    with pytest.raises(ModelFileError) as caught:
        parse_model(resigned(proto), name="m.onnx")
    assert "differ from the digest" not in str(caught.value)


@pytest.mark.parametrize("flagged", [True, False])
def test_external_data_counts_with_and_without_its_flag(proto, flagged):
    """A reader may look at either field."""
    tensor = outside(proto.graph.initializer[0])
    tensor.ClearField("raw_data")
    if not flagged:
        tensor.ClearField("data_location")
    with pytest.raises(ModelFileError, match="keeps weights in another file"):
        parse_model(proto.SerializeToString(), name="m.onnx")


def test_every_weight_that_a_file_may_hold_is_under_its_digest(proto):
    """Change each tensor and each float of what is allowed: the digests notice every one."""
    before = (weights_digest(proto), graph_digest(proto))
    derived = {name for node in proto.graph.node if node.domain for name in node.input[1:]}
    changed = onnx.ModelProto()
    for number, item in enumerate(proto.graph.initializer):
        if item.name in derived:
            continue
        changed.CopyFrom(proto)
        values = numpy_helper.to_array(item).copy()
        values.flat[-1] += 1
        changed.graph.initializer[number].CopyFrom(numpy_helper.from_array(values, item.name))
        assert (weights_digest(changed), graph_digest(changed)) != before, item.name
    for container in ("graph", "function"):
        for number, node in enumerate(
            proto.graph.node if container == "graph" else proto.functions[0].node
        ):
            for place, attribute in enumerate(node.attribute):
                changed.CopyFrom(proto)
                whole = changed.graph if container == "graph" else changed.functions[0]
                edited = whole.node[number].attribute[place]
                if attribute.floats:
                    edited.floats[0] += 1
                elif attribute.ints:
                    edited.ints[0] += 1
                elif attribute.type == KIND.FLOAT:
                    edited.f += 1
                elif attribute.type == KIND.INT:
                    edited.i += 1
                else:
                    continue
                assert (weights_digest(changed), graph_digest(changed)) != before, attribute.name


def test_a_floats_attribute_is_under_the_digest(proto):
    """``value_floats`` holds numbers too."""
    in_node(proto, type=KIND.FLOATS, floats=[1.0, 2.0])
    good = parse_model(resigned(proto), name="m.onnx").proto
    good.graph.node[-1].attribute[0].floats[1] = 2.5
    with pytest.raises(ModelFileError, match="differ from the digest"):
        parse_model(good.SerializeToString(), name="m.onnx")


@pytest.mark.parametrize("what", ["two nodes", "node and initialiser", "attributes", "functions"])
def test_two_things_of_one_name_are_refused(proto, what):
    """A digest by name would cover the last of them and leave the other free."""
    tensor = KIND(name="value", type=KIND.TENSOR, t=inside())
    if what == "functions":
        proto.functions.append(proto.functions[0])
    elif what == "node and initialiser":
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "n.value"))
        proto.graph.node.add(op_type="Constant", name="n", output=["a"], attribute=[tensor])
    elif what == "attributes":
        proto.graph.node.add(op_type="Constant", name="n", output=["a"], attribute=[tensor, tensor])
    else:
        for output in "ab":
            proto.graph.node.add(op_type="Constant", name="n", output=[output], attribute=[tensor])
    with pytest.raises(ModelFileError, match="more than one"):
        parse_model(resigned(proto), name="m.onnx")


@pytest.mark.parametrize("way", ["itself", "each other", "another domain"])
def test_functions_that_call_functions_are_refused(proto, way):
    """A function that calls itself would be inlined for ever."""
    first = proto.functions[0]
    call = helper.make_node(first.name, [first.input[0]], ["again"], domain=OP_DOMAIN)
    if way == "another domain":
        first.domain = ""
    elif way == "itself":
        first.node.append(call)
    else:
        proto.functions[1].node.append(call)
    with pytest.raises(ModelFileError, match=r"calls functions|is of the domain"):
        parse_model(resigned(proto), name="m.onnx")


def nested(depth: int) -> onnx.NodeProto:
    node = helper.make_node("If", ["c"], ["x"])
    for _ in range(depth):
        graph = helper.make_graph([node], "g", [], [])
        node = helper.make_node("If", ["c"], ["x"], then_branch=graph)
    return node


def test_graphs_of_absurd_size_or_depth_are_refused(proto):
    """A hundred thousand nodes, or branches within branches."""
    for _ in range(MOST_NODES + 1):
        proto.graph.node.add(op_type="Identity", input=["lr"], output=["x"])
    with pytest.raises(ModelFileError, match=f"more than {MOST_NODES} nodes"):
        parse_model(proto.SerializeToString(), name="m.onnx")
    del proto.graph.node[-MOST_NODES:]
    proto.graph.node.append(nested(20))
    with pytest.raises(ModelFileError, match="graph inside a node"):
        parse_model(proto.SerializeToString(), name="m.onnx")


def test_an_initialiser_that_claims_more_than_a_file_holds_is_refused(proto):
    """Dimensions are free to claim; bytes are not."""
    proto.graph.initializer.append(
        TensorProto(name="huge", data_type=1, dims=[1 << 31, 1 << 31], raw_data=b"1234")
    )
    with pytest.raises(ModelFileError, match="'huge' claims more than a file holds"):
        parse_model(proto.SerializeToString(), name="m.onnx")


def test_what_a_later_onnx_adds_is_not_handed_to_a_runtime(proto):
    """Fields that this version does not know may mean something to a newer runtime."""
    unknown = b"\xfa\x3f\x03abc"  # field 1023, three bytes
    content = proto.SerializeToString() + unknown
    assert unknown not in parse_model(content, name="m.onnx").proto.SerializeToString()


# --- known answers --------------------------------------------------------------------------------


def packed(shape: object, content: bytes) -> dict[str, object]:
    text = base64.b64encode(zlib.compress(content, 9)).decode()
    return {"shape": shape, "zlib_f4": text}


GOOD = packed([8, 8], np.ones((8, 8), "<f4").tobytes())


@pytest.mark.parametrize(
    "sr",
    [
        packed([16, 16], bytes(64 * 2**20)),
        packed([16, 16], bytes(4 * 16 * 16 + 1)),
        packed([16, 16], bytes(4 * 16 * 16 - 1)),
        packed([LARGEST_ANSWER, 2], b""),
        packed([-1, 16], bytes(4 * 16 * 16)),
        packed([16], bytes(4 * 16)),
        packed([True, 16], bytes(4 * 16)),
        packed("16 16", b""),
        {"shape": [16, 16], "zlib_f4": "not base64"},
        {"shape": [16, 16], "zlib_f4": 5},
        {"shape": [16, 16]},
        [],
        5,
    ],
)
def test_a_known_answer_that_is_none_is_refused(proto, sr):
    """64 MiB of zeros pack to 64 KiB: no more is unpacked than the shape says, and is allowed."""
    stored(proto, KNOWN_ANSWER_KEY).value = json.dumps({"lr": GOOD, "sr": sr})
    model = parse_model(proto.SerializeToString(), name="m.onnx")
    with pytest.raises(ModelFileError, match="the stored known answer is damaged"):
        model.known_answer()


def test_a_known_question_larger_than_any_is_refused(proto):
    """What the graph may take of memory follows from the image that a file asks it for."""
    side = int(LARGEST_QUESTION**0.5) + 1
    lr = packed([side, side], np.ones((side, side), "<f4").tobytes())
    sr = packed([2 * side, 2 * side], np.ones((2 * side, 2 * side), "<f4").tobytes())
    stored(proto, KNOWN_ANSWER_KEY).value = json.dumps({"lr": lr, "sr": sr})
    model = parse_model(proto.SerializeToString(), name="m.onnx")
    with pytest.raises(ModelFileError, match="the stored known answer is damaged"):
        model.known_answer()


def test_no_more_of_a_known_answer_is_unpacked_than_its_shape_has(proto, monkeypatch):
    """The bound is on what zlib makes, not on what is kept of it."""
    made = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self) -> None:
            self.inner = real()

        def decompress(self, data: bytes, most: int = 0) -> bytes:
            out = self.inner.decompress(data, most)
            made.append(len(out))
            return out

        @property
        def eof(self) -> bool:
            return self.inner.eof

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    monkeypatch.setattr(zlib, "decompress", None)
    bomb = packed([16, 16], bytes(16 * 2**20))
    stored(proto, KNOWN_ANSWER_KEY).value = json.dumps({"lr": GOOD, "sr": bomb})
    with pytest.raises(ModelFileError):
        parse_model(proto.SerializeToString(), name="m.onnx").known_answer()
    assert max(made) <= 4 * 16 * 16 + 1


@pytest.mark.parametrize("text", ["[" * 100_000, "", "5", "{}"])
def test_a_known_answer_of_absurd_depth_or_kind_is_refused(proto, text):
    """JSON that exhausts the reader's stack ends in a sentence too."""
    stored(proto, KNOWN_ANSWER_KEY).value = text
    with pytest.raises(ModelFileError, match="the stored known answer is damaged"):
        parse_model(proto.SerializeToString(), name="m.onnx").known_answer()


# --- text -----------------------------------------------------------------------------------------


def told(result) -> str:
    return result.stdout + result.stderr


def is_plain(text: str) -> bool:
    return not any(sign in text for sign in ("\x1b", "\x07", "\x9b", "\u202e", "\u2066"))


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_models_text_cannot_steer_a_terminal(proto, tmp_path, command):
    """Name, use, provenance, bounds, quality and versions are printed, and only printed."""
    values = json.loads(stored(proto, METADATA_KEY).value)
    origin = values["provenance"]
    origin |= dict.fromkeys(("training", "licence", "attribution", "created"), ESCAPES)
    origin["versions"] = {ESCAPES: ESCAPES}
    respecified(
        proto,
        name=ESCAPES,
        intended_use=ESCAPES,
        provenance=origin,
        bounds={ESCAPES: 1.0},
        quality={ESCAPES: {ESCAPES: 1.0}},
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    result = CliRunner().invoke(app, [command, str(path)])
    assert result.exit_code == 0
    assert is_plain(told(result))
    assert "\n2026 event=fake" not in told(result)
    assert r"\x1b[2J" in told(result)
    assert is_plain(load_model(path).spec.name)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: setattr(p.graph.node[3], "domain", ESCAPES),
        lambda p: setattr(p.graph.input[0], "name", ESCAPES),
        lambda p: p.graph.node.add(
            op_type="If", name=ESCAPES, attribute=[KIND(name="g", t=inside())]
        ),
        lambda p: setattr(p.functions[0], "domain", ESCAPES),
        lambda p: setattr(
            next(node for node in p.graph.node if node.domain == OP_DOMAIN), "op_type", ESCAPES
        ),
        lambda p: respecified(p, **{ESCAPES: 1}),
        lambda p: respecified(p, architecture=ESCAPES),
        lambda p: respecified(p, width=ESCAPES),
    ],
)
@pytest.mark.parametrize("file_name", ["m.onnx", "m\x1b[2J\n.onnx"])
def test_a_refusal_cannot_steer_a_terminal(proto, tmp_path, spoil, file_name):
    """What is wrong with a file is often its text; a file's name is text of somebody's too."""
    spoil(proto)
    path = tmp_path / file_name
    path.write_bytes(proto.SerializeToString())
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 2
    assert is_plain(told(result))
    assert told(result).startswith("error: ")
    assert all(line.startswith(("error: ", "hint: ")) for line in told(result).splitlines())


@pytest.mark.parametrize(
    "changes",
    [
        {"parity": {"cases": 5}},
        {"parity": {"cases": [{"psnr_between_db": "x"}]}},
        {"parity": {"quantisation": {"share_of_weights": "most"}}},
        {"quality": {"a": {"b": "c"}}},
        {"bounds": {"measured_residual": float("nan")}},
        {"width": -4},
        {"width": 10**400},
        {"upscale": 10**30},
        {"matrix": [10**12, 10**12]},
        {"name": "A" * 5_000_000},
    ],
    ids=lambda value: next(iter(value)),
)
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_an_odd_specification_is_one_line_and_exit_code_2(proto, tmp_path, command, changes):
    """Whatever a command would do with the value, it is refused before."""
    path = tmp_path / "m.onnx"
    path.write_bytes(respecified(proto, **changes).SerializeToString())
    result = CliRunner().invoke(app, [command, str(path)])
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: m.onnx: ")
    assert len(lines) <= 2
    assert len(lines[0]) < 1000


def test_a_gate_without_a_figure_is_no_gate(proto, tmp_path):
    """Cases that name no PSNR are shown as not recorded, not as a traceback."""
    path = tmp_path / "m.onnx"
    changed = respecified(proto, parity={"cases": [{"case": "a"}, {"psnr_between_db": None}]})
    path.write_bytes(changed.SerializeToString())
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 0
    assert "parity       not recorded" in result.stdout


def test_devices_and_folders_are_no_model_files(tmp_path):
    """A device has no end."""
    for path in ("/dev/zero", str(tmp_path)):
        with pytest.raises(InputError):
            load_model(type(tmp_path)(path))
