"""ONNX Runtime on an NVIDIA GPU: its CUDA provider, or its TensorRT provider.

ONNX Runtime gives a CPU session without an exception when a provider cannot be had, and puts single
nodes on the CPU when a provider lacks a kernel. Both are refused here: the session is asked which
provider runs each node, and anything elsewhere is an error that names the nodes.
"""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from kspacesr_rt.errors import BackendUnavailableError, first_line
from kspacesr_rt.graph.spectral_sums_graph import (
    LR,
    SR,
    SUM_NAMES,
    SUMS,
    can_be_summed,
    spectral_sums_graph,
)
from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime import gpu_build
from kspacesr_rt.runtime.backends import (
    BackendOptions,
    BatchResult,
    FinishedBatch,
    StartedBatch,
    require_batch,
)
from kspacesr_rt.runtime.context_model import ContextModel
from kspacesr_rt.runtime.cuda_copies import CudaError, CudaRuntime, Streams
from kspacesr_rt.runtime.gpu_capabilities import why_not_on
from kspacesr_rt.runtime.gpu_memory import (
    LOST,
    ONE_AT_A_TIME,
    BatchLimit,
    GpuFailedError,
    OutOfGpuMemoryError,
)
from kspacesr_rt.runtime.ort_gpu_options import (
    CUDA,
    PROVIDER_OF,
    TENSORRT,
    context_options,
    cuda_options,
    engine_folder,
    precision_notes,
    provider_graph,
    tensorrt_options,
)
from kspacesr_rt.runtime.ort_overlap import DeviceValues, OverlappedRuns
from kspacesr_rt.runtime.ort_placement import (
    RECORD_PLACEMENT,
    placement_of,
    require_all_on,
    require_provider,
)
from kspacesr_rt.system.cache_folder import make_folder
from kspacesr_rt.system.gpu_driver import current_gpu

TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"
"""At 0, NVIDIA's libraries use no TF32, whatever they are asked for."""
NO_KERNEL_HINT = "export with --fft gemm; a DFT operator has no GPU kernel in ONNX Runtime"
"""What to do about a node that is not on the GPU."""
_OUT_OF_MEMORY = ("out of memory", "Failed to allocate memory", "CUDA_ERROR_OUT_OF_MEMORY")
"""Words of CUDA and of ONNX Runtime's own allocator for a full device."""
_CUDA_FAILURE = re.compile(r"[A-Z]+ failure \d+: [^;]*")
"""ONNX Runtime's words for what CUDA, cuDNN or cuBLAS answered."""
_CUDA_STATUS = re.compile(r"CUDA failure (\d+): ")


class OrtGpuBackend:
    """One session and its device buffers a batch size; batches of one size share a graph.

    What is started (`kspacesr_rt.runtime.protocol.OverlappingBackend`) is copied while another
    batch is computed, and its spectra are summed up on the GPU, too.
    """

    def __init__(self, name: str, model: BoundModel, options: BackendOptions) -> None:
        self.spec = model.spec
        self._name = name
        self._runtime = _load_runtime(name)
        self._content = provider_graph(name, model).SerializeToString()
        self._sessions: dict[int, _BoundSession] = {}
        self._limit = BatchLimit()
        self._moved_s = 0.0
        self._own_notes = precision_notes(name, model.spec)
        self._sums_spectra = sums_spectra(model.spec, current_gpu().sm)
        with ExitStack() as cleanup:
            self._computing: int | None = None
            self._overlapped: OverlappedRuns | None = None
            if sys.platform == "linux":  # where the CUDA runtime has that name
                cuda = CudaRuntime()
                try:
                    streams = cleanup.enter_context(Streams(cuda))
                except CudaError as exc:
                    raise _failure(exc, PROVIDER_OF[name]) from exc
                self._computing = streams.computing.value
                self._overlapped = cleanup.enter_context(
                    OverlappedRuns(self._runtime, cuda, streams, self.spec, self._failure_of)
                )
            self._cleanup = cleanup.pop_all()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report says of it; see `Backend`."""
        of_sums = self._overlapped.notes if self._overlapped else ()
        return (*self._own_notes, *of_sums, *self._limit.notes)

    def run(self, batch: FloatArray) -> FloatArray:
        """Super-resolve a batch; see `kspacesr_rt.runtime.backends.Backend.run`.

        A batch that the GPU's memory does not hold is computed in halves, once; that is noted.
        """
        require_batch(batch, self.spec)
        if self._overlapped is not None:
            self._overlapped.finish()
        return self._limit.run(self._run, batch, self._forget)

    def start(self, batch: FloatArray) -> StartedBatch:
        """Begin with a batch; see `kspacesr_rt.runtime.protocol.OverlappingBackend`.

        Where the GPU's memory does not hold two batches, each is computed by itself; that is noted.
        """
        require_batch(batch, self.spec)
        overlapped = self._overlapped
        if overlapped is None or self._limit.is_known:
            return self._alone(batch)
        try:
            session = self._session(len(batch))
            self._sum_up(session)
            return overlapped.start(batch, session)
        except OutOfGpuMemoryError:
            overlapped.release()
            self._forget()
            self._overlapped = None
            self._own_notes = (*self._own_notes, ONE_AT_A_TIME)
        return self._alone(batch)

    def _sum_up(self, session: _BoundSession) -> None:
        """Have a session's spectra summed up, if the provider can; NumPy measures where not."""
        if not self._sums_spectra:
            return
        try:
            session.sum_up()
        except (GpuFailedError, OutOfGpuMemoryError):
            raise
        except BackendUnavailableError as exc:
            self._sums_spectra = False
            self._own_notes = (*self._own_notes, f"spectra are not summed up on the GPU: {exc}")

    def _alone(self, batch: FloatArray) -> StartedBatch:
        moved_s = self.transfer_s
        slices = self.run(batch)
        return FinishedBatch(BatchResult(slices=slices, transfer_s=self.transfer_s - moved_s))

    def replay(self, n: int) -> None:
        """Compute once more what the last batch of `n` slices held, without any copy."""
        self._session(n).replay()

    def _run(self, batch: FloatArray) -> FloatArray:
        return self._session(len(batch)).run(np.ascontiguousarray(batch, dtype=np.float32))

    def _session(self, n: int) -> _BoundSession:
        if n not in self._sessions:
            self._sessions[n] = _BoundSession(
                self._runtime, PROVIDER_OF[self._name], self._content, self.spec, n, self._computing
            )
        return self._sessions[n]

    def _failure_of(self, exc: Exception, n: int) -> BackendUnavailableError:
        if isinstance(exc, BackendUnavailableError):
            return exc
        return _failure(exc, PROVIDER_OF[self._name], n)

    def _forget(self) -> None:
        """Let go of every session and its device memory."""
        self._moved_s += sum(one.transfer_s for one in self._sessions.values())
        self._sessions.clear()

    def __enter__(self) -> Self:
        return self

    @property
    def transfer_s(self) -> float:
        """Seconds spent so far on copies between host and device; see `Backend`."""
        moved_s = self._moved_s + sum(one.transfer_s for one in self._sessions.values())
        return moved_s + (self._overlapped.transfer_s if self._overlapped else 0.0)

    def __exit__(self, *exc: object) -> None:
        if self._overlapped is not None:
            self._overlapped.release()  # what is under way works on the sessions' memory
        self._forget()
        with suppress(CudaError):  # of a GPU that has failed, which said so before
            self._cleanup.close()


