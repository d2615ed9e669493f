"""Latency of every backend beside PyTorch eager, on the same slice in the same run.

What it measures: the time of `run` alone, one slice at its LR matrix, the model bound and open,
after warm-up; baselines and backends of this machine on each shipped `fast` model.
What it leaves out: reading, decoding, writing (the pipeline's suite has those), binding, and slow
hours: contestants run one after the other here, and in turns under `kspacesr-rt bench`.
How to read it: ratios within one group. Absolute milliseconds belong to one machine and one hour.

Run: ``pytest bench/suites/test_latency.py``, or ``kspacesr-rt bench --suite --only latency``.
"""

import numpy as np
import pytest

from kspacesr_rt.bench.run.suite_runner import THREADS, usable_backends
from kspacesr_rt.export.pytorch_peers import eager
from kspacesr_rt.kspace import degrade
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.quality.metrics import psnr_between
from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions, baseline_spec, open_backend
from kspacesr_rt.runtime.self_test import REQUIRED_DB
from kspacesr_rt.train.generator_from_model import generator_from_model

HR_MATRIX = (256, 256)
EAGER = "torch-eager"
CONTESTANTS = (EAGER, *usable_backends(), *usable_backends(model=False))
FAST = [name for name in sorted(shipped_models()) if name.endswith("-fast")]


@pytest.fixture(params=FAST)
def model(request):
    """Read each shipped fast model."""
    return load_model(shipped_models()[request.param])


def runner(contestant, model, matrix):
    """Return what runs one slice, open and bound."""
    if contestant == EAGER:
        return eager(generator_from_model(model), threads=THREADS)
    options = BackendOptions(threads=THREADS)
    if BACKENDS[contestant].model:
        return open_backend(contestant, bind(model, matrix), options).run
    spec = baseline_spec(contestant, model.spec.upscale, matrix)
    return open_backend(contestant, spec, options).run


@pytest.mark.parametrize("contestant", CONTESTANTS)
def test_one_slice(benchmark, model, contestant):
    """Time one slice; a fast wrong answer is not a result."""
    lr = degrade(brain_phantom(HR_MATRIX), model.spec.upscale).astype(np.float32)[None, None]
    matrix = lr.shape[2:]
    run = runner(contestant, model, matrix)
    benchmark.group = model.spec.name
    benchmark.extra_info.update(
        backend=contestant,
        threads=THREADS,
        lr_matrix=list(matrix),
        weights_sha256=model.spec.provenance.weights_sha256,
    )
    result = benchmark.pedantic(run, (lr,), rounds=15, warmup_rounds=3)
    if contestant in BACKENDS and BACKENDS[contestant].model:
        reference = runner(EAGER, model, matrix)(lr)
        required = REQUIRED_DB[model.spec.precision]
        assert psnr_between(result, reference, float(reference.max())) >= required
