"""A model as a function of arrays: `load` opens one, calling it super-resolves."""

from __future__ import annotations

from os import PathLike
from typing import Literal, Self, overload

import numpy as np
import numpy.typing as npt

from kspacesr_rt.kspace import FloatArray
from kspacesr_rt.model.spec import ModelSpec, Tier
from kspacesr_rt.model.trust_calibration import TrustCalibration
from kspacesr_rt.pipeline.array_batches import GivenArrays
from kspacesr_rt.pipeline.options import InferOptions
from kspacesr_rt.pipeline.session import Session
from kspacesr_rt.quality.trust_interval import half_width
from kspacesr_rt.runtime.selection import BackendChoice
from kspacesr_rt.system.path_arguments import require_path


class _ModelSession(Session):
    """The session behind a `Model`."""

    _called = "model"


class Model:
    """An open model, or baseline: call it with slices. Made by `load`.

    Threads may share it and take turns; what runs on a GPU stays with the thread that called it
    first. It may be used plainly or in a ``with`` statement, which closes it.

    Examples
    --------
    >>> import numpy as np
    >>> import kspacesr_rt as ks
    >>> with ks.load("x2-fast") as model:
    ...     sr = model(np.full((5, 32, 24), 100.0))
    >>> sr.shape, sr.dtype
    ((5, 64, 48), dtype('float32'))
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @overload
    def __call__(self, lr: npt.ArrayLike, *, trust: Literal[False] = False) -> FloatArray: ...

    @overload
    def __call__(
        self, lr: npt.ArrayLike, *, trust: Literal[True]
    ) -> tuple[FloatArray, FloatArray]: ...

    def __call__(
        self, lr: npt.ArrayLike, *, trust: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Super-resolve slices.

        Parameters
        ----------
        lr
            Real, finite values of magnitude images, in whatever unit their series has; shape
            ``(..., y, x)``, any matrix the model can be bound to. Slices do not influence each
            other. For a network of k-space (`spec.input`): centred, complex ``(..., ky, kx)``, or
            as pairs of real numbers ``(..., 2, ky, kx)``; of several coils ``(..., c, ky, kx)`` or
            ``(..., c, 2, ky, kx)``.
        trust
            Also return how far results may be off, by what the model's file states.

        Returns
        -------
            float32 in the same unit, shape ``(..., s*y, s*x)`` for `upscale` s. Nothing is
            clipped: a result may be slightly below zero. K-space comes as it was given: complex64,
            or in pairs. With `trust` that, and half-widths of the same shape and unit: about 90 %
            of a slice measured at that resolution would lie within (`spec.trust` has the share,
            and what it was on series that the model never saw).

        Raises
        ------
        ShapeError
            If there are fewer than two axes, an empty slice, or a matrix that cannot be bound,
            or computed at.
        InputError
            If values are complex, masked, not numbers or not finite, the model is closed, or
            `trust` is asked of one whose file states nothing; of a network that ends in a modulus
            (`spec.output`; no shipped one does) also if the largest is a negative one.
        ResultError
            If a result is not finite, as of values near the largest of float32, or not as it is
            declared of a network that is not ours.

        Warns
        -----
        UserWarning
            If some are negative, by more than 1 % of the largest; they are computed all the same.
            Baselines are linear, and do not warn.

        Examples
        --------
        >>> import kspacesr_rt as ks
        >>> model = ks.load(backend="zero-fill", upscale=2)
        >>> model([[1.0, 1.0], [1.0, 1.0]]).shape
        (4, 4)
        """
        calibration = TrustCalibration.of(self.spec) if trust else None
        sr = self._session.super_resolve(lr)
        if calibration is None:
            return sr
        given = GivenArrays(lr, self.spec)
        flat = sr.reshape(-1, *sr.shape[-2:])
        widths = [
            half_width(one[0], result, calibration)
            for one, result in zip(given.batch, flat, strict=True)
        ]
        return sr, np.reshape(widths, sr.shape).astype(np.float32)

    @property
    def spec(self) -> ModelSpec:
        """What the model is: architecture, upscale, provenance, intended use, parity, bounds."""
        return self._session.spec

    @property
    def upscale(self) -> int:
        """SR samples per LR sample, along each axis."""
        return self._session.upscale

    @property
    def backend(self) -> str:
        """Name of the backend that computes; never replaced by another."""
        return self._session.choice.backend

    @property
    def choice(self) -> BackendChoice:
        """The backend, why it was chosen, and what was passed over."""
        return self._session.choice

    def close(self) -> None:
        """Let go of what is open; a second time is no error."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<kspacesr_rt.Model {self.spec.name!r} x{self.upscale} on {self.backend}>"


def load(
    model: str | PathLike[str] | None = None,
    *,
    backend: str = "auto",
    tier: Tier = "exact",
    threads: int = 0,
    upscale: int | None = None,
) -> Model:
    """Open a model for arrays.

    Parameters
    ----------
    model
        Name of a shipped model (``kspacesr-rt inspect`` lists them) or path of a model file; None:
        the shipped ``fast`` model of `upscale`, or none for a baseline.
    backend
        What computes, as ``kspacesr-rt backends`` names them; ``auto`` takes the first, in a fixed
        order of preference, that gives the model's stored answer on this machine.
    tier
        How far results may be from fp32: ``exact``, or what is fastest here and keeps the tier
        ``fast`` or ``max``; made and proved at first use, which takes a minute or two.
    threads
        CPU threads; 0: every core this process may use.
    upscale
        SR / LR; None: that of the model that is named, else 2.

    Returns
    -------
        The open model. The first slice of every matrix takes longer: the model is bound to it.

    Raises
    ------
    InputError, ModelFileError
        If there is no such model, it is none, or it has another upscale.
    BackendUnavailableError
        If the backend cannot run here; no other is taken instead.
    ParityError
        When called: if the chosen precision does not keep the tier at a matrix.

    Examples
    --------
    >>> import kspacesr_rt as ks
    >>> model = ks.load("x4-fast", backend="ort-cpu", threads=1)
    >>> model
    <kspacesr_rt.Model 'x4-fast' x4 on ort-cpu>
    >>> model.close()
    """
    options = InferOptions(
        backend=backend,
        tier=tier,
        model=None if model is None else require_path(model, "model"),
        threads=threads,
        upscale=upscale,
        streams=1,  # one slice at a time has every thread
    )
    return Model(_ModelSession(options))
