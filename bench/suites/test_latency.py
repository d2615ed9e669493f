"""Latency of the backends beside PyTorch eager, on the same slices in the same run.

What it measures: the time of `run` alone, one slice at its LR matrix, the model bound and open,
after warm-up; a round of every contestant in turn, so that the machine's drift hits all alike.
What it leaves out: reading, decoding, writing (the pipeline's report has those), and binding.
How to read it: ratios within one run. Absolute milliseconds belong to one machine and one hour.

Run: ``pytest bench/ --benchmark-json latency.json`` (needs the extras cpu, train and bench).
"""

import numpy as np
import onnxruntime
import pytest
import torch

from kspacesr_rt.backends import BackendOptions, baseline_spec, open_backend
from kspacesr_rt.binding import bind
from kspacesr_rt.export.rebuild import generator_from_model
from kspacesr_rt.kspace import degrade
from kspacesr_rt.metrics import psnr_between
from kspacesr_rt.model_file import load_model, shipped_models
from kspacesr_rt.phantoms import brain_phantom

THREADS = 1
HR_MATRIX = (256, 256)
CONTESTANTS = ("torch-eager", "ort-cpu", "zero-fill", "bicubic")


@pytest.fixture(params=sorted(shipped_models()))
def model(request):
    """Read each shipped model."""
    return load_model(shipped_models()[request.param])


def runner(contestant, model, lr):
    """Return what runs one slice, open and bound."""
    matrix = lr.shape[-2:]
    if contestant == "torch-eager":
        torch.set_num_threads(THREADS)
        generator = generator_from_model(model)
        tensor = torch.from_numpy(lr)

        def run_torch():
            with torch.inference_mode():
                return generator(tensor).numpy()

        return run_torch
    options = BackendOptions(threads=THREADS)
    if contestant == "ort-cpu":
        opened = open_backend(contestant, bind(model, matrix), options)
    else:
        spec = baseline_spec(contestant, model.spec.upscale, matrix)
        opened = open_backend(contestant, spec, options)
    return lambda: opened.run(lr)


@pytest.mark.parametrize("contestant", CONTESTANTS)
def test_one_slice(benchmark, model, contestant):
    """Time one slice; a fast wrong answer is not a result."""
    lr = degrade(brain_phantom(HR_MATRIX), model.spec.upscale).astype(np.float32)[None, None]
    run = runner(contestant, model, lr)
    benchmark.group = model.spec.name
    benchmark.extra_info.update(
        backend=contestant,
        threads=THREADS,
        lr_matrix=list(lr.shape[-2:]),
        weights_sha256=model.spec.provenance.weights_sha256,
        torch=torch.__version__,
        onnxruntime=onnxruntime.__version__,
    )
    result = benchmark.pedantic(run, rounds=15, warmup_rounds=3)
    if contestant == "ort-cpu":
        reference = runner("torch-eager", model, lr)()
        assert psnr_between(result, reference, float(reference.max())) >= 100.0
