"""One contract for every backend in the registry, and a registry that never substitutes one."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from kspacesr_rt.errors import BackendUnavailableError, InputError
from kspacesr_rt.model.binding import bind
from kspacesr_rt.runtime import backends, gpu_build, ort_cpu, protocol
from kspacesr_rt.runtime.backends import (
    BACKENDS,
    BackendInfo,
    BackendOptions,
    backend_info,
    baseline_spec,
    open_backend,
    require_batch,
)
from kspacesr_rt.system import gpu_driver
from kspacesr_rt.testing import CONTRACT, Subject
from kspacesr_rt.testing.subject import MATRIX, batch_of

REQUIRED = {name for name in os.environ.get("KSPACESR_RT_REQUIRE", "").split(",") if name}
"""Backends whose absence is a failure: a GPU run must not pass by doing nothing."""
ONE_THREAD = BackendOptions(threads=1)


def test_what_must_run_here_is_in_the_registry():
    """A misspelt KSPACESR_RT_REQUIRE would otherwise require nothing."""
    assert {*BACKENDS, "standin", "webgpu"} >= REQUIRED  # tests/gpu/standin, tests/gpu/webgpu


@pytest.fixture(params=BACKENDS)
def name(request) -> str:
    """Every backend; one that cannot run here is skipped with its own reason."""
    reason = BACKENDS[request.param].why_not()
    if reason is not None:
        if request.param in REQUIRED:
            pytest.fail(f"required by KSPACESR_RT_REQUIRE: {reason}")
        pytest.skip(reason)
    return request.param


@pytest.fixture
def subject(name, model):
    return Subject(name, model)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract(check, subject):
    """What others may hold their backends to holds for ours."""
    check(subject)


# --- registry -------------------------------------------------------------------------------------


def test_every_row_has_its_module_and_extra():
    """`kspacesr-rt backends` prints these; a hint must name an extra that installs it."""
    for name, info in BACKENDS.items():
        assert name == info.name
        assert importlib.util.find_spec(info.module) is not None
        assert (info.needs is None) == (info.extra is None)
        assert info.summary


def test_an_unknown_backend_lists_the_known_ones():
    """A typo is answered with what could have been meant."""
    with pytest.raises(InputError) as caught:
        backend_info("ort-gpu")
    assert str(caught.value) == "no backend is called 'ort-gpu'"
    assert caught.value.hint == f"one of: {', '.join(BACKENDS)}"
    with pytest.raises(InputError, match="no backend is called 'ort-gpu'"):
        open_backend("ort-gpu", baseline_spec("zero-fill", 2, MATRIX))


def test_a_missing_package_is_an_error_and_never_another_backend(monkeypatch, model):
    """A clinic must not find out from a stopwatch that its runtime was replaced."""
    real = protocol.find_spec
    monkeypatch.setattr(protocol, "find_spec", lambda n: None if n == "onnxruntime" else real(n))
    opened = []
    monkeypatch.setattr(backends.importlib, "import_module", opened.append)
    with pytest.raises(BackendUnavailableError) as caught:
        open_backend("ort-cpu", bind(model, MATRIX))
    assert str(caught.value) == (
        "backend 'ort-cpu' needs the package 'onnxruntime', which is not installed"
    )
    assert caught.value.hint == "pip install 'kspacesr-rt[cpu]'"
    assert caught.value.exit_code == 3
    assert opened == []


@pytest.mark.parametrize("name", [name for name, info in BACKENDS.items() if info.on_nvidia])
def test_the_driver_comes_before_the_package(name, monkeypatch):
    """2.7 GB of packages are of no use without it."""
    info = BACKENDS[name]
    monkeypatch.setattr(protocol, "find_spec", lambda n: None)  # not installed
    monkeypatch.setattr(gpu_driver, "CDLL", raise_os_error)
    lacks = f"there is no NVIDIA driver here: {gpu_driver.LIBRARY} cannot be loaded"
    assert info.why_not() == f"backend '{name}' cannot run here: {lacks}"
    driver, install = info.hint().split("; then ")
    assert driver.startswith("install the NVIDIA driver, version 580 or newer")
    assert install == f"pip install 'kspacesr-rt[{info.extra}]'"


@pytest.mark.parametrize("name", ["ort-cuda", "ort-tensorrt"])
def test_the_driver_comes_before_the_build_for_gpus(name, monkeypatch):
    """With the CPU build, which is removed first."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(gpu_driver, "CDLL", raise_os_error)
    monkeypatch.setattr(gpu_build, "require_build", refuse_build)
    assert "there is no NVIDIA driver here" in BACKENDS[name].why_not()
    assert BACKENDS[name].hint().endswith("; then " + gpu_build.REINSTALL)
    monkeypatch.setattr(gpu_driver, "CDLL", lambda name: Driver(sm=89))
    assert BACKENDS[name].why_not() == f"backend '{name}' cannot run here: another build"
    assert BACKENDS[name].hint() == gpu_build.REINSTALL


