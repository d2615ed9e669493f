"""Name input files in messages and reports: their names often hold a patient's."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_DIGEST_LABEL = re.compile(r"sha256:[0-9a-f]{12}")


def file_label(path: Path, root: Path, *, show_path: bool) -> str:
    """Name an input file without its name (which often is the patient's)."""
    relative = path.name if path == root else str(path.relative_to(root))
    return relative if show_path else digest_label(relative)


def is_digest(label: str) -> bool:
    """Return whether a label names its file by a digest, not by its path."""
    return _DIGEST_LABEL.fullmatch(label) is not None


def label_to_show(label: str, *, show_path: bool) -> str:
    """Return a label that an earlier run noted as this one may show it."""
    return label if show_path or is_digest(label) else digest_label(label)


def digest_label(relative: str) -> str:
    """Return the digest that stands for a path."""
    digest = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).hexdigest()
    return f"sha256:{digest[:12]}"
