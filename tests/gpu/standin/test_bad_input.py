"""What lacks on a machine with a GPU: one sentence, what brings it, exit 3, never the CPU."""

from __future__ import annotations

import ctypes
import json
import shutil
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from kspacesr_rt.runtime.gpu_build import CUDA_LIBRARIES

VERIFY = ("verify", "x2-fast", "--json", "--backend")


@pytest.fixture(scope="module")
def sample():
    from kspacesr_rt.sample import sample_folder

    return sample_folder()


def refusal(done):
    """Return the error of a command that must have printed nothing else."""
    assert done.returncode == 3, (done.stdout, done.stderr[-2000:])
    assert done.stdout == ""
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("{"))
    answer = json.loads(line)
    assert answer["exit_code"] == 3
    assert "hostname" not in done.stdout + done.stderr
    assert "EP Error" not in done.stderr
    return answer["error"]["message"], answer["error"]["hint"]


def test_without_a_driver(machine):
    message, hint = refusal(machine.cli(*VERIFY, "ort-cuda", without=("libcuda.so.1",)))
    assert message == (
        "backend 'ort-cuda' cannot run here: there is no NVIDIA driver here: libcuda.so.1 cannot "
        "be loaded"
    )
    assert hint.startswith("install the NVIDIA driver, version 580 or newer")


@pytest.mark.parametrize("backend", ["ort-cuda", "ort-tensorrt"])
def test_with_a_driver_that_is_too_old(machine, backend):
    """CUDA 13 needs 580: an older one gives errors of numbers, late."""
    message, hint = refusal(machine.cli(*VERIFY, backend, DRIVER=12080))
    assert message == (
        f"backend '{backend}' cannot run here: the NVIDIA driver here runs programs up to CUDA "
        "12.8, and CUDA 13 needs driver 580 or newer"
    )
    assert hint == "install NVIDIA driver 580 or newer; nvidia-smi shows which it is"


def loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("backend", "library", "brought_by"),
    [
        ("ort-cuda", "libcudnn.so.9", "nvidia-cudnn-cu13>=9,<10"),
        ("ort-cuda", "libcublasLt.so.13", "nvidia-cublas>=13,<14"),
        ("ort-cuda", "libcublas.so.13", "nvidia-cublas>=13,<14"),
        ("ort-cuda", "libcudart.so.13", "nvidia-cuda-runtime>=13,<14"),
        ("ort-cuda", "libcurand.so.10", "nvidia-curand>=10,<11"),
        ("ort-tensorrt", "libnvinfer.so.10", "tensorrt-cu13>=10.13.2,<11"),
        ("ort-tensorrt", "libnvonnxparser.so.10", "tensorrt-cu13>=10.13.2,<11"),
    ],
)
def test_without_a_library(machine, backend, library, brought_by):
    """ONNX Runtime would print something and take the CPU, or fail in the first run."""
    if loads(library):
        pytest.skip(f"this machine has {library}")
    message, hint = refusal(machine.cli(*VERIFY, backend, without=(library,)))
    assert message == f"backend '{backend}' cannot run here: the library {library} is missing"
    assert hint == f"pip install '{brought_by}'"


def test_tensorrt_is_no_condition_of_cuda(machine):
    """Who takes `ort-cuda` needs no TensorRT."""
    done = machine.cli("backends", "--json", without=("libnvinfer.so.10",))
    found = json.loads(done.stdout)
    assert found["ort-cuda"]["usable"]
    assert found["ort-tensorrt"]["why_not"].endswith("the library libnvinfer.so.10 is missing")


def test_without_the_bindings_of_cuda(machine, tmp_path):
    """The native TensorRT backends call CUDA themselves."""
    if find_spec("tensorrt_rtx") is None or find_spec("cuda") is not None:
        pytest.skip("needs tensorrt-rtx, and no cuda-bindings")
    machine.site = copied(machine.site, tmp_path / "site")  # onnxruntime-gpu alone
    message, hint = refusal(machine.cli(*VERIFY, "tensorrt-rtx", SM=89))
    assert message.endswith("the package 'cuda-bindings' is not installed")
    assert hint.startswith("pip install 'cuda-bindings>=13,<14'")


