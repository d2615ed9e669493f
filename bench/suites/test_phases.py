"""Shipped models under OpenVINO, FFT layers on the image or on its phases.

What it measures: `infer` of a compiled model as a whole, one slice, one thread, after warm-up. The
backend computes on phases from `kspacesr_rt.graph.phase_transforms.SMALLEST` on; `image` is what
the file says.
What it leaves out: ONNX Runtime, which computes what the file says, and binding.
How to read it: compare `phases` with `image` within one group. The FFT layers of an image grow with
the third power of the matrix, and in bf16 the CNN around them takes a fraction of its time.

Run: ``pytest bench/suites/test_phases.py``, or ``kspacesr-rt bench --suite --only phases``.
"""

import numpy as np
import pytest
from onnx import inliner

from kspacesr_rt.bench.run.suite_runner import THREADS
from kspacesr_rt.graph.phase_transforms import transforms_in_phases
from kspacesr_rt.graph.precision import narrowed
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.quality.metrics import psnr_between
from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions
from kspacesr_rt.runtime.openvino_cpu import compile_network

MODELS = ("x2-fast", "x2-base")
MATRICES = (128, 256)
REQUIRED_DB = {"fp32": 100.0, "bf16": 60.0}
"""Between both: bf16 rounds the last digit of an image to the first of its own."""


def compiled(proto):
    """Compile a bound model as it stands."""
    network = compile_network(
        inliner.inline_local_functions(proto), BackendOptions(threads=THREADS)
    )
    request = network.create_infer_request()
    return lambda lr: np.array(request.infer({0: lr})[0])


@pytest.mark.parametrize("where", ["image", "phases"])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("precision", REQUIRED_DB)
@pytest.mark.parametrize("name", MODELS)
def test_transforms(benchmark, name, precision, matrix, where):
    """Time a model; both ways must agree."""
    if (reason := BACKENDS["openvino"].why_not()) is not None:
        pytest.skip(reason)
    lr = brain_phantom((matrix, matrix)).astype(np.float32)[None, None]
    proto = narrowed(bind(load_model(shipped_models()[name]), (matrix, matrix)).proto, precision)
    run = compiled(transforms_in_phases(proto) if where == "phases" else proto)
    benchmark.group = f"{name}, {precision}, {matrix} -> {2 * matrix}, openvino"
    benchmark.extra_info.update(where=where, precision=precision, threads=THREADS)
    result = benchmark.pedantic(run, (lr,), rounds=11, warmup_rounds=2)
    truth = compiled(proto)(lr)
    assert psnr_between(result, truth, float(truth.max())) >= REQUIRED_DB[precision]
