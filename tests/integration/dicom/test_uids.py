"""UIDs are the same in every process."""

import subprocess
import sys

from kspacesr_rt.dicom import uids


def test_the_same_seed_gives_the_same_uid_in_another_process():
    """A run that is repeated tomorrow must name its outputs as today."""
    code = "from kspacesr_rt.dicom.uids import stable_uid; print(stable_uid('series', '1.2.3', 2))"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert other.stdout.strip() == uids.stable_uid("series", "1.2.3", 2)
