"""The parity gate: a model must compute what its reference computes, on real slices.

The reference is PyTorch for what is exported, and the fp32 file for what is converted from one.

Agreement is judged where it matters and where errors hide: in the image (PSNR between the two,
largest difference), in k-space (the measured centre and the predicted rim apart: an error of
80 dB in the image may all sit in the rim), and in what users quote (change of PSNR, SSIM and MAE
against the HR reference). One number outside its tolerance fails the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kspacesr_rt.dicom import read_slice, scan_folder
from kspacesr_rt.errors import ParityError
from kspacesr_rt.kspace import (
    FloatArray,
    Matrix,
    centre_crop,
    centre_fill,
    degrade,
    divisible_crop,
    fft2c,
    resample_to,
    upscaled,
)
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.spec import Lowering, Precision
from kspacesr_rt.quality.metrics import evaluate, json_number, psnr_between, relative_error
from kspacesr_rt.quality.signs import with_signs_of
from kspacesr_rt.sample import sample_folder

Run = Callable[[FloatArray], FloatArray]
"""LR slice ``(y, x)`` to SR slice ``(s*y, s*x)``."""

SAMPLE_SLICES = (3, 10, 16)
"""Slices of the shipped sample (by position) the gate looks at: skull base, middle and vertex."""
ODD_MATRIX: Matrix = (67, 90)
"""One odd and one even axis, not square: a phantom of this LR matrix is always part of the gate."""
INTENSITY_GAIN = 1000.0
"""The phantom is also run in units a thousand times larger: nothing may depend on them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerances:
    """What the gate allows; a tier is one row of `TIERS`."""

    psnr_between_db: float
    """At least: PSNR between the two results, range = the reference's maximum."""
    centre_error: float
    """At most: relative L2 error inside the measured band."""
    rim_error: float
    """At most: relative L2 error outside it, relative to the rim's own (small) energy."""
    delta_psnr_db: float
    """At most: change of PSNR against HR."""
    delta_ssim: float
    """At most: change of SSIM against HR."""
    delta_mae_share: float
    """At most: change of MAE against HR, relative."""
    sign_share: float = 0.0
    """At most: share of the LR samples that have another sign, of models that predict signs."""
    gains_pass: bool = False
    """Whether the three changes are judged only where they are losses. Rounding to 8 bits may well
    be nearer to HR by chance; in a wider type a gain is as suspicious as a loss."""


TIERS = {
    # fp32 against fp32: rounding of two orders of summation. Measured on the shipped models:
    # 134 to 142 dB, centre 5e-7, rim 2e-5 (the rim holds 1e-3 of the energy and less).
    "exact": Tolerances(
        psnr_between_db=100.0,
        centre_error=1e-5,
        rim_error=1e-3,
        delta_psnr_db=0.01,
        delta_ssim=1e-4,
        delta_mae_share=1e-3,
        # Rounding decides where a sample and its prediction cancel to 1e-7: one in 1e5 or fewer.
        sign_share=3e-4,
    ),
    # A CNN in 16 bits, everything else in fp32. Measured on the shipped models: fp16 100 dB, bf16
    # 75 dB. Of the centre, only the outermost line of an even matrix differs (7e-5 in bf16): a real
    # image cannot hold both halves of it.
    "fast": Tolerances(
        psnr_between_db=65.0,
        centre_error=2e-4,
        rim_error=0.1,
        delta_psnr_db=0.05,
        delta_ssim=5e-4,
        delta_mae_share=5e-3,
        sign_share=0.01,
    ),
    # Convolutions in 8 bits. What is promised is quality against HR; the rest keeps out what is
    # wrong rather than rounded.
    "max": Tolerances(
        psnr_between_db=45.0,
        centre_error=3e-3,
        rim_error=0.25,
        delta_psnr_db=0.1,
        delta_ssim=1e-3,
        delta_mae_share=0.02,
        sign_share=0.05,
        gains_pass=True,
    ),
}
SHORTEST_CASE, LONGEST_CASE = 12, 27
"""Columns of a case in the report's table; with the longest a row has 80."""
TIER_OF: dict[Precision, str] = {
    "fp32": "exact",
    "fp16": "fast",
    "bf16": "fast",
    "int8": "max",
    "fp8": "max",
}
"""Which tier a model of each precision must reach to be written."""


