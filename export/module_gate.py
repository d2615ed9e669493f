"""What a user's network is proved on: phantoms of several matrices, one slice and three at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kspacesr_rt.conversion.open_backends import OpenBackends
from kspacesr_rt.conversion.parity import (
    TIERS,
    Agreement,
    Case,
    DoubleCheck,
    ParityReport,
    compare,
)
from kspacesr_rt.errors import ExporterError, KspaceSRError, library_message
from kspacesr_rt.export.network_probe import Layout, brought
from kspacesr_rt.kspace import FloatArray, Matrix, degrade, fft2c, upscaled
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.quality.metrics import psnr_between, relative_error

MATRICES: tuple[Matrix, ...] = ((48, 48), (64, 64), (45, 37), (40, 72))
"""LR matrices: two even squares, one odd with more rows than columns, one rectangular with fewer;
brought to the network's multiple."""
ANSWER_MATRIX: Matrix = (40, 33)
"""Of the self-test that travels in the file."""
BATCH = 3
SCANNER_UNITS = 1000.0
"""The phantom is also run in units a thousand times larger, as scanners store images."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GateInput:
    """A batch that PyTorch and the exported model are both given."""

    name: str
    """Such as ``48 x 48, 3 slices``."""
    values: FloatArray
    """As the network takes it."""
    hr: FloatArray | None = None
    """Of images: the HR slices ``(n, s*y, s*x)``."""
    scanner_units: bool = False
    """Whether it is as scanners store images: a network may overflow there, and then says so."""
    gated: bool = True
    """Whether the gate compares it."""
    known_answer: bool = False
    """Whether its first slice is the file's self-test."""


def gate_inputs(
    layout: Layout,
    multiple: int,
    fixed: Matrix | None,
    elsewhere: tuple[tuple[int, Matrix], ...] = (),
) -> list[GateInput]:
    """Make the batches every export of a user's network is judged on.

    Parameters
    ----------
    layout
        Of the network's input.
    multiple
        What its matrix is a multiple of.
    fixed
        Its only matrix, if there is but one.
    elsewhere
        Batches and matrices at which it takes other paths: those are judged too.
    """
    matrices = [fixed] if fixed else _distinct(MATRICES, multiple)
    cases = [(batch, matrix) for matrix in matrices for batch in (1, BATCH)]
    cases += [(batch, fixed or brought(matrix, multiple)) for batch, matrix in elsewhere]
    found = [
        _input(
            f"{matrix[0]} x {matrix[1]}, {batch} slice{'s' * (batch > 1)}", layout, matrix, batch
        )
        for batch, matrix in dict.fromkeys(cases)
    ]
    first = matrices[0]
    name = f"{first[0]} x {first[1]}, scanner units"
    stored = _input(name, layout, first, 1, gain=SCANNER_UNITS)
    found.append(dataclasses.replace(stored, scanner_units=True))
    [answer] = [fixed] if fixed else _distinct((ANSWER_MATRIX,), multiple)
    self_test = _input(f"{answer[0]} x {answer[1]}, self-test", layout, answer, 1)
    return [*found, dataclasses.replace(self_test, known_answer=True)]


def _distinct(matrices: Iterable[Matrix], multiple: int) -> list[Matrix]:
    """Bring matrices up to multiples, and no two to the same."""
    found: list[Matrix] = []
    for rows, columns in matrices:
        matrix = brought((rows, columns), multiple)
        while matrix in found:
            matrix = (matrix[0], matrix[1] + multiple)
        found.append(matrix)
    return found


def _input(name: str, layout: Layout, matrix: Matrix, batch: int, gain: float = 1.0) -> GateInput:
    """Return slices that differ: a phantom, its mirror image, and noise over it."""
    phantom = brain_phantom(upscaled(matrix, layout.upscale)).astype(np.float32)
    noise = np.random.default_rng(7).random(phantom.shape, dtype=np.float32)
    three = [phantom, phantom[:, ::-1] * 0.5, phantom * 0.7 + noise * 0.3]
    slices = [three[at % len(three)] for at in range(batch)]
    hr = np.stack(slices).astype(np.float32) * np.float32(gain)
    images = np.stack([np.abs(degrade(one, layout.upscale)) for one in hr]).astype(np.float32)
    if layout.input_axes == (1,):
        return GateInput(name=name, values=images[:, None], hr=hr)
    return GateInput(name=name, values=_kspace(layout, matrix, images))


