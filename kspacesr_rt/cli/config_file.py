"""``--config run.toml``: options from a file, under the names that they have on the command line.

::

    backend = "ort-cpu"     # for whichever command is run; it must know the option
    [watch]                 # for one command
    settle = 30
    [bench.gate]            # for a command of a command
    budget = 120

What is unknown, or of another type, is refused: a misspelt option would change nothing, unseen.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

import typer

from kspacesr_rt.errors import InputError, system_message

LARGEST: Final = 2**20
"""Bytes of a file that may hold options."""
NOT_FROM_A_FILE: Final = frozenset({"config", "help"})
META: Final = "kspacesr_rt.config"
"""Where a context keeps the `ConfigFile` of each command, by its path."""
TYPES: Final[Mapping[Any, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    Path: "a path in quotes",
}


@dataclass(frozen=True, slots=True)
class AlsoWord:
    """Of an option's annotation: a word that it takes beside what its type says."""

    word: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigFile:
    """A file with options, as far as messages need it."""

    name: str
    """File name, without its folder."""
    text: str
    """All of it."""

    def place(self, key: str, tables: tuple[str, ...]) -> str:
        """Return ``run.toml, line 3``; without a line where the key cannot be found by its look."""
        wanted, table = key.replace("_", "-"), ".".join(tables)
        current = ""
        for number, line in enumerate(self.text.splitlines(), start=1):
            if header := re.fullmatch(r"\s*\[([^\[\]]+)\]\s*(#.*)?", line):
                current = re.sub(r"[\s\"']", "", header[1])
                if current == ".".join((*tables, key)):  # it is a table
                    return f"{self.name}, line {number}"
            elif (
                (found := re.match(r"\s*[\"']?([\w-]+)[\"']?\s*=", line))
                and current == table
                and found[1].replace("_", "-") == wanted
            ):
                return f"{self.name}, line {number}"
        return self.name


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the options of a file as defaults of the command that is being parsed.

    Raises
    ------
    InputError
        If the file cannot be read, is no TOML, or holds what is no option, or of another type.
    """
    if path is None or context.resilient_parsing:
        return path
    file = ConfigFile(name=path.name, text=_read(path))
    try:
        tables = tomllib.loads(file.text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise InputError(f"{file.name} is not TOML: {exc}") from exc
    root, names = _command_path(context)
    values = _values_for(file, tables, context.command, root.command, names)
    context.default_map = {**(context.default_map or {}), **values}
    context.meta.setdefault(META, {})[context.command_path] = file
    return path


def key_of(parameter: Any) -> str:
    """Return an option's name in files: its first long one on the command line, without dashes."""
    return next(str(name[2:]) for name in parameter.opts if name.startswith("--"))


def options_of(command: Any) -> dict[str, Any]:
    """Return the options of a command that a file may hold, by every name they have."""
    return {
        name.lstrip("-"): parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and key_of(parameter) not in NOT_FROM_A_FILE
        for name in parameter.opts
        if name.startswith("--")
    }


def place_in_file(context: Any, parameter: Any) -> str:
    """Say where in its file the value of an option stands."""
    file: ConfigFile = context.meta[META][context.command_path]
    _, names = _command_path(context)
    for name in (one.lstrip("-") for one in parameter.opts):
        for tables in (names, ()):
            if (place := file.place(name, tables)) != file.name:
                return place
    return file.name