def test_a_driver_that_is_another_library_is_no_internal_error(monkeypatch):
    """Or one that an update left half written."""
    monkeypatch.setattr(gpu_driver, "CDLL", lambda name: object())
    with pytest.raises(BackendUnavailableError, match=r"is damaged, or .* is another library"):
        gpu_driver.current_gpu()


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (
            "libx.so.9: cannot open shared object file: No such file",
            "is missing",
            "pip install 'x'",
        ),
        ("/usr/lib/libx.so.9: file too short", "does not load: /usr/lib/libx", "--force-reinstall"),
        ("libz.so.1: cannot open shared object file: No", "does not load: libz", "--force-reinst"),
    ],
)
def test_a_damaged_library_is_not_called_missing(monkeypatch, said, message, hint):
    """Who has it would look for what is there; one that it needs is named."""

    def fail(name):
        raise OSError(said)

    monkeypatch.setattr(gpu_build.ctypes, "CDLL", fail)
    with pytest.raises(BackendUnavailableError) as caught:
        gpu_build.require_libraries({"libx.so.9": "x"})
    assert str(caught.value).startswith(f"the library libx.so.9 {message}")
    assert hint in caught.value.hint


NVIDIA = [name for name, info in BACKENDS.items() if info.on_nvidia]


@pytest.mark.parametrize("name", NVIDIA)
def test_the_gpu_comes_before_the_package(name, monkeypatch):
    """A driver alone, as in a container without --gpus, is no reason to fetch 2.7 GB either."""
    monkeypatch.setattr(protocol, "find_spec", lambda n: None)  # not installed
    monkeypatch.setattr(gpu_driver, "CDLL", lambda name: Driver(no_gpu=100))
    assert BACKENDS[name].why_not() == (
        f"backend '{name}' cannot run here: the NVIDIA driver has no GPU to give: error 100, said"
    )
    driver, install = BACKENDS[name].hint().split("; then ")
    assert "--gpus all" in driver
    assert install == f"pip install 'kspacesr-rt[{BACKENDS[name].extra}]'"


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("name", NVIDIA)
@pytest.mark.parametrize("sm", [52, 61, 70])
def test_a_gpu_that_is_too_old_is_named_before_anything_is_installed(
    name, sm, installed, monkeypatch
):
    """Driver 580 still runs a V100; CUDA 13 and TensorRT do not."""
    if not installed:
        monkeypatch.setattr(protocol, "find_spec", lambda n: None)
    monkeypatch.setattr(gpu_driver, "CDLL", lambda name: Driver(sm=sm))
    why, hint = BACKENDS[name].why_not(), BACKENDS[name].hint()
    assert f"sm{sm}" in why
    assert "not installed" not in why
    assert "begin with sm75" in hint
    assert "ort-webgpu" in hint
    assert "pip install" not in hint
    assert "take backend tensorrt" not in hint


