"""The command that installs what is missing, as the README gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

TORCH: Final = "torch==2.13.0"
"""What `constraints.txt` pins, for an installation that has no such file."""
WITH_TORCH: Final = frozenset({"train", "export", "bench", "test"})
"""Extras that bring torch."""


def install_hint(extra: str) -> str:
    """Return what to type to get an extra of this project.

    In a clone, torch's build is the one of `constraints.txt`; a wheel has no such file, so there
    the build is named. Otherwise pip takes torch's newest one, on Linux with gigabytes of CUDA.
    """
    wanted = f"'kspacesr-rt[{extra}]'"
    if extra not in WITH_TORCH:
        return f"pip install {wanted}"
    if _constraints().is_file():
        where = "" if Path("constraints.txt").is_file() else ", in the folder of the clone"
        return f"pip install -c constraints.txt {wanted}{where}"
    return f"pip install {wanted} {TORCH}"


def _constraints() -> Path:
    return Path(__file__).parent.parent.parent / "constraints.txt"
