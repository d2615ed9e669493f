"""Options from the environment, and where the value of each option came from.

The command line comes before the environment, that before ``--config``, that before the default.
``KSPACESR_RT_INFER_BATCH`` is for one command. ``KSPACESR_RT_BATCH`` is for every command, of the
options that mean the same everywhere. What the environment or a file has changed is always printed.
"""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from typer.models import OptionInfo

from kspacesr_rt.cli import options
from kspacesr_rt.cli.config_file import NOT_FROM_A_FILE, key_of, place_in_file

PREFIX: Final = "KSPACESR_RT_"
OTHER_VARIABLES: Final = frozenset(
    PREFIX + name
    for name in (
        "CACHE",
        "TELEMETRY",
        "PYTHON_IMAGE",
        "STALL_S",
        "REQUIRE",
        "FUZZ",
        "SLICES",
        "SCAN_FILES",
        "STANDIN",
        "WEBGPU",
        "WEBGPU_CPU_NODES",
        "SITE",
        "TRITON",
    )
)
"""Variables that are none of an option: each says what it does where it is read."""
FOR_ONE_COMMAND: Final = frozenset({"force"})
"""Options without a variable for every command: too much would be replaced."""
NEAR: Final = 0.8
"""Likeness of two names, 0 to 1, from which one may be a slip for the other: as with one letter
of six."""
COMMAND_LINE: Final = "command line"


def name_variables(command: Any, path: tuple[str, ...] = ()) -> None:
    """Give every option below a command its environment variables."""
    for one in settings_of(command):
        key = key_of(one)
        own = PREFIX + _upper(*path, key)
        everywhere = one.help in shared_helps() and key not in FOR_ONE_COMMAND
        one.envvar = [own, PREFIX + _upper(key)] if everywhere and path else [own]
        one.show_envvar = False  # two a line would drown the help
    if path:
        for one in command.params:
            if one.param_type_name == "option" and key_of(one) == "config":
                one.envvar, one.show_envvar = PREFIX + "CONFIG", False
    for name, inner in getattr(command, "commands", {}).items():
        name_variables(inner, (*path, name))


def source_of(context: Any, parameter: Any) -> str | None:
    """Say where the value of an option came from; None for its default."""
    source = context.get_parameter_source(parameter.name)
    kind = source.name if source else ""
    if kind == "COMMANDLINE":
        return COMMAND_LINE
    if kind == "ENVIRONMENT":
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar
        return next((name for name in names or () if os.environ.get(name)), None)
    return place_in_file(context, parameter) if kind == "DEFAULT_MAP" else None


def option_sources(context: Any) -> dict[str, str]:
    """Return where each option that is not left at its default came from, by its name."""
    found = {key_of(one): source_of(context, one) for one in settings_of(context.command)}
    return {key: source for key, source in found.items() if source is not None}


def as_text(context: Any, *, everything: bool = False) -> str:
    """Say in a line which values came from where; empty if there are none.

    Parameters
    ----------
    context
        Of the command.
    everything
        Also what stands on the command line.
    """
    named = [
        f"{_shown(one, context.params.get(one.name))} ({source})"
        for one in settings_of(context.command)
        if (source := source_of(context, one)) is not None
        and (everything or source != COMMAND_LINE)
        and one.name != "verbose"  # it shows
    ]
    return f"options: {', '.join(named)}" if named else ""


def unknown_variables(program: Any) -> list[str]:
    """Say of each of our environment variables that it names nothing, and what it may mean."""
    known = OTHER_VARIABLES | set(variables_of(program))
    shorter = [name.removeprefix(PREFIX) for name in known]  # all begin alike, which is no likeness
    sentences = []
    for name in sorted(one for one in os.environ if one.startswith(PREFIX) and one not in known):
        near = difflib.get_close_matches(name.removeprefix(PREFIX), shorter, n=1, cutoff=NEAR)
        sentences.append(
            f"{name} names no option" + (f"; is it {PREFIX}{near[0]}?" if near else "")
        )
    return sentences


def variables_of(command: Any) -> Iterator[str]:
    """Yield the environment variables of every option below a command."""
    for one in command.params:
        names = getattr(one, "envvar", None) or ()
        yield from (names,) if isinstance(names, str) else names
    for inner in getattr(command, "commands", {}).values():
        yield from variables_of(inner)


def settings_of(command: Any) -> list[Any]:
    """Return the options of a command that say how, not those that ask for help and the like."""
    return [
        one
        for one in command.params
        if one.param_type_name == "option"
        and key_of(one) not in NOT_FROM_A_FILE
        and not one.is_eager
    ]


@functools.cache
def shared_helps() -> frozenset[str]:
    """Return the help texts of the options that commands share."""
    return frozenset(
        note.help
        for alias in vars(options).values()
        for note in getattr(alias, "__metadata__", ())
        if isinstance(note, OptionInfo) and note.help
    )


def _shown(parameter: Any, value: Any) -> str:
    """Return an option as one types it; of a path only its last part, which names no patient."""
    name = f"--{key_of(parameter)}"
    if isinstance(value, bool):
        return name if value else max(parameter.secondary_opts, key=len, default=f"no {name}")
    if value == options.AUTOMATIC.get(parameter.name):
        value = "auto"  # as it is typed
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join([name, *(_without_folder(str(one)) for one in values)])


def _without_folder(text: str) -> str:
    return Path(text).name if os.sep in text else text


def _upper(*words: str) -> str:
    return "_".join(words).replace("-", "_").upper()
