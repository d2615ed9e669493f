"""How far a command is: a bar on a terminal, lines where a step takes minutes, else nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kspacesr_rt.cli.shell import print_text
from kspacesr_rt.system.plain_text import printable

Update = Callable[[int | None, int | None, str], None]


@contextmanager
def progress_bar(label: str, quiet: bool, *, lines: bool = False) -> Iterator[Update]:
    """Yield ``update(done, total, text)``; draws on stderr, and only on a terminal.

    None leaves a number as it is. With `lines` each new text is a line on stderr where there is no
    terminal: a step of minutes says what it does.
    """
    if quiet or not sys.stderr.isatty():
        yield _Lines(label) if lines and not quiet else lambda done, total, text: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, note="")
        yield lambda done, total, text: bar.update(
            task,
            completed=done,
            total=total,
            note=escape(printable(text)),
            refresh=done is None,  # a step may be short, but is to be seen
        )


class _Lines:
    """Says a text when it changes."""

    def __init__(self, label: str) -> None:
        self._label, self._last = label, ""

    def __call__(self, done: int | None, total: int | None, text: str) -> None:
        if text and text != self._last:
            self._last = text
            print_text(f"{self._label}: {text}", err=True)
