"""Small model files whose graphs unfold into gigabytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import onnx
from onnx import TensorProto, helper

from kspacesr_rt.model.file import (
    METADATA_KEY,
    ModelFile,
    graph_digest,
    parse_model,
    weights_digest,
)

Nodes = list[onnx.NodeProto]


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


def counted_slices() -> Nodes:
    return [op("Shape", "x", "slices", end=1)]


def large_times(factor: str) -> Nodes:
    """Make a value whose size is a multiple of a number."""
    return [
        ints("large", 2**15),
        op("Mul", f"large,{factor}", "rows"),
        op("Concat", "rows,large", "size", axis=0),
        op("ConstantOfShape", "size"),
    ]


def large_if_met() -> Nodes:
    return [
        ints("one", 1),
        ints("zero", 0),
        op("Where", "met,one,zero", "times"),
        *large_times("times"),
    ]


BOMBS: dict[str, Callable[[], Nodes]] = {
    "constant of a shape": lambda: [ints("size", 2**15, 2**15), op("ConstantOfShape", "size")],
    "expanded": lambda: [ints("size", 1, 2**14, 1, 1), op("Expand", "x,size")],
    "tiled": lambda: [ints("times", 1, 128, 128, 1), op("Tile", "x,times")],
    "resized": lambda: [
        helper.make_node("Constant", [], ["scales"], value_floats=[1.0, 1.0, 128.0, 128.0]),
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
    "a shape of the batch, twice": lambda: [
        op("Shape", "x", "shape"),
        op("Concat", "shape,shape", "twice", axis=0),
        op("ConstantOfShape", "twice"),
    ],
    "large for one number of slices": lambda: [
        *counted_slices(),
        ints("some", 64),
        op("Equal", "slices,some", "met"),
        *large_if_met(),
    ],
    "large for few slices": lambda: [
        *counted_slices(),
        ints("some", 64),
        op("Less", "slices,some", "met"),
        *large_if_met(),
    ],
    "large for an even number of slices": lambda: [
        *counted_slices(),
        ints("two", 2),
        op("Add", "slices,two", "more"),
        op("Div", "more,two", "halves"),
        op("Mul", "halves,two", "even"),
        op("Sub", "more,even", "rest"),
        *large_times("rest"),
    ],
    "a part of the batch": lambda: [
        *(ints(name, value) for name, value in (("first", 0), ("some", 10), ("axis", 0))),
        op("Slice", "x,first,some,axis", "part"),
        op("Shape", "part", "length", end=1),
        op("Sub", "some,length", "rest"),
        *large_times("rest"),
    ],
    "a range up to a number of slices": lambda: [
        op("Shape", "x", "slices", end=1),
        helper.make_node("Constant", [], ["most"], value_int=2**30),
        helper.make_node("Constant", [], ["by"], value_int=1),
        op("Squeeze", "slices", "from"),
        op("Range", "from,most,by"),
    ],
    "under a kernel, turned": lambda: [
        ints("size", 1, 1, 301, 301),
        op("ConstantOfShape", "size", "kernel"),
        op("ConvTranspose", "x,kernel", pads=[150] * 4),
    ],
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
