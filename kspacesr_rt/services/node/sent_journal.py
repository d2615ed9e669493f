"""Which derived instances a target has acknowledged: one line each, on the disk before the next.

One small file a target and derived series, so that nothing is held in memory and forgetting is
removing files. Derived UIDs are stable, so an instance that was sent is never sent again, whether
its source came once more or the process was killed between two lines.
"""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import Final

from kspacesr_rt.services import durable_files

DAY_S: Final = 86_400.0


class SentJournal:
    """Acknowledgements, below a folder of the spool."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def acknowledged(self, target: str, series_uid: str) -> set[str]:
        """Return the SOP Instance UIDs that a target has of a derived series."""
        with self._lock:
            return set(self._whole_lines(self._path(target, series_uid)))

    def prepare(self, target: str, series_uid: str) -> None:
        """Do beforehand what takes time, so that `record` follows an answer within microseconds."""
        path = self._path(target, series_uid)
        with self._lock:
            durable_files.make_folder(path.parent)
            self._whole_lines(path)
            durable_files.append(path, b"")

    def record(self, target: str, series_uid: str, sop_instance_uid: str) -> None:
        """Note that a target has an instance; on the disk when this returns."""
        path = self._path(target, series_uid)
        if not path.exists():
            self.prepare(target, series_uid)
        with self._lock:
            durable_files.append(path, f"{sop_instance_uid}\n".encode())

    def forget(self, older_than_days: float) -> int:
        """Remove the series that were last sent longer ago; return how many."""
        before = time.time() - older_than_days * DAY_S
        with self._lock:
            old = [path for path in self._folder.glob("*/*") if path.stat().st_mtime < before]
            for path in old:
                durable_files.remove_file(path)
        return len(old)

    def _path(self, target: str, series_uid: str) -> Path:
        return self._folder / hashlib.sha256(target.encode()).hexdigest()[:16] / series_uid

    @staticmethod
    def _whole_lines(path: Path) -> list[str]:
        """Return the lines, after cutting off what a crash has left half-written."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return []
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            durable_files.truncate(path, whole)
        return content[:whole].decode("ascii").splitlines()
