"""What every backend does, whoever wrote it: one function a promise, its first line says why."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from unittest import SkipTest

import numpy as np

from kspacesr_rt.errors import BackendUnavailableError, InputError, ShapeError
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.model.binding import bind
from kspacesr_rt.quality.metrics import psnr_between
from kspacesr_rt.quality.signs import with_signs_of
from kspacesr_rt.runtime.backends import (
    BackendOptions,
    baseline_spec,
    open_backend,
    require_available,
)
from kspacesr_rt.runtime.self_test import REQUIRED_DB, verify_model
from kspacesr_rt.testing.subject import MATRIX, Subject, batch_of

REFERENCE: Final = "ort-cpu"
MATRICES: Final[tuple[Matrix, ...]] = ((16, 16), (21, 16), (16, 21), (17, 17), (24, 40))
"""LR matrices: even, odd, and longer on either axis."""
ROUNDING: Final = 1e-5
"""Of a GPU that takes another kernel for another batch, over the largest sample."""


def require(holds: bool, message: str) -> None:
    """Raise `AssertionError` unless something holds; no ``assert``, which ``-O`` removes."""
    if not holds:
        raise AssertionError(message)


def require_same_bits(result: FloatArray, expected: FloatArray, what: str) -> None:
    """Raise `AssertionError` unless two results are equal to the last bit."""
    if not np.array_equal(result, expected):
        largest = float(np.abs(result - expected).max() / np.abs(expected).max())
        raise AssertionError(f"{what}: the results differ, by {largest:.1e} of the largest sample")


# What it computes ---------------------------------------------------------------------------------


def gives_the_known_answer(subject: Subject) -> None:
    """The answer that PyTorch gave when the model was exported, as `kspacesr-rt verify` checks."""
    found = verify_model(subject.loaded(), subject.name, BackendOptions(threads=subject.threads))
    require(
        found.passed,
        f"{found.psnr_between_db:.1f} dB against the known answer, {found.required_db:.0f} are "
        "required",
    )


def agrees_with_the_reference_on_any_matrix(subject: Subject) -> None:
    """A transposed axis, or a rule for even sizes alone, shows on odd and rectangular ones."""
    model = subject.loaded()
    try:
        require_available(REFERENCE)
    except BackendUnavailableError as exc:
        raise SkipTest(f"the reference is not here: {exc}") from exc
    for matrix in MATRICES:
        batch = batch_of(2, matrix)
        with subject.open(matrix) as backend:
            result = backend.run(batch)
        with open_backend(REFERENCE, bind(model, matrix), BackendOptions(threads=1)) as reference:
            expected = reference.run(batch)
        for one, other in zip(result[:, 0], expected[:, 0], strict=True):
            if model.spec.data_consistency == "magnitude":
                one, _ = with_signs_of(one, other, matrix)
            found = psnr_between(one, other, float(np.abs(other).max()))
            required = REQUIRED_DB[model.spec.precision]
            require(found >= required, f"{matrix}: {found:.1f} dB, {required:.0f} are required")


def gives_float32_of_the_sr_matrix(subject: Subject) -> None:
    """Every caller allocates by this shape; float64 would double the memory of a study."""
    scale = subject.upscale
    for matrix in MATRICES:
        with subject.open(matrix) as backend:
            for n in (1, 2, 5):
                result = backend.run(batch_of(n, matrix))
                expected = (n, 1, scale * matrix[0], scale * matrix[1])
                require(result.shape == expected, f"{result.shape} for {n} slices of {matrix}")
                require(result.dtype == np.float32, f"{result.dtype}, expected float32")
                require(bool(np.isfinite(result).all()), f"not finite for {n} slices of {matrix}")


def says_what_was_opened(subject: Subject) -> None:
    """The report names what ran: matrix, upscale, and what the backend has to say of itself."""
    with subject.open() as backend:
        require(tuple(backend.spec.matrix) == MATRIX, f"spec.matrix is {backend.spec.matrix}")
        require(backend.spec.upscale == subject.upscale, f"spec.upscale is {backend.spec.upscale}")
        require(backend.transfer_s >= 0.0, f"transfer_s is {backend.transfer_s}")
        require(all(isinstance(one, str) and one for one in backend.notes), "notes are sentences")


def puts_things_where_they_are(subject: Subject) -> None:
    """Transposed or flipped axes would pass every check on noise."""
    batch = np.zeros((1, 1, *MATRIX), np.float32)
    batch[0, 0, 5, 11] = 1.0
    with subject.open() as backend:
        result = backend.run(batch)[0, 0]
    row, column = np.unravel_index(result.argmax(), result.shape)
    scale = subject.upscale
    near = abs(int(row) - 5 * scale) <= scale and abs(int(column) - 11 * scale) <= scale
    require(near, f"the brightest sample of (5, 11) is at ({row}, {column}), x{scale}")


def gives_nothing_for_nothing(subject: Subject) -> None:
    """The slice above the head is zero: no NaN, no hallucination."""
    with subject.open() as backend:
        result = backend.run(np.zeros((1, 1, *MATRIX), np.float32))
    require(float(np.abs(result).max()) == 0.0, "an empty slice came back with something in it")


def scales_with_its_input(subject: Subject) -> None:
    """A power of two changes no mantissa, so even rounding must come out the same."""
    batch = batch_of(2)
    with subject.open() as backend:
        expected = backend.run(batch) * np.float32(1024.0)
        result = backend.run(batch * np.float32(1024.0))
    close = np.allclose(result, expected, rtol=1e-5, atol=1e-6 * float(np.abs(expected).max()))
    require(close, "a slice 1024 times as bright is not 1024 times as bright")


# Batches ------------------------------------------------------------------------------------------


def keeps_the_slices_of_a_batch_apart(subject: Subject) -> None:
    """Bit for bit on a CPU: a patient's result must not change with ``--batch``.

    A GPU may pick another kernel for another batch size; there, rounding is allowed.
    """
    batch = batch_of(5)
    with subject.open() as backend:
        together = backend.run(batch)
        for index in range(len(batch)):
            alone = backend.run(batch[index : index + 1])[0]
            if subject.info.on_gpu:
                atol = ROUNDING * float(np.abs(alone).max())
                require(np.allclose(together[index], alone, atol=atol), "alone it is another slice")
            else:
                require_same_bits(together[index], alone, f"slice {index} of 5, and alone")


def keeps_the_order_of_a_batch(subject: Subject) -> None:
    """Slice i in is slice i out."""
    batch = batch_of(4)
    with subject.open() as backend:
        require_same_bits(backend.run(batch[::-1]), backend.run(batch)[::-1], "a batch reversed")


def leaves_its_input_alone(subject: Subject) -> None:
    """The LR slice is still needed for the residual, the preview and the report."""
    batch = batch_of(3)
    before = batch.copy()
    with subject.open() as backend:
        backend.run(batch)
    require(np.array_equal(batch, before), "the batch was changed")


def takes_any_memory_layout(subject: Subject) -> None:
    """Decoded pixels are often views: the values count, read-only or strided."""
    batch = batch_of(2)
    wide = np.repeat(batch, 2, axis=3)[..., ::2]
    wide.flags.writeable = False
    with subject.open() as backend:
        require_same_bits(backend.run(wide), backend.run(batch), "a strided, read-only batch")


def gives_results_away(subject: Subject) -> None:
    """The pipeline writes one result while the next batch runs: no buffer is shared."""
    with subject.open() as backend:
        first = backend.run(batch_of(2, seed=1))
        kept = first.copy()
        backend.run(batch_of(2, seed=2))
        require(np.array_equal(first, kept), "a result changed when the next one was computed")
        first[:] = 0.0
        require_same_bits(backend.run(batch_of(2, seed=1)), kept, "a batch again")


# Threads and streams ------------------------------------------------------------------------------


def gives_the_same_bits_again(subject: Subject) -> None:
    """A run that is repeated to check a result must reproduce it, in a backend opened anew, too."""
    batch = batch_of(2)
    with subject.open() as backend:
        first = backend.run(batch)
        require_same_bits(backend.run(batch), first, "twice the same batch")
    with subject.open() as backend:
        require_same_bits(backend.run(batch), first, "opened twice")


def takes_any_number_of_threads(subject: Subject) -> None:
    """``--threads`` is for speed: the images are the same to rounding."""
    batch = batch_of(2)
    with subject.open() as backend:
        expected = backend.run(batch)
    for threads in (0, 2, 3):
        with subject.open(options=BackendOptions(threads=threads)) as backend:
            result = backend.run(batch)
        for one, other in zip(result, expected, strict=True):
            close = np.allclose(one, other, atol=ROUNDING * float(np.abs(other).max()))
            require(close, f"{threads} threads give another image than {subject.threads}")


def computes_side_by_side_as_alone(subject: Subject) -> None:
    """`infer` computes batches at the same time: each comes out as if it were alone."""
    if not subject.info.streams:
        raise SkipTest(f"backend '{subject.name}' computes one call at a time: its row says so")
    slices = batch_of(12)[:, None]
    with subject.open() as backend:
        expected = [backend.run(one) for one in slices]
    for streams in (2, 3):
        options = BackendOptions(threads=2, streams=streams)
        with subject.open(options=options) as backend, ThreadPoolExecutor(streams) as pool:
            together = list(pool.map(backend.run, slices))
        for one, other in zip(together, expected, strict=True):
            require_same_bits(one, other, f"{streams} streams")


def runs_in_another_thread_than_it_was_opened_in(subject: Subject) -> None:
    """A service opens a model in one thread, and uses it from another."""
    if subject.info.on_gpu:
        raise SkipTest("contexts of a GPU belong to the thread that made them")
    batch = batch_of(1)
    with subject.open() as backend, ThreadPoolExecutor(1) as pool:
        require_same_bits(pool.submit(backend.run, batch).result(), backend.run(batch), "threads")


# Closing ------------------------------------------------------------------------------------------


def closes_for_itself_alone(subject: Subject) -> None:
    """Four matrices are open at a time: closing one must not disturb another."""
    batch, other_matrix = batch_of(1), (24, 16)
    with subject.open() as backend:
        expected = backend.run(batch)
        with subject.open(other_matrix) as other:
            other.run(batch_of(1, other_matrix))
        require_same_bits(backend.run(batch), expected, "after another was closed")


def lets_errors_pass(subject: Subject) -> None:
    """Leaving the block must not swallow what went wrong in it."""
    passed = False
    try:
        with subject.open():
            raise LookupError("of whoever uses it")
    except LookupError:
        passed = True
    require(passed, "__exit__ returned something true: an error was swallowed")


def leaves_no_thread_behind(subject: Subject) -> None:
    """A service opens and closes backends for months."""
    before = set(threading.enumerate())
    with subject.open() as backend:
        backend.run(batch_of(1))
    left = [one.name for one in set(threading.enumerate()) - before if one.is_alive()]
    require(not left, f"threads are left: {', '.join(left)}")


# Errors -------------------------------------------------------------------------------------------


def refuses_a_batch_of_another_shape(subject: Subject) -> None:
    """Bound to one matrix, it must not run another series by broadcasting or cropping."""
    rows, columns = MATRIX
    with subject.open() as backend:
        for shape in (
            (1, 1, columns, rows),
            (1, 1, rows, columns + 1),
            (1, 2, rows, columns),
            (0, 1, rows, columns),
            (1, rows, columns),
            (rows, columns),
        ):
            expected = f"expected a batch (n, 1, {rows}, {columns}), found {shape}"
            with _raising(ShapeError, expected):
                backend.run(np.zeros(shape, np.float32))


def refuses_what_it_does_not_run(subject: Subject) -> None:
    """A baseline given a model, or a runtime given none, must not look as if it had run."""
    takes = subject.info.model
    what = (
        baseline_spec(subject.name, subject.upscale, MATRIX)
        if takes
        else (bind(subject.model, MATRIX) if subject.model else None)
    )
    if what is None:
        raise SkipTest("no model was given to try a baseline with")
    expected = f"backend '{subject.name}' takes {'a bound model' if takes else 'no model file'}"
    with _raising(InputError, expected):
        open_backend(subject.name, what)


@contextlib.contextmanager
def _raising(kind: type[Exception], message: str) -> Iterator[None]:
    try:
        yield
    except kind as exc:
        require(str(exc) == message, f"it says {str(exc)!r}, expected {message!r}")
    else:
        raise AssertionError(f"nothing was raised, expected {kind.__name__}: {message}")


CONTRACT: Final[tuple[Callable[[Subject], None], ...]] = (
    gives_the_known_answer,
    agrees_with_the_reference_on_any_matrix,
    gives_float32_of_the_sr_matrix,
    says_what_was_opened,
    puts_things_where_they_are,
    gives_nothing_for_nothing,
    scales_with_its_input,
    keeps_the_slices_of_a_batch_apart,
    keeps_the_order_of_a_batch,
    leaves_its_input_alone,
    takes_any_memory_layout,
    gives_results_away,
    gives_the_same_bits_again,
    takes_any_number_of_threads,
    computes_side_by_side_as_alone,
    runs_in_another_thread_than_it_was_opened_in,
    closes_for_itself_alone,
    lets_errors_pass,
    leaves_no_thread_behind,
    refuses_a_batch_of_another_shape,
    refuses_what_it_does_not_run,
)
"""Every promise of a backend."""


def check_backend(subject: Subject | str) -> dict[str, str]:
    """Check every promise, without pytest.

    Parameters
    ----------
    subject
        A backend, by name or with the model to try it with.

    Returns
    -------
        By name of the check: ``passed``, or why it does not apply.

    Raises
    ------
    AssertionError
        With all that did not hold, a line each.
    InputError, BackendUnavailableError
        If there is no such backend, or it cannot run here.
    """
    if isinstance(subject, str):
        subject = Subject(subject)
    require_available(subject.name)
    found: dict[str, str] = {}
    failed = []
    for check in CONTRACT:
        try:
            check(subject)
        except SkipTest as exc:
            found[check.__name__] = str(exc)
        except Exception as exc:  # a plug-in raises what it likes; every check is to be heard
            failed.append(f"{check.__name__}: {type(exc).__name__}: {exc}")
        else:
            found[check.__name__] = "passed"
    require(not failed, "\n".join([f"backend '{subject.name}' breaks its contract", *failed]))
    return found
