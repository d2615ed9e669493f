"""Runtimes report to their makers by default: here they do not, unless the user asks for it.

ONNX Runtime (1.32, Linux) writes a device's name into the home folder and looks its maker's host
up; importing OpenVINO sends an event to an analytics service and writes there too; a Ray cluster
reports its size. All of it is decided when they load, so it is off from the first line of this
package on, in every process that imports it, and in those that it starts.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # every import of the package comes by here, and `typing` is slow to load
if TYPE_CHECKING:
    from typing import Final

VARIABLE: Final = "KSPACESR_RT_TELEMETRY"
"""Environment variable; ``1`` leaves it to the runtimes what they report."""
SWITCHES: Final = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment variables of the runtimes, read when they load."""
REPORTER: Final = "openvino_telemetry"
"""OpenVINO has no switch but this package: where it is missing, OpenVINO takes an empty stub. Its
own opt-out is a file in the home folder."""


def is_wanted() -> bool:
    """Return whether the user has asked for the runtimes' reports."""
    return os.environ.get(VARIABLE) == "1"


def silence() -> None:
    """Keep runtimes that are imported from now on, and those of child processes, from reporting."""
    if is_wanted():
        return
    os.environ.update(SWITCHES)
    vars(sys)["modules"].setdefault(REPORTER, None)  # importing it says: not installed
