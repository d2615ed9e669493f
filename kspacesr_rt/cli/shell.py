"""What every command shares: the application, its errors and exit codes, progress, options."""

from __future__ import annotations

import inspect
import json
import signal
import sys
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from kspacesr_rt._version import __version__
from kspacesr_rt.cli import option_sources
from kspacesr_rt.cli.json_errors import JsonOutput, kind_of
from kspacesr_rt.cli.option_groups import expand_groups
from kspacesr_rt.cli.usage_errors import missing_too, reworded
from kspacesr_rt.cli.wrapping import fitted
from kspacesr_rt.errors import (
    BackendUnavailableError,
    InputError,
    KspaceSRError,
    PartialFailureError,
)
from kspacesr_rt.system.install_hints import install_hint
from kspacesr_rt.system.interruption import TerminatedError, received_signal
from kspacesr_rt.system.plain_text import printable

if TYPE_CHECKING:
    from kspacesr_rt.train.file_failures import Reading

EXIT_INTERNAL, SIGNALLED = 1, 128
ENDED: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
OPTIONAL_PACKAGES = ("torch", "safetensors", "nibabel", "nrrd", "h5py")
"""What a command may need beyond the base install; the extra has the command's name, `bench` for
`evaluate`."""


COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "Run": ("infer", "watch", "serve", "health", "mercure"),
    "Models": ("export", "adopt", "convert", "inspect", "verify", "build", "cache"),
    "Train": ("train", "evaluate", "trust", "seed-table"),
    "Measure": ("bench",),
    "Machine": ("backends", "doctor", "targets", "diagnose"),
}
"""Panels of the program's help, and the commands in them, in the order of use."""


class _Command(TyperCommand):
    """Tells, before it begins, which options the environment or a file has changed."""

    # The base class takes any context; Typer hands its own commands a typer.Context.
    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command."""
        _json.take(ctx.params)
        print_option_sources(ctx)
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help without names that would cut the others off at 80 columns.

        Those are second names, which the help text has, and ``--no-preview`` where that is usual.
        """
        names, text = [(one, one.opts, one.secondary_opts) for one in self.params], self.help
        self.help = _flowing(text)
        for one, opts, secondary in names:
            long = [name for name in opts if name.startswith("--")]
            one.opts = [name for name in opts if name not in long[1:]]
            one.secondary_opts = secondary if one.default else []
        try:
            super().format_help(ctx, formatter)
        finally:
            self.help = text
            for one, opts, secondary in names:
                one.opts, one.secondary_opts = opts, secondary

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option for help, without a type behind its name."""
        return _without_type(super().get_help_option(ctx))


class _Group(TyperGroup):
    """Turn known errors into two lines and an exit code, in one place for every command."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.commands.keys() >= {"infer"}:  # the program; `bench` and `cache` are groups, too
            for panel, names in COMMANDS.items():
                for name in names:
                    vars(self.commands[name])["rich_help_panel"] = panel
            option_sources.name_variables(self)

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option for help, without a type behind its name."""
        return _without_type(super().get_help_option(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order of use."""
        names = super().list_commands(ctx)
        order = [name for panel in COMMANDS.values() for name in panel]
        return sorted(names, key=lambda name: order.index(name) if name in order else len(order))

    # The base class takes any context; Typer hands its own commands a typer.Context. That narrows
    # the parameter of both methods, which a type checker has to be told is meant.
    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Take the words of the command line."""
        _json.arguments, _json.values, _json.printed = tuple(args), (), False
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run a command."""
        debug = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except KspaceSRError as exc:
            # What is wrong with a file is often its text: neither a screen nor a log obeys it.
            _print_error(kind_of(exc), str(exc), exc.hint, exc.exit_code)
            _trace(debug)
            raise typer.Exit(exc.exit_code) from exc
        except KeyboardInterrupt as exc:
            _end_log(ctx)
            raise typer.Exit(print_end(signal.SIGINT, exc)) from exc
        except TerminatedError as exc:
            _end_log(ctx)
            raise typer.Exit(print_end(signal.SIGTERM, exc)) from exc
        except (typer.Exit, typer.Abort):
            raise
        except Exception as exc:
            if (number := received_signal()) is not None:  # what it broke off, whatever it says
                _trace(debug)
                raise typer.Exit(print_end(number)) from exc
            if type(exc).__module__.startswith(("click", "typer")):
                if isinstance(getattr(exc, "message", None), str):
                    # Of a class that Typer keeps to itself; its attribute was looked for above.
                    text = reworded(exc) + missing_too(exc, _json.arguments)
                    exc.message = printable(text + _source_of_wrong_value(exc))  # type: ignore[attr-defined]
                    code = getattr(exc, "exit_code", InputError.exit_code)
                    message = getattr(exc, "format_message", exc.__str__)()
                    _echo_error("usage", printable(message), None, code)
                raise  # usage errors: Typer prints them and exits 2
            if isinstance(exc, ModuleNotFoundError) and exc.name in OPTIONAL_PACKAGES:
                command = ctx.invoked_subcommand or ""
                extra = command if command in ("export", "train") else "bench"
                code = BackendUnavailableError.exit_code
                _print_error(
                    "backend-unavailable",
                    f"'{command}' needs the package '{exc.name}'",
                    install_hint(extra),
                    code,
                )
                _trace(debug)
                raise typer.Exit(code) from exc
            # The message may quote a patient's values, so only its type is shown unasked.
            _print_error(
                "internal",
                f"internal error ({type(exc).__name__})",
                "kspacesr-rt --debug ... shows where; please report it",
                EXIT_INTERNAL,
            )
            _trace(debug)
            raise typer.Exit(EXIT_INTERNAL) from exc


