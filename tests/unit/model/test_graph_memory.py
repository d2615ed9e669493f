"""Graphs that would make gigabytes: refused where a model is bound, before a runtime sees them."""

from __future__ import annotations

import copy
import dataclasses
import re

import numpy as np
import onnx
import pytest
from graph_bombs import BOMBS, Nodes, in_function, ints, op, signed
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.errors import ModelFileError
from kspacesr_rt.model import graph_memory
from kspacesr_rt.model.binding import bind, rebind
from kspacesr_rt.model.file import (
    load_model,
    shipped_models,
)
from kspacesr_rt.model.graph_lengths import Numbers, Scope, follow, given
from kspacesr_rt.model.graph_memory import (
    LARGEST_SUM,
    LARGEST_VALUE,
    SMALLEST_IMAGE,
    require_bounded,
)
from kspacesr_rt.model.spec import OP_DOMAIN


@pytest.fixture
def proto(model) -> onnx.ModelProto:
    return copy.deepcopy(model.proto)


def in_graph(proto: onnx.ModelProto, nodes: Nodes) -> onnx.ModelProto:
    """Put nodes in front of the graph, with its image as x."""
    added = [helper.make_node("Identity", ["lr"], ["x"], name="x"), *nodes]
    kept = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*added, *kept])
    return proto


@pytest.mark.parametrize("place", [in_graph, in_function])
@pytest.mark.parametrize("kind", BOMBS)
def test_a_graph_that_would_grow_is_refused_by_the_name_of_its_node(proto, kind, place):
    """Whatever makes it large, and wherever: in the graph, or in a function that it calls."""
    forged = signed(place(proto, BOMBS[kind]()))
    with pytest.raises(ModelFileError, match=r"m\.onnx: .*node '") as caught:
        bind(forged, (160, 160))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    named = BOMBS[kind]() if place is in_graph else []
    assert not named or any(f"'{node.name}'" in str(caught.value) for node in named)


@pytest.mark.parametrize("kind", ["constant of a shape", "joined", "a range"])
def test_commands_refuse_it_before_they_run_it(proto, kind, tmp_path):
    """Bind is where verify, infer and flatten meet the matrix."""
    path = tmp_path / "m.onnx"
    path.write_bytes(signed(in_graph(proto, BOMBS[kind]())).proto.SerializeToString())
    for command in (
        ["verify", str(path), "--backend", "ort-cpu"],
        ["diagnose", str(path), "--matrix", "160", "160"],
    ):
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == 2, shown.output
        assert "node '" in " ".join(shown.output.split())


def test_values_that_are_small_alone_may_be_too_many(proto):
    """A runtime may keep every one of them."""
    times = 2 * LARGEST_SUM // LARGEST_VALUE
    nodes = [
        ints("size", 1, LARGEST_VALUE, *(2 * [int(SMALLEST_IMAGE**0.5)])),
        *(op("ConstantOfShape", "size", f"v{number}") for number in range(times)),
    ]
    with pytest.raises(ModelFileError, match=r"up to node 'v\d+' \(ConstantOfShape\) together"):
        bind(signed(in_graph(proto, nodes)), (24, 24))


def test_the_limit_follows_the_matrix(proto):
    """One value of 64 MiB is fine beside a large image."""
    nodes = [ints("size", 1, 2 * LARGEST_VALUE, 256, 256), op("ConstantOfShape", "size")]
    forged = signed(in_graph(proto, nodes))
    with pytest.raises(ModelFileError, match=r"'made'.* for an image of 48 x 48"):
        bind(forged, (24, 24))
    bind(forged, (256, 256))


def test_a_claimed_upscale_raises_no_limit(proto, model):
    """A file states its upscale itself."""
    nodes = [ints("size", 1, 2 * LARGEST_VALUE, 256, 256), op("ConstantOfShape", "size")]
    bound = bind(model, (64, 64)).spec
    forged = in_graph(proto, nodes)
    for upscale in (4, 16):
        with pytest.raises(ModelFileError, match="'made'"):
            require_bounded(forged, dataclasses.replace(bound, upscale=upscale), "m.onnx")


