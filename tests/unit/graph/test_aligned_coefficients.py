"""Coefficients in multiples of 8: the same image, and no odd length is left."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest

from kspacesr_rt.graph.aligned_coefficients import MULTIPLE, with_aligned_coefficients
from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.graph.relowering import relowered
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, resolve_model


def computed(proto, batch):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"lr": batch})[0]


def coefficient_lengths(proto):
    """Return the shape of every value that a mask, of coefficients, is multiplied with."""
    flat = onnx.shape_inference.infer_shapes(flattened(proto), strict_mode=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in flat.graph.value_info
    }
    return [
        shapes[node.output[0]][-2:]
        for node in flat.graph.node
        if node.op_type == "Mul" and any(name.endswith(".mask") for name in node.input)
    ]


@pytest.mark.parametrize("lowering", ["gemm", "conv"])
@pytest.mark.parametrize("matrix", [(16, 16), (21, 16), (17, 23), (21, 24)])
@pytest.mark.parametrize("name", ["x2-fast", "x4-fast"])
def test_zeros_change_nothing(name, matrix, lowering):
    """Even axes have three coefficients more than samples, odd ones none."""
    model = load_model(resolve_model(name, upscale=None))
    spec = dataclasses.replace(model.spec, lowering=lowering)
    model = dataclasses.replace(model, proto=relowered(model.proto, spec, lowering), spec=spec)
    proto = bind(model, matrix).proto
    aligned = with_aligned_coefficients(proto)
    lengths = coefficient_lengths(aligned)
    assert lengths
    assert all(length % MULTIPLE == 0 for pair in lengths for length in pair)
    assert lengths != coefficient_lengths(proto)
    batch = np.random.default_rng(0).random((2, 1, *matrix)).astype(np.float32)
    expected = computed(proto, batch)
    # Kernels add in another order for another length.
    np.testing.assert_allclose(
        computed(aligned, batch), expected, rtol=0, atol=2e-6 * np.abs(expected).max()
    )


def test_complex_layers_stay():
    """They have no real coefficients, and no odd number of values."""
    model = load_model(resolve_model("x2-fast", upscale=None))
    spec = dataclasses.replace(model.spec, lowering="dft")
    model = dataclasses.replace(model, proto=relowered(model.proto, spec, "dft"), spec=spec)
    proto = bind(model, (16, 16)).proto
    assert with_aligned_coefficients(proto) == proto
