"""What bounds a group of layers: counted by hand on known graphs, measured with real runtimes."""

import math
from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from kspacesr_rt.bench.run import layer_shares
from kspacesr_rt.bench.run.layer_shares import profiled
from kspacesr_rt.bench.run.roofline import (
    COMPUTE,
    MEMORY,
    UNKNOWN,
    GroupWork,
    group_work,
    roofline,
    work_by_group,
)
from kspacesr_rt.errors import InputError
from kspacesr_rt.graph.flops import count_flops
from kspacesr_rt.graph.layer_costs import (
    ACTIVATION,
    CONVOLUTION,
    FFT,
    GROUPS,
    OTHER,
    REARRANGEMENT,
    LayerCost,
    layer_costs,
)
from kspacesr_rt.graph.phase_convolutions import in_phases
from kspacesr_rt.model.binding import BoundModel, bind
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME, load_model, shipped_models
from kspacesr_rt.model.spec import ModelSpec

X2 = shipped_models()["x2-fast"]


def weights(name, *shape, dtype=np.float32):
    return numpy_helper.from_array(np.zeros(shape, dtype), name)


def bound(nodes, constants, matrix, channels=1):
    """Return a graph from ``(1, 1, y, x)`` to ``(1, channels, y, x)`` as a bound model."""
    rows, columns = matrix
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value(INPUT_NAME, TensorProto.FLOAT, ("n", 1, rows, columns))],
        [value(OUTPUT_NAME, TensorProto.FLOAT, ("n", channels, rows, columns))],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    spec = ModelSpec(name="g", architecture="none", upscale=1, matrix=matrix, lowering="gemm")
    return BoundModel(spec=spec, proto=model)


def node(kind, inputs, output, name, **attributes):
    return helper.make_node(kind, inputs, [output], name=name, **attributes)


def test_layers_of_a_small_network_are_counted_by_hand():
    """3x3 convolution of one into four channels, its activation, an addition, a shuffle."""
    nodes = [
        node("Conv", [INPUT_NAME, "w"], "a", "conv", pads=[1, 1, 1, 1]),
        node("LeakyRelu", ["a"], "b", "act"),
        node("Add", ["a", "b"], "c", "add"),
        node("Transpose", ["c"], "d", "turn", perm=[0, 1, 3, 2]),
        node("Transpose", ["d"], OUTPUT_NAME, "back", perm=[0, 1, 3, 2]),
    ]
    costs = {
        one.name: one for one in layer_costs(bound(nodes, [weights("w", 4, 1, 3, 3)], (6, 10), 4))
    }
    samples = 6 * 10
    conv = costs["conv"]
    assert conv.group == CONVOLUTION
    assert conv.flop == 2 * 9 * 4 * samples
    assert (conv.input_bytes, conv.weight_bytes, conv.output_bytes) == (
        4 * samples,
        4 * 36,
        4 * 4 * samples,
    )
    assert conv.bytes(4) == 4 * samples * 5 + 36
    assert costs["act"].group == ACTIVATION
    assert costs["act"].flop == 4 * samples
    assert costs["act"].bytes(1) == 2 * 4 * 4 * samples
    assert costs["add"].group == OTHER
    assert costs["add"].extra_bytes == 4 * 4 * samples
    assert costs["turn"].group == REARRANGEMENT
    assert (costs["turn"].flop, costs["turn"].bytes(1)) == (0.0, 2 * 4 * 4 * samples)


def test_eight_bits_move_as_eight_bits():
    """Between quantised values a convolution reads and writes bytes, not the floats in the file."""
    half = numpy_helper.from_array(np.float32(0.5), "s")
    zero = numpy_helper.from_array(np.int8(0), "z")
    nodes = [
        node("QuantizeLinear", [INPUT_NAME, "s", "z"], "q", "quantise"),
        node("DequantizeLinear", ["q", "s", "z"], "x", "widen"),
        node("DequantizeLinear", ["w", "s", "z"], "wide", "weights"),
        node("Conv", ["x", "wide"], "a", "conv", pads=[1, 1, 1, 1]),
        node("QuantizeLinear", ["a", "s", "z"], "r", "store"),
        node("DequantizeLinear", ["r", "s", "z"], OUTPUT_NAME, "last"),
    ]
    constants = [half, zero, weights("w", 4, 1, 3, 3, dtype=np.int8)]
    costs = {one.name: one for one in layer_costs(bound(nodes, constants, (6, 10), 4))}
    conv = costs["conv"]
    assert (conv.input_bytes, conv.weight_bytes, conv.output_bytes) == (60, 36, 240)
    assert costs["quantise"].group == CONVOLUTION
    assert costs["quantise"].bytes(1) == costs["quantise"].flop == 0


