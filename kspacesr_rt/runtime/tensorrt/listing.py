"""What a folder of engines holds: whole ones, damaged ones, and those still being written."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kspacesr_rt.errors import ModelFileError
from kspacesr_rt.runtime.tensorrt.sidecar import EngineInfo, read_sidecar, sidecar_path
from kspacesr_rt.system.plain_text import printable
from kspacesr_rt.system.quantities import size_text

ABANDONED_SECONDS = 3600.0
"""What is older and still half there, nobody is writing any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry:
    """One engine in the cache, whole or not."""

    path: Path
    """The engine's file."""
    size_bytes: int
    """Of the engine and its sidecar."""
    last_used: datetime
    """UTC time it was built or taken last."""
    info: EngineInfo | None
    """What its sidecar says; None if that cannot be read."""
    problem: str
    """Why it cannot be used, as far as that shows without reading the engine; empty if it can."""

    def as_text(self) -> str:
        """Return a line for a listing."""
        return printable(self._text())

    def _text(self) -> str:
        head = f"{self.last_used:%Y-%m-%d %H:%M}  {size_text(self.size_bytes):>10}  "
        if self.info is None or self.problem:
            return f"{head}{self.path.name}: {self.problem}"
        inputs, spec = self.info.inputs, self.info.spec
        return (
            f"{head}{spec.name} {inputs.precision} {inputs.matrix[0]} x {inputs.matrix[1]} "
            f"for {inputs.gpu} {inputs.gpu_name}".rstrip()
            + f", {inputs.runtime} {inputs.runtime_version}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "last_used": self.last_used.isoformat(timespec="seconds"),
            "problem": self.problem,
            "engine": json.loads(self.info.to_json()) if self.info else None,
        }


def entry_of(path: Path) -> CacheEntry | None:
    """Look at an engine and its sidecar; None if it is still being written, or just removed."""
    info, problem, sidecar = None, "", sidecar_path(path)
    try:
        if not sidecar.exists() and not is_abandoned(path):
            return None  # somebody is writing it
        seen = [one.stat() for one in (path, sidecar) if one.exists()]
        size_bytes, used = seen[0].st_size, max(one.st_mtime for one in seen)
    except (FileNotFoundError, IndexError):
        return None  # somebody removed it
    try:
        info = read_sidecar(path)
        if size_bytes != info.size_bytes:
            problem = f"has {size_bytes} bytes instead of {info.size_bytes}"
    except FileNotFoundError:
        return None
    except ModelFileError as exc:
        problem = str(exc)
    return CacheEntry(
        path=path,
        size_bytes=sum(one.st_size for one in seen),
        last_used=datetime.fromtimestamp(used, UTC),
        info=info,
        problem=problem,
    )


def is_abandoned(path: Path) -> bool:
    """Whether a file was last written too long ago for somebody to be still at it."""
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:
        return False
