"""What TensorRT-RTX makes of the shipped models: how many layers, in which types, how much moves.

Its builder says so without a GPU. The ceilings are what version 1.7.1 made on the day they were
written: a change of our graphs that adds a launch or moves more fails here.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections import Counter

import numpy as np
import onnx
import onnx.shape_inference
import pytest

from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.graph.flops import count_flops
from kspacesr_rt.graph.precision import NARROW_TYPES, narrowed
from kspacesr_rt.graph.quantisation import network_convolutions, quantised
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.runtime.tensorrt.build import compile_in_subprocess, engine_graph
from kspacesr_rt.runtime.tensorrt.fused_layers import FusedLayer, read_fused_layers
from kspacesr_rt.runtime.tensorrt.inputs import EngineOptions, resolve_inputs
from kspacesr_rt.runtime.tensorrt.requirements import tf32_pays
from kspacesr_rt.system.gpu_models import GPU_MODELS

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)
MATRIX = (256, 256)
CEILINGS = {
    ("x2-fast", "fp32"): (31, 393),
    ("x2-fast", "fp16"): (31, 206),
    ("x2-base", "fp16"): (31, 383),
    ("x4-fast", "fp16"): (29, 295),
    ("x4-base", "fp16"): (45, 563),
}
"""Model and precision to the most layers, and the most megabytes that they move for one slice."""


def in_precision(model, precision):
    """Return a model as export makes it; the scales of 8 bits are made up, and do not matter."""
    if precision in NARROW_TYPES:
        proto = narrowed(model.proto, precision)
    else:
        convolutions = network_convolutions(model.proto)
        scales = {node.input[0]: np.float32(0.01) for node in convolutions}
        ends = [convolutions[0].name, convolutions[-1].name]
        proto = quantised(model.proto, precision, scales, wide=ends)
    spec = dataclasses.replace(model.spec, precision=precision)
    return dataclasses.replace(model, proto=proto, spec=spec)


@functools.cache
def fused(name, precision, *, tf32=False, matrix=MATRIX, batch=(1, 1, 1)):
    """Build for one slice: with an open batch the builder leaves lengths open, too."""
    model = load_model(resolve_model(name, upscale=None))
    if precision != "fp32":
        model = in_precision(model, precision)
    bound = bind(model, matrix)
    options = EngineOptions(gpu="sm89", batch=batch, tf32=tf32)
    layers = compile_in_subprocess(bound, resolve_inputs(bound, options)).fused
    # Two streams wait for each other; that is no kernel.
    return tuple(one for one in layers if one.kind not in ("signal", "wait"))


def megabytes(layers):
    return sum(layer.moved_bytes for layer in layers) / 1e6


@needs_rtx
@pytest.mark.parametrize(("name", "precision"), CEILINGS)
def test_no_model_has_more_layers_or_moves_more_than_it_did(name, precision):
    layers = fused(name, precision)
    most, most_mb = CEILINGS[name, precision]
    assert 0.8 * most < len(layers) <= most
    assert 0.8 * most_mb < megabytes(layers) <= most_mb


@needs_rtx
def test_convolutions_of_a_half_precision_model_give_half():
    """What is in fp32 there is k-space alone, with the scaling around it."""
    types = Counter(layer.type for layer in fused("x2-fast", "fp16"))
    convolutions = len(
        network_convolutions(load_model(resolve_model("x2-fast", upscale=None)).proto)
    )
    assert types.keys() == {"Float", "Half"}
    assert types["Half"] >= convolutions
    assert {layer.type for layer in fused("x2-fast", "fp32")} == {"Float"}


@needs_rtx
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_eight_bits_have_more_layers_and_move_more_than_half_precision(precision):
    """Their convolutions write fp32, and rounding is a layer of its own: so take fp16."""
    narrow, half = fused("x2-fast", precision), fused("x2-fast", "fp16")
    assert len(narrow) > 1.3 * len(half)
    assert megabytes(narrow) > 2.0 * megabytes(half)
    assert {one.type for one in narrow if one.kind == "correlation"} == {"Float"}


@needs_rtx
def test_parts_of_rounded_operands_are_one_product():
    """Splitting a value joins the kernel before it, unless that is a product."""
    plain, split = fused("x2-fast", "fp16"), fused("x2-fast", "fp16", tf32=True)
    assert len(split) <= len(plain) + 1
    assert megabytes(split) <= 221
    kinds = Counter(one.kind for one in split)
    assert (kinds["gemm"], Counter(one.kind for one in plain)["gemm"]) == (6, 6)


@needs_rtx
def test_products_between_convolutions_are_in_half():
    """Two of the zero-filled image and two of the first data consistency; not the last two."""
    types = Counter(one.type for one in fused("x2-fast", "fp16") if one.kind == "gemm")
    assert types == {"Half": 4, "Float": 2}


@needs_rtx
@pytest.mark.parametrize("tf32", [False, True])
def test_an_engine_of_several_slices_has_no_layer_more(tf32):
    """Constants that are one for each phase would be copied for each slice, in a layer of its own.

    Nor need the number of slices be known.
    """
    kinds = [
        Counter(one.kind for one in fused("x2-fast", "fp16", tf32=tf32, batch=batch))
        for batch in ((1, 1, 1), (1, 1, 8), (8, 8, 8))
    ]
    assert kinds[0] == kinds[1] == kinds[2]


@needs_rtx
@pytest.mark.parametrize("matrix", [(256, 250), (255, 252)])
def test_between_two_products_of_a_layer_stands_nothing(matrix):
    """What else an FFT layer needs joins what stands around it: as `targets` counts launches.

    With odd columns (255) rows of values are cut and padded besides, in kernels of their own.
    """
    layers = fused("x2-fast", "fp16", matrix=matrix)
    kinds = [one.kind for one in layers]
    products = [index for index, kind in enumerate(kinds) if kind == "gemm"]
    assert len(products) == 6
    for first, second in zip(products[::2], products[1::2], strict=True):
        assert second == first + 1
    assert len(layers) <= 33 if matrix[0] % 2 else len(layers) <= 31
    # Two kernels of the maximum, and one before and after each cascade's convolutions, as without
    # FFT layers: a layout of phases must be written, and what comes out read.
    assert kinds.count("kgen") <= 7 + matrix[0] % 2


@functools.cache
def product_flops(name, *, tf32):
    """Return the operations of an fp16 model's transforms on a GPU: in fp32 (or TF32), and fp16."""
    model = in_precision(load_model(resolve_model(name, upscale=None)), "fp16")
    flat = flattened(engine_graph(bind(model, MATRIX), tf32=tf32))
    flat.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(flat, data_prop=True).graph
    values = {one.name: one.type.tensor_type for one in graph.value_info}
    flops = Counter()
    for node in graph.node:
        if node.op_type == "MatMul":
            made = values[node.output[0]]
            inner = next(item for item in graph.initializer if item.name in node.input)
            length = inner.dims[-2 if inner.name == node.input[1] else -1]
            samples = np.prod([dim.dim_value for dim in made.shape.dim])
            flops[made.elem_type] += 2.0 * length * samples
    return flops[onnx.TensorProto.FLOAT], flops[onnx.TensorProto.FLOAT16]


