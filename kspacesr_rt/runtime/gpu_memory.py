"""What fails on a GPU: memory that is too small for a batch, which is halved once, and the GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kspacesr_rt.errors import BackendUnavailableError
from kspacesr_rt.kspace import FloatArray

GPU_FAILED_HINT = "nvidia-smi shows whether it is still there; then the same command goes on"
"""What to do about a GPU that failed in the middle of a run."""

ONE_AT_A_TIME = "the GPU's memory does not hold two batches: copies wait for computing"
"""What a report says of a backend that could overlap the two."""


_OTHERS = "nvidia-smi shows what else uses the GPU"
_SMALLER_BATCH = f"take a smaller --batch; {_OTHERS}"
_SMALLER_SLICE = (
    "no --batch is smaller: take a model in fp16 (kspacesr-rt convert MODEL -o MODEL-fp16.onnx "
    "--precision fp16), slices of a smaller matrix, or a backend on the CPU, such as --backend "
    f"ort-cpu; {_OTHERS}"
)
LOST = frozenset((46, 100, 101, 201, 214, 220, 226, 999, *range(700, 721)))
"""Of cudaError_t, those after which nothing runs on the GPU in this process any more: the device is
gone or unavailable, memory is at fault, or a kernel failed, which CUDA remembers [1]_.

.. [1] NVIDIA, CUDA Runtime API, "Data types used by CUDA Runtime", cudaError
"""


class GpuFailedError(BackendUnavailableError):
    """The GPU failed, and is not to be asked again in this process; no model is to blame."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint=GPU_FAILED_HINT)


class OutOfGpuMemoryError(BackendUnavailableError):
    """The GPU's memory does not hold what a number of slices needs."""

    def __init__(self, n_slices: int, *, halved_from: int | None = None) -> None:
        slices = "a slice" if n_slices == 1 else f"{n_slices} slices at once"
        text = f"the GPU's memory does not hold {slices}"
        if halved_from is not None:
            text = f"the GPU's memory holds neither {halved_from} slices at once nor {n_slices}"
        super().__init__(text, hint=_SMALLER_BATCH if n_slices > 1 else _SMALLER_SLICE)


def half_of(n_slices: int) -> int:
    """Return the batch that is tried where one of `n_slices` was too large."""
    return (n_slices + 1) // 2


def halved_note(n_slices: int) -> str:
    """Return what a report says of batches that are halved."""
    return (
        f"the GPU's memory does not hold {n_slices} slices at once: computed by {half_of(n_slices)}"
    )


class BatchLimit:
    """The most slices that a backend takes at once; unknown until its memory was full."""

    def __init__(self) -> None:
        self._largest: int | None = None
        self.notes: tuple[str, ...] = ()
        """What a report says of it: that batches are halved."""

    @property
    def is_known(self) -> bool:
        """Whether the memory was full before."""
        return self._largest is not None

    def run(
        self,
        run: Callable[[FloatArray], FloatArray],
        batch: FloatArray,
        release: Callable[[], None],
    ) -> FloatArray:
        """Run a batch, in parts if it is larger than what fitted.

        Parameters
        ----------
        run
            Computes a part ``(n, ...)``; raises `OutOfGpuMemoryError`.
        batch
            ``(n, ...)``.
        release
            Gives the device memory of earlier parts back.

        Raises
        ------
        OutOfGpuMemoryError
            If half a batch does not fit either, or a single slice does not.
        """
        n = len(batch)
        try:
            return self._in_parts(run, batch)
        except OutOfGpuMemoryError:
            if n == 1 or self._largest is not None:
                raise
        release()
        self._largest = half_of(n)
        self.notes = (halved_note(n),)
        try:
            return self._in_parts(run, batch)
        except OutOfGpuMemoryError as exc:
            raise OutOfGpuMemoryError(self._largest, halved_from=n) from exc

    def _in_parts(self, run: Callable[[FloatArray], FloatArray], batch: FloatArray) -> FloatArray:
        if self._largest is None or len(batch) <= self._largest:
            return run(batch)
        starts = range(0, len(batch), self._largest)
        return np.concatenate([run(batch[start : start + self._largest]) for start in starts])
