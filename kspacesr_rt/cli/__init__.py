"""The command line: parse, call one library function, print what it returns.

Each module holds the commands of one subject; importing it registers them.
"""

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
    "main",
    "models",
    "node",
    "regressions",
    "studies",
    "training",
    "watching",
]


def main() -> None:
    """Run the command line."""
    app()
