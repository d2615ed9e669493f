"""What every command shares: the application, its errors and exit codes, progress, options."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kspacesr_rt._version import __version__
from kspacesr_rt.errors import BackendUnavailableError, KspaceSRError
from kspacesr_rt.interruption import TerminatedError, arrived
from kspacesr_rt.plain_text import printable

EXIT_INTERNAL, SIGNALLED = 1, 128
ENDED: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
OPTIONAL_PACKAGES = ("torch", "safetensors", "nibabel", "nrrd", "h5py")
"""What a command may need beyond the base install; the extra has the command's name, `bench` for
`evaluate`."""


class _Group(TyperGroup):
    """Turn known errors into two lines and an exit code, in one place for every command."""

    # The base class takes any context; Typer hands its own commands a typer.Context.
    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run a command."""
        debug = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except KspaceSRError as exc:
            # What is wrong with a file is often its text: neither a screen nor a log obeys it.
            say(f"error: {printable(str(exc))}", err=True)
            if exc.hint:
                say(f"hint: {printable(exc.hint)}", err=True)
            _trace(debug)
            raise typer.Exit(exc.exit_code) from exc
        except KeyboardInterrupt as exc:
            raise typer.Exit(tell_end(signal.SIGINT)) from exc
        except TerminatedError as exc:
            raise typer.Exit(tell_end(signal.SIGTERM)) from exc
        except (typer.Exit, typer.Abort):
            raise
        except Exception as exc:
            if (number := arrived()) is not None:  # what it broke off, whatever that calls it
                _trace(debug)
                raise typer.Exit(tell_end(number)) from exc
            if type(exc).__module__.startswith(("click", "typer")):
                if isinstance(told := getattr(exc, "message", None), str):
                    exc.message = printable(told)  # type: ignore[attr-defined]
                raise  # usage errors: Typer prints them and exits 2
            if isinstance(exc, ModuleNotFoundError) and exc.name in OPTIONAL_PACKAGES:
                command = ctx.invoked_subcommand or ""
                extra = command if command in ("export", "train") else "bench"
                say(f"error: '{command}' needs the package '{exc.name}'", err=True)
                say(f"hint: pip install 'kspacesr-rt[{extra}]'", err=True)
                _trace(debug)
                raise typer.Exit(BackendUnavailableError.exit_code) from exc
            # The message may quote a patient's values, so only its type is shown unasked.
            say(f"error: internal error ({type(exc).__name__})", err=True)
            say("hint: kspacesr-rt --debug ... shows where; please report it", err=True)
            _trace(debug)
            raise typer.Exit(EXIT_INTERNAL) from exc


def say(text: object, *, err: bool = False) -> None:
    """Print text, on stderr with `err`; control characters of strangers are written out."""
    typer.echo(printable(str(text), keep="\n\t"), err=err)


def tell_end(number: int) -> int:
    """Say that a signal has ended the command, and return the exit code."""
    say(ENDED[number], err=True)
    return SIGNALLED + number


def _trace(debug: bool) -> None:
    if debug:
        traceback.print_exc()


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="MRI super-resolution in k-space. Research use only: detail is predicted, not measured.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes every core.")]
BackendName = Annotated[
    str, typer.Option("--backend", help="auto, or one of: kspacesr-rt backends.")
]
LimitTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        help="NAME=NUMBER of what one file may ask for: samples, extra, inflated, items, elements.",
    ),
]
ModelArgument = Annotated[str, typer.Argument(help="Model file, or a shipped model's name.")]


class Consistency(StrEnum):
    """What a k-space network does with the measured centre."""

    none = "none"
    additive = "additive"
    hard = "hard"
    magnitude = "magnitude"


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"kspacesr-rt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option(help="Show tracebacks (may hold patient data).")] = False,
) -> None:
    pass


@contextmanager
def progress_bar(label: str, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Yield ``update(done, total, text)``; draws on stderr, and only on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total, text: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, note="")
        yield lambda done, total, text: bar.update(
            task, completed=done, total=total, note=escape(printable(text))
        )


def echo_json(value: Any) -> None:
    """Print one machine-readable line."""
    say(json.dumps(value, sort_keys=True, allow_nan=False))
