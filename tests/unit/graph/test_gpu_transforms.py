"""FFT layers as GPUs get them: the same image in other coefficients, and partly in half."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest

from kspacesr_rt.conversion.parity import TIERS
from kspacesr_rt.graph.aligned_coefficients import with_aligned_coefficients
from kspacesr_rt.graph.band_projections import ZERO_STUFFED
from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.graph.gpu_transforms import with_gpu_transforms
from kspacesr_rt.graph.half_transforms import with_half_transforms
from kspacesr_rt.graph.precision import narrowed
from kspacesr_rt.graph.sample_coefficients import SAMPLES, with_sample_coefficients
from kspacesr_rt.kspace import centre_crop, fft2c, measured_residual
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, resolve_model, shipped_models
from kspacesr_rt.model.spec import OP_DOMAIN
from kspacesr_rt.quality.metrics import psnr_between, relative_error

MATRICES = [(16, 16), (21, 16), (16, 21), (17, 23)]
"""Even and odd axes: only where both are even have the single lines a sample in common."""


def computed(proto, batch):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"lr": batch})[0]


def in_half(model):
    spec = dataclasses.replace(model.spec, precision="fp16")
    return dataclasses.replace(model, proto=narrowed(model.proto, "fp16"), spec=spec)


def slices(matrix):
    """Return noise, which holds every frequency, and a chequerboard, all of the outermost one."""
    noise = np.random.default_rng(0).random(matrix)
    board = np.indices(matrix).sum(0) % 2
    return np.stack([noise, board])[:, None].astype(np.float32)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("name", ["x2-fast", "x4-fast"])
def test_samples_as_coefficients_are_the_same_function(name, matrix):
    """On any matrix, for any image, in fewer products, if what takes the graph fuses the rest."""
    bound = bind(load_model(resolve_model(name, upscale=None)), matrix)
    expected = computed(bound.proto, slices(matrix))
    made = with_gpu_transforms(bound).proto
    onnx.checker.check_model(made, full_check=True)
    unfused = with_gpu_transforms(bound, fused=False).proto
    for proto in (made, unfused):
        found = computed(proto, slices(matrix))
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
    products = [
        sum(node.op_type == "MatMul" for node in flattened(proto).graph.node)
        for proto in (bound.proto, made, unfused)
    ]
    # Two for each of three layers; at four times the matrix two fewer, of the LR image.
    assert products[1] == (6 if name == "x2-fast" else products[0] - 2)
    assert products[2] == products[0] - 2 * any(n % 2 for n in matrix)


@pytest.mark.parametrize(
    ("architecture", "upscale", "consistency"),
    [
        ("dc-residual", 2, "none"),
        ("dc-residual", 2, "additive"),
        ("dc-residual", 2, "magnitude"),
        ("dc-residual", 3, "hard"),
        ("seed-kspace", 2, "hard"),
    ],
)
def test_other_generators_stay_what_they_are(
    make_generator, make_model, architecture, upscale, consistency
):
    """Lines that are doubled, three times the matrix, complex k-space: each as far as it goes."""
    generator = make_generator(architecture, upscale, data_consistency=consistency)
    model = make_model(*generator)
    for matrix in MATRICES[:2]:
        bound = bind(model, matrix)
        expected = computed(bound.proto, slices(matrix))
        for fused in (True, False):
            found = computed(with_gpu_transforms(bound, fused=fused).proto, slices(matrix))
            np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_half_precision_stays_within_what_the_gate_allows(name):
    """Against fp32, as the gate compares; and measured samples are kept as in fp32."""
    model = load_model(resolve_model(name, upscale=None))
    lr, expected = model.known_answer().lr, model.known_answer().sr
    half = with_gpu_transforms(bind(in_half(model), lr.shape)).proto
    sr = computed(half, lr[None, None])[0, 0]
    allowed = TIERS["fast"]
    top = float(np.abs(expected).max())
    assert psnr_between(sr, expected, top) > allowed.psnr_between_db + 15.0
    assert measured_residual(sr, lr) < 5e-7
    found, right = (
        centre_crop(fft2c(one.astype(np.complex64)), lr.shape) for one in (sr, expected)
    )
    assert relative_error(np.abs(found), np.abs(right)) < allowed.centre_error


@pytest.mark.parametrize(("name", "half", "whole"), [("x2-fast", 2, 1), ("x4-fast", 1, 2)])
def test_only_what_convolutions_read_is_in_half(name, half, whole):
    """The last data consistency is in fp32, both ways."""
    model = in_half(load_model(resolve_model(name, upscale=None)))
    graph = with_gpu_transforms(bind(model, (24, 16))).proto.graph
    kinds = {item.name: item.data_type for item in graph.initializer}
    layers = [
        next(kinds[name] for name in node.input if name.endswith((".left", ".left.half")))
        for node in graph.node
        if node.domain == OP_DOMAIN and node.op_type not in (SAMPLES, ZERO_STUFFED)
    ]
    assert layers.count(onnx.TensorProto.FLOAT16) == half
    assert layers[-whole:] == [onnx.TensorProto.FLOAT] * whole
    assert len(layers) == half + whole


def test_what_has_no_bound_stays_in_fp32():
    """Half precision holds 65504: slices must be divided by their maximum before."""
    model = in_half(load_model(resolve_model("x2-fast", upscale=None)))
    bound = bind(model, (16, 16))
    unbounded = dataclasses.replace(bound.spec, normaliser="none")
    half, whole = (
        with_gpu_transforms(one).proto
        for one in (bound, dataclasses.replace(bound, spec=unbounded))
    )
    assert half != whole
    assert with_half_transforms(whole) == half


def test_a_graph_that_doubles_lines_stays_as_it_is(make_generator, make_model):
    """They are lines of k-space, which LR samples are not; nor are convolutions products."""
    model = load_model(resolve_model("x2-fast", upscale=None))
    bound = bind(model, (16, 16))
    line = onnx.helper.make_node("RealWholeNyquist", ["fft"], ["doubled"], domain=OP_DOMAIN)
    doubled = onnx.ModelProto()
    doubled.CopyFrom(bound.proto)
    doubled.graph.node.append(line)
    assert with_sample_coefficients(dataclasses.replace(bound, proto=doubled)) == doubled
    conv = in_half(make_model(*make_generator(), "conv"))
    bound = bind(conv, (16, 16))
    assert with_sample_coefficients(bound) == bound.proto
    # Then they are k-space, and half precision does not hold it.
    assert with_gpu_transforms(bound).proto == with_aligned_coefficients(bound.proto)