def _read(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise InputError(f"--config: {path.name} is no file of options")
        return path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise InputError(f"--config: {path.name} cannot be read: {system_message(exc)}") from exc
    except UnicodeDecodeError as exc:
        raise InputError(f"{path.name} is not TOML: it is not UTF-8") from exc


def _command_path(context: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the context of the program, and the words that name the command."""
    names: list[str] = []
    while context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return context, tuple(names)


def _values_for(
    file: ConfigFile, tables: dict[str, Any], command: Any, program: Any, names: tuple[str, ...]
) -> dict[str, Any]:
    """Return the values for a command by parameter, once the whole file was found to be right."""
    general = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    values = _checked(file, (), general, command)
    for path, one, table in _tables(file, tables, program, ()):
        found = _checked(file, path, table, one)
        if path == names:
            values |= found
    return values


def _tables(
    file: ConfigFile, tables: dict[str, Any], group: Any, above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, dict[str, Any]]]:
    """Yield each command that has a table, and the table without those of its own commands."""
    for name, table in tables.items():
        if not isinstance(table, dict):
            continue
        commands = getattr(group, "commands", {})
        option = options_of(group).get(name) or options_of(group).get(name.replace("_", "-"))
        if name not in commands and option is not None:
            kind = describe(_kind(group, option))
            raise InputError(f"{file.place(name, above)}: '{name}' takes {kind}, not a table")
        if name not in commands:
            raise InputError(
                f"{file.place(name, above)}: no command is called '{' '.join((*above, name))}'",
                hint=f"tables are named {', '.join(sorted(commands))}" if commands else None,
            )
        own = {key: value for key, value in table.items() if not isinstance(value, dict)}
        yield (*above, name), commands[name], own
        yield from _tables(file, table, commands[name], (*above, name))


def _checked(
    file: ConfigFile, path: tuple[str, ...], table: dict[str, Any], command: Any
) -> dict[str, Any]:
    options: dict[str, Any] = options_of(command)
    found: dict[str, Any] = {}
    for key, value in table.items():
        place = file.place(key, path)
        parameter = options.get(key) or options.get(key.replace("_", "-"))
        if parameter is None:
            raise InputError(
                f"{place}: '{command.name}' has no option '{key}'",
                hint=f"kspacesr-rt {' '.join(path) or command.name} --help lists them"
                + ("" if path else "; what is for one command stands below [COMMAND]"),
            )
        if parameter.name in found:
            raise InputError(f"{place}: '{key}' is there twice")
        kind = _kind(command, parameter)
        if not fits(value, kind):
            raise InputError(f"{place}: '{key}' takes {describe(kind)}, not {_shown(value)}")
        found[parameter.name] = value
    return found


def _kind(command: Any, parameter: Any) -> Any:
    """Return the annotation of an option."""
    return inspect.signature(command.callback, eval_str=True).parameters[parameter.name].annotation


def fits(value: object, kind: Any) -> bool:
    """Return whether a value of TOML is of an annotation's type."""
    if value in _words(kind):
        return True
    kind, inner = _bare(kind), get_args(_bare(kind))
    origin = get_origin(kind)
    if origin is list:
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(inner) and all(map(fits, value, inner))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (int, bool):
        return type(value) is kind
    return isinstance(value, str) and (bool(value) or kind is not Path)


def describe(kind: Any) -> str:
    """Say what a value should be."""
    if words := _words(kind):
        return " or ".join((describe(_bare(kind)), *(f'"{word}"' for word in words)))
    kind, inner = _bare(kind), get_args(_bare(kind))
    origin = get_origin(kind)
    if origin is list:
        return f"a list, each of it {describe(inner[0])}"
    if origin is tuple:
        return f"a list of {len(inner)}, each of it {describe(inner[0])}"
    if origin is Literal:
        return " or ".join(f'"{word}"' for word in inner)
    return TYPES.get(kind, TYPES[str])


def _words(kind: Any) -> tuple[str, ...]:
    """Return the words that an annotation takes beside its type."""
    own = getattr(kind, "__metadata__", ())
    return tuple(one.word for one in own if isinstance(one, AlsoWord))


def _bare(kind: Any) -> Any:
    """Return a type without its annotations and without None."""
    while get_origin(kind) in (Union, UnionType) or hasattr(kind, "__metadata__"):
        kind = next(one for one in get_args(kind) if one is not NoneType)
    return kind


def _shown(value: object) -> str:
    """Return a value as TOML spells it, cut."""
    words = {True: "true", False: "false"}
    text = (
        words[value]
        if isinstance(value, bool)
        else f'"{value}"'
        if isinstance(value, str)
        else str(value)
    )
    return text if len(text) <= 40 else f"{text[:37]}..."
