"""`infer` on the shipped sample beside a plain pydicom loop and PyTorch eager, in one run.

What it measures: the whole of `infer` (scan, decode, run, check, write and verify every file) on
two backends; a loop of a few lines that reads each file with pydicom, runs the same backend and
saves the result, with none of the checks; and the PyTorch generator alone on decoded slices.
What it leaves out: loading Python and the libraries (the cold-start suite has that), and series of
other sizes.
How to read it: `infer` over `plain loop` of one backend is the price of checks and of a correct
header; `infer` on `ort-cpu` over `torch-eager` below 1 means that a finished DICOM series costs
less than the bare forward passes in PyTorch.

Run: ``pytest bench/suites/test_pipeline.py``, or ``kspacesr-rt bench --suite --only pipeline``;
``KSPACESR_RT_SLICES`` says how many slices of the sample (20).
"""

import itertools
import os
import shutil

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import apply_rescale
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from kspacesr_rt.bench.run.suite_runner import THREADS
from kspacesr_rt.dicom import read_slice, scan_folder
from kspacesr_rt.export.pytorch_peers import eager
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.runtime.backends import BACKENDS, BackendOptions, baseline_spec, open_backend
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.train.generator_from_model import generator_from_model

ROUNDS = 5
SLICES = int(os.environ.get("KSPACESR_RT_SLICES", "20"))
MODELS = ("x2-fast", "x4-fast")
BACKENDS_SHOWN = ("zero-fill", "ort-cpu")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Copy so many slices of the sample."""
    folder = tmp_path_factory.mktemp("series")
    for path in sorted(sample_folder().glob("*.dcm"))[:SLICES]:
        shutil.copy(path, folder)
    return folder


def plain_loop(series, model, backend, output):
    """Do what a script would: no geometry, no safety, and nothing is verified."""
    output.mkdir()
    opened, matrix = None, None
    for path in sorted(series.glob("*.dcm")):
        dataset = dcmread(path)
        lr = apply_rescale(dataset.pixel_array, dataset).astype(np.float32)
        if opened is None or lr.shape != matrix:
            matrix = lr.shape
            options = BackendOptions(threads=THREADS)
            takes = BACKENDS[backend].model
            what = bind(model, matrix) if takes else baseline_spec(backend, 2, matrix)
            opened = open_backend(backend, what, options)
        sr = opened.run(lr[None, None])[0, 0]
        stored = np.clip(np.rint(sr), 0, 65535).astype(np.uint16)
        dataset.Rows, dataset.Columns = stored.shape
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.PixelData = stored.tobytes()
        dataset.save_as(output / path.name, enforce_file_format=True)
    return len(list(output.iterdir()))


@pytest.mark.parametrize("contestant", ["infer", "plain loop"])
@pytest.mark.parametrize("backend", BACKENDS_SHOWN)
def test_sample_series(benchmark, series, tmp_path, backend, contestant):
    """Time the 20 slices of the sample, 256 x 256 LR, x2, DICOM in to DICOM out."""
    benchmark.group = f"the sample's {SLICES} slices, x2"
    benchmark.extra_info.update(contestant=contestant, backend=backend, threads=THREADS)
    numbers = itertools.count()
    model = load_model(shipped_models()["x2-fast"])

    def once():
        output = tmp_path / str(next(numbers))
        if contestant == "plain loop":
            return plain_loop(series, model, backend, output)
        options = InferOptions(backend=backend, model="x2-fast", threads=THREADS)
        if not BACKENDS[backend].model:
            options = InferOptions(backend=backend, upscale=2, threads=THREADS)
        return infer(series, output, options).count("written")

    assert benchmark.pedantic(once, rounds=ROUNDS, warmup_rounds=1) == SLICES


@pytest.mark.parametrize("contestant", ["infer", "torch-eager"])
@pytest.mark.parametrize("name", MODELS)
def test_beside_forward_passes(benchmark, series, tmp_path, name, contestant):
    """Time `infer` on `ort-cpu`, and nothing but PyTorch's forward passes on the same slices."""
    benchmark.group = name
    benchmark.extra_info.update(contestant=contestant, threads=THREADS)
    numbers = itertools.count()

    def run_infer():
        options = InferOptions(backend="ort-cpu", model=name, threads=THREADS)
        return infer(series, tmp_path / str(next(numbers)), options)

    if contestant == "infer":
        report = benchmark.pedantic(run_infer, rounds=ROUNDS, warmup_rounds=1)
        assert report.count("written") == SLICES
        benchmark.extra_info["seconds"] = report.seconds
        return
    run = eager(generator_from_model(load_model(shipped_models()[name])), threads=THREADS)
    slices = [
        read_slice(source).values[None, None] for source in scan_folder(series).series[0].slices
    ]
    results = benchmark.pedantic(
        lambda: [run(one) for one in slices], rounds=ROUNDS, warmup_rounds=1
    )
    assert len(results) == SLICES
