"""The checks of a first run on a GPU, in order of worth; see `kspacesr_rt.bench.run.smoke`."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kspacesr_rt.bench.run.kernels import fft_alone
from kspacesr_rt.bench.run.plans import ON_ANY_GPU
from kspacesr_rt.bench.run.smoke import Check, CheckFailed, NotProved
from kspacesr_rt.errors import BackendUnavailableError, InputError
from kspacesr_rt.graph.precision import narrowed
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.binding import BoundModel, bind
from kspacesr_rt.model.file import ModelFile, every_shipped_model, load_model
from kspacesr_rt.model.spec import OP_DOMAIN, Precision
from kspacesr_rt.runtime.backends import (
    BACKENDS,
    Backend,
    OverlappingBackend,
    StartedBatch,
    open_backend,
)
from kspacesr_rt.runtime.gpu_targets import ESTIMATED, Estimate, describe_targets
from kspacesr_rt.runtime.ort_overlap import SUMS_DIFFER
from kspacesr_rt.runtime.ort_webgpu import NO_FP16_SHADERS
from kspacesr_rt.runtime.provider_start import require_start
from kspacesr_rt.runtime.self_test import REQUIRED_DB, verify_model
from kspacesr_rt.runtime.suited_models import require_suited
from kspacesr_rt.system.energy import NoEnergy, open_meter
from kspacesr_rt.system.gpu_driver import current_gpu
from kspacesr_rt.system.gpu_models import find_gpu_model, known_part
from kspacesr_rt.system.gpu_state import gpu_facts, gpu_snapshot
from kspacesr_rt.system.vulkan import adapters, adapters_text, every_adapter_is_software

ORDER = ("ort-cuda", "tensorrt", "tensorrt-rtx", "ort-tensorrt", ON_ANY_GPU)
"""Which backend is taken if none is named: the one with the least to build first. The last has
times without a limit: nothing here estimates what another maker's GPU takes."""
TIMED, TIMED_MATRIX = "x2-fast", (256, 256)
OF_SOFTWARE_MATRIX = (16, 16)
"""A GPU made of software takes a minute and more for a slice of `TIMED_MATRIX`."""
ENERGY_MODEL = "x2-base"
AGREEMENT = 1e-4
"""Largest difference over the maximum between batches, threads and openings: another kernel may
round otherwise, and nothing more."""
GREY_LEVELS = 1
"""Largest difference of stored values to the CPU's."""
TIMED_S, ENERGY_S = 1.0, 3.0
WHOLE_CALL, DEVICE = 4.0, 2.5
"""Times over the estimate of `kspacesr_rt.runtime.gpu_targets` at which something is wrong."""


def choose_gpu_backend(only: tuple[str, ...] = ()) -> str:
    """Return the backend that is checked.

    Raises
    ------
    InputError
        If what is named is no backend on a GPU.
    BackendUnavailableError
        If none can run here: why the first cannot.
    """
    for name in only:
        if name not in ORDER:
            raise InputError(
                f"'{name}' is no backend that the first run checks",
                hint=f"one of: {', '.join(ORDER)}",
            )
    asked = only or ORDER
    reasons = {name: BACKENDS[name].why_not() for name in asked}
    hints = {name: BACKENDS[name].hint() for name in asked}
    for name, reason in reasons.items():
        if reason is not None:
            continue
        try:
            require_start(name)
        except BackendUnavailableError as exc:
            reasons[name], hints[name] = str(exc), exc.hint
        else:
            return name
    first = str(reasons[asked[0]])
    if len(asked) == 1:
        raise BackendUnavailableError(first, hint=hints[asked[0]])
    first = first.removeprefix(f"backend '{asked[0]}' cannot run here: ")
    raise BackendUnavailableError(
        f"no GPU backend can run here: {first}", hint="kspacesr-rt doctor says what each lacks"
    )


