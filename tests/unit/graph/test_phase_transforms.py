"""FFT layers on the phases of an image compute what they did on the image."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, shape_inference

from kspacesr_rt import kspace
from kspacesr_rt.bench.run import layer_shares
from kspacesr_rt.bench.run.layer_shares import transforms_run_in_phases
from kspacesr_rt.errors import ShapeError
from kspacesr_rt.graph.layer_costs import CONVOLUTION, FFT, layer_costs
from kspacesr_rt.graph.phase_transforms import MARK, SMALLEST, transforms_in_phases
from kspacesr_rt.graph.precision import narrowed
from kspacesr_rt.kspace.phase_band import alternating, interpolation, own_phase, synthesis
from kspacesr_rt.kspace.real_band import analysis_matrix
from kspacesr_rt.model.binding import bind, layer_constants
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.model.spec import OP_DOMAIN
from kspacesr_rt.quality.result_checks import measure_slice
from kspacesr_rt.runtime import ort_cpu
from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions, open_backend

FP64 = 1e-12
FP32 = 2e-6
PROVED = 1e-5
"""Largest difference from complex128, over the largest value."""
KEPT = 1e-5
"""Largest change of a measured sample, over the largest of them."""
ODD_AND_EVEN = [(8, 8), (9, 9), (8, 11), (13, 10), (12, 20)]
PROOF = [(80, 80), (96, 96), (160, 160), (255, 255), (256, 256), (319, 319), (320, 320), (512, 512)]
NOT_SQUARE = [(80, 96), (255, 320), (320, 255), (128, 319)]


def needs_openvino():
    if (reason := BACKENDS["openvino"].why_not()) is not None:
        pytest.skip(reason)


def noise(*shape, seed=0):
    """White noise: as much on the lines of even axes as anywhere."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def kinds(proto):
    return Counter(node.op_type for node in proto.graph.node)


def run(proto, batch):
    session = ort_cpu.open_session(proto.SerializeToString(), BackendOptions(threads=1))
    return session.run(None, {"lr": batch})


def relative(result, expected):
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def band_of(image, matrix):
    """Transform, crop to the LR band, fill up, transform back: the real part, in complex128."""
    kept = kspace.centre_crop(kspace.fft2c(image.astype(complex)), matrix)
    return kspace.ifft2c(kspace.centre_fill(kept, image.shape[-2:])).real


