"""What was converted and measured on this machine for the tiers, kept under what it depends on.

Three kinds of small files: converted models, verdicts of the gate on one matrix, and choices. What
is damaged, or was made under other inputs, is not used: it is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kspacesr_rt.errors import KspaceSRError, failing_the_output
from kspacesr_rt.model.file import ModelFile, parse_model
from kspacesr_rt.system.cache_folder import CacheFolder, entries_to_remove
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.plain_text import printable
from kspacesr_rt.system.quantities import size_text

SCHEMA = 1
Inputs = Mapping[str, Any]
"""JSON values that something depends on; they name no host, user or patient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TierEntry:
    """One converted model in the cache."""

    path: Path
    """Its file."""
    size_bytes: int
    """Of the file."""
    last_used: datetime
    """UTC time it was made or taken last."""
    inputs: dict[str, Any]
    """What it depends on; empty if that cannot be read."""
    problem: str
    """Why it cannot be used, as far as that shows without reading it; empty if it can."""

    def as_text(self) -> str:
        """Return a line for a listing."""
        what = self.problem or (
            f"{self.inputs['model']} in {self.inputs['precision']} for {self.inputs['backend']}"
        )
        head = f"{self.last_used:%Y-%m-%d %H:%M}  {size_text(self.size_bytes):>10}  "
        return printable(f"{head}{self.path.name}: {what}" if self.problem else f"{head}{what}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "last_used": self.last_used.isoformat(timespec="seconds"),
            "problem": self.problem,
            "converted": self.inputs,
        }


class TierCache(CacheFolder):
    """A folder of converted models, verdicts and choices, made for its owner alone."""

    name = "tiers"

    def find_model(self, inputs: Inputs) -> ModelFile | None:
        """Return a converted model; None if there is none that is whole."""
        note = self.find_note("model", inputs)
        if note is None:
            return None
        try:
            path = self._path("model", inputs).with_suffix(".onnx")
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != note.get("sha256"):
                return None
            with suppress(OSError):  # a cache that one may only read serves as well
                os.utime(path)
            return parse_model(content, name=f"{inputs['model']}.onnx")
        except (OSError, KspaceSRError):
            return None

    def keep_model(self, inputs: Inputs, content: bytes) -> None:
        """Keep a converted model, its note last.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        self.make()
        path = self._path("model", inputs)
        path.unlink(missing_ok=True)
        replace_file(path.with_suffix(".onnx"), content)
        self.keep_note("model", inputs, {"sha256": hashlib.sha256(content).hexdigest()})

    def find_note(self, kind: str, inputs: Inputs) -> dict[str, Any] | None:
        """Return what was noted under these inputs; None if nothing usable is kept."""
        try:
            stored = json.loads(self._path(kind, inputs).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
            return None
        if stored.get("inputs") != json.loads(json.dumps(inputs)):
            return None
        note = stored.get("note")
        return note if isinstance(note, dict) else None

    def keep_note(self, kind: str, inputs: Inputs, note: Mapping[str, Any]) -> None:
        """Keep a note in place of an earlier one.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        self.make()
        document = {"schema": SCHEMA, "inputs": inputs, "note": note}
        replace_file(self._path(kind, inputs), (json.dumps(document, indent=1) + "\n").encode())

    def listing(self) -> tuple[TierEntry, ...]:
        """Return every converted model, the one used last first."""
        if self.why_none() is not None:
            return ()
        found = [_entry_of(path) for path in self.folder.glob("model-*.onnx")]
        return tuple(sorted(found, key=lambda entry: entry.last_used, reverse=True))

    def choices(self) -> tuple[tuple[dict[str, Any], dict[str, Any]], ...]:
        """Return the inputs and the note of every choice that is kept."""
        if self.why_none() is not None:
            return ()
        found = []
        for path in sorted(self.folder.glob("choice-*.json")):
            try:
                stored = json.loads(path.read_bytes())
                found.append((dict(stored["inputs"]), dict(stored["note"])))
            except (OSError, ValueError, LookupError, TypeError, RecursionError):
                continue
        return tuple(found)

    def as_text(self) -> str:
        """Return the listing for people."""
        return self.describe(self.listing(), "converted model")

    def prune(
        self,
        *,
        max_bytes: int | None = None,
        older_than_days: float | None = None,
        everything: bool = False,
    ) -> tuple[TierEntry, ...]:
        """Remove converted models, the ones unused for longest first.

        Every verdict and choice is forgotten with them.

        Parameters
        ----------
        max_bytes
            Keep no more than this.
        older_than_days
            Remove what was not used for this long.
        everything
            Remove all of it.

        Returns
        -------
            What was removed.

        Raises
        ------
        OutputError
            If one cannot be removed.
        """
        removed = tuple(
            entries_to_remove(
                self.listing(),
                max_bytes=max_bytes,
                older_than_days=older_than_days,
                everything=everything,
            )
        )
        for entry in removed:
            self._remove(entry.path)
            self._remove(entry.path.with_suffix(".json"))
        if removed or everything:
            for kind in ("choice", "verdict"):
                for path in (
                    sorted(self.folder.glob(f"{kind}-*.json")) if not self.why_none() else []
                ):
                    self._remove(path)
        return removed

    def _remove(self, path: Path) -> None:
        with failing_the_output(f"cannot remove {path}"):
            path.unlink(missing_ok=True)

    def _path(self, kind: str, inputs: Inputs) -> Path:
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{kind}-{key}.json"


def _entry_of(path: Path) -> TierEntry:
    state = path.stat()
    inputs: dict[str, Any] = {}
    problem = ""
    try:
        inputs = dict(json.loads(path.with_suffix(".json").read_bytes())["inputs"])
        _ = inputs["model"], inputs["precision"], inputs["backend"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        inputs, problem = {}, "its note is missing or damaged"
    return TierEntry(
        path=path,
        size_bytes=state.st_size,
        last_used=datetime.fromtimestamp(state.st_mtime, UTC),
        inputs=inputs,
        problem=problem,
    )
