"""What stands in an output folder: derived series, and volumes in folders of any names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kspacesr_rt.dicom.output_names import is_output_folder, is_output_name
from kspacesr_rt.dicom.store import STATE_FOLDER
from kspacesr_rt.volumes.output_names import is_volume_output


def standing_files(root: Path) -> Iterator[str]:
    """Yield the path of every output in a folder, relative to it.

    Raises
    ------
    OSError
        If it cannot be listed.
    """
    waiting = [Path()]
    while waiting:
        folder = waiting.pop()
        of_a_series = len(folder.parts) == 1 and is_output_folder(folder.name)
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != STATE_FOLDER:
                        waiting.append(folder / entry.name)
                elif (of_a_series and is_output_name(entry.name)) or is_volume_output(entry.name):
                    yield str(folder / entry.name)
