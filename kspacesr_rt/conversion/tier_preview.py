"""What each tier would run on what on this machine, without making or timing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kspacesr_rt.conversion.tier_cache import TierCache
from kspacesr_rt.conversion.tiers import NARROW, TRIED
from kspacesr_rt.model.spec import Precision, Tier
from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.runtime.selection import PREFERENCE
from kspacesr_rt.runtime.self_test_cache import machine_identity
from kspacesr_rt.system.cpu import cpu_features

PAYS_WITH: dict[Precision, tuple[str, ...]] = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "int8": ("avx512_vnni", "amx_int8"),
}
"""Precision to the features of a CPU, any of which makes it faster than fp32."""
_OPENVINO = "openvino"
_INSTALL = "pip install 'kspacesr-rt[openvino]'"
_OPENVINO_PAYS_WITH = frozenset({"avx512_bf16", "amx_bf16", "amx_int8"})
"""Features of a CPU for which an installation without OpenVINO is told what it would bring."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TierPreview:
    """What is known of one tier."""

    tier: Tier
    """Its name."""
    expected: tuple[str, ...]
    """Rows that are likely to be faster than fp32 here, such as ``bf16 on openvino``."""
    chosen: tuple[str, ...]
    """What earlier runs on this machine have chosen, a sentence each."""
    openvino_would_add: tuple[Precision, ...] = ()
    """What OpenVINO, which is not installed, would be tried in besides on this CPU."""

    def as_text(self) -> str:
        """Return a line or more for people."""
        if self.tier == "exact":
            return "tier exact     fp32 on what `kspacesr-rt backends` says of auto"
        likely = ", ".join(self.expected) or "nothing but fp32"
        first = f"tier {self.tier:<9} would try {likely}; timed and proved at first use"
        more = []
        if self.openvino_would_add:
            added = " and ".join(self.openvino_would_add)
            more = [f"the extra openvino would add {added} on this CPU: {_INSTALL}"]
        return "\n".join([first, *(f"               {one}" for one in (*more, *self.chosen))])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "expected": list(self.expected),
            "chosen": list(self.chosen),
            "openvino_would_add": list(self.openvino_would_add),
        }


def preview_tiers(cache: TierCache | None = None) -> tuple[TierPreview, ...]:
    """Say what each tier would run on what here; loads no inference library.

    Parameters
    ----------
    cache
        Where choices are kept; None for the user's cache folder.
    """
    machine, kept = machine_identity(), (cache or TierCache()).choices()
    usable = [name for name in PREFERENCE if BACKENDS[name].why_not() is None]
    lacks_openvino = BACKENDS[_OPENVINO].why_not() is not None
    found = []
    for tier, narrow in NARROW.items():
        rows = [
            f"{precision} on {name}"
            for name in usable
            for precision in TRIED.get(name, ())
            if precision in narrow and _pays(precision, name)
        ]
        chosen = [
            f"{inputs['model']} at {_matrix_text(inputs)}: {note['precision']} on {note['backend']}"
            for inputs, note in kept
            if _is_choice(inputs, note) and (inputs["tier"], inputs["machine"]) == (tier, machine)
        ]
        found.append(
            TierPreview(
                tier=tier,
                expected=tuple(rows),
                chosen=tuple(chosen),
                openvino_would_add=_openvino_would_add(narrow) if lacks_openvino else (),
            )
        )
    return tuple(found)


def _pays(precision: Precision, backend: str) -> bool:
    if BACKENDS[backend].on_gpu:
        return True
    return any(name in cpu_features() for name in PAYS_WITH.get(precision, ()))


def _openvino_would_add(narrow: tuple[Precision, ...]) -> tuple[Precision, ...]:
    if _OPENVINO_PAYS_WITH.isdisjoint(cpu_features()):
        return ()
    return tuple(one for one in TRIED[_OPENVINO] if one in narrow and _pays(one, _OPENVINO))


def _is_choice(inputs: dict[str, Any], note: dict[str, Any]) -> bool:
    return {"model", "tier", "machine", "matrices"} <= inputs.keys() and {
        "precision",
        "backend",
    } <= note.keys()


def _matrix_text(inputs: dict[str, Any]) -> str:
    return ", ".join(" x ".join(map(str, matrix)) for matrix in inputs["matrices"])