def _kspace(layout: Layout, matrix: Matrix, images: FloatArray) -> FloatArray:
    """Return k-space of images as coils see them, each with a phase of its own."""
    coils = layout.input_axes[0] if len(layout.input_axes) == 2 else 1
    y, x = (np.linspace(-1, 1, length, dtype=np.float32) for length in matrix)
    made = []
    for image in images:
        for coil in range(coils):
            angle = 2 * np.pi * coil / coils
            reach = np.exp(-((y[:, None] - np.cos(angle)) ** 2) - (x - np.sin(angle)) ** 2)
            phase = np.exp(1j * (0.7 * y[:, None] + 0.4 * x + angle))
            kspace = fft2c((image * reach * phase).astype(np.complex64))
            made.append(np.stack([kspace.real, kspace.imag]))
    shape = layout.input_shape(len(images), matrix)
    return np.ascontiguousarray(np.stack(made).reshape(shape).astype(np.float32))


def agreement_at(backends: OpenBackends, given: GateInput, reference: FloatArray) -> Agreement:
    """Run a model on a batch and measure how far it is from the reference.

    Parameters
    ----------
    backends
        Run the model, as exported.
    given, reference
        A batch, and what PyTorch made of it.

    Raises
    ------
    ExporterError
        If it cannot.
    """
    matrix = (given.values.shape[-2], given.values.shape[-1])
    result = _result(backends, given)
    finite = bool(np.isfinite(result).all())
    safe = np.nan_to_num(result, nan=0.0, posinf=0.0, neginf=0.0)
    slices = list(zip(safe, reference, strict=True))
    worst = min(range(len(slices)), key=lambda at: _psnr(*slices[at]))
    ours, theirs = slices[worst]
    if given.hr is not None:
        case = Case(name=given.name, hr=given.hr[worst], lr=given.values[worst, 0])
        return dataclasses.replace(compare(case, theirs[0], ours[0]), finite=finite)
    nothing = float("nan")  # k-space has no PSNR, SSIM or MAE against an image
    return Agreement(
        case=given.name,
        matrix=matrix,
        psnr_between_db=_psnr(ours, theirs),
        max_error=float(np.abs(ours - theirs).max()) / (float(np.abs(theirs).max()) or 1.0),
        centre_error=relative_error(ours, theirs),
        rim_error=nothing,
        delta_psnr_db=nothing,
        delta_ssim=nothing,
        delta_mae_share=nothing,
        sign_share=0.0,
        finite=finite,
    )


def double_check(
    backends: OpenBackends, given: GateInput, reference: FloatArray, exact: FloatArray
) -> DoubleCheck:
    """Run a model on a batch and measure how far it, and PyTorch in fp32, are from fp64.

    Parameters
    ----------
    backends, given, reference
        As for `agreement_at`, whose errors these are.
    exact
        What PyTorch made of the batch in fp64.
    """
    result = _result(backends, given)
    return DoubleCheck(
        case=given.name,
        reference_db=min(_psnr(*pair) for pair in zip(reference, exact, strict=True)),
        result_db=min(_psnr(*pair) for pair in zip(result, exact, strict=True)),
    )


def _result(backends: OpenBackends, given: GateInput) -> FloatArray:
    """Return what a model makes of a batch."""
    try:
        return backends.run(given.values)
    except KspaceSRError:
        raise
    except Exception as exc:  # a runtime's own, where a length was taken for a number
        raise ExporterError(
            f"what PyTorch's exporter wrote does not run at {given.name}: {library_message(exc)}"
        ) from exc


def _psnr(ours: FloatArray, theirs: FloatArray) -> float:
    return psnr_between(ours, theirs, float(np.abs(theirs).max()) or 1.0)


def report_of(
    backend: str, agreements: list[Agreement], in_fp64: Iterable[DoubleCheck] = ()
) -> ParityReport:
    """Return what the gate measured, with a sentence for every case that is not right.

    A case in `in_fp64` counts as right too where the model is as near to PyTorch's fp64 as is asked
    of it to fp32, and no farther from it than PyTorch's own fp32: what parts the two is PyTorch's
    rounding then.
    """
    least = TIERS["exact"].psnr_between_db
    checks = {one.case: one for one in in_fp64}
    failures = []
    for one in agreements:
        check = checks.get(one.case)
        if not one.finite:
            failures.append(f"{one.case}: NaN or infinity")
        elif not one.psnr_between_db >= least and not (check and check.passed(least)):
            failures.append(
                f"{one.case}: PSNR between the two {one.psnr_between_db:.1f} is outside {least:.0f}"
                f"{f' ({check.as_text()})' if check else ''}"
            )
    return ParityReport(
        backend=backend,
        tier="exact",
        agreements=tuple(agreements),
        failures=tuple(failures),
        in_fp64=tuple(checks.values()),
    )
