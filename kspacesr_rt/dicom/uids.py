"""Who this tool is to other systems, and the UIDs of what it writes.

`pydicom.uid.generate_uid` is not used: without a prefix it ignores the entropy and is random, with
``2.25.`` it makes suffixes longer than PS3.5 B.2 allows, and it joins entropy without separators.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Final

TOOL_NAME: Final = "kspacesr-rt"
"""Manufacturer's Model Name in Contributing Equipment; `scan` recognises our own outputs by it."""

NAMESPACE: Final = uuid.UUID("a96ab479-c9ce-5856-95f8-c5b97f97481c")
"""``uuid5(NAMESPACE_URL, "kspacesr-rt")``. Changing it would change every stable UID."""

OUR_UID: Final = re.compile(r"2\.25\.(0|[1-9][0-9]{0,38})")
"""A UUID-derived UID (PS3.5 B.2): ``2.25.`` and at most 39 digits."""


def stable_uid(*parts: object) -> str:
    """Return the UID that stands for `parts`: equal parts, equal UID, on any machine.

    Parameters
    ----------
    parts
        JSON values. They are joined as JSON, so ``("ab", "c")`` and ``("a", "bc")`` differ.

    Returns
    -------
        ``2.25.`` followed by a version-5 UUID as a decimal number, at most 44 characters.

    References
    ----------
    .. [1] PS3.5 B.2, UUID derived UID
    """
    return f"2.25.{uuid.uuid5(NAMESPACE, json.dumps(parts)).int}"


IMPLEMENTATION_CLASS_UID: Final = stable_uid("implementation class")
"""The one constant that file meta carries for every version of this tool (PS3.7 D.3.3.2)."""
IMPLEMENTATION_VERSION_NAME: Final = "KSPACESR_RT"
"""At most 16 characters (SH); the exact version stands in Contributing Equipment."""
