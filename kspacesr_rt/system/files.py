"""Write whole files or nothing: models, reports and pictures."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from kspacesr_rt.errors import failing_the_output
from kspacesr_rt.system.durability import sync_folder


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its target and rename it, so that nobody ever meets half of it.

    It is on the disk then.

    Parameters
    ----------
    path
        Replaced if it exists; its folder is made.
    content
        Everything the file will hold.

    Raises
    ------
    OutputError
        If the file cannot be written; nothing is left of the attempt.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with failing_the_output(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
