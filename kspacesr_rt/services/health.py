"""Ask a node of this machine whether it is well, as a container's engine or a supervisor does."""

from __future__ import annotations

import http.client
from typing import Final

from kspacesr_rt.errors import UnhealthyError

LOOPBACK: Final = "127.0.0.1"
"""Where a node's page is, and nowhere else."""


def require_health(port: int, *, timeout_s: float = 5.0) -> None:
    """Return if a node says that it is well.

    Parameters
    ----------
    port
        Its `--http-port`.
    timeout_s
        For the connection, and again for the answer.

    Raises
    ------
    UnhealthyError
        If nobody answers, or the node says that it is not.
    """
    asked = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout_s)
    try:
        asked.request("GET", "/health")
        status = asked.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        raise UnhealthyError(
            f"no node answers on port {port} of this machine",
            hint="is it running, and with this --http-port?",
        ) from exc
    finally:
        asked.close()
    if status != http.client.OK:
        raise UnhealthyError(
            f"the node is not healthy ({status})",
            hint="a shipped slice does not go through, or its DICOM port is closed: see its log",
        )