def _flowing(text: str | None) -> str | None:
    """Return a help text whose paragraphs are one line each, for Rich to wrap."""
    parts = inspect.cleandoc(text or "").split("\n\n")
    return text and "\n\n".join(" ".join(part.split()) for part in parts)


def _without_type(option: Any) -> Any:
    if option is not None:
        option.metavar = " "
    return option


SERVICES: Final = frozenset({"serve", "watch"})
"""Commands whose ``--json`` is a log."""
_json = JsonOutput()
"""Of the command that runs."""


def _end_log(context: typer.Context) -> None:
    """Print no object behind the events of a service: a signal is how it ends."""
    if context.invoked_subcommand in SERVICES:
        _json.printed = True


def _print_error(kind: str, message: str, hint: str | None, exit_code: int) -> None:
    """Say what went wrong, on stderr: two lines, and with ``--json`` an object besides."""
    print_text(f"error: {printable(message)}", err=True)
    if hint:
        print_text(f"hint: {printable(hint)}", err=True)
    _echo_error(kind, printable(message), hint and printable(hint), exit_code)


def _echo_error(kind: str, message: str, hint: str | None, exit_code: int) -> None:
    if _json.wanted and not _json.printed:
        echo_json(_json.error(kind, message, hint, exit_code), err=True)


def print_text(text: object, *, err: bool = False, wrap: bool = True) -> None:
    """Print text, on stderr with `err`; control characters of strangers are written out.

    On a terminal lines are broken between words, unless `wrap` is false.
    """
    shown = printable(str(text), keep="\n\t")
    typer.echo(fitted(shown, sys.stderr if err else sys.stdout) if wrap else shown, err=err)


def print_failures(reading: Reading) -> None:
    """Name the files that a command left out, and end with the exit code for that, if any."""
    for line in reading.lines():
        print_text(line, err=True)
    reading.require_complete()


def failures_json(reading: Reading) -> dict[str, Any]:
    """Return what JSON holds of the files that were left out."""
    code = PartialFailureError.exit_code if reading.failures else 0
    return {"failed": [one.to_dict() for one in reading.failures], "exit_code": code}


def print_option_sources(context: Any) -> None:
    """Say which values the environment or a file gave; under ``-v`` where each value is from."""
    if context.params.get("quiet"):
        return
    if text := option_sources.as_text(context, everything=bool(context.params.get("verbose"))):
        print_text(text, err=True)
    for sentence in option_sources.unknown_variables(context.find_root().command):
        print_text(f"warning: {sentence}", err=True)


def require_packages(command: str, extra: str, *names: str) -> None:
    """Raise at once if something is not installed that a command needs minutes later.

    Raises
    ------
    BackendUnavailableError
        Naming all that is missing, and what installs it.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        packages = " and ".join(f"'{name}'" for name in missing)
        word = "packages" if len(missing) > 1 else "package"
        raise BackendUnavailableError(
            f"'{command}' needs the {word} {packages}", hint=install_hint(extra)
        )


def print_end(number: int, ended: BaseException | None = None) -> int:
    """Say that a signal has ended the command, and how far it was; return the exit code."""
    text = ": ".join([ENDED[number], *getattr(ended, "__notes__", ())])
    print_text(text, err=True)
    _echo_error(ENDED[number], text, None, SIGNALLED + number)
    return SIGNALLED + number


def _source_of_wrong_value(error: Any) -> str:
    """Return where a value that cannot be is from, unless it stands on the command line."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None or parameter is None:
        return ""
    source = option_sources.source_of(context, parameter)
    return "" if source in (None, option_sources.COMMAND_LINE) else f" (from {source})"


def _trace(debug: bool) -> None:
    if debug:
        traceback.print_exc()


class App(typer.Typer):
    """Registers commands, their groups of options expanded."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[..., Any]:
        """Register a command."""
        return _registering(super().command(name, **{"cls": _Command, **settings}))

    def callback(self, **settings: Any) -> Callable[..., Any]:
        """Register what a group of commands does without one."""
        return _registering(super().callback(**settings))


def _registering(register: Callable[..., Any]) -> Callable[..., Any]:
    def registered(function: Callable[..., Any]) -> Callable[..., Any]:
        register(expand_groups(function))
        return function

    return registered


app = App(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="MRI super-resolution in k-space. Research use only: detail is predicted, not measured.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_text(f"kspacesr-rt {__version__}")
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


def error_json(exc: KspaceSRError) -> dict[str, Any]:
    """Return what ``--json`` prints of an error, for a command that has more to tell of it."""
    return _json.error(kind_of(exc), printable(str(exc)), exc.hint, exc.exit_code)


def echo_json(value: Any, *, err: bool = False) -> None:
    """Print one machine-readable line."""
    line = json.dumps(value, sort_keys=True, allow_nan=False)
    _json.printed = True
    print_text(line, err=err, wrap=False)
