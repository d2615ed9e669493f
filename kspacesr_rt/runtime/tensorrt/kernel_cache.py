"""What TensorRT-RTX compiled for an engine on this GPU, kept so that the next start does not.

An engine of TensorRT-RTX is compiled to kernels when it is loaded. Its runtime cache holds them; it
takes none of another GPU, driver or version, and compiles anew.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from kspacesr_rt.errors import OutputError
from kspacesr_rt.system.files import replace_file

SUFFIX = ".kernels"
"""Of the file beside an engine."""


class KernelCache:
    """The compiled kernels of one engine; one library object for all of its contexts."""

    def __init__(self, path: Path | None) -> None:
        """Remember where they are kept; None keeps none."""
        self._path = path
        self._cache: Any = None
        self._kept = b""

    def attach(self, config: Any) -> None:
        """Give a runtime configuration the kernels, and let it add new ones."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if (stored := self._stored()) and self._cache.deserialize(stored):
                self._kept = stored
        config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Write what was compiled, if it is new; a cache that cannot be written is none."""
        if self._cache is None or self._path is None:
            return
        content = bytes(self._cache.serialize())
        if content and content != self._kept:
            with suppress(OutputError):
                replace_file(self._path, content)
            self._kept = content

    def forget(self) -> None:
        """Let go of the library's object, before its engine goes."""
        self._cache = None

    def _stored(self) -> bytes:
        if self._path is None:
            return b""
        try:
            return self._path.read_bytes()
        except OSError:
            return b""
