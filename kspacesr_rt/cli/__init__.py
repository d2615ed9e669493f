"""The command line: parse, call one library function, print what it returns."""

from __future__ import annotations

import sys
from typing import Any

from kspacesr_rt.cli import streams
from kspacesr_rt.errors import OutputError
from kspacesr_rt.system.heap import keep_freed_memory
from kspacesr_rt.system.interruption import (
    TerminatedError,
    install_signal_handlers,
    received_signal,
)


def main() -> None:
    """Run the command line, in a process that is its own."""
    streams.make_usable()
    streams.hide_quoting_warnings()
    install_signal_handlers()
    keep_freed_memory()
    try:
        from kspacesr_rt.cli.commands import app  # takes a while: signals are looked after by now

        app()
    except SystemExit as exc:
        if (number := received_signal()) is not None:
            sys.exit(128 + number)
        if not exc.code and (reason := streams.write_error()) is not None:
            print(f"error: {reason}", file=sys.stderr)
            print(
                "hint: what the command did is done; only what it prints is lost", file=sys.stderr
            )
            sys.exit(OutputError.exit_code)
        raise
    except (Exception, KeyboardInterrupt, TerminatedError):
        if (number := received_signal()) is None:
            raise
        sys.exit(128 + number)


def __getattr__(name: str) -> Any:
    if name == "app":
        from kspacesr_rt.cli.commands import app

        return app
    raise AttributeError(name)
