"""Prove on which grid a model answers: a blob must come back at the millimetre it was put at.

A network learns where to answer from how its LR images were made. What its file says of that
decides Image Position (Patient), and no comparison with PyTorch can tell: both shift alike.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from kspacesr_rt.conversion.parity import Run
from kspacesr_rt.errors import ParityError
from kspacesr_rt.kspace import FloatArray, Matrix, SampleGrid, sample_origin
from kspacesr_rt.model.spec import GridSource, ModelSpec, OutputGrid
from kspacesr_rt.quality.metrics import json_number

BLOB_MATRIX: Matrix = (48, 45)
"""LR matrix of the test: grids differ by other amounts along an odd axis."""
BLOB_CENTRE = (21.3, 24.6)
"""LR row and column of the blob: on no sample of any grid."""
BLOB_WIDTH = 2.5
"""Standard deviation of the blob in LR samples: as smooth as anatomy, so that nothing rings."""
LARGEST_MISS = 0.25
"""SR samples between where the blob is and where it should be: half of what parts the two grids at
x2. Trained networks miss by less than 0.05."""
LEAST_LIKENESS = 0.9
"""Correlation with a blob from which on what came back is one: trained networks reach 0.999. Below,
nothing can be said of its place: an untrained network (0.6 at most), or one that is given what it
was not trained on."""
LEAST_LIKENESS_OFF_GRIDS = 0.9997
"""The same where the blob is in its place on no grid, of what came back averaged over an LR sample.
That takes away the stairs of nearest neighbours (0.995, and 0.9999 then), and leaves the distortion
of untrained weights that add to an image they were given: they move it by up to six SR samples (100
unrolled networks: 0.9995 at most off the grids; the shipped models: 0.99999)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a model put the blob."""

    grid: OutputGrid
    """What its file says."""
    source: GridSource = "declared"
    """How that is known, as its file says."""
    miss: tuple[float, float]
    """SR samples, down and to the right, from where that grid puts the blob."""
    likeness: float
    """Correlation of what came back with a blob there, 0 to 1."""
    likeness_smoothed: float
    """The same, of both averaged over an LR sample."""
    fitting: OutputGrid | None
    """The grid on which the blob is in its place; None if there is none."""
    matrix: Matrix = BLOB_MATRIX
    """LR matrix of the blob."""
    turned: str = ""
    """Where the blob is in its place on no grid: how the image must have been turned for it to be
    where it is, in a clause; empty if that is not why."""
    right_where_even: bool = False
    """Whether it is in its place on the even matrix next to an odd one where it is not."""

    @property
    def conclusive(self) -> bool:
        """Whether what came back tells of a place: a blob, and as trained weights return it."""
        if self.fitting:
            return self.likeness >= LEAST_LIKENESS
        return self.likeness_smoothed >= LEAST_LIKENESS_OFF_GRIDS

    @property
    def passed(self) -> bool:
        """Whether the file may say what it says: nothing contradicts it."""
        return not self.conclusive or max(map(abs, self.miss)) <= LARGEST_MISS

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "grid": self.grid,
            "matrix": list(self.matrix),
            "miss_sr_samples": [json_number(value) for value in self.miss],
            "likeness": json_number(self.likeness),
            "likeness_smoothed": json_number(self.likeness_smoothed),
            "conclusive": self.conclusive,
            "passed": self.passed,
        }

    def as_text(self) -> str:
        """Return what was found in a line."""
        (down, right), grid = self.miss, f"output grid '{self.grid}'"
        if self.conclusive:
            known = ", as measured" if self.source == "measured" else ""
            return f"{grid}{known}: a blob comes back {down:+.2f}, {right:+.2f} SR samples off"
        assumed = self.source == "assumed"
        known = "is assumed" if assumed else "is as stated, not proved"
        more = "; say --grid if you know it" if assumed else ""
        if self.likeness >= LEAST_LIKENESS:
            return (
                f"{grid} {known}: a blob comes back blurred (likeness {self.likeness:.3f}), "
                f"{down:+.2f}, {right:+.2f} SR samples off, as with untrained weights{more}"
            )
        return (
            f"{grid} {known}: a blob does not come back as one (likeness {self.likeness:.2f}), "
            f"as with untrained weights{more}"
        )


def blob(matrix: Matrix, centre: tuple[float, float], width: float) -> FloatArray:
    """Draw a Gaussian of maximum 1 at a ``(row, column)`` that need not be a sample's."""
    y, x = np.ogrid[: matrix[0], : matrix[1]]
    squared = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    drawn: FloatArray = np.exp(-squared / (2 * width**2))
    return drawn


def centre_of_mass(image: FloatArray) -> tuple[float, float]:
    """Return the centre of what stands higher than half of the maximum, over the background."""
    above = image - np.median(image)
    weights = np.where(above > 0.5 * above.max(), above, 0.0)
    total = float(weights.sum()) or 1.0
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    return float((weights * y).sum()) / total, float((weights * x).sum()) / total