def copied(site, folder, *, cuda=None):
    """Make a folder with a copy of onnxruntime-gpu, perhaps said to be of another CUDA."""
    folder.mkdir()
    shutil.copytree(site / "onnxruntime", folder / "onnxruntime", copy_function=link)
    (described,) = site.glob("onnxruntime_gpu-*.dist-info")
    (folder / described.name).symlink_to(described)
    if cuda is not None:
        info = folder / "onnxruntime/capi/build_and_package_info.py"
        text = info.read_text()
        info.unlink()
        info.write_text(text.replace("cuda_version = '13.0'", f"cuda_version = '{cuda}'"))
    return folder


def link(source, target):
    Path(target).symlink_to(source)


def test_with_a_build_for_another_cuda(machine, tmp_path):
    """Older builds, and those of other indexes, look for other libraries."""
    folder = copied(machine.site, tmp_path / "site", cuda="12.8")
    message, hint = refusal(machine.cli(*VERIFY, "ort-cuda", path=(folder,)))
    version = metadata.Distribution.at(next(folder.glob("*.dist-info"))).version
    assert message == (
        f"this onnxruntime-gpu {version} was built with CUDA 12.8, and CUDA 13 is needed"
    )
    assert hint.endswith("pip install 'kspacesr-rt[gpu]'")


def test_with_two_versions_of_onnxruntime_in_one_folder(machine, tmp_path):
    """What `pip install onnxruntime onnxruntime-gpu` leaves: a mixture of both."""
    folder = copied(machine.site, tmp_path / "site")
    described = folder / "onnxruntime-1.24.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.24.0")
    message, hint = refusal(machine.cli(*VERIFY, "ort-cuda", path=(folder,)))
    assert "'onnxruntime' 1.24.0 and 'onnxruntime-gpu' " in message
    assert message.endswith("are both installed, and overwrite each other's files")
    assert hint.startswith("pip uninstall -y onnxruntime onnxruntime-gpu && pip install ")
    problems = json.loads(
        machine.cli("doctor", "--json", path=(folder,), without=("libnvinfer.so.10",)).stdout
    )["problems"]
    assert any("overwrite each other's files" in problem for problem in problems)


def test_with_the_cpu_build_before_the_gpu_build(machine):
    """Another folder, earlier in the path: what Python imports is the CPU build."""
    ahead = Path(metadata.distribution("onnxruntime").locate_file(""))
    message, hint = refusal(machine.cli(*VERIFY, "ort-cuda", path=(ahead,)))
    assert " stands before 'onnxruntime-gpu' " in message
    assert hint.startswith("pip uninstall -y onnxruntime onnxruntime-gpu && ")


def test_doctor_prints_nothing_but_its_answer(machine):
    """ONNX Runtime prints what it could not load to the same place."""
    done = machine.cli("doctor", "--json", without=("libcudnn.so.9", "libcublas.so.13"))
    found = json.loads(done.stdout)
    assert found["providers"]["CUDAExecutionProvider"].startswith("does not load")
    assert found["gpu"].endswith("driver for CUDA 13.0")
    assert "the library libcublas.so.13 is missing" in found["backends"]["ort-cuda"]
    assert done.stderr == ""


def test_doctor_says_of_providers_that_there_is_no_driver(machine):
    """Not on which line of ONNX Runtime's sources a library was not found."""
    done = machine.cli("doctor", "--json", without=("libcuda.so.1", "libcublasLt.so.13"))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    lacks = "there is no NVIDIA driver here: libcuda.so.1 cannot be loaded"
    for provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        assert found["providers"][provider] == f"does not load: {lacks}"
    assert found["providers"]["CPUExecutionProvider"] == "loads"
    (problem,) = found["problems"]
    assert problem.startswith("'onnxruntime-gpu' is installed, but backend 'ort-cuda' cannot run")
    assert "; install the NVIDIA driver, version 580 or newer" in problem


def test_doctor_finds_libraries_in_packages_as_backends_do(machine, tmp_path):
    """Where pip puts them, the system does not look."""
    here = {name: tmp_path / "nvidia/cu13/lib" / name for name in CUDA_LIBRARIES}
    for name, path in here.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(machine.libraries / name)
    lacks = (*here, "libnvinfer.so.10")  # the stand-in's would end the process
    done = machine.cli("doctor", "--json", without=lacks, path=(tmp_path,))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["providers"]["CUDAExecutionProvider"] == "loads"
    assert (found["backends"]["ort-cuda"], done.stderr, found["problems"]) == ("usable", "", [])


