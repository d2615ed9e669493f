"""Every command: each module holds those of one subject, and importing it registers them."""

from kspacesr_rt.cli import (
    adoption,
    benchmarks,
    diagnosis,
    engines,
    evaluation,
    inference,
    machine,
    models,
    node,
    pipeline_cost,
    regressions,
    training,
    watch,
)
from kspacesr_rt.cli.shell import app

__all__ = [
    "adoption",
    "app",
    "benchmarks",
    "diagnosis",
    "engines",
    "evaluation",
    "inference",
    "machine",
    "models",
    "node",
    "pipeline_cost",
    "regressions",
    "training",
    "watch",
]
