"""What `infer` costs beyond its backend, and what it costs when the backend costs nothing.

What it measures: the whole of `infer` on a made archive (DICOM in, checked and verified DICOM out)
in turns with the bare backend on the same slices, decoded before, in the same batches and with as
many threads, one call at a time (`infer` computes two side by side where it has two threads); and,
with zero-fill as a backend that costs next to nothing, in turns with a loop of pydicom, `numpy.fft`
and pydicom that checks nothing. `extra_info` has the median ratio of the turns and the seconds that
each stage was busy; of processor time, too, which depends less on what else a machine does.
What it leaves out: loading Python and the libraries; slices of other matrices.
How to read it: 1.00 means that reading, checking and writing are hidden behind the backend. With a
core left over (``threads 1``) they should be; where the backend takes every core (``threads 0``)
they cannot, and the ratio is their share of the machine. ``plain loop over infer`` above 1 means
that `infer` is faster than the loop. Compare ratios of one run, never milliseconds.

Run: ``kspacesr-rt bench --suite --only overhead``. ``KSPACESR_RT_SLICES`` says how many slices (40;
200 for a result to quote).
"""

import itertools
import os
import time

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from kspacesr_rt.bench.run.archive import make_archive
from kspacesr_rt.conversion.convert import convert_model
from kspacesr_rt.dicom import read_slice, scan_folder
from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.runtime.backends import BackendOptions, open_backend

ROUNDS = 3
SLICES = int(os.environ.get("KSPACESR_RT_SLICES", "40"))
NULL_BATCH = 16


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Series of 20 slices with the sample's matrix, 256 x 256."""
    folder = tmp_path_factory.mktemp("archive")
    make_archive(folder, SLICES)
    return folder


def in_turns(benchmark, run, other, *, name, inverse=False):
    """Time `run`, each round right after `other`, and note the median ratio."""
    others, cpu, cpu_of_others = [], [], []

    def setup():
        started, own = time.perf_counter(), time.process_time()
        other()
        others.append(time.perf_counter() - started)
        cpu_of_others.append(time.process_time() - own)

    def counted():
        own = time.process_time()
        result = run()
        cpu.append(time.process_time() - own)
        return result

    result = benchmark.pedantic(counted, setup=setup, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is not None:  # None under --benchmark-disable
        ratios = np.array(benchmark.stats.stats.data) / others[-ROUNDS:]
        benchmark.extra_info[name] = float(np.median(1 / ratios if inverse else ratios))
        benchmark.extra_info["rounds"] = ratios.tolist()
        cpu_ratios = np.array(cpu[-ROUNDS:]) / cpu_of_others[-ROUNDS:]
        cpu_ratio = float(np.median(1 / cpu_ratios if inverse else cpu_ratios))
        benchmark.extra_info[f"{name}, processor time"] = cpu_ratio
    return result


@pytest.mark.parametrize("threads", [1, 0])
@pytest.mark.parametrize("model", ["x2-fast", "x2-base"])
@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_beyond_the_backend(benchmark, archive, tmp_path, backend, model, threads):
    """Time `infer` beside its backend alone, one slice a call."""
    benchmark.extra_info.update(backend=backend, model=model, threads=threads)
    beside_the_backend(benchmark, archive, tmp_path, backend, shipped_models()[model], threads)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_beyond_a_faster_backend(benchmark, archive, tmp_path, precision):
    """Time `infer` beside OpenVINO in narrow types: less time to hide the rest behind."""
    if benchmark.disabled:
        pytest.skip("nothing is timed, and what would be has to be converted first")
    benchmark.extra_info.update(backend="openvino", model=f"x2-fast in {precision}", threads=0)
    file = tmp_path / "model.onnx"
    try:
        convert_model("x2-fast", file, precision=precision, runtime="openvino")
    except BackendUnavailableError as exc:
        pytest.skip(str(exc))
    beside_the_backend(benchmark, archive, tmp_path, "openvino", file, 0)


def beside_the_backend(benchmark, archive, tmp_path, backend, file, threads):
    """Time `infer` with a model file in turns with the backend on the same slices."""
    pytest.importorskip("onnxruntime" if backend == "ort-cpu" else "openvino")
    benchmark.group = "infer beyond its backend"
    benchmark.extra_info["slices"] = SLICES
    series = scan_folder(archive).series
    slices = [read_slice(source).values for one in series for source in one.slices]
    bound = bind(load_model(file), slices[0].shape)
    options = InferOptions(backend=backend, model=str(file), threads=threads)
    numbers = itertools.count()
    with open_backend(backend, bound, BackendOptions(threads=threads)) as bare:
        report = in_turns(
            benchmark,
            lambda: infer(archive, tmp_path / str(next(numbers)), options),
            lambda: [bare.run(one[None, None]) for one in slices],
            name="infer over backend",
        )
    assert report.count("written") == SLICES
    benchmark.extra_info["seconds"] = report.seconds


def plain_loop(archive, output):
    """Zero-fill by 2 as a script would: nothing is checked, and the geometry stays wrong."""
    output.mkdir()
    for number, path in enumerate(sorted(archive.rglob("*.dcm"))):
        dataset = dcmread(path)
        lr = dataset.pixel_array.astype(np.float32)
        rows, columns = lr.shape
        kspace = np.zeros((2 * rows, 2 * columns), dtype=complex)
        centre = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(lr)))
        kspace[rows // 2 :, columns // 2 :][:rows, :columns] = centre
        sr = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace))).real * 4
        dataset.PixelData = np.rint(sr).clip(0, 2**dataset.BitsStored - 1).astype("<u2").tobytes()
        dataset.Rows, dataset.Columns = sr.shape
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(output / f"{number}.dcm")


def test_with_a_backend_that_costs_nothing(benchmark, archive, tmp_path):
    """Time `infer --backend zero-fill --batch 16` beside the plain loop."""
    benchmark.group = "infer beside a plain loop"
    benchmark.extra_info.update(backend="zero-fill", batch=NULL_BATCH, slices=SLICES)
    options = InferOptions(backend="zero-fill", batch=NULL_BATCH)
    numbers = itertools.count()
    report = in_turns(
        benchmark,
        lambda: infer(archive, tmp_path / f"infer-{next(numbers)}", options),
        lambda: plain_loop(archive, tmp_path / f"loop-{next(numbers)}"),
        name="plain loop over infer",
        inverse=True,
    )
    assert report.count("written") == SLICES
    benchmark.extra_info["seconds"] = report.seconds