@pytest.mark.parametrize("larger", ["length", "other length"])
def test_each_call_of_a_function_is_weighed_for_itself(model, larger):
    """Though its steps are the same, byte by byte, and so are the types that they are given."""
    proto = bind(model, (24, 24)).proto
    imports = [helper.make_opsetid("", 20)]
    step = op("Range", "first,last,one", "made")
    body = helper.make_function(OP_DOMAIN, "Many", list(step.input), ["made"], [step], imports)
    proto.functions.append(body)
    scalars = {"none": 0, "some": 9, "most": 2**31}
    calls = [["none", "some", "one"], ["none", "most", "one"]]
    if larger == "other length":  # the same numbers, of which another one is larger
        calls[1] = ["minus", "some", "one"]
    for name, value in {**scalars, "one": 1, "minus": -(2**31)}.items():
        proto.graph.node.append(helper.make_node("Constant", [], [name], value_int=value))
    spec = dataclasses.replace(model.spec, matrix=(24, 24))
    for number, inputs in enumerate(calls):
        proto.graph.node.append(
            helper.make_node("Many", inputs, [f"many{number}"], f"call{number}", domain=OP_DOMAIN)
        )
        if number == 0:
            require_bounded(proto, spec, "m.onnx")
    with pytest.raises(ModelFileError, match=r"node 'call1' \(Many, its Range\) makes"):
        require_bounded(proto, spec, "m.onnx")


def test_functions_that_unfold_without_end_are_refused(proto, monkeypatch):
    """Few nodes in a file may be millions once each call is written out."""
    n = 70
    monkeypatch.setattr(graph_memory, "MOST_STEPS", n**2)  # 60,000 take seconds to count
    in_function(proto, [op("Identity", "x", f"same{number}") for number in range(n)])
    call = next(node for node in proto.graph.node if node.op_type == "RealFFT2c")
    for number in range(n):
        again = proto.graph.node.add()
        again.CopyFrom(call)
        again.name, again.output[0] = f"again{number}", f"again{number}"
    with pytest.raises(ModelFileError, match=f"more than {n**2} nodes"):
        bind(signed(proto), (24, 24))


def test_a_kernel_as_large_as_its_image_is_refused(proto):
    """A convolution computed as a product copies what stands under its kernel, at every place."""
    kernel = numpy_helper.from_array(np.ones((1, 1, 301, 301), np.float32), "kernel")
    proto.graph.initializer.append(kernel)
    nodes = [op("Conv", "x,kernel", pads=[150] * 4)]
    with pytest.raises(ModelFileError, match=r"node 'made' \(Conv\) has a kernel too large"):
        bind(signed(in_graph(proto, nodes)), (160, 160))


@pytest.mark.parametrize("how", ["initialiser", "node"])
def test_a_second_value_of_one_name_is_refused(proto, how):
    """The image could be weighed as one sample, and be whole where it runs."""
    if how == "initialiser":
        one = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "lr")
        proto.graph.initializer.append(one)
    else:
        in_graph(proto, [ints("x", 1)])
    with pytest.raises(ModelFileError, match="more than one value"):
        bind(signed(proto), (24, 24))


@pytest.mark.parametrize(("axis", "length"), [(0, 2**20), (1, 2**20)])
def test_the_image_is_declared_as_it_comes(proto, axis, length):
    """A runtime computes shapes from what the graph says of its input."""
    proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length
    with pytest.raises(ModelFileError, match="its input"):
        bind(signed(proto), (24, 24))


def test_shapes_that_a_file_claims_do_not_reach_a_runtime(proto):
    """It would take them where it knows none, and fold them."""
    claimed = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2**15, 2**15])
    proto.graph.value_info.append(claimed)
    proto.functions[0].value_info.append(claimed)
    bound = bind(signed(proto), (24, 24)).proto
    assert not any(part.value_info for part in (bound.graph, *bound.functions))


@pytest.mark.parametrize("imports", [(), (20, 20), (20, 7)])
def test_the_version_of_the_operators_is_stated_once(proto, imports):
    """Two versions may have two rules for a shape."""
    del proto.opset_import[:]
    proto.opset_import.extend(helper.make_opsetid("", one) for one in imports)
    proto.opset_import.append(helper.make_opsetid(OP_DOMAIN, 1))
    with pytest.raises(ModelFileError, match="version of ONNX's operators"):
        bind(signed(proto), (24, 24))


