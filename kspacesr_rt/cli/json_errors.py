"""What a command with ``--json`` prints where it fails: one object, a line of standard error.

::

    {"error": {"kind": "input", "message": "...", "hint": "..."}, "exit_code": 2}

Standard output stays empty: what stands there is a result. A command that has printed one already
(a self-test that failed, a run with failed slices) prints nothing more. Paths, which often hold a
patient's name, stand there only with --show-paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PATH: Final = "<path>"
"""Stands for a path in what is printed."""
_PLAIN: Final = r"[^\s/:'\",;()]"
"""A character of a path that needs no quotes."""
_WORDS: Final = rf"(?: +{_PLAIN}+)*?"
_REST: Final = rf"(?:{_WORDS}(?:/{_PLAIN}*)+|{_WORDS} +{_PLAIN}*\.[A-Za-z]\w{{0,9}}\b)*"
"""Goes on behind a blank where a slash, or the suffix of a file, shows that the path does."""
_ABSOLUTE: Final = re.compile(
    rf"(?<=')/[^'\n]+(?=')|(?<=\")/[^\"\n]+(?=\")|(?<![\w./<>])/{_PLAIN}+(?:/{_PLAIN}*)+{_REST}"
)
_FILE_NAME: Final = re.compile(r".*\.[A-Za-z]\w{0,9}")
_BELOW: Final = re.compile(rf"{re.escape(PATH)}(?:/{_PLAIN}+)+{_REST}")


@dataclass(slots=True)
class JsonOutput:
    """Whether a command was asked for JSON, and whether it has printed it."""

    arguments: Sequence[str] = ()
    """The words of the command line."""
    values: Sequence[str] = ()
    """Texts and paths that options have, wherever from."""
    printed: bool = field(default=False)
    """Whether the command's object is out."""

    @property
    def wanted(self) -> bool:
        """Whether ``--json`` is among the words, even if they cannot be parsed."""
        return "--json" in _options(self.arguments)

    def take(self, values: Mapping[str, Any]) -> None:
        """Know the values of options from elsewhere too: the environment, a file."""
        flags = {"as_json": "--json", "show_paths": "--show-paths"}
        given = tuple(flag for name, flag in flags.items() if values.get(name) is True)
        self.arguments = (*given, *self.arguments)
        self.values = tuple(str(one) for one in values.values() if isinstance(one, str | Path))

    def error(self, kind: str, message: str, hint: str | None, exit_code: int) -> dict[str, Any]:
        """Return the object for an error."""
        if "--show-paths" not in _options(self.arguments):
            words = (*self.arguments, *self.values)
            message = without_paths(message, words)
            hint = hint and without_paths(hint, words)
        error = {"kind": kind, "message": message, "hint": hint}
        return {"error": error, "exit_code": exit_code}


def kind_of(error: BaseException) -> str:
    """Return an error class as a word: ``BackendUnavailableError`` is ``backend-unavailable``."""
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def without_paths(text: str, arguments: Iterable[str]) -> str:
    """Return text in which paths are blanked: absolute ones, and those that a user has given."""
    names = set(_places())
    for word in arguments:
        value = word.partition("=")[2] if word.startswith("-") else word
        if "/" in value or _FILE_NAME.fullmatch(value) or os.path.lexists(value):
            names |= {value, value.rstrip("/"), Path(value).name}
            # As messages may name it, of which a blank may end a part.
            with suppress(OSError):
                names |= {str(Path(value).absolute()), str(Path(value).resolve())}
    for name in sorted(names - {"", ".", ".."}, key=len, reverse=True):
        text = re.sub(rf"(?<![\w<]){re.escape(name)}(?![\w>])", PATH, text)
    return _BELOW.sub(PATH, _ABSOLUTE.sub(PATH, text))


def _places() -> Iterator[str]:
    """Yield the user's folder and the one that this runs in, which may be named after somebody."""
    for find in (Path.home, Path.cwd):
        with suppress(OSError, RuntimeError):  # one is unknown, or is gone
            if (place := find()) != Path(place.anchor):
                yield str(place)


def _options(arguments: Sequence[str]) -> Sequence[str]:
    """Return what stands before a lone ``--``."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments
