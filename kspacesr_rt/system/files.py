"""Write whole files or nothing: models, reports and pictures."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from kspacesr_rt.errors import OutputError, failing_the_output
from kspacesr_rt.system.durability import sync_folder


def require_place_for_file(path: Path) -> None:
    """Refuse a place that something takes which a file must not replace.

    A name is taken from whatever stands there, so that nobody meets half of a file: ``/dev/null``
    would be a file from then on, for every program of the machine.

    Parameters
    ----------
    path
        Of the file that is to be written; a link counts as what it leads to.

    Raises
    ------
    OutputError
        If there is a folder, a device, a pipe or a socket, or the system takes no such name.
    """
    with failing_the_output(f"cannot write {path}"):
        if not path.name or path.is_dir():
            raise OutputError(f"{path} is a folder", hint="name a file")
        if path.exists() and not path.is_file():
            raise OutputError(
                f"{path} is a device, a pipe or a socket, which no file may replace",
                hint="name a file",
            )


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
        If the file cannot be written, or something else than a file stands there; nothing is left
        of the attempt.
    """
    require_place_for_file(path)
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
