"""The FFT layers alone, in every lowering, on every backend of this machine, at usual matrices.

What it measures: `run` of a graph of two nodes, image to k-space, zero-filled to twice the matrix,
and back; one slice, one thread, after warm-up.
What it leaves out: the CNN, binding, and the copies between layers that a whole model may save.
How to read it: compare lowerings within one matrix and backend. `gemm` and `conv` grow with the
third power of the matrix, `dft` with its square times a logarithm, but at lengths that are no power
of two ONNX Runtime computes it by Bluestein's algorithm.

Run: ``pytest bench/suites/test_kernels.py``, or ``kspacesr-rt bench --suite --only kernels``.
"""

import numpy as np
import pytest

from kspacesr_rt.bench.run.kernels import UPSCALE, fft_alone
from kspacesr_rt.bench.run.suite_runner import THREADS, usable_backends
from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.quality.metrics import psnr_between
from kspacesr_rt.runtime.backends import BackendOptions, open_backend

MATRICES = (80, 128, 160, 256, 320)
"""LR samples per axis."""
REQUIRED_DB = {"gemm": 100.0, "conv": 100.0, "dynamic": 100.0, "dft": 90.0}
"""Against NumPy in float64. ONNX Runtime's DFT works in float32 throughout, and by Bluestein's
algorithm at lengths that are no power of two: 99 dB at 320, measured."""


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("backend", usable_backends())
@pytest.mark.parametrize("lowering", ["gemm", "conv", "dft", "dynamic"])
def test_fft_layers(benchmark, lowering, backend, matrix):
    """Time zero-filling by the two layers; a fast wrong answer is not a result."""
    lr = brain_phantom((matrix, matrix)).astype(np.float32)[None, None]
    benchmark.group = f"FFT layers, {matrix} -> {UPSCALE * matrix}, {backend}"
    benchmark.extra_info.update(lowering=lowering, backend=backend, threads=THREADS)
    try:
        opened = open_backend(
            backend, fft_alone(lowering, (matrix, matrix)), BackendOptions(threads=THREADS)
        )
    except BackendUnavailableError as exc:
        pytest.skip(str(exc))
    with opened:
        result = benchmark.pedantic(opened.run, (lr,), rounds=15, warmup_rounds=2)
    truth = zero_fill(lr, UPSCALE)
    assert psnr_between(result, truth, float(truth.max())) >= REQUIRED_DB[lowering]