def bound_projection(matrix, upscale):
    """Bind a graph that takes the phases of an image to their part within the LR band."""
    grids = {"input_upscale": upscale, "output_upscale": 1}
    back = {"input_upscale": 1, "output_upscale": upscale}
    nodes = [
        helper.make_node(
            "DepthToSpace", ["lr"], ["image"], name="shuffle", blocksize=upscale, mode="CRD"
        ),
        helper.make_node("RealFFT2c", ["image"], ["band"], name="fft", domain=OP_DOMAIN, **grids),
        helper.make_node("RealIFFT2c", ["band"], ["kept"], name="ifft", domain=OP_DOMAIN, **back),
        helper.make_node("SpaceToDepth", ["kept"], ["sr"], name="phases", blocksize=upscale),
    ]
    template = load_model(shipped_models()["x2-fast"])
    proto = onnx.ModelProto()
    proto.CopyFrom(template.proto)
    shape = ["batch", upscale**2, *matrix]
    graph = helper.make_graph(
        nodes,
        "projection",
        [helper.make_tensor_value_info("lr", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("sr", TensorProto.FLOAT, shape)],
    )
    proto.graph.CopyFrom(graph)
    for node in proto.graph.node:
        if node.domain == OP_DOMAIN:
            for key, array in layer_constants(node, matrix, "gemm").items():
                name = f"{node.name}.{key}"
                proto.graph.initializer.append(
                    numpy_helper.from_array(np.ascontiguousarray(array), name)
                )
                node.input.append(name)
    return proto


def phases_of(image, upscale):
    n, y, x = image.shape
    split = image.reshape(n, y // upscale, upscale, x // upscale, upscale)
    return split.transpose(0, 2, 4, 1, 3).reshape(n, upscale**2, y // upscale, x // upscale)


@given(st.integers(2, 40), st.integers(2, 4))
def test_phases_tell_the_band(n, upscale):
    """Whatever the parity: the same projection as cosines and sines, and one phase is a copy."""
    rows = analysis_matrix(n, upscale * n)[: n + 1 - n % 2]
    parts = [synthesis(n, upscale, phase) for phase in range(upscale)]
    whole = np.stack(parts, axis=1).reshape(upscale * n, -1)
    np.testing.assert_allclose(whole @ whole.T / upscale, rows.T @ rows, atol=FP64)
    own = own_phase(n, upscale)
    np.testing.assert_allclose(interpolation(n, upscale, own), np.eye(n), atol=FP64)
    np.testing.assert_allclose(parts[own], np.eye(n, n + 1 - n % 2), atol=FP64)


@pytest.mark.parametrize("n", [256, 319, 2048])
def test_long_axes_lose_no_digits(n):
    """A constant stays one, and an even axis's line what it is, on every phase."""
    for phase in range(4):
        matrix = interpolation(n, 4, phase)
        np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=FP64)
        if n % 2 == 0:
            expected = np.cos(np.pi * phase / 4) * alternating(n)
            np.testing.assert_allclose(matrix @ alternating(n), expected, atol=FP64)


@pytest.mark.parametrize(("n", "phase"), [(8, 2), (8, -1), (1, 0)])
def test_phases_that_are_not_there_are_refused(n, phase):
    with pytest.raises(ShapeError, match="phase"):
        interpolation(n, 2, phase)


@pytest.mark.matrix(strength=1)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("matrix", [*PROOF, *NOT_SQUARE], ids=str)
@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_against_complex128(backend, matrix, batch):
    """There and back, rewritten, on noise."""
    image = noise(batch, *kspace.upscaled(matrix, 2))
    proto = bound_projection(matrix, 2)
    made = transforms_in_phases(proto, any_size=True)
    assert not any(node.domain for node in made.graph.node)
    phases = phases_of(image, 2)
    if backend == "openvino":
        needs_openvino()
        from kspacesr_rt.runtime.openvino_cpu import compile_network

        compiled = compile_network(made, BackendOptions(threads=1))
        result = np.array(compiled.create_infer_request().infer({0: phases})[0])
    else:
        result = run(made, phases)[0]
    expected = np.stack([band_of(one, matrix) for one in image])
    assert relative(result, phases_of(expected, 2)) < PROVED


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("matrix", ODD_AND_EVEN, ids=str)
def test_a_generator_computes_the_same(matrix, upscale, make_generator, make_model):
    """Inputs and outputs stay, the file's graph too; one shuffle is left, for the result."""
    proto = bind(make_model(*make_generator(upscale=upscale)), matrix).proto
    before = proto.SerializeToString(deterministic=True)
    made = transforms_in_phases(proto, any_size=True)
    assert proto.SerializeToString(deterministic=True) == before
    assert made.graph.input == proto.graph.input
    assert made.graph.output == proto.graph.output
    assert not any(node.domain for node in made.graph.node)
    assert kinds(proto)["SpaceToDepth"] > 0
    assert kinds(made)["SpaceToDepth"] == 0
    assert kinds(made)["DepthToSpace"] == 1
    assert kinds(made)["Conv"] == kinds(proto)["Conv"]
    onnx.checker.check_model(made, full_check=True)
    used = {name for node in made.graph.node for name in node.input}
    assert {item.name for item in made.graph.initializer} <= used
    batch = np.abs(noise(3, 1, *matrix))
    assert relative(run(made, batch)[0], run(proto, batch)[0]) < FP32


@pytest.mark.parametrize(
    ("part", "matrix"),
    [
        ("line.rows", (12, 14)),  # only two even axes have lines in common
        *itertools.product(["sine", "rows.", "columns.", "gain"], [(12, 14), (13, 14), (14, 13)]),
    ],
    ids=str,
)
def test_every_part_of_it_counts(part, matrix, make_generator, make_model):
    """The comparison above would notice if a constant were wrong, those of the lines included."""
    made = transforms_in_phases(bind(make_model(*make_generator()), matrix).proto, any_size=True)
    batch = np.abs(noise(2, 1, *matrix))
    expected = run(made, batch)[0]
    for item in made.graph.initializer:
        array = numpy_helper.to_array(item).copy()
        if item.name.startswith(f"{MARK}.{part}"):
            array *= 1.01
        elif part == "sine" and item.name.startswith((f"{MARK}.rows", f"{MARK}.columns")):
            array[:, -1] *= 1.01
            if array.shape[0] > array.shape[1]:
                array[-1] *= 1.01
        item.CopyFrom(numpy_helper.from_array(array, item.name))
    assert relative(run(made, batch)[0], expected) > 10 * FP32


def test_a_narrow_cnn_keeps_its_types(make_generator, make_model):
    """Casts stand between the phases and the CNN; transforms stay in fp32."""
    matrix = (16, 18)
    model = make_model(*make_generator())
    proto = narrowed(bind(model, matrix).proto, "fp16")
    made = transforms_in_phases(proto, any_size=True)
    assert kinds(made)["SpaceToDepth"] == 0
    assert kinds(made)["Cast"] == kinds(proto)["Cast"]
    types = shape_inference.infer_shapes(made, strict_mode=True).graph.value_info
    ours = [one for one in types if MARK in one.name and not one.name.startswith("shuffle")]
    assert ours
    assert {one.type.tensor_type.elem_type for one in ours} == {TensorProto.FLOAT}
    batch = np.abs(noise(2, 1, *matrix))
    assert relative(run(made, batch)[0], run(proto, batch)[0]) < 2e-3


@pytest.mark.parametrize("lowering", ["conv", "dft", "dynamic"])
def test_other_lowerings_stay_as_asked(lowering, make_generator, make_model):
    generator, spec = make_generator()
    proto = bind(make_model(generator, spec, lowering), (16, 16)).proto
    assert transforms_in_phases(proto, any_size=True) is proto


@pytest.mark.parametrize("upscale", [2, 4])
def test_small_matrices_stay(upscale, make_generator, make_model):
    model = make_model(*make_generator(upscale=upscale))
    edge = SMALLEST * upscale
    for matrix, changes in [((edge, edge), True), ((edge - 1, edge), False)]:
        proto = bind(model, matrix).proto
        assert (transforms_in_phases(proto) is not proto) == changes


@pytest.mark.parametrize("architecture", ["seed-kspace", "seed-image"])
def test_networks_on_kspace_stay(architecture, make_generator, make_model):
    proto = bind(make_model(*make_generator(architecture, 2)), (16, 16)).proto
    assert transforms_in_phases(proto, any_size=True) is proto


@pytest.mark.parametrize("value", ["fft", "sub"])
def test_coefficients_that_someone_looks_at_stay(value, model):
    """On phases they are others; as outputs and as inputs of anything else."""
    proto = bind(model, (16, 16)).proto
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    shown.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, list("abcd")))
    assert transforms_in_phases(shown, any_size=True) is shown
    proto.graph.node.append(helper.make_node("Abs", [value], ["z"], name="other"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, list("abcd")))
    assert transforms_in_phases(proto, any_size=True) is proto


