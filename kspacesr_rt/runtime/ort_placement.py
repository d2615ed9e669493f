"""Where a session of ONNX Runtime computes: asked of it, and refused if it is not where it should.

ONNX Runtime gives a CPU session without an exception when a provider cannot be had, and puts single
nodes on the CPU when a provider lacks a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kspacesr_rt.errors import BackendUnavailableError

RECORD_PLACEMENT = ("session.record_ep_graph_assignment_info", "1")
"""Entry of a session's configuration, without which `placement_of` finds nothing."""
SHOWN = 5
"""Nodes that a message names."""


def require_provider(session: Any, provider: str) -> None:
    """Refuse a session whose provider is not the one that was asked for.

    Raises
    ------
    BackendUnavailableError
        If ONNX Runtime came up with another provider.
    """
    found = session.get_providers()
    if not found or found[0] != provider:
        raise BackendUnavailableError(
            f"asked ONNX Runtime for {provider}, it came up with {', '.join(found) or 'none'}",
            hint="kspacesr-rt doctor says what is missing; or take backend ort-cpu",
        )


def require_all_on(assignment: Iterable[Mapping[str, Any]], provider: str, *, hint: str) -> None:
    """Refuse a session that runs nodes anywhere but on its provider.

    Parameters
    ----------
    assignment
        What `placement_of` returned.
    provider
        Where every node has to be.
    hint
        What to do about it.

    Raises
    ------
    BackendUnavailableError
        If a node is elsewhere; up to `SHOWN` are named.
    """
    if text := elsewhere_text(assignment, provider):
        raise BackendUnavailableError(f"{provider} does not run the whole model: {text}", hint=hint)


def elsewhere_text(assignment: Iterable[Mapping[str, Any]], provider: str) -> str:
    """Name the nodes that are not on a provider, `SHOWN` of them; empty if all are."""
    elsewhere = [
        f"{node['name'] or node['operator']} on {part['ep_name']}"
        for part in assignment
        if part["ep_name"] != provider
        for node in part["nodes"]
    ]
    more = f" and {len(elsewhere) - SHOWN} more" if len(elsewhere) > SHOWN else ""
    return f"{', '.join(elsewhere[:SHOWN])}{more}"


def placement_of(session: Any) -> list[dict[str, Any]]:
    """Ask a session which provider runs what.

    Returns
    -------
        One mapping a subgraph: ``ep_name`` and the ``nodes`` it runs, each with ``name`` and
        ``operator``.
    """
    return [
        {
            "ep_name": part.ep_name,
            "nodes": [{"name": node.name, "operator": node.op_type} for node in part.get_nodes()],
        }
        for part in session.get_provider_graph_assignment_info()
    ]
