"""A head whose k-space is a formula: ellipses of tissue, with lesions in one hemisphere only.

Fourier coefficients of the continuous object, so LR and HR have the ringing that a scan has, and
the truth is exact; one region of white matter holds nothing, which is where invention would show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kspacesr_rt.kspace import ComplexArray, Matrix

_Wide = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]

TISSUES = ("air", "fat", "bone", "csf", "gray", "white", "lesion")
CONTRASTS: dict[str, dict[str, float]] = {
    "T2": dict(zip(TISSUES, (0.0, 0.7, 0.05, 1.0, 0.55, 0.4, 0.75), strict=True)),
    "T1": dict(zip(TISSUES, (0.0, 1.0, 0.05, 0.15, 0.5, 0.75, 0.5), strict=True)),
    "FLAIR": dict(zip(TISSUES, (0.0, 0.7, 0.05, 0.1, 0.6, 0.45, 0.9), strict=True)),
}
"""Intensity of each tissue, in the order and roughly the proportion of such images at 3 T."""


@dataclass(frozen=True, slots=True)
class Ellipse:
    """A part of the head: where a tissue replaces the one around it; the FOV is 2 x 2."""

    tissue: str
    """One of `TISSUES`."""
    around: str
    """The tissue that all of it lies in."""
    half_x: float
    """Half axis to the right, before the turn."""
    half_y: float
    """Half axis upwards."""
    x: float = 0.0
    """Centre, to the right."""
    y: float = 0.0
    """Centre, up."""
    degrees: float = 0.0
    """Turn, anticlockwise."""


N_SULCI = 20
"""Folds of the cortex, all around: detail that a network is used to."""


def _sulci() -> Iterator[Ellipse]:
    for turn in 2 * np.pi * (np.arange(N_SULCI) + 0.5) / N_SULCI:
        x, y = float(0.93 * 0.60 * np.cos(turn)), float(0.93 * 0.82 * np.sin(turn))
        yield Ellipse("csf", "gray", 0.03, 0.01, x, y, float(np.rad2deg(np.arctan2(y, x))))


HEAD = (
    Ellipse("fat", "air", 0.70, 0.92),
    Ellipse("bone", "fat", 0.66, 0.88),
    Ellipse("csf", "bone", 0.62, 0.84),
    Ellipse("gray", "csf", 0.60, 0.82),
    *_sulci(),
    Ellipse("white", "gray", 0.22, 0.52, -0.27),
    Ellipse("white", "gray", 0.22, 0.52, 0.27),
    Ellipse("csf", "white", 0.04, 0.18, -0.11),
    Ellipse("csf", "white", 0.04, 0.18, 0.11),
    Ellipse("lesion", "white", 0.030, 0.025, 0.33, 0.12),
    Ellipse("lesion", "white", 0.018, 0.020, 0.25, -0.20),
    Ellipse("lesion", "white", 0.010, 0.010, 0.36, -0.05),
)
"""Lesions of about 7, 5 and 2.6 samples at 256 in one hemisphere, none in the other."""
LESION_FREE = Ellipse("white", "white", 0.08, 0.26, -0.32)
"""The region without structure: white matter, 4 % of the FOV away from the nearest edge."""


def jinc(x: _Wide) -> _Wide:
    """Return ``2 J1(x) / x`` for ``x >= 0``, to 1e-7: the Fourier transform of a disc.

    References
    ----------
    .. [1] Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 9.4.4 and 9.4.6
    """
    near = (np.minimum(x, 3.0) / 3.0) ** 2
    series = np.polynomial.polynomial.polyval(near, _J1_NEAR)
    far = 3.0 / np.maximum(x, 3.0)
    amplitude = np.polynomial.polynomial.polyval(far, _J1_AMPLITUDE)
    phase = np.maximum(x, 3.0) + np.polynomial.polynomial.polyval(far, _J1_PHASE)
    tail = amplitude * np.cos(phase) * (far / 3.0) ** 1.5
    return 2.0 * np.where(x <= 3.0, series, tail)


_J1_NEAR = (
    *(0.5, -0.56249985, 0.21093573, -0.03954289),
    *(0.00443319, -0.00031761, 0.00001109),
)
_J1_AMPLITUDE = (
    *(0.79788456, 0.00000156, 0.01659667, 0.00017105),
    *(-0.00249511, 0.00113653, -0.00020033),
)
_J1_PHASE = (
    *(-2.35619449, 0.12499612, 0.00005650, -0.00637879),
    *(0.00074348, 0.00079824, -0.00029166),
)


def head_kspace(matrix: Matrix, contrast: str, degrees: float) -> ComplexArray:
    """Return the centred, orthonormal k-space of the head, from the formula of its ellipses.

    Parameters
    ----------
    matrix
        Samples that a scan of the FOV measures; a smaller matrix is the centre of a larger one.
    contrast
        A key of `CONTRASTS`.
    degrees
        How far the head is turned, anticlockwise.

    Returns
    -------
        Shape ``matrix``, complex128: Fourier coefficients of the continuous object, not the DFT of
        a drawing, so there is no aliasing: LR and HR have the ringing that a scan has.
    """
    ky, kx = np.meshgrid(*(np.arange(n) - n // 2 for n in matrix), indexing="ij")
    tissue = CONTRASTS[contrast]
    kspace = np.zeros(matrix, dtype=np.complex128)
    for part in HEAD:
        x, y, turn = _placed(part, degrees)
        along = kx * np.cos(turn) - ky * np.sin(turn)
        across = -kx * np.sin(turn) - ky * np.cos(turn)
        # Half of each length: the FOV is 2 here and 1 where k counts cycles per FOV.
        radius = np.hypot(along * part.half_x / 2, across * part.half_y / 2)
        area = np.pi * part.half_x * part.half_y / 4
        step = tissue[part.tissue] - tissue[part.around]
        kspace += (step * area) * jinc(2 * np.pi * radius) * np.exp(-1j * np.pi * (kx * x - ky * y))
    kspace *= np.sqrt(matrix[0] * matrix[1])
    return kspace


def lesion_free(matrix: Matrix, degrees: float) -> _Mask:
    """Return which samples of a matrix lie in `LESION_FREE` of the head turned by `degrees`."""
    y, x = np.meshgrid(*(2 * (np.arange(n) - n // 2) / n for n in matrix), indexing="ij")
    centre_x, centre_y, turn = _placed(LESION_FREE, degrees)
    right, up = x - centre_x, -y - centre_y
    along = (right * np.cos(turn) + up * np.sin(turn)) / LESION_FREE.half_x
    across = (up * np.cos(turn) - right * np.sin(turn)) / LESION_FREE.half_y
    inside: _Mask = along**2 + across**2 <= 1.0
    return inside


def _placed(part: Ellipse, degrees: float) -> tuple[float, float, float]:
    """Return centre and turn of a part in a head that is turned."""
    head = np.deg2rad(degrees)
    x = part.x * np.cos(head) - part.y * np.sin(head)
    y = part.x * np.sin(head) + part.y * np.cos(head)
    return float(x), float(y), float(head + np.deg2rad(part.degrees))