def microseconds(name, gpu, *, tf32):
    """Return what FFT layers and the rest cost at best, from a data sheet: a roofline of each.

    FFT layers are the products, and the kernels that split operands for TF32.
    """
    layers = fused(name, "fp16", tf32=tf32)
    flops = count_flops(load_model(resolve_model(name, upscale=None)), MATRIX)
    splits = [one for one in layers if "SubConc" in one.name]
    products = [one for one in layers if one.kind == "gemm"]
    others = [one for one in layers if one not in splits and one not in products]
    # TF32 has half the rate of fp16 (NVIDIA's sheets, sm80 on).
    rate = gpu.fp16_tflop_s / 2 if tf32 else gpu.fp32_tflop_s
    whole, half = product_flops(name, tf32=tf32)
    parts = (
        (whole, rate, [one for one in products if one.type == "Float"]),
        (half, gpu.fp16_tflop_s, [one for one in products if one.type == "Half"]),
        (0.0, rate, splits),
        (flops.cnn, gpu.fp16_tflop_s, others),
    )
    seconds = [
        max(flop / (1e12 * peak), 1e6 * megabytes(part) / (1e9 * gpu.bandwidth_gb_s))
        for flop, peak, part in parts
    ]
    return 1e6 * sum(seconds[:3]), 1e6 * seconds[3]