@pytest.mark.parametrize("lowering", ["gemm", "conv"])
@pytest.mark.parametrize("cascades", [1, 2])
def test_operations_agree_with_the_count_in_the_inlined_graph(
    make_generator, make_model, lowering, cascades
):
    """Two ways to count: layer by layer from attributes, and kernel by kernel after inlining."""
    generator, spec = make_generator("dc-residual", 2, width=8, blocks=2, cascades=cascades)
    expected = count_flops(make_model(generator, spec, "gemm"), (20, 33))
    costs = layer_costs(bind(make_model(generator, spec, lowering), (20, 33)))
    by_group = {group: sum(c.flop for c in costs if c.group == group) for group in GROUPS}
    assert by_group[CONVOLUTION] == expected.cnn
    assert by_group[FFT] == expected.fft


@pytest.mark.parametrize("lowering", ["gemm", "dynamic"])
def test_complex_transforms_are_counted_too(make_generator, make_model, lowering):
    """Models that read k-space keep them, and so does what makes its matrices in the graph."""
    generator, spec = make_generator("seed-kspace", 2, width=8)
    expected = count_flops(make_model(generator, spec, "gemm"), (20, 33)).fft
    costs = layer_costs(bind(make_model(generator, spec, lowering), (20, 33)))
    found = sum(c.flop for c in costs if c.group == FFT and "fft" in c.name)
    assert found == expected


def test_a_fast_transform_is_counted_as_one(make_generator, make_model):
    """5 N log2 N of the grid that is transformed: the input's forward, the output's inverse."""
    generator, spec = make_generator("dc-residual", 2, width=4, blocks=2)
    costs = layer_costs(bind(make_model(generator, spec, "dft"), (16, 16)))
    fft = [cost.flop for cost in costs if cost.group == FFT]
    small, large = (5.0 * n * math.log2(n) for n in (16 * 16, 32 * 32))
    assert sorted(set(fft)) == [small, large]
    assert fft[0] == small  # the LR image
    assert fft[1] == large  # zero-filled


def cost(name, group, flop=10.0, **moved):
    sizes = dict.fromkeys(("input_bytes", "extra_bytes", "weight_bytes", "output_bytes"), 0.0)
    return LayerCost(name=name, group=group, flop=flop, **{**sizes, **moved})


def test_fused_layers_count_with_the_convolutions():
    """An addition inside a convolution still reads its other operand; a view moves nothing."""
    costs = [
        cost("conv", CONVOLUTION, 100.0, input_bytes=8.0, weight_bytes=6.0, output_bytes=8.0),
        cost("act", ACTIVATION, 4.0, input_bytes=8.0, output_bytes=8.0),
        cost("add", OTHER, 4.0, input_bytes=8.0, extra_bytes=8.0, output_bytes=8.0),
        cost("alone", OTHER, 5.0, input_bytes=3.0, output_bytes=3.0),
        cost("view", REARRANGEMENT, 0.0, input_bytes=8.0, output_bytes=8.0),
    ]
    work = work_by_group(costs, {"alone"}, 2)
    assert work[CONVOLUTION] == (108.0, 8.0 + 3.0 + 8.0 + 8.0)
    assert work[OTHER] == (5.0, 6.0)
    assert work[ACTIVATION] == work[REARRANGEMENT] == (0.0, 0.0)


def test_shares_and_bounds_follow_from_the_machines_rates():
    """The CNN is held against its own precision's peak, transforms against that of fp32."""
    work = [
        GroupWork(group=CONVOLUTION, flop=800.0, bytes=10.0, seconds=1.0),
        GroupWork(group=FFT, flop=50.0, bytes=90.0, seconds=1.0),
    ]
    conv, fft = roofline(
        work, peaks={"fp32": 100.0, "bf16": 1000.0}, precision="bf16", bandwidth=100.0
    )
    assert (conv.peak_share, conv.bandwidth_share, conv.bound) == (0.8, 0.1, COMPUTE)
    assert (fft.peak_share, fft.bandwidth_share, fft.bound) == (0.5, 0.9, MEMORY)
    (unknown,) = roofline(work[:1], peaks={"fp32": 1.0}, precision="fp16", bandwidth=100.0)
    assert (unknown.peak_share, unknown.bandwidth_share, unknown.bound) == (None, 0.1, UNKNOWN)
    (unknown,) = roofline(work[:1], peaks={"fp32": 1.0}, precision="fp32", bandwidth=None)
    assert unknown.bound == UNKNOWN


