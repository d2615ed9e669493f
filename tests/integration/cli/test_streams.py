"""What packages say on standard error quotes no value of a file."""

import subprocess
import sys

PROGRAM = """
import threading, warnings
from kspacesr_rt.cli.streams import hide_quoting_warnings
hide_quoting_warnings()
from pydicom.valuerep import validate_value
from pydicom.config import WARN
{body}
"""


def stderr_of(body):
    """Return what a process of its own says: pytest replaces what is looked at."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, check=True
    )
    return done.stderr.decode()


def test_values_that_pydicom_quotes_are_hidden():
    """In any thread, after any filter, and where a filter asks for them."""
    say = "validate_value('UI', 'JANE.DOE', WARN)"
    with_filter = f"with warnings.catch_warnings():\n    warnings.simplefilter('always')\n    {say}"
    thread = "thread = threading.Thread(target=lambda: " + say + ")\nthread.start(); thread.join()"
    assert stderr_of(f"{say}\n{with_filter}\n{thread}\n{say}") == ""


def test_other_warnings_are_told():
    """Numpy's are how a fault of ours is seen; and pydicom's would be seen without the rule."""
    assert "Mean of empty slice" in stderr_of("import numpy; numpy.mean([])")
    shown = stderr_of(
        "warnings.showwarning = warnings._showwarning_orig\nvalidate_value('UI', 'JANE.DOE', WARN)"
    )
    assert "JANE.DOE" in shown
