"""Run a network that others made as they would: its own file, in ONNX Runtime on the CPU.

What the network upscales by, which matrices it takes and whether it takes several slices at once
is measured here, not believed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kspacesr_rt.conversion.foreign_graph import ForeignGraph
from kspacesr_rt.conversion.normalising import Normalisation
from kspacesr_rt.errors import BackendUnavailableError, InputError, ModelFileError, first_line
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.runtime.backends import BackendOptions
from kspacesr_rt.runtime.ort_cpu import open_session
from kspacesr_rt.system.plain_text import shortened

MULTIPLES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""What the matrices of networks with pooling or windows are multiples of; tried in this order."""
SMALLEST_PROBE = 40
"""LR samples per axis that a probe has at least."""
LARGEST_UPSCALE = 16
CHANNELS_FIRST = "its channels come last: export it with channels first, (n, c, y, x)"
IMAGE_TO_IMAGE = "a network of images (n, c, y, x), of 1 or 3 channels, is adopted: export it so"
FATAL_ONLY = 4
"""ONNX Runtime's log level: it prints its errors beside raising them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a network does with images, as its own runtime runs it."""

    upscale: int
    """SR samples per LR sample and axis."""
    multiple: int
    """What both axes of its matrix have to be a multiple of."""
    output_channels: int
    """Channels of what it gives."""


class ForeignRuntime:
    """A session on a foreign file, behind the normalisation that its network wants."""

    def __init__(self, graph: ForeignGraph, how: Normalisation) -> None:
        """Load the file.

        Raises
        ------
        ModelFileError
            If ONNX Runtime does not load it.
        """
        self._graph, self._how = graph, how
        self._kind: type = np.float32
        try:
            self._session: Any = open_session(graph.content, BackendOptions())
        except BackendUnavailableError as exc:
            raise ModelFileError(f"{graph.name}: {exc}", hint=exc.hint) from exc
        import onnxruntime

        self._quietly = onnxruntime.RunOptions()
        self._quietly.log_severity_level = FATAL_ONLY  # a matrix that it does not take is no news
        if self._session.get_inputs()[0].type == "tensor(float16)":
            self._kind = np.float16

    def network(self, values: FloatArray) -> FloatArray:
        """Give the network ``(n, c, y, x)`` as it is, and as many at once as its file states.

        The last slice fills up a batch that is not full.

        Raises
        ------
        InputError
            If it does not take them, or gives no image.
        """
        step = self._graph.axes[0] or len(values)
        parts = [values[at : at + step] for at in range(0, len(values), step)]
        filled = [
            np.concatenate([one, np.repeat(one[-1:], step - len(one), axis=0)]) for one in parts
        ]
        made = np.concatenate([self._batch(one) for one in filled])
        return made[: len(values)]

    def _batch(self, values: FloatArray) -> FloatArray:
        inputs: dict[str, Any] = {self._graph.input: np.ascontiguousarray(values, dtype=self._kind)}
        try:
            made = self._session.run([self._graph.output], inputs, self._quietly)[0]
        except Exception as exc:  # ONNX Runtime raises classes of its own C++ layer
            raise InputError(
                f"{self._graph.name}: does not take an image of {_shape(values)}: "
                f"{shortened(first_line(exc), 160)}",
                hint=self._why_not_taken(),
            ) from exc
        if made.ndim != 4 or made.shape[0] != values.shape[0]:
            raise InputError(
                f"{self._graph.name}: makes {_shape(made)} of an image of {_shape(values)}, "
                "which is no image",
                hint=IMAGE_TO_IMAGE,
            )
        result: FloatArray = made.astype(np.float32)
        return result

    def slices(self, lr: FloatArray) -> FloatArray:
        """Super-resolve ``(n, 1, y, x)`` of any unit, in one call of the network."""
        given, top = self._how.before(lr)
        return self._how.after(self.network(given), top)

    def measured(self, multiple: int | None) -> Measured:
        """Measure what the network does with images.

        Parameters
        ----------
        multiple
            What its matrix has to be a multiple of; None: tried.

        Raises
        ------
        InputError
            If it takes no image of any of the matrices, or upscales by no whole number.
        """
        fixed = self._graph.axes[2:]
        if fixed[0] and fixed[1]:
            return self._measured([(fixed[0], fixed[1])], 1)
        problem: InputError | None = None
        for candidate in MULTIPLES if multiple is None else (multiple,):
            try:
                return self._measured(_probes(candidate), candidate)
            except InputError as exc:
                problem = problem or exc
        assert problem is not None
        raise problem

    def _why_not_taken(self) -> str:
        """Return what to change, by the axes that the file states."""
        _, channels, _, last = self._graph.axes
        if channels not in (None, 1, 3) or last in (1, 3):
            return CHANNELS_FIRST
        return IMAGE_TO_IMAGE

    def _measured(self, matrices: list[Matrix], multiple: int) -> Measured:
        found = set()
        given: FloatArray = np.empty((0,), np.float32)
        made: FloatArray = given
        for matrix in matrices:
            image = brain_phantom(matrix).astype(np.float32)[None, None]
            given, _ = self._how.before(image)
            made = self.network(given)
            found.add(
                (made.shape[1], *(b / a for a, b in zip(matrix, made.shape[2:], strict=True)))
            )
        channels, rows, columns = found.pop()
        if found or rows != columns or not (rows.is_integer() and 1 <= rows <= LARGEST_UPSCALE):
            raise InputError(
                f"{self._graph.name}: makes {_shape(made)} of an image of {_shape(given)}: no "
                "whole multiple along both axes",
                hint="one that upscales rows and columns by the same whole number is adopted",
            )
        if channels not in (1, self._how.channels):
            raise InputError(
                f"{self._graph.name}: gives {channels} channels of {self._how.channels}",
                hint="export it so that it gives one, or as many as it takes",
            )
        return Measured(upscale=int(rows), multiple=multiple, output_channels=int(channels))


def _probes(multiple: int) -> list[Matrix]:
    """Return two matrices of which nothing is a multiple that need not be."""
    times = math.ceil(SMALLEST_PROBE / multiple) | 1  # odd
    return [(multiple * times, multiple * (times + 2)), (multiple * (times + 1), multiple * times)]


def channels_of(graph: ForeignGraph, asked: int | None) -> int:
    """Return the channels of a network, 1 or 3.

    Raises
    ------
    InputError
        If the file says another number than was asked for, or none that an image has.
    """
    stated = graph.axes[1]
    if stated is not None and asked is not None and stated != asked:
        raise InputError(
            f"{graph.name}: takes {stated} channels, --channels says {asked}",
            hint="leave --channels out",
        )
    channels = stated or asked or 1
    if channels not in (1, 3):
        layout = graph.axes[3] in (1, 3)
        raise InputError(
            f"{graph.name}: takes images of {channels} channels, 1 or 3 are possible",
            hint=CHANNELS_FIRST if layout else IMAGE_TO_IMAGE,
        )
    return channels


def _shape(values: FloatArray) -> str:
    return " x ".join(map(str, values.shape))