@needs_rtx
@pytest.mark.parametrize("name", ["x2-fast", "x4-fast"])
def test_tf32_is_taken_where_it_is_faster(name):
    """Launches and all, a microsecond each: on no GPU of its kind slower, on one by a fiftieth."""
    gains = {}
    for gpu in GPU_MODELS.values():
        without, taken = (
            sum(microseconds(name, gpu, tf32=tf32)) + len(fused(name, "fp16", tf32=tf32))
            for tf32 in (False, True)
        )
        gains.setdefault(gpu.sm, []).append(without / taken)
    upscale = int(name[1])
    for sm, found in gains.items():
        assert tf32_pays(sm, upscale) == (min(found) > 1.0 and max(found) > 1.02), (sm, found)


@needs_rtx
def test_the_share_of_fft_layers_is_about_an_eighth_at_most():
    """On every GPU that is known by name, with ``--tf32`` or without, launches left out."""
    shares = {}
    for name, gpu in GPU_MODELS.items():
        pairs = [microseconds("x2-fast", gpu, tf32=tf32) for tf32 in (False, True)]
        shares[name] = [fft / (fft + rest) for fft, rest in pairs]
    assert {name for name, (without, _) in shares.items() if without > 0.12} == {
        *("A30", "A100", "H200", "B200")
    }
    assert max(min(one) for one in shares.values()) < 0.135
    # By number they are more: six products of 31 layers.
    plain = fused("x2-fast", "fp16")
    assert sum(one.kind == "gemm" for one in plain) <= 0.2 * len(plain)


LOG = """Layers:
Name: counts, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , x
Name: moved, LayerType: kgen, Inputs: [], Constants: [], Outputs: [ { Name: a, Dimensions: [8], \
Strides: [1], Datatype: Int32, Format: y }], TacticName: t, StreamId: 0, Metadata:
Name: product, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [1,4,8], Strides: [32,8,1], \
Datatype: Half, Format: z }], Constants: [ { Name: w, Dimensions: [8,2], Strides: [2,1], \
Datatype: Float, Format: z }], Outputs: [ { Name: y, Dimensions: [1,4,2], Strides: [8,2,1], \
Datatype: Float, Format: z }], TacticName: u, StreamId: 0, Metadata: [ONNX Layer: m]
Name: open, LayerType: kgen, Inputs: [ { Name: y, Dimensions: [-1,4,2], Strides: [8,2,1], \
Datatype: Float, Format: z }], Constants: [], Outputs: [ { Name: z, Dimensions: [-1,4,2], \
Strides: [8,2,1], Datatype: Half, Format: z }], TacticName: v, StreamId: 0, Metadata:
"""


def test_a_list_of_layers_is_read():
    """What only counts lengths is no launch; where a length is open, nobody knows what moves."""
    product = FusedLayer(name="product", kind="gemm", type="Float", moved_bytes=64 + 64 + 32)
    opened = FusedLayer(name="open", kind="kgen", type="Half", moved_bytes=None)
    assert read_fused_layers(["Building", LOG, "Done"]) == (product, opened)
    assert read_fused_layers(["Building"]) == ()
    assert FusedLayer.from_dict(product.to_dict()) == product


@pytest.mark.parametrize(
    "change", [{"name": 3}, {"moved_bytes": -1}, {"moved_bytes": True}, {"more": 1}]
)
def test_an_edited_list_is_refused(change):
    """A sidecar is a text file that anybody may have edited."""
    values = {"name": "a", "kind": "gemm", "type": "Half", "moved_bytes": 3} | change
    with pytest.raises(TypeError, match="fused has"):
        FusedLayer.from_dict(values)
