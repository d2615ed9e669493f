"""Zero-filling and data consistency in fewer launches: the same images, on every matrix."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kspacesr_rt.graph.band_projections import (
    PROJECTION,
    ZERO_FILL,
    ZERO_STUFFED,
    projects,
    with_band_projections,
)
from kspacesr_rt.graph.bodies import OPSET, function_bodies
from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.graph.gpu_transforms import with_gpu_transforms
from kspacesr_rt.kspace import centre_crop, centre_fill, fft2c, ifft2c
from kspacesr_rt.model.binding import BoundModel, rebind
from kspacesr_rt.model.spec import OP_DOMAIN, ModelSpec

MATRICES = [(16, 16), (21, 16), (16, 21), (17, 23), (12, 40), (8, 9)]
"""Even and odd axes, square and not: only where both are even do single lines meet."""
FP32 = 2e-6
"""Rounding of constants and sums in fp32, of values of order one, relative L2."""


def layer(kind, value, made, upscale):
    """Return a layer: to the LR band (``RealFFT2c``) from a grid, or back."""
    finer = (upscale, 1) if kind == "RealFFT2c" else (1, upscale)
    return helper.make_node(
        kind,
        [value],
        [made],
        name=made,
        domain=OP_DOMAIN,
        input_upscale=finer[0],
        output_upscale=finer[1],
    )


def node(kind, values, made, **attributes):
    return helper.make_node(kind, values, [made], name=made, **attributes)


def bound(nodes, matrix, upscale, *, predicted="image", result="sr"):
    """Return a graph of an LR image and, unless `predicted` is empty, of a predicted one.

    ``image`` is one of the HR grid, ``phases`` the same as a convolution gives it.
    """
    spec = ModelSpec(
        name="layers",
        architecture="none",
        upscale=upscale,
        matrix=matrix,
        normaliser="none",
        lowering="gemm",
        opset=OPSET,
    )
    grid = [n * upscale for n in matrix]
    shapes = {"image": [1, *grid], "phases": [upscale**2, *matrix]}
    inputs = {"lr": [1, *matrix]} | ({predicted: shapes[predicted]} if predicted else {})
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in inputs.items()
    ]
    made = helper.make_tensor_value_info(result, TensorProto.FLOAT, ["batch", 1, *grid])
    proto = helper.make_model(
        helper.make_graph(nodes, "layers", values, [made]),
        functions=function_bodies("gemm", {"RealFFT2c", "RealIFFT2c"}),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(OP_DOMAIN, 1)],
        ir_version=10,
    )
    rebind(proto, spec)
    return BoundModel(spec=spec, proto=proto)


def zero_filling(matrix, upscale):
    nodes = [layer("RealFFT2c", "lr", "k", 1), layer("RealIFFT2c", "k", "sr", upscale)]
    return bound(nodes, matrix, upscale, predicted="")


def consistency(matrix, upscale, *, predicted="image"):
    """Return a graph that puts measured samples back into an image, and gives it."""
    laid_out = node("DepthToSpace", ["phases"], "image", blocksize=upscale, mode="CRD")
    nodes = [
        *([laid_out] if predicted == "phases" else []),
        layer("RealFFT2c", "lr", "measured", 1),
        layer("RealFFT2c", "image", "found", upscale),
        node("Sub", ["measured", "found"], "missing"),
        layer("RealIFFT2c", "missing", "added", upscale),
        node("Add", ["image", "added"], "sr"),
    ]
    return bound(nodes, matrix, upscale, predicted=predicted)


def computed(proto, **values):
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {name: one.astype(np.float32) for name, one in values.items()})[0]


def noise(*shape):
    """Two slices of noise, which holds every frequency, the outermost as much as any."""
    return np.random.default_rng(len(shape)).standard_normal((2, 1, *shape))


def in_phases(image, upscale):
    n, _, rows, columns = image.shape
    parts = image.reshape(n, rows // upscale, upscale, columns // upscale, upscale)
    return parts.transpose(0, 2, 4, 1, 3).reshape(n, -1, rows // upscale, columns // upscale)


def filled(kspace, upscale):
    """Fill up to a finer grid and transform back, in complex128: the real part."""
    grid = tuple(n * upscale for n in kspace.shape[-2:])
    return ifft2c(centre_fill(kspace, grid)).real


def relative(result, expected):
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


def kinds(proto):
    return Counter(one.op_type for one in proto.graph.node)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("matrix", MATRICES)
def test_zero_filling_is_two_products(matrix, upscale):
    """Of the LR image itself, whatever the matrix: no transform of it, nothing elementwise."""
    given = zero_filling(matrix, upscale)
    made = with_band_projections(given)
    assert kinds(made) == {ZERO_FILL: 1}
    assert kinds(flattened(made))["MatMul"] == 2
    lr = noise(*matrix)
    expected = filled(fft2c(lr.astype(complex)), upscale)
    assert relative(computed(made, lr=lr), expected) < FP32
    assert relative(computed(given.proto, lr=lr), expected) < FP32


@pytest.mark.parametrize("predicted", ["image", "phases"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_data_consistency_at_twice_the_matrix_is_two_products(matrix, predicted):
    """And every measured sample is put back, all others stay: against k-space in complex128."""
    given = consistency(matrix, 2, predicted=predicted)
    made = with_band_projections(given)
    assert kinds(made)[PROJECTION] == kinds(made)[ZERO_STUFFED] == 1
    assert not {"RealFFT2c", "RealIFFT2c"} & kinds(made).keys()
    assert kinds(flattened(made))["MatMul"] == 2
    lr, image = noise(*matrix), noise(*(2 * n for n in matrix))
    measured, found = fft2c(lr.astype(complex)), fft2c(image.astype(complex))
    expected = image + filled(measured - centre_crop(found, matrix), 2)
    values = {"lr": lr, predicted: image if predicted == "image" else in_phases(image, 2)}
    result = computed(made, **values)
    assert relative(result, expected) < FP32
    # Where a line has no mirror image among measured samples, half of a real image's is free.
    kept = centre_crop(fft2c(result.astype(complex)), matrix)
    whole = np.ix_(range(2), [0], *(range(1 - n % 2, n) for n in matrix))
    largest = np.abs(measured).max()
    assert np.abs(kept[whole] - measured[whole]).max() < 1e-6 * largest
    assert relative(computed(given.proto, **values), result) < FP32


@pytest.mark.parametrize("upscale", [3, 4])
@pytest.mark.parametrize("matrix", [(16, 16), (21, 16)])
def test_above_twice_the_matrix_four_products_stay(matrix, upscale):
    """They are fewer operations there; the graph is not touched."""
    given = consistency(matrix, upscale, predicted="phases")
    assert not projects(upscale)
    made = with_band_projections(given)
    assert kinds(made) == kinds(given.proto)
    assert [one.name for one in made.graph.node] == [one.name for one in given.proto.graph.node]


def operations(proto):
    """Count those of a flat graph's products, two a multiplication."""
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {
        one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim]
        for one in (*graph.value_info, *graph.output, *graph.input)
    } | {one.name: list(one.dims) for one in graph.initializer}
    return sum(
        2 * np.prod(shapes[one.output[0]]) * shapes[one.input[0]][-1]
        for one in graph.node
        if one.op_type == "MatMul"
    )


