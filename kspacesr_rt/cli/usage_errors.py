"""What is wrong with the options of a command, in words of ours.

Typer hands on what its parsers say, in their words (``Input should be a valid integer, unable to
parse string as an integer``), and names one missing option at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

from kspacesr_rt.cli.config_file import TYPES

KINDS: Final = {"int": int, "float": float, "bool": bool}
"""How the words for a kind of error begin, of types that are parsed."""
BOUNDS: Final = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}
"""Kinds of errors about bounds: where the bound is, and how it is said."""
PREFIX: Final = "Value error, "


def reworded(error: Any) -> str:
    """Return the message of a usage error of Typer."""
    found = getattr(error.__cause__, "errors", None)
    details: Any = found() if callable(found) else ()
    return _sentence(details[0]) if details else str(error.message).replace(PREFIX, "")


def _sentence(detail: dict[str, Any]) -> str:
    kind, value = str(detail["type"]), detail["input"]
    if kind in BOUNDS:
        name, words = BOUNDS[kind]
        return f"{value} is not {words} {detail['ctx'][name]}."
    for word, parsed in KINDS.items():
        if kind.startswith(f"{word}_"):
            return f"'{value}' is not {TYPES[parsed]}."
    return str(detail["msg"]).removeprefix(PREFIX)


def missing_too(error: Any, arguments: Sequence[str]) -> str:
    """Say which other options and arguments are missing where one is.

    Parameters
    ----------
    error
        Of Typer, for the first one that is missing.
    arguments
        The words of the command line.
    """
    if type(error).__name__ != "MissingParameter" or error.ctx is None or error.param is None:
        return ""
    after = error.ctx.command.params
    after = after[after.index(error.param) + 1 :]
    names = [
        f"'{_name(one)}'" for one in after if one.required and not _given(one, error, arguments)
    ]
    if not names:
        return ""
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing, too."


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return str(max(parameter.opts, key=len))


def _given(parameter: Any, error: Any, arguments: Sequence[str]) -> bool:
    if parameter.param_type_name == "argument":
        return False  # they are taken in order: behind one that is missing there is none
    if parameter.name in (error.ctx.default_map or {}):
        return True
    if any(os.environ.get(name) for name in _variables(parameter)):
        return True
    return any(word.split("=", 1)[0] in parameter.opts for word in arguments)


def _variables(parameter: Any) -> Iterator[str]:
    names = parameter.envvar or ()
    yield from (names,) if isinstance(names, str) else names
