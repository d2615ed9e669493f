"""What is installed is what the checkout holds: what nobody listed is missing in the wheel."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = {"kspacesr_rt.train": "train", "kspacesr_rt.export": "export", "kspacesr_rt.bench": "bench"}
"""Packages of the top level, which links stand for below ``kspacesr_rt/``."""
NOT_INSTALLED = {"kspacesr_rt.bench.suites"}
"""Benchmarks run from a checkout."""


def packages() -> set[str]:
    """Return every folder of Python modules, by its dotted name."""
    found = set()
    for name, folder in {"kspacesr_rt": "kspacesr_rt", **TOP}.items():
        for file in (ROOT / folder).rglob("*.py"):
            below = file.parent.relative_to(ROOT / folder)
            found.add(".".join((name, *below.parts)))
    return {name for name in found if not any(part.startswith("__") for part in name.split("."))}


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert packages() - set(listed) == NOT_INSTALLED