@pytest.mark.parametrize(
    ("sm", "none"),
    [
        (87, {"tensorrt-rtx"}),
        (90, {"tensorrt-rtx"}),
        (100, {"tensorrt-rtx", "ort-cuda"}),
        (103, {"tensorrt-rtx", "ort-cuda"}),
        (121, set()),
        (75, set()),
    ],
)
def test_a_gpu_that_a_backend_leaves_out_is_refused_by_that_backend_alone(sm, none, monkeypatch):
    """As `targets` says of it: onnxruntime-gpu has no kernels for a B200."""
    monkeypatch.setattr(protocol, "find_spec", lambda n: None)  # so that no package is looked at
    monkeypatch.setattr(gpu_driver, "CDLL", lambda name: Driver(sm=sm))
    refused = {name for name in NVIDIA if f"sm{sm}" in BACKENDS[name].why_not()}
    assert refused == none
    for name in none:
        assert "take backend tensorrt" in BACKENDS[name].hint()


def raise_os_error(name):
    raise OSError(f"{name}: cannot open shared object file")


def refuse_build(package, hint):
    raise BackendUnavailableError("another build", hint=hint)


class Driver:
    """As much of NVIDIA's as is asked for one GPU."""

    def __init__(self, *, sm=89, no_gpu=0):
        self.sm, self.no_gpu = sm, no_gpu

    def cuDriverGetVersion(self, version):
        version._obj.value = 13000
        return 0

    def cuInit(self, flags):
        return self.no_gpu

    def cuGetErrorString(self, status, text):
        text._obj.value = b"said"
        return 0

    def cuDeviceGet(self, device, number):
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = b"NVIDIA GPU"
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: self.sm // 10, 76: self.sm % 10}[attribute]
        return 0


def test_why_not_imports_nothing():
    """`kspacesr-rt backends` answers in a blink, also where a package is broken."""
    info = BackendInfo("new", "nowhere", "", needs="this", extra="x")
    before = set(sys.modules)
    assert info.why_not() is None
    assert set(sys.modules) == before
    assert BackendInfo("new", "nowhere", "", needs="no_such_package_here").why_not() == (
        "backend 'new' needs the package 'no_such_package_here', which is not installed"
    )
    assert BackendInfo("new", "nowhere", "").hint() is None