@pytest.mark.parametrize("name", ["input_upscale", "output_upscale", "channels"])
@pytest.mark.parametrize("value", [0, -1, 10**6])
def test_layers_state_no_absurd_grids(make_generator, make_model, name, value):
    """Binding itself makes matrices as large as their attributes say."""
    forged = copy.deepcopy(make_model(*make_generator("seed-kspace"), "gemm").proto)
    node = next(one for one in forged.graph.node if one.op_type == "FFT2c")
    next(item for item in node.attribute if item.name == name).i = value
    with pytest.raises(ModelFileError, match=f"attribute {name} = {value}"):
        signed(forged)


def shares(proto: onnx.ModelProto, spec) -> tuple[float, float]:
    """Return the shares of both limits that a bound graph needs."""
    rows, columns = (min(spec.upscale, 4) * length for length in spec.matrix)
    if spec.lowering == "dynamic":
        rows = columns = max(rows, columns)
    allowed = 4 * max(rows * columns, SMALLEST_IMAGE)
    found = require_bounded(proto, spec, "m.onnx")
    return (
        found.largest_bytes / (allowed * LARGEST_VALUE),
        found.total_bytes / (allowed * LARGEST_SUM),
    )


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_have_room(name):
    """A quarter of each limit is enough for them."""
    shipped = load_model(shipped_models()[name])
    for matrix in ((8, 8), (160, 200), (255, 129), (512, 8)):
        bound = bind(shipped, matrix)
        assert max(shares(bound.proto, bound.spec)) < 0.25


NETWORKS = [
    ("dc-residual", 2, {"width": 128, "blocks": 12, "cascades": 3}),
    ("dc-residual", 4, {"width": 64, "blocks": 10, "cascades": 2}),
    ("dc-residual", 8, {"width": 64, "blocks": 10, "cascades": 2}),
    ("dc-residual", 16, {"width": 64, "blocks": 10, "cascades": 1}),
    *(("seed-kspace", upscale, {"width": 64, "blocks": 16}) for upscale in (2, 4)),
    *(("seed-image", upscale, {"width": 64, "blocks": 16}) for upscale in (2, 4)),
]
"""The largest that our recipes train, and those of SR_kspace."""


@pytest.mark.matrix(strength=1)
@pytest.mark.parametrize("lowering", ["gemm", "conv", "dft", "dynamic"])
@pytest.mark.parametrize(("architecture", "upscale", "size"), NETWORKS)
def test_every_network_has_room_in_every_lowering(
    make_generator, architecture, upscale, size, lowering
):
    """Six tenths of each limit are enough, from the smallest to the longest matrix."""
    from kspacesr_rt.export.lowering import lower

    generator, spec = make_generator(architecture, upscale, **size)
    proto = lower(generator, spec, lowering)
    matrices = [(8, 8), (100, 129), (256, 64), (8, 256)]
    if lowering == "dynamic":  # binding makes no constants, so that these cost nothing
        matrices += [(2048, 8), (8, 2048), (2048, 2048)]
    for matrix in matrices:
        bound = dataclasses.replace(spec, lowering=lowering, matrix=matrix)
        rebind(proto, bound)
        assert max(shares(proto, bound)) < 0.6, matrix