@pytest.mark.parametrize("sm", [52, 61, 70])
@pytest.mark.parametrize("backend", ["ort-cuda", "ort-tensorrt", "tensorrt", "tensorrt-rtx"])
def test_with_a_gpu_that_is_too_old(machine, backend, sm):
    """Driver 580 runs a V100, CUDA 13 and TensorRT do not; no package brings that."""
    message, hint = refusal(machine.cli(*VERIFY, backend, SM=sm))
    assert f"sm{sm}" in message
    assert "ort-webgpu" in hint
    assert "pip install" not in hint


def test_with_a_gpu_that_onnxruntime_has_no_kernels_for(machine):
    """ONNX Runtime opens a session on a B200, and fails in the first run."""
    message, hint = refusal(machine.cli(*VERIFY, "ort-cuda", SM=100))
    assert "onnxruntime-gpu has no kernels for sm100" in message
    assert "tensorrt or ort-tensorrt" in hint


DIES = "its library ends the process that starts it (exit code 77)"
"""As the stand-in for TensorRT does when it is asked for a builder."""


@pytest.mark.parametrize(
    "words",
    [
        VERIFY,
        ("infer", "{sample}", "{out}", "--json", "--backend"),
        ("bench", "--profile", "smoke", "--json", "--only"),
    ],
    ids=["verify", "infer", "smoke"],
)
def test_a_library_that_ends_the_process_is_named(machine, words, sample, tmp_path):
    """It ended the command, too, which had said nothing."""
    places = {"{sample}": sample, "{out}": tmp_path / "out"}
    message, hint = refusal(machine.cli(*(places.get(one, one) for one in words), "ort-tensorrt"))
    assert message == f"backend 'ort-tensorrt' cannot run here: {DIES}"
    assert "install both again" in hint


def test_doctor_survives_a_library_that_ends_its_process(machine):
    """And says which one does; the others are as they were."""
    done = machine.cli("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["providers"]["TensorrtExecutionProvider"] == f"does not load: {DIES}"
    assert found["providers"]["CUDAExecutionProvider"] == "loads"
    assert found["backends"]["ort-cuda"] == "usable"
    assert DIES in found["backends"]["ort-tensorrt"]
    assert [DIES in problem for problem in found["problems"]] == [True]


def test_that_a_library_starts_is_asked_once(machine):
    """And again once its version is another."""
    for _ in range(2):
        machine.cli(*VERIFY, "ort-cuda")
    [kept] = (machine.cache / "started").iterdir()
    assert kept.name.startswith("ort-cuda-")


# --- in the middle of a run -----------------------------------------------------------------------


def test_a_device_that_is_lost(machine, sample, tmp_path):
    """A cable, a reset, another program: an error of the machine, not of every slice."""
    done = machine.cli(
        *("infer", sample, tmp_path / "out", "--backend", "ort-cuda", "--json"), LOST_AFTER=0
    )
    message, hint = refusal(done)
    assert message == (
        "the GPU failed while it computed: CUDA failure 719: unspecified launch failure"
    )
    assert hint.startswith("nvidia-smi shows whether it is still there")


def test_a_batch_that_does_not_fit_is_halved_once(machine, sample, tmp_path):
    """And then it is an error: with a machine that full, nothing good comes of trying on."""
    done = machine.cli(
        *("infer", sample, tmp_path / "out", "--backend", "ort-cuda", "--batch", 8, "--json"),
        MEMORY=2_000_000,
    )
    message, hint = refusal(done)
    assert message == "the GPU's memory holds neither 8 slices at once nor 4"
    assert hint.startswith("take a smaller --batch")


def test_a_slice_that_does_not_fit_says_what_is_smaller(machine, sample, tmp_path):
    """A smaller batch than one there is not."""
    done = machine.cli(
        *("infer", sample, tmp_path / "out", "--backend", "ort-cuda", "--batch", 1, "--json"),
        MEMORY=300_000,
    )
    message, hint = refusal(done)
    assert message == "the GPU's memory does not hold a slice"
    assert "take a smaller --batch" not in hint
    for words in ("--precision fp16", "a smaller matrix", "--backend ort-cpu", "nvidia-smi"):
        assert words in hint


def test_half_a_batch_that_fits_is_said(machine):
    """Not silently: the run is slower than what was asked for. 4 slices need 50 MB, 8 need 90."""
    case = {"model": "x2-fast", "matrix": (128, 128), "batch": 8}
    (seen,) = machine.probe([case], MEMORY=68_000_000)
    assert seen["shapes"] == [[8, 1, 256, 256]]
    assert seen["notes"] == ["the GPU's memory does not hold 8 slices at once: computed by 4"]
