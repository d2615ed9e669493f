"""`infer` on the shipped sample beside PyTorch eager on the same slices, in one run.

What it measures: the whole of `infer` (scan, decode, run, check, write and verify every file) and,
beside it, nothing but the PyTorch generator on the same decoded slices. What it leaves out: loading
Python and the libraries. How to read it: a ratio below 1 means that a finished DICOM series costs
less than the bare forward passes in PyTorch.

Run: ``pytest bench/suites/test_pipeline.py`` (needs the extras cpu, train and bench).
"""

import itertools

import pytest
import torch

from kspacesr_rt.dicom import read_slice, scan_folder
from kspacesr_rt.export.rebuild import generator_from_model
from kspacesr_rt.model_file import load_model, shipped_models
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.sample import sample_folder

THREADS = 1
ROUNDS = 5


@pytest.mark.parametrize("contestant", ["infer", "torch-eager"])
@pytest.mark.parametrize("name", ["x2-fast", "x4-fast"])
def test_sample_series(benchmark, tmp_path, name, contestant):
    """Time the 20 slices of the sample, 256 x 256 LR."""
    benchmark.group = name
    benchmark.extra_info.update(contestant=contestant, threads=THREADS, torch=torch.__version__)
    numbers = itertools.count()

    def run_infer():
        options = InferOptions(model=name, threads=THREADS)
        return infer(sample_folder(), tmp_path / str(next(numbers)), options)

    if contestant == "infer":
        report = benchmark.pedantic(run_infer, rounds=ROUNDS, warmup_rounds=1)
        assert report.count("written") == 20
        benchmark.extra_info["seconds"] = report.seconds
        return
    torch.set_num_threads(THREADS)
    generator = generator_from_model(load_model(shipped_models()[name]))
    slices = [
        torch.from_numpy(read_slice(source).values)[None, None]
        for source in scan_folder(sample_folder()).series[0].slices
    ]

    def run_torch():
        with torch.inference_mode():
            return [generator(one) for one in slices]

    assert len(benchmark.pedantic(run_torch, rounds=ROUNDS, warmup_rounds=1)) == 20