@pytest.mark.parametrize("value", ["zero_fill", "phases", "shuffle", "correct", "add_result"])
def test_images_that_someone_looks_at_are_given(value, model):
    proto = bind(model, (14, 17)).proto
    if value == "add_result":
        value = next(node.output[0] for node in proto.graph.node if "correct" in node.input)
    proto.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, list("abcd")))
    made = transforms_in_phases(proto, any_size=True)
    assert made is not proto
    batch = np.abs(noise(2, 1, 14, 17))
    for ours, plain in zip(run(made, batch), run(proto, batch), strict=True):
        assert ours.shape == plain.shape
        assert relative(ours, plain) < FP32


@pytest.mark.parametrize("matrix", [(128, 128), (127, 150), (150, 131)], ids=str)
def test_openvino_runs_it_and_keeps_what_was_measured(matrix, model):
    """Through the backend, on a slice of detail everywhere; any batch gives the same bits."""
    needs_openvino()
    batch = np.abs(noise(5, 1, *matrix)) * 100.0
    bound = bind(model, matrix)
    assert transforms_run_in_phases(bound, "openvino")
    assert not transforms_run_in_phases(bound, "ort-cpu")
    with open_backend("openvino", bound, BackendOptions(threads=1)) as backend:
        result = backend.run(batch)
        single = np.concatenate([backend.run(batch[i : i + 1]) for i in range(len(batch))])
    with open_backend("openvino", bound, BackendOptions(threads=2, streams=2)) as backend:
        streamed = backend.run(batch)
    np.testing.assert_array_equal(single, result)
    np.testing.assert_array_equal(streamed, result)
    with open_backend("ort-cpu", bound, BackendOptions(threads=1)) as backend:
        assert relative(result, backend.run(batch)) < 10 * FP32
    for one, source in zip(result[:, 0], batch[:, 0], strict=True):
        assert measure_slice(one, source).measured_residual < KEPT


