"""The command line, whose training stays at step 15 as long as there is a file to hold it.

``HOLD=FILE python held_training.py train ...``
"""

import os
import time
from pathlib import Path

from kspacesr_rt.cli import main
from kspacesr_rt.train import loop

advance, hold = loop._Run.advance, Path(os.environ["HOLD"])


def advance_or_wait(run: loop._Run) -> None:
    """Do a step, and wait behind the fifteenth while the file is there."""
    advance(run)
    while run.step >= 15 and hold.exists():
        time.sleep(0.01)


if __name__ == "__main__":
    loop._Run.advance = advance_or_wait
    main()
