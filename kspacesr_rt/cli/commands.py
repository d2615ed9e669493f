"""Every command: each module holds those of one subject, and importing it registers them."""

from kspacesr_rt.cli import (
    benchmarks,
    diagnosis,
    engines,
    machine,
    models,
    node,
    regressions,
    studies,
    training,
    watching,
)
from kspacesr_rt.cli.shell import app

__all__ = [
    "app",
    "benchmarks",
    "diagnosis",
    "engines",
    "machine",
    "models",
    "node",
    "regressions",
    "studies",
    "training",
    "watching",
]