FOLLOWED = [
    op("Shape", "x", "shape", start=1),
    op("Shape", "x", "tail", start=-2, end=-1),
    op("Shape", "x", "whole"),
    op("Shape", "x", "slices", end=1),
    op("Size", "x", "samples"),
    helper.make_node("Constant", [], ["two"], value_int=2),
    helper.make_node("Constant", [], ["scale"], value_float=1.7),
    ints("minus", -7),
    ints("three", 2),
    ints("axis", 0),
    ints("one_more", 1),
    ints("sixty_four", 64),
    op("Gather", "shape,two", "last", axis=0),
    op("Unsqueeze", "last,axis", "lasts"),
    op("Squeeze", "lasts,axis", "again"),
    op("Div", "lasts,three", "half"),
    op("Div", "minus,three", "towards_zero"),
    op("Sub", "half,lasts", "less"),
    op("Max", "less,half", "most"),
    op("Min", "less,half", "least"),
    op("Mul", "most,least", "product"),
    op("Concat", "product,tail,shape,minus", "joined", axis=0),
    op("Gather", "joined,three", "one", axis=0),
    op("Add", "joined,one", "sum"),
    op("Mul", "slices,sixty_four", "windows"),
    op("Div", "windows,three", "half_windows"),
    op("Div", "windows,slices", "windows_a_slice"),
    op("Concat", "half_windows,sixty_four,shape", "target", axis=0),
    op("Slice", "target,one_more,sixty_four", "rest"),
    op("Slice", "target,minus,sixty_four,axis,three", "every_other"),
    op("Equal", "target,minus", "free"),
    op("Where", "free,one_more,target", "without_free"),
    op("Max", "slices,one_more", "at_least_one"),
    op("Min", "slices,one_more", "at_most_one"),
    op("Neg", "target", "negative"),
    op("Shape", "target", "rank"),
    op("ConstantOfShape", "rank", "zeros"),
    op("Expand", "slices,rank", "often"),
    op("Cast", "last", "float", to=TensorProto.FLOAT),
    op("Mul", "float,scale", "scaled"),
    op("Floor", "scaled", "floor"),
    op("Ceil", "scaled", "ceil"),
    op("Cast", "floor", "length", to=TensorProto.INT64),
    op("Less", "length,last", "shorter"),
    op("Not", "shorter", "longer"),
    op("Range", "two,last,two", "range"),
    op("ReduceProd", "shape,axis", "image", keepdims=0),
    op("ReduceSum", "shape,axis", "total", keepdims=0),
    op("ReduceMax", "shape", "longest"),
    op("ReduceMin", "shape,axis", "shortest"),
    op("Mod", "minus,last", "remainder"),
    op("Mod", "minus,last", "signed_remainder", fmod=1),
    op("Sign", "minus", "sign"),
    op("Pow", "joined,three", "squares"),
    op("Reshape", "target,minus_one_and", "table"),
    op("Transpose", "table", "turned"),
]


def walked(nodes: Nodes, batches: tuple[int, ...] = (10007, 10009)) -> Scope:
    """Follow nodes as a walk does, for a batch of any size."""
    scope = Scope(opset=20)
    scope.types["x"] = tuple(
        helper.make_tensor_type_proto(TensorProto.FLOAT, [batch, 1, 24, 31]) for batch in batches
    )
    scope.lengths["x"] = Numbers(np.asarray([0, 1, 24, 31]), np.asarray([1, 0, 0, 0]))
    for node in nodes:
        schema = onnx.defs.get_schema(node.op_type, 20, "")
        made = []
        for number, batch in enumerate(batches):
            types = {one: scope.types[one][number] for one in node.input}
            made.append(
                onnx.shape_inference.infer_node_outputs(
                    schema, node, types, given(scope, node.input, batch)
                )[node.output[0]]
            )
        scope.types[node.output[0]] = tuple(made)
        lengths = [[axis.dim_value for axis in one.tensor_type.shape.dim] for one in made]
        assert lengths[0] == lengths[1]
        scope.lengths[node.output[0]] = Numbers.of(np.asarray(lengths[0], np.int64))
        follow(node, scope)
    return scope


@pytest.mark.parametrize("batch", [1, 2, 3, 64, 65])
def test_what_is_followed_is_what_onnx_computes(batch):
    """Shapes further down follow from these numbers: against ONNX's own evaluator."""
    from onnx.reference import ReferenceEvaluator

    nodes = [ints("minus_one_and", -1, 1), *FOLLOWED]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 24, 31])
    names = [node.output[0] for node in nodes]
    outputs = [helper.make_tensor_value_info(one, TensorProto.UNDEFINED, None) for one in names]
    graph = helper.make_graph(nodes, "g", [image], outputs)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    expected = ReferenceEvaluator(whole).run(None, {"x": np.zeros((batch, 1, 24, 31), np.float32)})
    scope = walked(nodes)
    for name, value in zip(names, expected, strict=True):
        found = scope.known[name].for_batch(batch)
        assert found.dtype == value.dtype, name
        assert np.array_equal(found, value), name