class SmokeChecks:
    """The checks of one backend; what one finds, the next may need."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        models = {name: load_model(path) for name, path in sorted(every_shipped_model().items())}
        self._models = {name: one for name, one in models.items() if _takes(backend, one)}
        self._computes: bool | None = None
        self._is_software = backend == ON_ANY_GPU and every_adapter_is_software()

    def checks(self) -> Iterator[Check]:
        """Yield every check, in order of worth."""
        yield Check("machine", "a GPU whose driver answers", self._machine)
        yield Check("backends", f"{self._backend} can run", self._reasons)
        yield Check("the GPU computes", "a result that is not all zero", self._any_result)
        for precision in ESTIMATED:
            for name in self._models:
                yield Check(
                    f"known answer of {name} in {precision}",
                    f">= {REQUIRED_DB[precision]:.0f} dB",
                    partial(self._known_answer, name, precision),
                )
        yield Check(
            "batches, threads and reopening agree", f"within {AGREEMENT:g}", self._agreement
        )
        for precision in ESTIMATED:
            for n in (1, 8):
                yield Check(
                    f"times of {TIMED} in {precision}, batch {n}",
                    "measured"
                    if self._backend == ON_ANY_GPU
                    else f"whole call <= {WHOLE_CALL:g}, device <= {DEVICE:g} times the estimate",
                    partial(self._times, precision, n),
                )
        yield Check("energy", "> 0 J a slice", self._energy)
        yield Check(
            "sample study as on the CPU", f"<= {GREY_LEVELS} grey level apart", self._sample
        )

    def _machine(self) -> dict[str, Any]:
        if self._backend == ON_ANY_GPU:
            return self._adapters()
        gpu = current_gpu()
        model = find_gpu_model(known_part(gpu.name))
        return {
            "gpu": gpu.name,
            "sm": gpu.sm,
            "driver_cuda": gpu.cuda,
            "data_sheet": None if model is None else model.name,
            "facts": gpu_facts(),
            "now": gpu_snapshot(),
        }

    def _adapters(self) -> dict[str, Any]:
        if sys.platform != "linux":
            return {"adapters": adapters_text()}
        measured = {"adapters": [str(one) for one in adapters()]}
        self._require_gpu(**measured)
        return measured

    def _require_gpu(self, **measured: Any) -> None:
        """Refuse to call times of software those of a GPU."""
        if self._is_software:
            raise NotProved("it is software on the CPU, and no GPU", **measured)

    def _reasons(self) -> dict[str, Any]:
        reasons = {name: BACKENDS[name].why_not() or "usable" for name in ORDER}
        if reasons[self._backend] != "usable":
            raise CheckFailed(reasons[self._backend], **reasons)
        return reasons

    def _any_result(self) -> dict[str, Any]:
        model = self._models[TIMED]
        answer = model.known_answer()
        bound = bind(model, (answer.lr.shape[0], answer.lr.shape[1]))
        started = time.perf_counter()
        with open_backend(self._backend, bound) as opened:
            result = opened.run(answer.lr[None, None])
        first_s = time.perf_counter() - started
        self._computes = bool(np.abs(result).max() > 0.0)
        if not self._computes:
            raise CheckFailed("every sample is 0: its kernels do nothing", first_call_s=first_s)
        return {"first_call_s": first_s}  # with what is built or compiled for it

    def _require_computing(self, **measured: Any) -> None:
        if not self._computes:
            raise NotProved("the GPU has not been seen to compute", **measured)

    def _known_answer(self, name: str, precision: Precision) -> dict[str, Any]:
        self._require_computing()
        try:
            found = verify_model(_in_precision(self._models[name], precision), self._backend)
        except BackendUnavailableError as exc:
            if NO_FP16_SHADERS in str(exc):
                raise NotProved(str(exc)) from exc
            raise
        measured = {"psnr_db": found.psnr_between_db, "max_error": found.max_error}
        if not found.passed:
            raise CheckFailed(f"only {found.psnr_between_db:.1f} dB", **measured)
        return measured

    def _agreement(self) -> dict[str, Any]:
        bound = bind(self._models[TIMED], OF_SOFTWARE_MATRIX if self._is_software else TIMED_MATRIX)
        batch = _noise(8, bound)
        worst, notes = 0.0, tuple[str, ...]()
        for _ in range(2):
            with open_backend(self._backend, bound) as opened:
                alone = np.concatenate([opened.run(batch[i : i + 1]) for i in range(8)])
                for n in (2, 3, 8):
                    worst = max(worst, _difference(opened.run(batch[:n]), alone[:n]))
                worst = max(worst, _difference(_in_thread(opened, batch[:1]), alone[:1]))
                again = [opened.run(batch[:1]) for _ in range(20)]
                worst = max(worst, _difference(again[-1], alone[:1]))
                for n, started in _overlapped(opened, [batch[i : i + 2] for i in range(0, 8, 2)]):
                    worst = max(worst, _difference(started, alone[2 * n : 2 * n + 2]))
                    notes = opened.notes
        self._require_computing()
        if SUMS_DIFFER in notes:
            raise CheckFailed(SUMS_DIFFER, largest_difference=worst)
        if worst > AGREEMENT:
            raise CheckFailed(f"they differ by {worst:.1e}", largest_difference=worst)
        return {"largest_difference": worst}

    def _times(self, precision: Precision, n: int) -> dict[str, Any]:
        self._require_gpu()
        model = _in_precision(self._models[TIMED], precision)
        bound = bind(model, TIMED_MATRIX)
        batch = _noise(n, bound)
        started = time.perf_counter()
        with open_backend(self._backend, bound) as opened:
            opened.run(batch)
            first_s = time.perf_counter() - started
            moved = opened.transfer_s
            whole = _timed(lambda: opened.run(batch))
            copies_s = (opened.transfer_s - moved) / len(whole)
            device = _device_times(opened, n)
            overlapped = _overlapped_times(opened, batch)
        fft = None if device is None else self._fft_times(n)
        pairs = sum(node.domain == OP_DOMAIN for node in bound.proto.graph.node) / 2
        measured: dict[str, Any] = {
            "first_call_s": first_s,
            "whole_p50_us": _p50(whole) * 1e6,
            "whole_p95_us": float(np.percentile(whole, 95)) * 1e6,
            "copies_us": copies_s * 1e6 if copies_s > 0.0 else None,  # part of a call, untold
            "device_p50_us": None if device is None else _p50(device) * 1e6,
            "overlapped_p50_us": None if overlapped is None else _p50(overlapped) * 1e6,
            "fft_share": _p50(fft) * pairs / _p50(device) if fft and device else None,
        }
        expected = self._estimate(precision)
        if expected is not None:
            measured |= {"estimate_us": expected.seconds * n * 1e6, "bound_by": expected.bound}
            if device is not None and copies_s > _p50(device):
                measured["bound_by"] = "copies"
        self._require_computing(**measured)
        if expected is not None:
            _require_within(
                "a whole call", _p50(whole), WHOLE_CALL * expected.seconds * n, measured
            )
            if device is not None:
                _require_within("the device", _p50(device), DEVICE * expected.seconds * n, measured)
        return measured

    def _estimate(self, precision: Precision) -> Estimate | None:
        if self._backend == ON_ANY_GPU:
            return None
        model = find_gpu_model(known_part(current_gpu().name))
        if model is None:
            return None
        (choice,) = describe_targets([model.name], self._models[TIMED], TIMED_MATRIX)
        return next(one for one in choice.estimates if one.precision == precision)

    def _fft_times(self, n: int) -> list[float] | None:
        """Time a transform and its inverse alone, of which the model has a few."""
        alone = fft_alone("gemm", TIMED_MATRIX)
        with open_backend(self._backend, alone) as opened:
            opened.run(_noise(n, alone))
            return _device_times(opened, n)

    def _energy(self) -> dict[str, Any]:
        self._require_gpu()
        try:
            meter = open_meter(True)
        except NoEnergy as exc:
            raise NotProved(str(exc)) from exc
        bound = bind(self._models[ENERGY_MODEL], TIMED_MATRIX)
        batch, slices = _noise(8, bound), 0
        with open_backend(self._backend, bound) as opened:
            opened.run(batch)
            before, started = meter.counts(), time.perf_counter()
            while time.perf_counter() - started < ENERGY_S:
                opened.run(batch)
                slices += len(batch)
            elapsed, joules = time.perf_counter() - started, meter.joules(before, meter.counts())
        self._require_computing()
        measured = {"joules_per_slice": joules / slices, "slices_per_s": slices / elapsed}
        if joules <= 0.0:
            raise CheckFailed("the counter did not rise", **measured)
        return measured

    def _sample(self) -> dict[str, Any]:
        self._require_computing()
        self._require_gpu()  # or it would take half an hour
        from kspacesr_rt.pipeline import InferOptions, infer
        from kspacesr_rt.sample import sample_folder

        with tempfile.TemporaryDirectory(prefix="kspacesr-rt-") as name:
            outputs = []
            for backend in (self._backend, "ort-cpu"):
                folder = Path(name) / backend
                infer(sample_folder(), folder, InferOptions(model=TIMED, backend=backend))
                outputs.append(_pixels(folder))
        of_gpu, of_cpu = outputs
        if of_gpu.keys() != of_cpu.keys() or not of_gpu:
            raise CheckFailed(f"{len(of_gpu)} files on the GPU, {len(of_cpu)} on the CPU")
        apart = max(int(np.abs(of_gpu[key] - of_cpu[key]).max()) for key in of_cpu)
        measured = {"files": len(of_cpu), "grey_levels_apart": apart}
        if apart > GREY_LEVELS:
            raise CheckFailed(f"{apart} grey levels apart", **measured)
        return measured


def _takes(backend: str, model: ModelFile) -> bool:
    """Say whether a backend takes a model: engines take no k-space."""
    try:
        require_suited(backend, model.spec)
    except BackendUnavailableError:
        return False
    return True


def _in_precision(model: ModelFile, precision: Precision) -> ModelFile:
    if precision == model.spec.precision:
        return model
    spec = dataclasses.replace(model.spec, precision=precision)
    return dataclasses.replace(model, spec=spec, proto=narrowed(model.proto, precision))


def _noise(n: int, bound: BoundModel) -> FloatArray:
    return np.random.default_rng(n).random((n, 1, *bound.spec.matrix), dtype=np.float32)


def _difference(one: FloatArray, other: FloatArray) -> float:
    top = float(np.abs(other).max())
    return float(np.abs(one - other).max()) / top if top > 0.0 else 0.0


def _in_thread(opened: Backend, batch: FloatArray) -> FloatArray:
    results: list[FloatArray] = []
    thread = threading.Thread(target=lambda: results.append(opened.run(batch)))
    thread.start()
    thread.join()
    return results[0]


def _overlapped(
    opened: Backend, batches: Iterable[FloatArray]
) -> Generator[tuple[int, FloatArray]]:
    """Yield the results of batches, each started before the one before it is waited for.

    Nothing, if the backend does not overlap batches.
    """
    if not isinstance(opened, OverlappingBackend):
        return
    waiting: deque[tuple[int, StartedBatch]] = deque()
    for number, batch in enumerate(batches):
        waiting.append((number, opened.start(batch)))
        if len(waiting) > 1:
            first, started = waiting.popleft()
            yield first, started.result().slices
    for number, started in waiting:
        yield number, started.result().slices


def _overlapped_times(opened: Backend, batch: FloatArray) -> list[float] | None:
    """Time batches of which two are under way; None for a backend that does not overlap them."""
    results = _overlapped(opened, itertools.repeat(batch))
    if next(results, None) is None:
        return None
    times = _timed(lambda: next(results))
    results.close()
    return times


def _timed(call: Callable[[], object]) -> list[float]:
    times: list[float] = []
    ends = time.perf_counter() + TIMED_S
    while len(times) < 5 or time.perf_counter() < ends:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def _device_times(opened: Any, n: int) -> list[float] | None:
    """Time launches without copies; None for a backend whose graph holds them."""
    replay = getattr(opened, "replay", None)
    return None if replay is None else _timed(lambda: replay(n))


def _p50(times: list[float]) -> float:
    return float(np.median(times))


def _require_within(what: str, seconds: float, most: float, measured: dict[str, Any]) -> None:
    if seconds > most:
        raise CheckFailed(
            f"{what} took {seconds * 1e6:.0f} us, {most * 1e6:.0f} at most", **measured
        )


def _pixels(folder: Path) -> dict[str, Any]:
    import pydicom

    files = sorted(folder.rglob("*.dcm"))
    return {path.name: pydicom.dcmread(path).pixel_array.astype(np.int64) for path in files}