def find_placement(spec: ModelSpec, run: Run) -> Placement:
    """Run a model on a blob and measure where it comes back.

    Parameters
    ----------
    spec
        Of the model.
    run
        The model, as its users will run it.
    """
    # What is padded is cropped as the stated grid has it: no blob tells of a grid through that.
    usual = spec.network_matrix(BLOB_MATRIX)
    found = _placement(spec, run, spec.fixed_matrix if any(spec.fixed_matrix) else usual)
    if found.passed or found.fitting or any(spec.fixed_matrix):
        return found
    even = (usual[0] + usual[0] % 2, usual[1] + usual[1] % 2)
    if even == usual:
        return found
    other = _placement(spec, run, even)
    return dataclasses.replace(found, right_where_even=other.conclusive and other.passed)


def _placement(spec: ModelSpec, run: Run, matrix: Matrix) -> Placement:
    """Measure where a blob comes back from one matrix."""
    centre = _centre_in(matrix)
    sr = run(blob(matrix, centre, BLOB_WIDTH).astype(np.float32)).astype(np.float64)
    if not np.isfinite(sr).all():
        sr = np.zeros_like(sr)  # no blob; the parity gate says the rest
    found = centre_of_mass(sr)
    ideal = blob((sr.shape[0], sr.shape[1]), found, BLOB_WIDTH * spec.upscale)
    miss = _miss(found, matrix, spec.upscale, spec.sample_grid)
    fitting = None
    for grid in get_args(OutputGrid):
        other = dataclasses.replace(spec, output_grid=grid)
        if max(map(abs, _miss(found, matrix, spec.upscale, other.sample_grid))) <= LARGEST_MISS:
            fitting = grid
    turned = "" if fitting else _turned(found, matrix, spec)
    return Placement(
        grid=spec.output_grid,
        source=spec.grid_source,
        miss=miss,
        likeness=_correlation(sr, ideal),
        likeness_smoothed=_smoothed_likeness(sr, spec.upscale),
        fitting=fitting,
        matrix=matrix,
        turned=turned,
    )


def _turned(found: tuple[float, float], matrix: Matrix, spec: ModelSpec) -> str:
    """Say which flip or transpose of the image would bring a blob back where it was found."""
    rows, columns = (spec.upscale * n - 1 for n in matrix)
    down, right = found
    ways = {
        "upside down (its rows are in reverse order)": (rows - down, right),
        "mirrored left to right (its columns are in reverse order)": (down, columns - right),
        "turned by half a turn": (rows - down, columns - right),
        "transposed (rows and columns are exchanged)": (right, down),
        "turned by a quarter to the left": (right, rows - down),
        "turned by a quarter to the right": (columns - right, down),
    }
    for way, place in ways.items():
        for grid in get_args(OutputGrid):
            sample_grid = dataclasses.replace(spec, output_grid=grid).sample_grid
            if max(map(abs, _miss(place, matrix, spec.upscale, sample_grid))) <= LARGEST_MISS:
                return way
    return ""


def require_placed(placement: Placement) -> None:
    """Turn a blob in the wrong place into an error.

    Raises
    ------
    ParityError
        If a blob came back, and elsewhere than the model's grid says.
    """
    if placement.passed:
        return
    down, right = placement.miss
    rows, columns = placement.matrix
    hint = "it is in its place on no grid: how were the LR images of the training made?"
    if placement.fitting:
        hint = f"--grid {placement.fitting}: a blob is in its place there"
    elif placement.turned:
        hint = f"its result is {placement.turned}: leave that out of the network, or undo it there"
    elif placement.right_where_even:
        hint = (
            "on an even matrix it is in its place: take ifftshift before a transform, and fftshift "
            "behind it; or have odd matrices padded, with --multiple 2"
        )
    raise ParityError(
        f"the model does not answer on the grid '{placement.grid}': of an LR matrix of {rows} x "
        f"{columns} a blob comes back {down:+.2f}, {right:+.2f} SR samples from its place, "
        f"{LARGEST_MISS} are allowed; no file was written",
        hint=hint,
    )


def _centre_in(matrix: Matrix) -> tuple[float, float]:
    """Return a place in a matrix where `BLOB_CENTRE` is in its own."""
    row, column = (
        centre if n == usual else centre * n / usual
        for centre, n, usual in zip(BLOB_CENTRE, matrix, BLOB_MATRIX, strict=True)
    )
    return row, column


def _miss(
    found: tuple[float, float], matrix: Matrix, upscale: int, grid: SampleGrid
) -> tuple[float, float]:
    down, right = (
        place - upscale * (centre - sample_origin(n, upscale, grid))
        for place, centre, n in zip(found, _centre_in(matrix), matrix, strict=True)
    )
    return down, right


def _smoothed_likeness(sr: FloatArray, upscale: int) -> float:
    """Return the correlation with a blob in its own place, both averaged over LR samples."""
    found = _averaged(sr, upscale)
    down, right = centre_of_mass(found)
    middle = (upscale - 1) / 2  # of the samples that make the first average
    ideal = blob((sr.shape[0], sr.shape[1]), (down + middle, right + middle), BLOB_WIDTH * upscale)
    return _correlation(found, _averaged(ideal, upscale))


def _averaged(image: FloatArray, n: int) -> FloatArray:
    """Return the means of n x n samples, of every place where they all are."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (n, n))
    means: FloatArray = windows.mean(axis=(-2, -1))
    return means


def _correlation(a: FloatArray, b: FloatArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / norm if norm > 0.0 and np.isfinite(norm) else 0.0
