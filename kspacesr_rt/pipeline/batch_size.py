"""A number of slices, or the word that leaves it to the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

AUTO: Final = "auto"
BatchSize = int | Literal["auto"]
"""Slices that are given to a backend at once; ``auto``: see `kspacesr_rt.pipeline.batch_choice`."""


def batch_text(choice: Mapping[str, Any], *, verbose: bool) -> str:
    """Say what was chosen; and why, if `verbose`.

    Parameters
    ----------
    choice
        Of `kspacesr_rt.pipeline.batch_choice.BatchChoice.to_dict`.
    verbose
        A line for each size that was measured, too.
    """
    chosen = f"batch {choice['batch']}, chosen by auto"
    if not verbose:
        return f"{chosen} (-v says why)"
    lines = [f"{chosen}: {choice['reason']}"]
    lines += [
        f"  {n} at once: {n / seconds:.0f} slices/s, {1e3 * seconds:.1f} ms a batch"
        for n, seconds in choice["measured"]
    ]
    return "\n".join(lines)