@pytest.mark.parametrize("matrix", [(256, 256), (80, 128), (127, 33), (32, 128)])
def test_the_rule_is_that_of_operations_against_launches(matrix):
    """Two products at twice the matrix are as many operations as four, whatever its shape."""
    assert projects(2)
    assert not any(map(projects, (1, 3, 4)))
    given = consistency(matrix, 2)
    two = operations(flattened(with_band_projections(given)))
    # The coefficients of the LR image are those of another two products.
    four = operations(flattened(given.proto))
    y, x = matrix
    four -= 2 * (np.prod([n + 3 * (1 - n % 2) for n in matrix]) * x)
    four -= 2 * (y + 3 * (1 - y % 2)) * y * x
    assert 0.9 < two / four < 1.1


def test_cascades_hand_phases_on():
    """Nothing is laid out as an image between two: the next convolution reads what was added to."""
    nodes = [
        node("DepthToSpace", ["phases"], "image", blocksize=2, mode="CRD"),
        layer("RealFFT2c", "lr", "measured", 1),
        layer("RealFFT2c", "image", "found", 2),
        node("Sub", ["measured", "found"], "missing"),
        layer("RealIFFT2c", "missing", "added", 2),
        node("Add", ["image", "added"], "whole"),
        node("SpaceToDepth", ["whole"], "parts", blocksize=2),
        node("Relu", ["parts"], "changed"),
        node("DepthToSpace", ["changed"], "image_1", blocksize=2, mode="CRD"),
        layer("RealFFT2c", "image_1", "found_1", 2),
        node("Sub", ["measured", "found_1"], "missing_1"),
        layer("RealIFFT2c", "missing_1", "added_1", 2),
        node("Add", ["image_1", "added_1"], "sr"),
    ]
    given = bound(nodes, (16, 14), 2, predicted="phases")
    made = with_band_projections(given)
    found = kinds(made)
    assert (found["DepthToSpace"], found["SpaceToDepth"]) == (1, 0)
    assert (found[PROJECTION], found[ZERO_STUFFED]) == (2, 1)
    values = {"lr": noise(16, 14), "phases": in_phases(noise(32, 28), 2)}
    assert relative(computed(made, **values), computed(given.proto, **values)) < FP32
    # Constants of both are the same ones, and nothing is kept that nobody takes.
    used = {name for one in made.graph.node for name in one.input}
    assert {item.name for item in made.graph.initializer} <= used


