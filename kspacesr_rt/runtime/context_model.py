"""Context models: ONNX files that hold the engine ONNX Runtime's TensorRT provider built.

A session on one starts without parsing or building. The file is only taken if it is whole: its
digest stands beside it, written last, so that a build that was killed leaves nothing to trip over.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kspacesr_rt.system.files import replace_file


@dataclass(frozen=True, slots=True)
class ContextModel:
    """The place of one context model."""

    folder: Path
    """Of one bound model, one version of the libraries and one GPU."""
    name: str
    """Tells shapes apart."""

    @property
    def being_written(self) -> Path:
        """Return where the provider writes."""
        return self.folder / f"{self.name}.part.onnx"

    @property
    def path(self) -> Path:
        """Return where a finished one is."""
        return self.folder / f"{self.name}.ctx.onnx"

    @property
    def _digest(self) -> Path:
        return self.folder / f"{self.name}.ctx.sha256"

    def stored(self) -> bytes | None:
        """Return a whole context model; None if there is none, or a damaged one."""
        try:
            content, digest = self.path.read_bytes(), self._digest.read_text()
        except (OSError, UnicodeDecodeError):
            return None
        return content if hashlib.sha256(content).hexdigest() == digest.strip() else None

    def remove(self) -> None:
        """Remove a context model that does not load here any more, its digest first."""
        self._digest.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def keep(self) -> None:
        """Give what the provider wrote its name, its digest last; without one, do nothing."""
        try:
            content = self.being_written.read_bytes()
        except FileNotFoundError:
            return
        self._digest.unlink(missing_ok=True)
        replace_file(self.path, content)
        replace_file(self._digest, hashlib.sha256(content).hexdigest().encode())
        self.being_written.unlink()
