"""Option groups: a dataclass of annotated options as one parameter of a command."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from kspacesr_rt.cli.options import PANELS

METAVARS: Final = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
"""What stands for a value in the help of an option, by its type."""


def expand_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command whose parameters, as Typer reads them, are those of its option groups.

    Options come in the order of their panels, so that Typer prints the panels in that order too.

    Parameters
    ----------
    command
        A function; parameters that are annotated with a dataclass take an instance of it.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {
        name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)
    }

    @functools.wraps(command)
    def called(**values: Any) -> Any:
        for name, group in groups.items():
            fields = [one.name for one in dataclasses.fields(group)]
            values[name] = group(**{field: values.pop(field) for field in fields})
        return command(**values)

    parameters = sorted(map(_fit_for_help, _parameters(command, hints)), key=_place)
    # Typer asks for both.
    vars(called)["__signature__"] = inspect.Signature(parameters)
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def option_info(parameter: inspect.Parameter) -> OptionInfo | None:
    """Return what an annotation says of an option; None if it is an argument, or nothing."""
    found = [one for one in get_args(parameter.annotation)[1:] if isinstance(one, OptionInfo)]
    return found[0] if found else None


def _parameters(command: Callable[..., Any], hints: dict[str, Any]) -> Iterator[inspect.Parameter]:
    for one in inspect.signature(command).parameters.values():
        kind = hints[one.name]
        if not dataclasses.is_dataclass(kind):
            yield one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind)
            continue
        members = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            yield inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=members[field.name],
            )


def _fit_for_help(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return an option or argument whose help fits 80 columns, in words of a command line.

    Choices can be wrapped, a flag is its name, and a list is not Python's.
    """
    notes = [one for one in get_args(parameter.annotation)[1:] if isinstance(one, ParameterInfo)]
    if not notes or notes[0].metavar:
        return parameter
    kind, words = get_args(parameter.annotation)[0], choices(parameter.annotation)
    info = copy.copy(notes[0])
    if isinstance(info, ArgumentInfo):
        info.metavar = parameter.name.upper()
    elif _is_list(kind):
        info.metavar = "PATH" if Path in _types(kind) else "TEXT"
    elif words:
        info.metavar = " | ".join(words)
    elif isinstance(info, OptionInfo) and (word := _word_of(kind)):
        info.metavar = word  # Typer puts bounds behind it
    if bool in (kind, *get_args(kind)):
        info.metavar = " "
        info.show_default = bool(parameter.default)
    return parameter.replace(annotation=Annotated[kind, info])


def _word_of(kind: Any) -> str:
    """Return what stands for a value in the help, as in the reference; empty if nothing does."""
    if kind in METAVARS:
        return METAVARS[kind]
    words = [_word_of(one) for one in get_args(kind)]
    return " ".join(words) if get_origin(kind) is tuple else next(filter(None, words), "")


def _is_list(kind: Any) -> bool:
    return any(get_origin(one) is list for one in (kind, *get_args(kind)))


def _types(kind: Any) -> set[Any]:
    """Return a type and all that it is made of."""
    return {kind} | {one for inner in get_args(kind) for one in _types(inner)}


def choices(annotation: Any) -> tuple[str, ...]:
    """Return the words of a closed set; empty if it is none."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    inner = (choices(one) for one in get_args(annotation) if not isinstance(one, OptionInfo | str))
    return next((words for words in inner if words), ())


def _place(parameter: inspect.Parameter) -> int:
    info = option_info(parameter)
    panel = info.rich_help_panel if info else None
    return PANELS.index(panel) + 1 if panel else 0
