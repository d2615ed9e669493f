"""Processes that are stuck, in Python and in native code, with the interpreter and without."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

SYSTEM = "import ctypes\nlibc = ctypes.{}(None)\nlock = ctypes.create_string_buffer(64)\n"
DEADLOCK = "libc.pthread_mutex_lock(lock), libc.pthread_mutex_lock(lock)"
"""Waits for ever in C; unlike `sleep`, not even a signal's handler makes it return."""
BLOCKS = {
    "python": "threading.Event().wait()",
    "native-code": DEADLOCK,
    "native-code-with-the-interpreter": DEADLOCK,
    "another-thread-with-the-interpreter": (
        f"threading.Thread(target=lambda: ({DEADLOCK}), daemon=True).start()\nwhile True: pass"
    ),
}
STUCK = """
import sys, threading, traceback
{system}
from kspacesr_rt.runtime import baselines
from kspacesr_rt.cli import main
calls, run = [], baselines.{baseline}.run
def stuck(self, batch):
    calls.append(None)
    if len(calls) == 3:
        print("ready", flush=True)
        {block}
    return run(self, batch)
baselines.{baseline}.run = stuck
main()
"""


def system(block):
    return SYSTEM.format("PyDLL" if "interpreter" in block else "CDLL")


def start(script, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def wait_until_called(process, number):
    """Wait until the system has called a signal's handler: a second one would merge with it."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = next(line for line in status.read_text().splitlines() if "SigCgt" in line)
        if not int(caught.split()[1], 16) >> (number - 1) & 1:
            return
        time.sleep(0.01)


def ended(process):
    try:
        _, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, stderr