@pytest.mark.parametrize(
    "nodes",
    [
        [op("Mul", "slices,slices")],
        [op("Equal", "slices,three")],
        [op("Max", "slices,three")],
        [op("Min", "slices,three")],
        [op("Less", "slices,three")],
        [op("Div", "slices,three")],
        [op("Div", "three,slices")],
        [op("Mod", "slices,three")],
        [op("Add", "slices,three", "more"), op("Div", "more,three")],
        [op("Cast", "slices", to=TensorProto.FLOAT)],
        [op("Abs", "slices")],
        [op("Pow", "slices,three")],
        [op("ReduceProd", "slices,axis")],
        [op("Gather", "huge,slices", axis=0)],
    ],
)
def test_what_does_not_grow_evenly_with_the_batch_is_not_followed(nodes):
    """No comparison, no remainder: or a graph could be small for the batches that are tried."""
    constants = [ints("three", 3), ints("axis", 0), ints("huge", *range(20))]
    try:
        scope = walked([op("Shape", "x", "slices", end=1), *constants, *nodes])
    except onnx.shape_inference.InferenceError:
        return
    assert "made" not in scope.known


def test_a_network_of_attention_in_windows_has_room(proto):
    """As transformers write it: windows out of the batch, and back into it."""
    nodes = [
        op("Shape", "x", "slices", end=1),
        ints("a_side", 3, 8, 3, 8, 1),
        ints("in_window", 64, 1),
        ints("all", -1),
        ints("nine", 9),
        op("Concat", "slices,a_side", "split", axis=0),
        op("Reshape", "x,split", "in_six"),
        op("Transpose", "in_six", "windows", perm=[0, 1, 3, 2, 4, 5]),
        op("Concat", "all,in_window", "flat", axis=0),
        op("Reshape", "windows,flat", "tokens"),
        op("Transpose", "tokens", "keys", perm=[0, 2, 1]),
        op("MatMul", "tokens,keys", "scores"),
        op("Softmax", "scores", "attention", axis=-1),
        op("MatMul", "attention,tokens", "mixed"),
        op("Shape", "mixed", "count", end=1),
        op("Div", "count,nine", "again"),
        op("Concat", "again,a_side", "unsplit", axis=0),
        op("Reshape", "mixed,unsplit", "out_six"),
    ]
    bind(signed(in_graph(proto, nodes)), (24, 24))


def test_attention_over_the_whole_image_is_refused_by_its_scores(proto):
    """They are in a buffer of the operator, in no value."""
    proto.opset_import[0].version = 23
    nodes = [
        ints("tokens", 0, 1, -1, 1),
        op("Reshape", "x,tokens", "queries"),
        op("Attention", "queries,queries,queries"),
    ]
    with pytest.raises(ModelFileError, match=r"node 'made' \(Attention\) works in a buffer of"):
        bind(signed(in_graph(proto, nodes)), (160, 160))


def test_what_is_done_with_makes_room(proto):
    """A deep network makes far more than it has at a time; what follows from constants stays."""
    times = 2 * LARGEST_SUM // LARGEST_VALUE
    side = int(SMALLEST_IMAGE**0.5)
    deep = [
        ints("size", 1, LARGEST_VALUE, side, side),
        op("ReduceMean", "x", "v0", keepdims=0),
        op("Expand", "v0,size", "v1"),
        *(op("Relu", f"v{number}", f"v{number + 1}") for number in range(1, times)),
    ]
    bind(signed(in_graph(copy.deepcopy(proto), deep)), (24, 24))
    constant = [ints("size", 1, LARGEST_VALUE, side, side), op("ConstantOfShape", "size", "v1")]
    with pytest.raises(ModelFileError, match="together"):
        bind(signed(in_graph(proto, [*constant, *deep[3:]])), (24, 24))


def test_the_error_says_what_how_much_and_what_is_allowed(proto):
    """In one line."""
    forged = signed(in_graph(proto, BOMBS["constant of a shape"]()))
    with pytest.raises(ModelFileError) as caught:
        bind(forged, (24, 24))
    assert re.fullmatch(
        r"m\.onnx: node 'made' \(ConstantOfShape\) makes a value of 4,295 MB a slice; "
        r"for an image of 48 x 48, 268 MB are allowed",
        str(caught.value),
    )
