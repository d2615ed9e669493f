"""What a unit test must not do: start a process, call another one, train, trace, or export."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterator

import pytest
import torch

from kspacesr_rt.export import exporter
from kspacesr_rt.train import loop

FORBIDDEN = {
    **dict.fromkeys(
        ("subprocess.Popen", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system"),
        "started a process",
    ),
    "socket.connect": "opened a connection",
}
"""Audit events, and what somebody did who raised them."""


class NotAUnitTestError(AssertionError):
    """A test in tests/unit did what belongs to tests/integration or tests/e2e."""


class _Watch:
    """Refuses what is forbidden, while it watches."""

    def __init__(self) -> None:
        self.on, self.seen = False, list[str]()
        platform.processor()  # the standard library asks `uname` once, and remembers
        sys.addaudithook(self._hook)  # which nothing can remove

    def _hook(self, event: str, args: tuple[object, ...]) -> None:
        if self.on and event in FORBIDDEN:
            self.refuse(f"{FORBIDDEN[event]} ({event})")

    def refuse(self, what: str) -> None:
        self.seen.append(what)
        raise NotAUnitTestError(f"a unit test {what}")


_watch: _Watch | None = None


@contextlib.contextmanager
def within_one_process() -> Iterator[None]:
    """Refuse processes, connections, training, torch.export and exports through the gate meanwhile.

    Raises
    ------
    NotAUnitTestError
        Where one is asked for; again at the end, so that no ``except`` can hide it.
    """
    global _watch
    watch = _watch = _watch or _Watch()
    outer = watch.on, watch.seen
    with pytest.MonkeyPatch.context() as patch:
        # Inner functions: whoever imported the outer ones by name is refused, too.
        patch.setattr(loop._Run, "advance", lambda self: watch.refuse("trained"))
        patch.setattr(exporter, "_stamped", lambda *args: watch.refuse("exported a model"))
        patch.setattr(torch.export, "export", lambda *args, **how: watch.refuse("traced a network"))
        watch.on, watch.seen = True, []
        try:
            yield
            seen = watch.seen
        finally:
            watch.on, watch.seen = outer
    if seen:
        raise NotAUnitTestError(f"a unit test {seen[0]}: move it to tests/integration")


def is_watching() -> bool:
    """Tell whether anything would be refused now."""
    return _watch is not None and _watch.on
