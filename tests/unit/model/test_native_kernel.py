"""A kernel registered under an FFT layer's name is used instead of the body in the file."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from kspacesr_rt import kspace
from kspacesr_rt.model.binding import bind

extensions = pytest.importorskip(
    "onnxruntime_extensions", reason="onnxruntime-extensions, for kernels in Python, is missing"
)
CALLS: list[str] = []
TRANSFORM = ("input_upscale", "output_upscale", "input_channels", "channels")


def register(name: str, compute) -> None:
    """Register a Python kernel as ``kspacesr_rt::name`` with the inputs of the gemm lowering."""
    kind = extensions.PyCustomOpDef

    @extensions.onnx_op(
        op_type=f"kspacesr_rt::{name}",
        inputs=[kind.dt_float] * 3,
        outputs=[kind.dt_float],
        attrs=dict.fromkeys(TRANSFORM, kind.dt_int64),
    )
    def kernel(x, left, right, **attributes):
        CALLS.append(name)
        source = x.shape[-2:]
        target = tuple(
            n // attributes["input_upscale"] * attributes["output_upscale"] for n in source
        )
        values = x[:, 0].astype(complex) if x.shape[1] == 1 else kspace.from_channels(x)
        result = kspace.to_channels(compute(values, target))
        return result[:, : attributes["channels"]].astype(np.float32)


@pytest.fixture(scope="module")
def library():
    """Register NumPy's FFT as the native kernels."""
    register("FFT2c", lambda image, to: kspace.centre_crop(kspace.fft2c(image), to))
    register("IFFT2c", lambda samples, to: kspace.ifft2c(kspace.centre_fill(samples, to)))
    return extensions.get_library_path()


def run(bound, batch, library=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if library:
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(
        bound.serialized(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(["sr"], {"lr": batch})[0]


@pytest.mark.parametrize("matrix", [(33, 32), (20, 27)])
def test_a_registered_kernel_takes_the_place_of_the_body(
    make_generator, make_model, library, matrix
):
    """Every complex transform of the graph goes through it, and the answer is the body's."""
    model = make_model(*make_generator("seed-kspace", 2))
    bound = bind(model, matrix)
    batch = np.random.default_rng(0).random((2, 1, *matrix), dtype=np.float32)
    expected = run(bound, batch)
    CALLS.clear()
    result = run(bound, batch, library)
    transforms = [node.op_type for node in bound.proto.graph.node if "FFT2c" in node.op_type]
    assert sorted(CALLS) == sorted(transforms)
    assert np.linalg.norm(result - expected) < 2e-6 * np.linalg.norm(expected)


def test_without_it_the_body_runs(model):
    """No registration, no call: the same file on a runtime that knows nothing of us."""
    CALLS.clear()
    run(bind(model, (16, 16)), np.ones((1, 1, 16, 16), np.float32))
    assert not CALLS