@pytest.mark.parametrize("backend", layer_shares.PROFILED)
def test_a_real_profile_has_every_group_once(backend):
    """Convolutions take most of the time, and operations are those of the graph."""
    model = bind(load_model(X2), (48, 40))
    lr = np.random.default_rng(0).random((2, 1, 48, 40), dtype=np.float32)
    work = {one.group: one for one in group_work(model, lr, backend, 1, calls=3)}
    assert {CONVOLUTION, FFT, REARRANGEMENT, OTHER} <= set(work)
    total = sum(one.seconds for one in work.values())
    assert work[CONVOLUTION].seconds > 0.4 * total
    counted = count_flops(load_model(X2), (48, 40))
    assert work[FFT].flop == counted.fft
    assert counted.cnn <= work[CONVOLUTION].flop < 1.02 * counted.cnn
    assert all(one.bytes > 0 for one in work.values())


@pytest.mark.parametrize(
    ("kind", "named", "lowering", "group"),
    [
        ("Conv", ("act", ACTIVATION), "gemm", CONVOLUTION),
        ("LeakyRelu", ("act", ACTIVATION), "gemm", ACTIVATION),
        ("ReorderOutput", None, "gemm", CONVOLUTION),
        ("Convolution", None, "gemm", CONVOLUTION),
        ("Convolution", None, "conv", FFT),
        ("MatMul", None, "gemm", FFT),
        ("PowerStatic", None, "gemm", OTHER),
        ("PowerStatic", None, "dft", FFT),
        ("Add", ("add", OTHER), "gemm", OTHER),
    ],
)
def test_kernels_find_their_group(kind, named, lowering, group):
    """Runtimes rename and fuse; what has no node's name is a part of an FFT layer, or rewritten."""
    assert layer_shares._group("kernel", kind, named, lowering) == group


@pytest.mark.parametrize("backend", layer_shares.PROFILED)
def test_what_masks_coefficients_is_the_transforms(backend, monkeypatch):
    """Both runtimes name that kernel by themselves; beside the scalings it would be forgotten."""
    model = bind(load_model(X2), (96, 96))
    lr = np.random.default_rng(0).random((1, 1, 96, 96), dtype=np.float32)
    profile = getattr(layer_shares, f"_{backend.partition('-')[0]}_profile")
    kernels = profile(model, lr, 1, 1)
    assert any(layer_shares.MASKS.fullmatch(name) for name, _ in kernels)
    monkeypatch.setattr(
        layer_shares, f"_{backend.partition('-')[0]}_profile", lambda *_: {("Mul_7", "Mul"): 1.0}
    )
    assert layer_shares.profiled(model, lr, backend, 1, calls=1).seconds == {FFT: 1.0}


@pytest.mark.parametrize(
    ("lowering", "group"), [("gemm", CONVOLUTION), ("conv", FFT), ("dynamic", FFT)]
)
def test_transposes_belong_to_the_transforms_only_if_they_have_some(
    make_generator, make_model, monkeypatch, lowering, group
):
    """ONNX Runtime turns an int8 CNN's layout, which was more than its transforms cost."""
    model = bind(make_model(*make_generator("dc-residual", 2), lowering), (16, 16))
    kernels = {("Transpose", "Transpose"): 1.0}
    monkeypatch.setattr(layer_shares, "_ort_profile", lambda *_: kernels)
    lr = np.zeros((1, 1, 16, 16), np.float32)
    assert layer_shares.profiled(model, lr, "ort-cpu", 1).seconds == {group: 1.0}


def test_a_layer_computed_in_phases_is_still_the_networks(make_generator, make_model):
    """Beside transforms made of convolutions, what a backend rewrote would count as one of them."""
    model = bind(make_model(*make_generator("seed-kspace", 2), "conv"), (24, 24))
    rewritten = in_phases(model.proto)
    assert rewritten is not model.proto
    of_the_network = [node for node in rewritten.graph.node if node.op_type == "Conv"]
    lr = np.random.default_rng(0).random((1, 1, 24, 24), dtype=np.float32)
    kernels = layer_shares._ort_profile(model, lr, 1, 1)
    named = layer_shares._own_nodes(model, "ort-cpu")
    groups = Counter(
        layer_shares._group(name, kind, named.get(name), "conv")
        for name, kind in kernels
        if kind in layer_shares.CONVOLUTIONS
    )
    assert groups[CONVOLUTION] == len(of_the_network)
    assert groups[FFT] > 0


def test_a_backend_without_a_profile_is_an_error():
    with pytest.raises(InputError, match="profiles of 'tensorrt' are not read"):
        profiled(
            bind(load_model(X2), (16, 16)), np.zeros((1, 1, 16, 16), np.float32), "tensorrt", 1
        )