def test_a_broken_package_is_an_error(monkeypatch, model):
    """Installed but not loadable (a missing CUDA library, say): said when it is opened."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    real = protocol.find_spec
    monkeypatch.setattr(
        protocol, "find_spec", lambda n: object() if n == "onnxruntime" else real(n)
    )
    with pytest.raises(BackendUnavailableError) as caught:
        open_backend("ort-cpu", bind(model, MATRIX))
    assert str(caught.value).startswith("onnxruntime is installed but does not load: ")
    assert caught.value.hint == "pip install --force-reinstall onnxruntime"


@pytest.mark.parametrize(
    "providers", [["AzureExecutionProvider", "CPUExecutionProvider"], ["CUDAExecutionProvider"], []]
)
def test_another_execution_provider_is_an_error(monkeypatch, model, providers):
    """ONNX Runtime falls back by itself; what it came up with is checked, not assumed."""
    import onnxruntime

    def session(*arguments: object, **keywords: object) -> SimpleNamespace:
        return SimpleNamespace(get_providers=lambda: providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(BackendUnavailableError) as caught:
        open_backend("ort-cpu", bind(model, MATRIX))
    assert str(caught.value) == (
        f"asked ONNX Runtime for CPUExecutionProvider, it came up with {providers}"
    )


@pytest.mark.parametrize("name", [name for name, info in BACKENDS.items() if not info.model])
def test_a_baseline_refuses_a_model(model, name):
    """`--backend zero-fill --model x2.onnx` must not look as if the model had run."""
    with pytest.raises(InputError) as caught:
        open_backend(name, bind(model, MATRIX))
    assert str(caught.value) == f"backend '{name}' takes no model file"


def test_a_model_backend_refuses_a_bare_specification():
    """And the other way round: a specification holds no weights."""
    with pytest.raises(InputError) as caught:
        open_backend("ort-cpu", baseline_spec("ort-cpu", 2, MATRIX))
    assert str(caught.value) == "backend 'ort-cpu' takes a bound model"


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_baselines_take_any_upscale(upscale):
    """The baseline of every table must exist for every model."""
    for name in ("zero-fill", "bicubic"):
        with open_backend(name, baseline_spec(name, upscale, (9, 8))) as backend:
            result = backend.run(np.ones((1, 1, 9, 8), np.float32))
        assert result.shape == (1, 1, 9 * upscale, 8 * upscale)
        np.testing.assert_allclose(result, 1.0, atol=1e-5)


def test_the_thread_count_reaches_the_runtime(monkeypatch, model):
    """`--threads 1` on a shared machine must be obeyed."""
    import onnxruntime

    seen = []
    real = onnxruntime.InferenceSession

    def session(content, settings, **keywords):
        seen.append(settings.intra_op_num_threads)
        return real(content, settings, **keywords)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    for told in (BackendOptions(threads=3), BackendOptions(threads=5, streams=2)):
        with open_backend("ort-cpu", bind(model, MATRIX), told):
            pass
    assert seen == [3, 2]  # two streams share five threads


@pytest.mark.parametrize(("at_once", "calls"), [(1, 5), (2, 3), (99, 1)])
def test_a_batch_takes_no_more_memory_than_a_few_samples_do(monkeypatch, model, at_once, calls):
    """Eight slices in one call took 1.2 GB; one after the other they give the same."""
    monkeypatch.setattr(ort_cpu, "SAMPLES_AT_ONCE", at_once * MATRIX[0] * MATRIX[1])
    batch = batch_of(5)
    with open_backend("ort-cpu", bind(model, MATRIX), ONE_THREAD) as backend:
        session, sizes = backend._session, []

        def run(names, inputs):
            [values] = inputs.values()
            sizes.append(len(values))
            return session.run(names, inputs)

        backend._session = SimpleNamespace(run=run)
        result = backend.run(batch)
    assert (len(sizes), sum(sizes), max(sizes)) == (calls, 5, min(at_once, 5))
    with open_backend("ort-cpu", bind(model, MATRIX), ONE_THREAD) as backend:
        single = np.concatenate([backend.run(batch[n : n + 1]) for n in range(5)])
    np.testing.assert_allclose(result, single, rtol=0, atol=1e-5 * float(np.abs(single).max()))


def test_a_closed_backend_holds_no_session(model):
    """Leaving the block frees the model's memory, whoever still holds the object."""
    with open_backend("ort-cpu", bind(model, MATRIX), ONE_THREAD) as backend:
        backend.run(batch_of(1))
    assert not [value for value in vars(backend).values() if hasattr(value, "get_providers")]


@pytest.mark.parametrize("change", ["ir_version", "opset"])
@pytest.mark.parametrize("name", ["ort-cpu", "openvino"])
def test_a_model_of_a_later_onnx_is_no_accident(name, change, model):
    """The runtime cannot load it, which its user can mend; it is no fault of ours to report."""
    if (reason := BACKENDS[name].why_not()) is not None:
        pytest.skip(reason)
    bound = bind(model, MATRIX)
    proto = type(bound.proto)()
    proto.CopyFrom(bound.proto)
    if change == "opset":
        proto.opset_import[0].version = 999
    else:
        proto.ir_version = 999
    later = dataclasses.replace(bound, proto=proto)
    if (name, change) == ("openvino", "ir_version"):  # it reads the opset alone
        with open_backend(name, later, ONE_THREAD) as backend:
            assert backend.run(batch_of(1)).shape == (1, 1, *model.spec.sr_matrix(MATRIX))
        return
    with pytest.raises(BackendUnavailableError, match="cannot load this model") as caught:
        open_backend(name, later, ONE_THREAD).__enter__()
    assert "later ONNX" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_require_batch_accepts_what_fits():
    """The one check every backend shares."""
    require_batch(np.zeros((3, 1, *MATRIX), np.float32), baseline_spec("zero-fill", 2, MATRIX))
