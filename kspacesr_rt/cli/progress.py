"""How far a command is: a bar on a terminal, lines where a step takes minutes, else nothing."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from kspacesr_rt.cli.shell import print_text
from kspacesr_rt.system.plain_text import printable

if TYPE_CHECKING:
    from rich.progress import Progress


SHORTEST_BAR: Final = 5
BESIDE_A_NOTE: Final = SHORTEST_BAR + 4
"""Columns of a terminal that are not the note's, label's or figures': the bar's, and a blank
between two of the five."""


class Update(Protocol):
    """How far a command is: called with it, it shows it."""

    def __call__(self, done: int | None, total: int | None, text: str, before: int = 0) -> None:
        """Show how much is done, and what is being done; None leaves a number as it is.

        Parameters
        ----------
        done, total
            Of the command's unit.
        text
            The step it is at; empty for none.
        before
            How much of what is done was so already: the time that is left follows from the rest.
        """

    def keep(self, line: str) -> bool:
        """Print a line that stays above a bar; false if there is no bar, and nothing is printed."""
        ...


@contextmanager
def progress_bar(label: str, quiet: bool, *, lines: bool = False) -> Iterator[Update]:
    """Yield what shows how far a command is; draws on stderr, and only on a terminal.

    With `lines` each new text is a line on stderr where there is no terminal: a step of minutes
    says what it does.
    """
    if quiet or not sys.stderr.isatty():
        yield _Lines(label if lines and not quiet else None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    # A note that went on in a second line would have two lines drawn anew each time: where the
    # terminal is narrow the bar gives way, and then the note's end.
    columns = (
        TextColumn(label),
        BarColumn(pulse_style="bar.back"),  # empty, not full, while the total is unknown
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar, label)


class _Bar:
    """Draws."""

    def __init__(self, bar: Progress, label: str) -> None:
        self._bar, self._known, self._label = bar, Remaining(), label
        self._task = bar.add_task(label, total=None, note="", count="", left="")

    def __call__(self, done: int | None, total: int | None, text: str, before: int = 0) -> None:
        from rich.markup import escape

        self._known.note(done, total, before)
        count, left = self._known.count(), self._known.left()
        room = self._bar.console.width - sum(map(len, (self._label, count, left))) - BESIDE_A_NOTE
        self._bar.update(
            self._task,
            completed=done,
            total=total,
            note=escape(shortened_note(printable(text), room)),
            count=count,
            left=left,
            refresh=done is None,  # a step may be short, but is to be seen
        )

    def keep(self, line: str) -> bool:
        self._bar.console.print(printable(line), markup=False, highlight=False)
        return True


def shortened_note(note: str, columns: int) -> str:
    """Return a note as it fits into so many columns, with an ellipsis for what does not."""
    from rich.text import Text

    text = Text(note)
    text.truncate(max(columns, 0), overflow="ellipsis")
    return text.plain


class Remaining:
    """How much is left, and how long that takes at the pace of what was done here."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._done: int | None = None
        self._total: int | None = None
        self._before = 0

    def note(self, done: int | None, total: int | None, before: int = 0) -> None:
        """Take what is done, of how much, and how much of that was done already."""
        if before > self._before:
            self._before = before
            if done == before:  # nothing was done here yet: looking at that took the time
                self._began = self._clock()
        if self._done is None and done is not None:
            self._began = self._began if done > before else self._clock()
        self._done = self._done if done is None else done
        self._total = self._total if total is None else total

    def count(self) -> str:
        """Return ``3/20``; empty while nothing is known."""
        return "" if self._total is None else f"{self._done or 0}/{self._total}"

    def left(self) -> str:
        """Return the time that is left, as ``0:01:20``; empty while it cannot be told."""
        own = (self._done or 0) - self._before
        if self._total is None or own <= 0:
            return ""
        pace = (self._clock() - self._began) / own
        seconds = math.ceil(pace * max(self._total - (self._done or 0), 0))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


class _Lines:
    """Says a text when it changes; without a label nothing."""

    def __init__(self, label: str | None) -> None:
        self._label, self._last = label, ""

    def __call__(self, done: int | None, total: int | None, text: str, before: int = 0) -> None:
        if self._label is not None and text and text != self._last:
            self._last = text
            print_text(f"{self._label}: {text}", err=True)

    def keep(self, line: str) -> bool:
        return False