def test_another_wiring_stays_as_it_is():
    """A network of others may look at coefficients, or add them up in another way."""
    base = [
        layer("RealFFT2c", "lr", "measured", 1),
        layer("RealFFT2c", "image", "found", 2),
        node("Sub", ["measured", "found"], "missing"),
        layer("RealIFFT2c", "missing", "added", 2),
    ]
    wirings = {
        "scaled": [
            node("Add", ["missing", "missing"], "twice"),
            layer("RealIFFT2c", "twice", "more", 2),
            node("Add", ["added", "more"], "sr"),
        ],
        "predicted": [
            layer("RealIFFT2c", "found", "kept", 2),
            layer("RealIFFT2c", "measured", "filled", 2),
            node("Add", ["kept", "filled"], "both"),
            node("Sub", ["both", "image"], "rest"),
            node("Add", ["rest", "added"], "sr"),
        ],
        "turned": [
            node("Sub", ["found", "measured"], "other"),
            layer("RealIFFT2c", "other", "more", 2),
            node("Add", ["added", "more"], "sr"),
        ],
    }
    values = {"lr": noise(16, 12), "image": noise(32, 24)}
    replaced = {}
    for name, more in wirings.items():
        given = bound([*base, *more], (16, 12), 2)
        made = with_band_projections(given)
        replaced[name] = PROJECTION in kinds(made)
        expected = computed(given.proto, **values)
        # What one takes may cancel: compare to the size of what goes in.
        for proto in (made, with_gpu_transforms(given).proto):
            assert np.abs(computed(proto, **values) - expected).max() < 1e-5
    assert replaced == {"scaled": False, "predicted": True, "turned": False}


def test_other_channels_are_not_taken_for_phases():
    """Only an image that FFT layers take is known to have one channel."""
    nodes = [
        node("DepthToSpace", ["phases"], "image", blocksize=2, mode="CRD"),
        node("SpaceToDepth", ["image"], "parts", blocksize=2),
        node("DepthToSpace", ["parts"], "again", blocksize=2, mode="CRD"),
        layer("RealFFT2c", "lr", "measured", 1),
        layer("RealIFFT2c", "measured", "filled", 2),
        node("Add", ["again", "filled"], "sr"),
    ]
    given = bound(nodes, (16, 12), 2, predicted="phases")
    made = with_band_projections(given)
    assert kinds(made)["DepthToSpace"] == 2
    assert kinds(made)["SpaceToDepth"] == 1
    assert kinds(made)[ZERO_FILL] == 1
