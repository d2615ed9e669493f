"""Instances that came again with other content: a sender has corrected what it sent.

The last one that came is what the sender says now. Within a part it takes the place of the one
before. An earlier part of the series is not changed; in its file ``superseded`` stand the inputs
that a later part says anew, and their results are sent to nobody any more, however long a target
was away.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from kspacesr_rt.services import durable_files
from kspacesr_rt.services.node.spool_part import Part

SUPERSEDED: Final = "superseded"
REPORT: Final = "report.json"


def contents_of(part: Part) -> dict[str, set[str]]:
    """Return the names of a part's inputs by the digest of their SOP Instance UID.

    Names are ``INSTANCE-CONTENT.dcm``, both digests.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in part.inputs.glob("*.dcm"):
        found[path.name.partition("-")[0]].add(path.name)
    return found


def corrected_inputs(older: Part, newer: Part) -> set[str]:
    """Return the names of the inputs that a later part has with other content."""
    later = contents_of(newer)
    return {
        name
        for instance, names in contents_of(older).items()
        for name in names
        if instance in later and name not in later[instance]
    }


def mark_superseded(part: Part, names: Iterable[str]) -> None:
    """Note, on the disk when this returns, that inputs of a part are superseded."""
    lines = "".join(f"{name}\n" for name in sorted(names))
    if lines:
        durable_files.append(part.folder / SUPERSEDED, lines.encode())


def superseded_inputs(part: Part) -> set[str]:
    """Return the names that are noted so; a line that a crash has cut is none."""
    try:
        text = (part.folder / SUPERSEDED).read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return set()
    return {line.rstrip("\n") for line in text.splitlines(keepends=True) if line.endswith("\n")}


def results_of(part: Part, names: set[str]) -> set[Path]:
    """Return the results that were made from some inputs; trust maps are of all of a part."""
    if not names:
        return set()
    report = json.loads((part.outputs / REPORT).read_bytes())
    slices = {
        part.outputs / one["output"]
        for one in report["slices"]
        if one["output"] and one["file"] in names
    }
    if not slices:
        return set()
    return slices | {
        part.outputs / one["trust_map"] for one in report["series_records"] if one.get("trust_map")
    }


def keep_latest(part: Part) -> None:
    """Remove what a crash has left between the arrival of a correction and its old content."""
    for names in contents_of(part).values():
        by_arrival = sorted((part.inputs / name for name in names), key=_arrival)
        for path in by_arrival[:-1]:
            durable_files.remove_file(path)


def _arrival(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns  # written, then given its name
