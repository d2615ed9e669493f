"""How a volume says what was done to it: in NIfTI's 80 characters, and beside it in JSON."""

from __future__ import annotations

import re
from typing import Final

from kspacesr_rt.dicom import Derivation
from kspacesr_rt.dicom.uids import TOOL_NAME

DESCRIPTION_MAX: Final = 79
"""Bytes of ``descrip`` (nifti1.h), with a zero behind them."""
_OWN: Final = re.compile(rf"SR x[0-9]+ RESEARCH USE ONLY, {TOOL_NAME} ")


def description(derivation: Derivation) -> str:
    """Return what ``descrip`` says of this step: ASCII, at most `DESCRIPTION_MAX` characters."""
    weights = derivation.weights_sha256
    return _cut(f"{_step(derivation)} {weights[:12]}" if weights else _step(derivation))


def trust_map_description(derivation: Derivation) -> str:
    """Return what ``descrip`` says of the half-widths of such a result; see `description`."""
    return _cut(f"{_step(derivation)}, half-widths")


def _step(derivation: Derivation) -> str:
    return (
        f"SR x{derivation.upscale} RESEARCH USE ONLY, {TOOL_NAME} {derivation.tool_version}, "
        f"{derivation.model}"
    )


def _cut(text: str) -> str:
    return text.encode("ascii", "replace").decode()[:DESCRIPTION_MAX]


def is_own(text: str) -> bool:
    """Tell whether a description is one of ours."""
    return _OWN.match(text) is not None