DFT_CENTRE_ERROR = 1e-4
"""ONNX Runtime's CPU kernel of the DFT operator works in fp32 throughout (Bluestein for lengths
that are no power of two): 1e-5 to 5e-5 where two matrix products leave 5e-7."""


def tolerances(tier: str, lowering: Lowering) -> Tolerances:
    """Return what a tier allows a lowering."""
    allowed = TIERS[tier]
    if lowering == "dft":
        return dataclasses.replace(allowed, centre_error=DFT_CENTRE_ERROR)
    return allowed


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One LR slice the gate runs, with its HR reference."""

    name: str
    """Says what it is."""
    hr: FloatArray
    """Shape ``(s*y, s*x)``; maximum 1 unless scaled."""
    lr: FloatArray
    """Shape ``(y, x)``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How one case came out."""

    case: str
    """Name of the case."""
    matrix: Matrix
    """LR matrix."""
    psnr_between_db: float
    """PSNR between the two results in dB."""
    max_error: float
    """Largest difference over the reference's maximum."""
    centre_error: float
    """Relative L2 error inside the measured band of k-space."""
    rim_error: float
    """Relative L2 error outside it."""
    delta_psnr_db: float
    """PSNR against HR, exported minus reference."""
    delta_ssim: float
    """SSIM against HR, exported minus reference."""
    delta_mae_share: float
    """MAE against HR, exported minus reference, relative to the reference's."""
    sign_share: float
    """Share of the LR samples that have another sign; 0 of models that predict none."""
    finite: bool
    """Whether the exported model's result has neither NaN nor infinity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoubleCheck:
    """How far a case is from the reference computed in fp64, where its fp32 rounds too much."""

    case: str
    """Name of the case."""
    reference_db: float
    """PSNR of the reference in fp32 against itself in fp64."""
    result_db: float
    """PSNR of the exported model's result against the reference in fp64."""

    def passed(self, least_db: float) -> bool:
        """Whether the exported model is exact enough, and no less exact than the reference."""
        return self.result_db >= max(least_db, self.reference_db)

    def as_text(self) -> str:
        """Return what was found in a clause."""
        return (
            f"PyTorch's own fp32 is {self.reference_db:.1f} dB from its fp64 there, and the model "
            f"{self.result_db:.1f}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """What the gate measured."""

    backend: str
    """Backend that ran the exported model."""
    tier: str
    """Tolerances that applied."""
    agreements: tuple[Agreement, ...]
    """One per case."""
    failures: tuple[str, ...]
    """One sentence per number outside its tolerance."""
    reference: str = "PyTorch fp32"
    """What it was compared with."""
    in_fp64: tuple[DoubleCheck, ...] = ()
    """Of cases that rounding alone may keep from the bar: distances to PyTorch in fp64."""

    @property
    def least_db(self) -> float:
        """Agreement in the worst case; minus infinity if a result was not finite."""
        return min(
            (one.psnr_between_db if one.finite else -math.inf for one in self.agreements),
            default=math.inf,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        rows = [
            {
                key: json_number(value) if isinstance(value, float) else value
                for key, value in dataclasses.asdict(one).items()
            }
            for one in self.agreements
        ]
        exact = [
            {
                "case": one.case,
                "reference_db": json_number(one.reference_db),
                "result_db": json_number(one.result_db),
            }
            for one in self.in_fp64
        ]
        return {
            "backend": self.backend,
            "tier": self.tier,
            "reference": self.reference,
            "failures": list(self.failures),
            "cases": rows,
            **({"in_fp64": exact} if exact else {}),
        }

    def as_text(self) -> str:
        """Return a table for people, of 80 columns."""
        longest = max((len(one.case) for one in self.agreements), default=0)
        width = max(SHORTEST_CASE, min(longest, LONGEST_CASE))
        lines = [
            f"parity with {self.reference} on {self.backend}, tier {self.tier}",
            f"{'case':<{width}} {'parity dB':>9} {'centre':>7} {'rim':>7} "
            f"{'dPSNR dB':>8} {'dSSIM':>8} {'dMAE':>8}",
        ]
        lines += [
            (
                f"{one.case:<{width}} {one.psnr_between_db:>9.1f} {one.centre_error:>7.1e} "
                + " ".join(
                    f"{value:{form}}" if math.isfinite(value) else f"{'-':>{size}}"
                    for value, size, form in (
                        (one.rim_error, 7, ">7.1e"),
                        (one.delta_psnr_db, 8, ">+8.4f"),
                        (one.delta_ssim, 8, ">+8.1e"),
                        (one.delta_mae_share, 8, ">+8.1e"),
                    )
                )
            )
            for one in self.agreements
        ]
        exact = [
            f"{one.case}: {one.as_text()}"
            for one in self.in_fp64
            if not any(failure.startswith(f"{one.case}:") for failure in self.failures)
        ]
        return "\n".join([*lines, *exact, *self.failures])


def _phantom_case(name: str, matrix: Matrix, upscale: int, gain: float = 1.0) -> Case:
    hr = brain_phantom(upscaled(matrix, upscale)).astype(np.float32)
    lr = degrade(hr, upscale).astype(np.float32)
    return Case(name=name, hr=hr * np.float32(gain), lr=lr * np.float32(gain))


def gate_cases(upscale: int, matrix: Matrix, *, fixed: bool = False) -> list[Case]:
    """Make the slices every export is judged on.

    Real slices come from the shipped sample (256 x 256 HR), each at its own LR matrix; phantoms
    at the nominal matrix, at an odd non-square one, and in scanner units. Of a network that takes
    one matrix only (`fixed`) all are at that one.
    """
    cases = [
        _phantom_case("phantom", matrix, upscale),
        _phantom_case("phantom, 12-bit units", matrix, upscale, INTENSITY_GAIN),
    ]
    if not fixed:
        cases.insert(1, _phantom_case("phantom, odd matrix", ODD_MATRIX, upscale))
    slices = scan_folder(sample_folder()).series[0].slices
    for number in SAMPLE_SLICES:
        image = read_slice(slices[number]).values
        hr = (image / image.max()).astype(np.float32)
        if fixed:
            hr = brought_to(hr, upscaled(matrix, upscale)).astype(np.float32)
        hr = divisible_crop(hr, upscale)
        lr = degrade(hr, upscale).astype(np.float32)
        cases.append(Case(name=f"sample slice {number + 1}", hr=hr, lr=lr))
    return cases


def cases_on(matrix: Matrix, upscale: int) -> list[Case]:
    """Make slices of one LR matrix: a phantom, and slices of the sample brought to it in k-space.

    Nothing of a study is looked at: what is measured may be kept.
    """
    slices = scan_folder(sample_folder()).series[0].slices
    target = upscaled(matrix, upscale)
    images: dict[str, FloatArray] = {"phantom": brain_phantom(target)}
    for number in SAMPLE_SLICES:
        image = read_slice(slices[number]).values.astype(np.float64)
        images[f"sample slice {number + 1}"] = brought_to(image / image.max(), target)
    return [
        Case(
            name=f"{name}, {matrix[0]} x {matrix[1]}",
            hr=hr.astype(np.float32),
            lr=degrade(hr.astype(np.float32), upscale).astype(np.float32),
        )
        for name, hr in images.items()
    ]


def brought_to(image: FloatArray, matrix: Matrix) -> FloatArray:
    """Give an image another matrix, with detail of the size of a sample.

    Along a shorter axis its k-space is cropped, a longer one is filled with reflections: zeros
    there would be the empty rim of an interpolated image, in which any error is large.
    """
    rows, columns = image.shape
    cropped = resample_to(image, (min(rows, matrix[0]), min(columns, matrix[1])))
    missing = [(0, max(0, n - have)) for n, have in zip(matrix, cropped.shape, strict=True)]
    reflected: FloatArray = np.pad(cropped, missing, mode="symmetric")
    return reflected


def compare(
    case: Case, reference: FloatArray, result: FloatArray, *, signs_predicted: bool = False
) -> Agreement:
    """Measure how far a result is from the reference, in the image and in k-space.

    With `signs_predicted`, LR samples whose sign is another are counted, and given the reference's
    before anything else is measured (`kspacesr_rt.quality.signs`).
    """
    finite = bool(np.isfinite(result).all())
    safe = np.nan_to_num(result, nan=0.0, posinf=0.0, neginf=0.0)
    matrix = (case.lr.shape[0], case.lr.shape[1])
    sign_share = 0.0
    if signs_predicted:
        safe, sign_share = with_signs_of(safe, reference, matrix)
    spectra = [fft2c(image.astype(np.float64)) for image in (safe, reference)]
    centres = [centre_crop(spectrum, matrix) for spectrum in spectra]
    rims = [
        spectrum - centre_fill(centre, (spectrum.shape[0], spectrum.shape[1]))
        for spectrum, centre in zip(spectra, centres, strict=True)
    ]
    top = float(np.abs(reference).max()) or 1.0  # zeros have no scale
    scale = float(case.hr.max())
    ours, theirs = (
        evaluate(image[None] / scale, case.hr[None] / scale, "slice-range1")
        for image in (safe, reference)
    )
    return Agreement(
        case=case.name,
        matrix=matrix,
        psnr_between_db=psnr_between(safe, reference, top),
        max_error=float(np.abs(safe - reference).max()) / top,
        centre_error=relative_error(*centres),
        rim_error=relative_error(*rims),
        delta_psnr_db=ours.psnr_db - theirs.psnr_db,
        delta_ssim=ours.ssim - theirs.ssim,
        delta_mae_share=(ours.mae - theirs.mae) / max(theirs.mae, np.finfo(float).tiny),
        sign_share=sign_share,
        finite=finite,
    )


def failures_of(agreement: Agreement, allowed: Tolerances) -> list[str]:
    """Return a sentence for every number outside its tolerance."""
    psnr_change, ssim_change, mae_change = (
        max(loss, 0.0) if allowed.gains_pass else abs(loss)
        for loss in (-agreement.delta_psnr_db, -agreement.delta_ssim, agreement.delta_mae_share)
    )
    limits = (
        ("PSNR between the two", -agreement.psnr_between_db, -allowed.psnr_between_db),
        ("k-space centre error", agreement.centre_error, allowed.centre_error),
        ("k-space rim error", agreement.rim_error, allowed.rim_error),
        ("PSNR change", psnr_change, allowed.delta_psnr_db),
        ("SSIM change", ssim_change, allowed.delta_ssim),
        ("MAE change", mae_change, allowed.delta_mae_share),
        ("share of other signs", agreement.sign_share, allowed.sign_share),
    )
    found = [
        f"{agreement.case}: {name} {abs(value):.3g} is outside {abs(limit):.3g}"
        for name, value, limit in limits
        if not value <= limit
    ]
    return found if agreement.finite else [f"{agreement.case}: NaN or infinity", *found]


def check(
    cases: Iterable[Case],
    reference: Run,
    exported: Run,
    *,
    backend: str,
    tier: str = "exact",
    lowering: Lowering = "gemm",
    signs_predicted: bool = False,
    reference_name: str = "PyTorch fp32",
) -> ParityReport:
    """Run both implementations on every case and compare.

    Parameters
    ----------
    cases
        From `gate_cases`, or one's own.
    reference, exported
        PyTorch or the fp32 file, and the model as its users will run it.
    backend, tier
        For the report; the tier picks the tolerances.
    lowering
        Of the exported model's FFT layers; `tolerances` says what depends on it.
    signs_predicted
        Whether the model predicts the signs of LR samples, see `compare`.
    reference_name
        For the report.
    """
    allowed = tolerances(tier, lowering)
    agreements = tuple(
        compare(case, reference(case.lr), exported(case.lr), signs_predicted=signs_predicted)
        for case in cases
    )
    failures = tuple(
        failure for agreement in agreements for failure in failures_of(agreement, allowed)
    )
    return ParityReport(
        backend=backend,
        tier=tier,
        agreements=agreements,
        failures=failures,
        reference=reference_name,
    )


def require_parity(report: ParityReport, advice: str = "") -> None:
    """Turn a failed report into an error.

    Parameters
    ----------
    report
        Of the gate.
    advice
        What may bring the model through it.

    Raises
    ------
    ParityError
        If any number is outside its tolerance.
    """
    if report.failures:
        first, *others = report.failures
        more = f" (and {len(others)} more)" if others else ""
        raise ParityError(
            f"the model does not compute what {report.reference} computes: "
            f"{first}{more}; no file was written",
            hint="; ".join(
                filter(None, (advice, "--report FILE keeps every number that was measured"))
            ),
        )
