"""Trust calibration: coefficients by which a model file says how far its results may be off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from kspacesr_rt.errors import InputError
from kspacesr_rt.model.spec import TRUST_FEATURES, ModelSpec

COVERAGE: Final = 0.9
"""Share of the samples that intervals are calibrated to hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustCalibration:
    """Half-width of an interval around each SR sample, as a product of powers of local features.

    See `kspacesr_rt.quality.trust_interval`, which computes them.
    """

    constant: float
    """Factor, positive."""
    exponents: Mapping[str, float]
    """Power of each feature of `kspacesr_rt.model.spec.TRUST_FEATURES`; they add up to 1, so that
    a slice that is twice as bright has intervals twice as wide."""
    coverage: float = COVERAGE
    """Share of the samples that the interval is to hold."""
    measured: Mapping[str, Mapping[str, float]] | None = None
    """Name of a data set to the share that the intervals held there, inside ``tissue`` and over
    the whole ``slice``, with the ``lowest`` and ``highest`` of one series inside tissue."""

    @classmethod
    def of(cls, spec: ModelSpec) -> Self:
        """Return what a specification states.

        Raises
        ------
        InputError
            If it states none.
        """
        if not spec.trust:
            raise InputError(
                f"model '{spec.name}' has no trust calibration in its file",
                hint="store one: kspacesr-rt trust JUDGED --calibrate-on DATA --model MODEL.onnx",
            )
        values = spec.trust
        return cls(
            constant=float(values["constant"]),
            exponents={name: float(value) for name, value in values["exponents"].items()},
            coverage=float(values["coverage"]),
            measured=values.get("measured", {}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what a specification keeps, six significant digits each."""
        shortened = {name: _short(self.exponents[name]) for name in TRUST_FEATURES[1:]}
        first = 1.0 - math.fsum(shortened.values())
        return {
            "constant": _short(self.constant),
            "exponents": {TRUST_FEATURES[0]: first, **shortened},
            "coverage": self.coverage,
            "measured": {
                data: {name: float(f"{value:.4g}") for name, value in found.items()}
                for data, found in (self.measured or {}).items()
            },
        }

    def as_text(self) -> str:
        """Return what is promised, and what was measured of it, in a sentence."""
        held = ", ".join(
            f"{data} {found['tissue']:.1%}" for data, found in sorted((self.measured or {}).items())
        )
        return f"intervals of {self.coverage:.0%}; held inside tissue: {held or 'not measured'}"


def _short(value: float) -> float:
    return float(f"{value:.6g}")
