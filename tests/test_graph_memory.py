"""Graphs that would make gigabytes: refused where a model is bound, before a runtime sees them."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from kspacesr_rt.binding import bind, rebind
from kspacesr_rt.cli import app
from kspacesr_rt.errors import ModelFileError
from kspacesr_rt.graph_lengths import Scope, follow
from kspacesr_rt.graph_memory import (
    LARGEST_SUM,
    LARGEST_VALUE,
    MOST_STEPS,
    SMALLEST_IMAGE,
    require_bounded,
)
from kspacesr_rt.model_file import (
    METADATA_KEY,
    ModelFile,
    graph_digest,
    load_model,
    parse_model,
    shipped_models,
    weights_digest,
)
from kspacesr_rt.spec import OP_DOMAIN

Nodes = list[onnx.NodeProto]
ADDRESS_SPACE = 6 * 2**30
"""Bytes a process may map; the libraries alone take 2 GiB of it."""


@pytest.fixture
def proto(model) -> onnx.ModelProto:
    return copy.deepcopy(model.proto)


def ints(name: str, *values: int) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value_ints=list(values))


def op(kind: str, inputs: str, output: str = "made", **attributes: object) -> onnx.NodeProto:
    names = [] if not inputs else [name.strip() for name in inputs.split(",")]
    return helper.make_node(kind, names, [output], name=output, **attributes)


def doubled(times: int) -> Nodes:
    """Join a value with itself again and again, as a list of lists of lists would."""
    names = ["x", *(f"twice{number}" for number in range(1, times)), "made"]
    return [op("Concat", f"{a},{a}", b, axis=3) for a, b in itertools.pairwise(names)]


def outer() -> Nodes:
    """Broadcast a row of all samples against a column of them."""
    return [
        ints("row", 0, 1, 1, -1),
        ints("column", 0, 1, -1, 1),
        op("Reshape", "x,row", "rows"),
        op("Reshape", "x,column", "columns"),
        op("Add", "rows,columns"),
    ]


def transposed_batch() -> Nodes:
    """Broadcast the batch against itself: little for one slice, a lot for sixteen."""
    return [op("Transpose", "x", "turned", perm=[1, 0, 2, 3]), op("Add", "x,turned")]


BOMBS: dict[str, Callable[[], Nodes]] = {
    "constant of a shape": lambda: [ints("size", 2**15, 2**15), op("ConstantOfShape", "size")],
    "expanded": lambda: [ints("size", 1, 2**12, 1, 1), op("Expand", "x,size")],
    "tiled": lambda: [ints("times", 1, 64, 64, 1), op("Tile", "x,times")],
    "resized": lambda: [
        helper.make_node("Constant", [], ["scales"], value_floats=[1.0, 1.0, 64.0, 64.0]),
        op("Resize", "x,,scales"),
    ],
    "padded": lambda: [ints("pads", 0, 0, 0, 0, 0, 0, 2**14, 2**14), op("Pad", "x,pads")],
    "a range": lambda: [
        *(
            helper.make_node("Constant", [], [name], value_int=value)
            for name, value in (("from", 0), ("to", 2**30), ("by", 1))
        ),
        op("Range", "from,to,by"),
    ],
    "gathered": lambda: [
        ints("size", 2**15, 2**8),
        op("ConstantOfShape", "size", "floats"),
        op("Cast", "floats", "zeros", to=TensorProto.INT64),
        op("Gather", "x,zeros", axis=3),
    ],
    "joined": lambda: doubled(20),
    "broadcast": outer,
    "a product": lambda: [
        ints("row", 0, 1, 1, -1),
        ints("column", 0, 1, -1, 1),
        op("Reshape", "x,row", "rows"),
        op("Reshape", "x,column", "columns"),
        op("MatMul", "columns,rows"),
    ],
    "a computed shape": lambda: [
        op("Shape", "x", "shape", start=2),
        op("Mul", "shape,shape", "area"),
        op("Mul", "area,shape", "volume"),
        op("ConstantOfShape", "volume"),
    ],
    "a shape of the batch": lambda: [op("Shape", "x", "shape"), op("ConstantOfShape", "shape")],
    "the batch against itself": transposed_batch,
    "found while it runs": lambda: [
        ints("every", 0),
        op("Cast", "x", "number", to=TensorProto.INT64),
        op("ReduceMax", "number,every", "biggest", keepdims=0),
        op("Reshape", "biggest,every", "size"),
        op("ConstantOfShape", "size"),
    ],
    "a buffer no shape tells of": lambda: [op("Einsum", "x,x,x", equation="abij,abkl,abmn->ab")],
    "text": lambda: [op("Cast", "x", "text", to=TensorProto.STRING), op("Identity", "text")],
    "a sequence": lambda: [op("SplitToSequence", "x", axis=3)],
}


def in_graph(proto: onnx.ModelProto, nodes: Nodes) -> onnx.ModelProto:
    """Put nodes in front of the graph, with its image as x."""
    added = [helper.make_node("Identity", ["lr"], ["x"], name="x"), *nodes]
    kept = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*added, *kept])
    return proto


def in_function(proto: onnx.ModelProto, nodes: Nodes) -> onnx.ModelProto:
    """Put them into the body of a transform that the graph calls."""
    body = next(one for one in proto.functions if one.name == "RealFFT2c")
    assert body.input[0] == "x"
    body.node.extend(nodes)
    return proto


def signed(proto: onnx.ModelProto) -> ModelFile:
    """Give a forged graph the digests that belong to it: a forger can compute them too."""
    item = next(one for one in proto.metadata_props if one.key == METADATA_KEY)
    spec = json.loads(item.value)
    spec["provenance"]["weights_sha256"] = weights_digest(proto)
    spec["provenance"]["graph_sha256"] = graph_digest(proto)
    item.value = json.dumps(spec)
    return parse_model(proto.SerializeToString(), name="m.onnx")


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


MEMORY = """
import pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({space}, {space}))
from kspacesr_rt.errors import ModelFileError
from kspacesr_rt.model_file import load_model
from kspacesr_rt.verify import verify_model
import onnxruntime
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    verify_model(load_model(pathlib.Path(sys.argv[1])), "ort-cpu")
except ModelFileError as exc:
    print("refused")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    "kind", ["constant of a shape", "expanded", "tiled", "resized", "padded", "joined"]
)
def test_refusing_takes_no_memory(proto, kind, tmp_path):
    """The check itself makes none of it, nor does a runtime that folds constants as it loads."""
    path = tmp_path / "m.onnx"
    path.write_bytes(signed(in_function(proto, BOMBS[kind]())).proto.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", MEMORY.format(space=ADDRESS_SPACE), str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    said, kilobytes = [*done.stdout.split(), "", "0"][:2]
    assert said == "refused", done.stdout + done.stderr
    assert int(kilobytes) < 200_000


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


def test_functions_that_unfold_without_end_are_refused(proto):
    """Few nodes in a file may be millions once each call is written out."""
    in_function(proto, [op("Identity", "x", f"same{number}") for number in range(2000)])
    call = next(node for node in proto.graph.node if node.op_type == "RealFFT2c")
    for number in range(2000):
        again = proto.graph.node.add()
        again.CopyFrom(call)
        again.name, again.output[0] = f"again{number}", f"again{number}"
    with pytest.raises(ModelFileError, match=f"more than {MOST_STEPS} nodes"):
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


def test_what_is_followed_is_what_onnx_computes():
    """Shapes further down follow from these integers: against ONNX's own evaluator."""
    from onnx.reference import ReferenceEvaluator

    nodes = [
        op("Shape", "x", "shape", start=1),
        op("Shape", "x", "tail", start=-2, end=-1),
        helper.make_node("Constant", [], ["two"], value_int=2),
        ints("minus", -7),
        ints("three", 2),
        ints("axis", 0),
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
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 1, 24, 31])
    scope = Scope(opset=20)
    scope.types["x"] = helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", 1, 24, 31])
    names = [node.output[0] for node in nodes]
    outputs = [helper.make_tensor_value_info(one, TensorProto.INT64, None) for one in names]
    graph = helper.make_graph(nodes, "g", [image], outputs)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    expected = ReferenceEvaluator(whole).run(None, {"x": np.zeros((3, 1, 24, 31), np.float32)})
    for node in nodes:
        types = {one: scope.types[one] for one in node.input}
        given = {one: scope.given[one] for one in node.input if one in scope.given}
        schema = onnx.defs.get_schema(node.op_type, 20, "")
        scope.types |= onnx.shape_inference.infer_node_outputs(schema, node, types, given)
        follow(node, scope)
    for name, value in zip(names, expected, strict=True):
        assert np.array_equal(numpy_helper.to_array(scope.given[name]), value), name


def test_the_error_says_what_how_much_and_what_is_allowed(proto):
    """In one line."""
    forged = signed(in_graph(proto, BOMBS["constant of a shape"]()))
    with pytest.raises(ModelFileError) as caught:
        bind(forged, (24, 24))
    assert re.fullmatch(
        r"m\.onnx: node 'made' \(ConstantOfShape\) makes a value of 4,295 MB a slice; "
        r"for an image of 48 x 48, 67 MB are allowed",
        str(caught.value),
    )