class _BoundSession:
    """A session for one batch size, with input and output on the device."""

    def __init__(
        self,
        runtime: Any,
        provider: str,
        content: bytes,
        spec: ModelSpec,
        n: int,
        computing: int | None,
    ) -> None:
        """Open it; `computing` is the CUDA stream that it computes in, None: its own."""
        self._runtime, self._provider, self._n, self._spec = runtime, provider, n, spec
        self._stream = {} if computing is None else {"user_compute_stream": str(computing)}
        self._session = (
            _tensorrt_session(runtime, content, spec, n, self._stream)
            if provider == TENSORRT
            else _open(runtime, provider, content, cuda_options(spec) | self._stream)
        )
        shape = (n, *spec.input_axes, *spec.matrix)
        sr = (n, *spec.output_axes, *spec.sr_matrix(spec.matrix))
        self.transfer_s = 0.0
        self._input, self._output = self._on_device(shape), self._on_device(sr)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(INPUT_NAME, self._input)
        self._binding.bind_ortvalue_output(OUTPUT_NAME, self._output)
        self._sums: Any = None
        self._summing: tuple[Any, Any] | None = None
        """The session beside this one that sums up spectra, and what it is bound to."""
        self._unwaited = runtime.RunOptions()
        self._unwaited.add_run_config_entry("disable_synchronize_execution_providers", "1")

    @property
    def values(self) -> DeviceValues:
        """Where its input and outputs are."""
        return DeviceValues(
            lr=int(self._input.data_ptr()),
            sr=int(self._output.data_ptr()),
            sums=None if self._sums is None else int(self._sums.data_ptr()),
        )

    def run(self, batch: FloatArray) -> FloatArray:
        try:
            started = time.perf_counter()
            self._input.update_inplace(batch)
            moved_in = time.perf_counter()
            self._session.run_with_iobinding(self._binding)  # returns when the device is done
            computed = time.perf_counter()
            result: FloatArray = self._output.numpy()
        except Exception as exc:  # as above
            raise _failure(exc, self._provider, self._n) from exc
        self.transfer_s += moved_in - started + time.perf_counter() - computed
        return result

    def sum_up(self) -> None:
        """Let runs that are enqueued sum up the spectra of what went in and came out."""
        spec = self._spec
        if self._summing is not None:
            return
        graph = spectral_sums_graph(spec.matrix, spec.upscale, spec.sample_grid)
        options = cuda_options(spec) | self._stream
        session = _open(self._runtime, CUDA, graph.SerializeToString(), options)
        self._sums = self._on_device((self._n, 1, len(SUM_NAMES)))
        binding = session.io_binding()
        binding.bind_ortvalue_input(LR, self._input)
        binding.bind_ortvalue_input(SR, self._output)
        binding.bind_ortvalue_output(SUMS, self._sums)
        self._summing = session, binding

    def enqueue(self) -> None:
        """Put a run into the computing stream; nothing is waited for once a graph is captured."""
        self._session.run_with_iobinding(self._binding, self._unwaited)
        if self._summing is not None:
            session, binding = self._summing
            session.run_with_iobinding(binding, self._unwaited)

    def replay(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as exc:  # as above
            raise _failure(exc, self._provider, self._n) from exc

    def _on_device(self, shape: tuple[int, ...]) -> Any:
        """Return zeros on the device."""
        try:
            return self._runtime.OrtValue.ortvalue_from_numpy(
                np.zeros(shape, np.float32), "cuda", 0
            )
        except Exception as exc:  # ONNX Runtime raises classes of its own C++ layer
            raise _failure(exc, self._provider, self._n) from exc


def sums_spectra(spec: ModelSpec, sm: int) -> bool:
    """Say whether the CUDA provider can sum up spectra beside a model, on a GPU of its kernels.

    An engine of TensorRT needs none of them, so a GPU that they leave out may run the model alone.
    """
    return can_be_summed(spec) and not why_not_on("ort-cuda", sm)


def _open(runtime: Any, provider: str, content: bytes, options: dict[str, str]) -> Any:
    """Return a session that runs everything on its provider."""
    settings = runtime.SessionOptions()
    settings.log_severity_level = gpu_build.NO_MESSAGES
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings.add_session_config_entry(*RECORD_PLACEMENT)
    try:
        session = runtime.InferenceSession(
            content,
            settings,
            providers=[(provider, options)],
            enable_fallback=0,  # or it prints the cause to stdout, and tries the CPU
        )
    except Exception as exc:  # ONNX Runtime raises classes of its own C++ layer
        raise _failure(exc, provider) from exc
    require_provider(session, provider)
    require_all_on(placement_of(session), provider, hint=NO_KERNEL_HINT)
    return session


def _tensorrt_session(
    runtime: Any, content: bytes, spec: ModelSpec, n: int, stream: dict[str, str]
) -> Any:
    """Return a session on an engine that was built before, or build it, which takes minutes."""
    folder = tensorrt_folder(runtime, content)
    make_folder(folder)
    options = tensorrt_options(spec, (n, n, n), folder) | stream
    context = ContextModel(folder, context_name(spec, n))
    if (stored := context.stored()) is not None:
        try:
            return _open(runtime, TENSORRT, stored, options)
        except (GpuFailedError, OutOfGpuMemoryError):
            raise  # the engine is not to blame
        except BackendUnavailableError:
            context.remove()  # of a driver or library that was replaced: built anew
    session = _open(runtime, TENSORRT, content, options | context_options(context))
    context.keep()
    return session


def tensorrt_folder(runtime: Any, content: bytes) -> Path:
    """Return where engines of a bound model are kept, for this GPU and these libraries.

    Parameters
    ----------
    runtime
        `onnxruntime`.
    content
        The model, as the provider is given it.
    """
    gpu = current_gpu()
    versions = f"onnxruntime {runtime.__version__}, tensorrt {gpu_build.tensorrt_version()}"
    return engine_folder(content, f"{versions}, {gpu.name}, sm{gpu.sm}")


def context_name(spec: ModelSpec, n: int) -> str:
    """Return what the context model for `n` slices is called in that folder."""
    return f"{spec.matrix[0]}x{spec.matrix[1]}-{n}"


def _failure(exc: Exception, provider: str, n: int | None = None) -> BackendUnavailableError:
    """Return what a user can make of an error of ONNX Runtime's.

    Parameters
    ----------
    exc
        What was raised.
    provider
        Where.
    n
        Slices that were computed; None if a session was opened.
    """
    text = str(exc)
    if any(words in text for words in _OUT_OF_MEMORY):
        return OutOfGpuMemoryError(n or 1)
    if n is None and (found := _CUDA_STATUS.search(text)) and int(found[1]) in LOST:
        return GpuFailedError(f"the GPU failed before a model was opened on it: {_cause(exc)}")
    if n is None:
        return BackendUnavailableError(
            f"ONNX Runtime cannot run this model on {provider}: {_cause(exc)}",
            hint="kspacesr-rt doctor says what is missing; or take backend ort-cpu",
        )
    return GpuFailedError(f"the GPU failed while it computed: {_cause(exc)}")


def _cause(exc: Exception) -> str:
    """Return an error's first line without where in its source, and on which host, it was met."""
    if found := _CUDA_FAILURE.search(str(exc)):
        return found[0].strip()
    return first_line(exc)


def _load_runtime(name: str) -> Any:
    provider = PROVIDER_OF[name]
    if provider == TENSORRT:
        # The provider has no option for it, and builders have TF32 on: 78 dB of an FFT are left.
        os.environ[TF32_VARIABLE] = "0"
    return gpu_build.load_onnxruntime(provider, gpu_build.PROVIDER_LIBRARIES[provider])


def open_backend(name: str, model: BoundModel, options: BackendOptions) -> OrtGpuBackend:
    """Open the backend; a session is made for each batch size that comes."""
    return OrtGpuBackend(name, model, options)
