"""The shipped models as a list to choose from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kspacesr_rt.model.file import every_shipped_model, load_model
from kspacesr_rt.model.spec import Input
from kspacesr_rt.system.quantities import size_text


@dataclass(frozen=True, kw_only=True, slots=True)
class ShippedModel:
    """One of the models in the package, by what decides between them."""

    name: str
    """What ``--model`` takes."""
    upscale: int
    """SR / LR, along each axis."""
    input: Input
    """What it takes: magnitude images, or complex k-space."""
    size_bytes: int
    """Of its file."""
    gain_db: float | None
    """PSNR in tissue beyond zero-filling, on series that no model was trained on; None if its file
    does not state it."""

    def as_line(self) -> str:
        """Return it as a line for people."""
        gain = "no measured gain is stored"
        if self.gain_db is not None:
            on = "raw k-space" if self.input == "kspace" else "unseen series"
            gain = f"{self.gain_db:+.2f} dB in tissue over zero-filling, on {on}"
        return f"{self.name:<10} x{self.upscale} {size_text(self.size_bytes):>8}  {gain}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "name": self.name,
            "upscale": self.upscale,
            "input": self.input,
            "size_bytes": self.size_bytes,
            "gain_db": self.gain_db,
        }


def list_shipped() -> list[ShippedModel]:
    """Return the shipped models, those of images first, then of small upscales, then small ones."""
    found = []
    for name, path in every_shipped_model().items():
        spec = load_model(path).spec
        quality = spec.quality.get("evaluation_raw" if spec.input == "kspace" else "evaluation", {})
        psnr, zero_fill = (quality.get(f"tissue_{kind}psnr_db") for kind in ("", "zero_fill_"))
        found.append(
            ShippedModel(
                name=name,
                upscale=spec.upscale,
                input=spec.input,
                size_bytes=path.stat().st_size,
                gain_db=None if psnr is None or zero_fill is None else psnr - zero_fill,
            )
        )
    return sorted(found, key=lambda one: (one.input == "kspace", one.upscale, one.size_bytes))