@pytest.mark.parametrize("upscale", [2, 4])
@pytest.mark.parametrize("matrix", [(16, 16), (15, 18), (18, 15), (15, 15)], ids=str)
def test_operations_are_those_of_the_products(matrix, upscale, make_generator, make_model):
    """Against a count in the rewritten graph; what lines need besides is left out in both."""
    bound = bind(make_model(*make_generator(upscale=upscale)), matrix)
    made = transforms_in_phases(bound.proto, any_size=True)
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    typed = shape_inference.infer_shapes(made, strict_mode=True, data_prop=True).graph
    shapes = {
        one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim]
        for one in typed.value_info
    }
    shapes |= {item.name: list(item.dims) for item in typed.initializer}
    products = [node for node in typed.node if node.op_type == "MatMul"]
    constants = {item.name for item in typed.initializer}
    lines = {f"{MARK}.line.{key}" for key in ("rows", "rows.turned", "columns", "columns.turned")}
    large = [node for node in products if not lines.intersection(node.input)]
    counted = sum(2 * shapes[node.input[0]][-1] * np.prod(shapes[node.output[0]]) for node in large)
    costs = [one for one in layer_costs(bound, in_phases=True) if one.group == FFT]
    assert sum(one.flop for one in costs) == counted
    dense = sum(one.flop for one in layer_costs(bound) if one.group == FFT)
    assert counted < (0.55 if upscale == 2 else 0.8) * dense
    taken = {name for node in large for name in node.input if name in constants}
    stored = sum(4 * np.prod(shapes[name]) for name in taken)
    # Transposed copies, which runtimes keep too, are not traffic that must be.
    assert max(one.weight_bytes for one in costs) * 2 == stored


def test_profiles_count_all_of_it_as_fft(model, monkeypatch):
    """Splits, pads and sums too, whatever OpenVINO makes of them; but no changes of layout."""
    needs_openvino()
    bound = bind(model, (128, 128))
    batch = np.abs(noise(1, 1, 128, 128))
    real = layer_shares._openvino_profile(bound, batch, 1, 1)
    kernels = {(name, kind): 1.0 for name, kind in real if MARK in name}
    ours = [kind for _, kind in kernels if not kind.startswith(layer_shares.TYPE_CHANGES)]
    assert {"MatMul", "FullyConnected", "Pad", "Concat", "Add", "Slice"} <= set(ours)
    monkeypatch.setattr(layer_shares, "_openvino_profile", lambda *_: kernels)
    found = layer_shares.profiled(bound, batch, "openvino", 1)
    assert found.seconds == {FFT: len(ours), CONVOLUTION: len(kernels) - len(ours)}
    assert not any(MARK in name for name in found.ran)
    assert "phases" not in found.ran
