"""Where a model helps: limits that its file states, and how a series compares with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from kspacesr_rt.model.spec import ModelSpec

OnOutside = Literal["warn", "skip", "zero-fill"]
"""What to do with a series outside the limits of its model."""
LOW_SNR: Final = "low-snr"
EMPTY_RIM: Final = "empty-rim"
OTHER_BODY_PART: Final = "other-body-part"
OUTSIDE_WARNING: Final = "outside the model's limits: "
"""How warnings begin that speak of limits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLimits:
    """Limits measured on real series; beyond them the model was no better than zero-filling."""

    smallest_snr: float | None = None
    """Of a series, by `kspacesr_rt.quality.noise.series_snr`; None: none was found."""
    smallest_share: float | None = None
    """Of either axis of k-space that holds signal, in (0, 1]; None: none was found."""
    body_parts: tuple[str, ...] = ()
    """Body Part Examined of what the model was trained and judged on; empty: not stated."""

    @classmethod
    def of(cls, spec: ModelSpec) -> Self:
        """Return what a specification states; nothing of one without limits."""
        values = spec.limits
        return cls(
            smallest_snr=values.get("smallest_snr"),
            smallest_share=values.get("smallest_share"),
            body_parts=tuple(values.get("body_parts", ())),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what a specification keeps: what is None or empty is left out."""
        values = {
            "smallest_snr": self.smallest_snr,
            "smallest_share": self.smallest_share,
            "body_parts": list(self.body_parts),
        }
        return {name: value for name, value in values.items() if value}

    def outside(
        self, *, snr: float | None, share: float | None, body_part: str = ""
    ) -> dict[str, str]:
        """Say in what a series lies outside.

        Parameters
        ----------
        snr
            Of the series; None where it cannot be told.
        share
            The smaller of both axes' shares of k-space that hold signal; None where that cannot be
            told, or interpolation is undone.
        body_part
            Body Part Examined, as its header says; empty where it does not.

        Returns
        -------
            Reason word to a clause with both figures; what is not known is not judged.
        """
        found = {}
        if snr is not None and self.smallest_snr is not None and snr < self.smallest_snr:
            found[LOW_SNR] = f"SNR is about {snr:.1f}, it helps from {self.smallest_snr:.1f}"
        if share is not None and self.smallest_share is not None and share < self.smallest_share:
            found[EMPTY_RIM] = (
                f"k-space is filled to {share:.2f}, it helps from {self.smallest_share:.2f}"
            )
        part = body_part.strip().upper()
        if part and self.body_parts and part not in self.body_parts:
            found[OTHER_BODY_PART] = (
                f"the header names a body part other than {', '.join(self.body_parts)}"
            )
        return found

    def as_text(self) -> str:
        """Return them in a sentence; empty if there are none."""
        parts = []
        if self.smallest_snr is not None:
            parts.append(f"SNR from {self.smallest_snr:.1f}")
        if self.smallest_share is not None:
            parts.append(f"k-space filled to {self.smallest_share:.2f} and more")
        if self.body_parts:
            parts.append(f"body parts {', '.join(self.body_parts)}")
        return "; ".join(parts)
