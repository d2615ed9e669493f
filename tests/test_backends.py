"""One contract for every backend in the registry, and a registry that never substitutes one."""

from __future__ import annotations

import importlib.util
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from kspacesr_rt import backends
from kspacesr_rt.backends import (
    BACKENDS,
    BackendInfo,
    BackendOptions,
    backend_info,
    baseline_spec,
    open_backend,
    require_batch,
)
from kspacesr_rt.binding import bind
from kspacesr_rt.errors import BackendUnavailableError, InputError, ShapeError

REQUIRED = {name for name in os.environ.get("KSPACESR_RT_REQUIRE", "").split(",") if name}
"""Backends whose absence is a failure: a GPU run must not pass by doing nothing."""
MATRIX = (21, 16)
"""LR matrix of the contract: not square, one axis odd."""
ON_CPU = {"zero-fill", "bicubic", "ort-cpu", "openvino"}
ONE_THREAD = BackendOptions(threads=1)


def test_what_must_run_here_is_in_the_registry():
    """A misspelt KSPACESR_RT_REQUIRE would otherwise require nothing."""
    assert BACKENDS.keys() >= REQUIRED


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
def opened(name, model):
    """Open the backend for MATRIX."""
    what = bind(model, MATRIX) if BACKENDS[name].model else baseline_spec(name, 2, MATRIX)
    with open_backend(name, what, ONE_THREAD) as backend:
        yield backend


def batch_of(n: int, seed: int = 0) -> np.ndarray:
    """Noise whose slices differ by decades of intensity."""
    rng = np.random.default_rng(seed)
    gains = 10.0 ** rng.uniform(-2, 4, (n, 1, 1, 1))
    return (rng.random((n, 1, *MATRIX)) * gains).astype(np.float32)


# --- contract -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_result_is_float32_of_the_sr_matrix(opened, n):
    """Every caller allocates by this shape; float64 would double the memory of a study."""
    result = opened.run(batch_of(n))
    assert result.shape == (n, 1, 2 * MATRIX[0], 2 * MATRIX[1])
    assert result.dtype == np.float32
    assert np.isfinite(result).all()


def test_the_spec_says_what_was_opened(opened, name):
    """The report names what ran: the matrix and upscale come from here."""
    assert opened.spec.matrix == MATRIX
    assert opened.spec.upscale == 2
    if not BACKENDS[name].model:
        assert (opened.spec.name, opened.spec.architecture) == (name, "none")


def test_the_input_is_not_changed(opened):
    """The LR slice is still needed for the residual, the preview and the report."""
    batch = batch_of(3)
    before = batch.copy()
    opened.run(batch)
    assert np.array_equal(batch, before)


def test_a_read_only_or_strided_batch_is_taken(opened):
    """Decoded pixels are often views: the values count, not the memory layout."""
    batch = batch_of(2)
    wide = np.repeat(batch, 2, axis=3)[..., ::2]
    wide.flags.writeable = False
    assert np.array_equal(opened.run(wide), opened.run(batch))


def test_a_slice_does_not_depend_on_its_batch_mates(opened, name):
    """Bit for bit on a CPU: a patient's result must not change with --batch.

    A GPU may pick another kernel for another batch size; there, rounding is allowed.
    """
    batch = batch_of(5)
    together = opened.run(batch)
    for index in range(5):
        alone = opened.run(batch[index : index + 1])[0]
        if name in ON_CPU:
            assert np.array_equal(together[index], alone)
        else:
            np.testing.assert_allclose(together[index], alone, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize("streams", [2, 3])
def test_calls_side_by_side_change_no_bit(opened, name, model, streams):
    """`infer` computes two batches at a time: each must come out as if it were alone."""
    if not BACKENDS[name].streams:
        pytest.skip(f"backend '{name}' computes one call at a time: BACKENDS says so")
    slices = batch_of(12)[:, None]
    told = BackendOptions(threads=2, streams=streams)
    with (
        open_backend(name, bind(model, MATRIX), told) as backend,
        ThreadPoolExecutor(streams) as pool,
    ):
        together = list(pool.map(backend.run, slices))
    assert all(
        np.array_equal(opened.run(one), other) for one, other in zip(slices, together, strict=True)
    )


def test_the_order_of_a_batch_does_not_matter(opened):
    """Rolling the batch axis was the seed's first trap."""
    batch = batch_of(4)
    assert np.array_equal(opened.run(batch[::-1]), opened.run(batch)[::-1])


def test_running_twice_gives_the_same_bits(opened):
    """A run that is repeated to check a result must reproduce it."""
    batch = batch_of(2)
    assert np.array_equal(opened.run(batch), opened.run(batch))


def test_the_result_is_the_callers_own(opened):
    """The pipeline writes one result while the next batch runs: buffers must not be shared."""
    first = opened.run(batch_of(2, seed=1))
    kept = first.copy()
    opened.run(batch_of(2, seed=2))
    assert np.array_equal(first, kept)
    first[:] = 0.0  # writable, and nobody else's
    assert np.array_equal(opened.run(batch_of(2, seed=1)), kept)


def test_an_empty_slice_gives_an_empty_slice(opened):
    """The slice above the head is zero: no NaN, nothing invented."""
    result = opened.run(np.zeros((1, 1, *MATRIX), np.float32))
    assert float(np.abs(result).max()) == 0.0


def test_a_scaled_slice_gives_a_scaled_result(opened):
    """A power of two changes no mantissa, so even rounding must come out the same."""
    batch = batch_of(2)
    expected = opened.run(batch) * np.float32(1024.0)
    result = opened.run(batch * np.float32(1024.0))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 16, 21), (1, 1, 21, 17), (1, 2, 21, 16), (0, 1, 21, 16), (1, 21, 16), (21, 16)],
)
def test_a_batch_of_another_shape_is_refused(opened, shape):
    """A backend bound to one matrix must not run another series by broadcasting or cropping."""
    with pytest.raises(ShapeError) as caught:
        opened.run(np.zeros(shape, np.float32))
    assert str(caught.value) == f"expected a batch (n, 1, 21, 16), found {shape}"


def test_a_known_pattern_comes_back_the_right_way_up(opened):
    """Transposed or flipped axes would pass every test on noise."""
    batch = np.zeros((1, 1, *MATRIX), np.float32)
    batch[0, 0, 5, 11] = 1.0
    result = opened.run(batch)[0, 0]
    row, column = np.unravel_index(result.argmax(), result.shape)
    assert abs(row - 10) <= 2
    assert abs(column - 22) <= 2


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
    real = backends.find_spec
    monkeypatch.setattr(backends, "find_spec", lambda n: None if n == "onnxruntime" else real(n))
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
    real = backends.find_spec
    monkeypatch.setattr(
        backends, "find_spec", lambda n: object() if n == "onnxruntime" else real(n)
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


def test_a_closed_backend_holds_no_session(model):
    """Leaving the block frees the model's memory, whoever still holds the object."""
    with open_backend("ort-cpu", bind(model, MATRIX), ONE_THREAD) as backend:
        backend.run(batch_of(1))
    assert not [value for value in vars(backend).values() if hasattr(value, "get_providers")]


def test_require_batch_accepts_what_fits():
    """The one check every backend shares."""
    require_batch(np.zeros((3, 1, *MATRIX), np.float32), baseline_spec("zero-fill", 2, MATRIX))
