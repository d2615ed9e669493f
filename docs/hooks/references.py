"""Lists of the reference, made from the code: `write_pages.py` writes them into the pages."""

from __future__ import annotations

import ast
import enum
import functools
import inspect
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]


# The command line ------------------------------------------------------------------------------


def command_line() -> str:
    """Return every command with its arguments and options, in the order and panels of `--help`."""
    import typer

    from kspacesr_rt.cli import app
    from kspacesr_rt.cli.shell import COMMANDS

    root: Any = typer.main.get_command(app)
    order = [word for words in COMMANDS.values() for word in words]
    root.commands = dict(sorted(root.commands.items(), key=lambda one: order.index(one[0])))
    return "\n".join(_command("kspacesr-rt", root))


def _command(name: str, command: Any) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    if name != "kspacesr-rt":
        yield f"{'##' if name.count(' ') == 1 else '###'} {name.removeprefix('kspacesr-rt ')}\n"
        yield f"{inspect.cleandoc(command.help or '')}\n"
        arguments = [_placeholder(one) for one in command.params if _is_argument(one)]
        words = [name, "[OPTIONS]", *(["COMMAND"] if inner else []), *arguments]
        yield f"```text\n{' '.join(words)}\n```\n"
    else:
        yield "Options of the program itself, in front of the command:\n"
    panels: dict[str, list[Any]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name in (
            *("help", "install_completion", "show_completion"),
        ):
            continue
        default = "Arguments" if _is_argument(parameter) else "Options"
        panels.setdefault(getattr(parameter, "rich_help_panel", None) or default, []).append(
            parameter
        )
    for panel, parameters in panels.items():
        if len(panels) > 1 or panel != "Options":
            yield f"**{panel}**\n"
        yield from (_parameter(one) for one in parameters)
        yield ""
    groups: dict[str, list[tuple[str, Any]]] = {}
    for word, one in inner.items():
        groups.setdefault(getattr(one, "rich_help_panel", None) or "", []).append((word, one))
    if name == "kspacesr-rt" and len(groups) > 1:
        yield "Commands, in the order of use:\n"
        for panel, commands in groups.items():
            links = ", ".join(f"[`{word}`](#{word})" for word, _ in commands)
            yield f"- {panel or 'Other'}: {links}"
        yield ""
    for commands in groups.values():
        for word, one in commands:
            if not getattr(one, "hidden", False):
                yield from _command(f"{name} {word}", one)


def _is_argument(parameter: Any) -> bool:
    return "Argument" in type(parameter).__name__


def _placeholder(parameter: Any) -> str:
    text = parameter.metavar or parameter.name.upper()
    text = f"{text}..." if parameter.nargs == -1 else text
    return text if parameter.required else f"[{text}]"


def _parameter(parameter: Any) -> str:
    text = " ".join(inspect.cleandoc(parameter.help or "").replace("``", "`").split())
    if _is_argument(parameter):
        return f"- `{_placeholder(parameter)}`: {text}"
    names = sorted(parameter.opts, key=len)
    if not parameter.is_flag:
        names[-1] += f" {_kind(parameter)}"
    heading = ", ".join(f"`{one}`" for one in (*names, *parameter.secondary_opts))
    notes = []
    if parameter.required:
        notes.append("Required.")
    if parameter.multiple and "repeat" not in text.lower():
        notes.append("May be given several times.")
    default = parameter.default
    if isinstance(default, enum.Enum):
        default = default.value
    if default not in (None, False, (), [], "") and not callable(default):
        notes.append(f"Default: `{default}`.")
    return f"- {heading}: {' '.join([text, *notes])}"


def _kind(parameter: Any) -> str:
    """Return what stands for an option's value: its choices, or a word for its type."""
    if parameter.metavar:
        return str(parameter.metavar)
    return _named(parameter.type_descriptor.annotation)


def _named(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "|".join(map(str, inner))
    if origin is tuple:
        return " ".join(_named(one) for one in inner)
    if inner:  # a union with None, or a list
        return _named(next(one for one in inner if one is not type(None)))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "|".join(str(one.value) for one in kind)
    return {int: "N", float: "X", str: "TEXT", Path: "PATH"}.get(kind, "VALUE")


# Errors, metrics, specification, report ----------------------------------------------------------


def shared_variables() -> str:
    """Return each variable that several commands read, and the commands that read it, or do not."""
    import typer

    from kspacesr_rt.cli import app
    from kspacesr_rt.cli.config_file import key_of
    from kspacesr_rt.cli.option_sources import settings_of

    read: dict[str, tuple[list[str], list[str]]] = {}

    def collect(command: Any, path: tuple[str, ...]) -> None:
        for one in settings_of(command) if path else ():
            everywhere = len(one.envvar) > 1  # behind that of the one command
            name = "KSPACESR_RT_" + key_of(one).replace("-", "_").upper()
            read.setdefault(name, ([], []))[not everywhere].append(f"`{' '.join(path)}`")
        for word, inner in getattr(command, "commands", {}).items():
            collect(inner, (*path, word))

    collect(typer.main.get_command(app), ())
    lines = ["| variable | read by | not by, where the option means something else |"]
    lines += ["| --- | --- | --- |"]
    lines += [
        f"| `{name}` | {', '.join(by)} | {', '.join(others)} |"
        for name, (by, others) in sorted(read.items())
        if by
    ]
    return "\n".join(lines)


def exit_codes() -> str:
    """Return the errors that carry each exit code, with what they mean."""
    from kspacesr_rt import errors

    found: dict[int, list[str]] = {}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.KspaceSRError):
            first = (inspect.getdoc(kind) or "").split("\n\n")[0]
            first = first.replace("\n", " ").replace("``", "`")
            found.setdefault(kind.exit_code, []).append(f"`{name}`: {first}")
    lines = []
    for code in sorted(found):
        lines += [f"**{code}**\n", *(f"- {text}" for text in found[code]), ""]
    return "\n".join(lines)


def metrics() -> str:
    """Return the counters and gauges of `/metrics`."""
    lines = ["Counters, since the start:\n"]
    lines += [f"- `{name}`: {meaning}" for name, meaning in node_counters()]
    lines += ["\nGauges, when asked:\n"]
    lines += [f"- `{name}`: {meaning}" for name, meaning in node_gauges()]
    return "\n".join(lines)


def node_counters() -> list[tuple[str, str]]:
    """Return names and meanings of the counters."""
    found = [*_assigned("COUNTERS")]
    assert len(found) == 1, "one table of counters"
    prefix = next(one for one in _assigned("PREFIX") if one.endswith("_node_"))
    return [(prefix + name, meaning) for name, meaning in found[0].items()]


def node_gauges() -> list[tuple[str, str]]:
    """Return names and meanings of the gauges, from where they are registered."""
    prefix = next(one for one in _assigned("PREFIX") if one.endswith("_node_"))
    return [
        (prefix + call.args[0].value, call.args[1].value)
        for _, tree in sources()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "gauge"
        and all(isinstance(one, ast.Constant) for one in call.args[:2])
    ]


@functools.cache
def sources(folder: str = "kspacesr_rt") -> tuple[tuple[Path, ast.Module], ...]:
    """Return the modules of a folder of the checkout; links to other folders are not followed."""
    return tuple(
        (path, ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted((DOCS.parent / folder).rglob("*.py"))
        if not any(one.is_symlink() for one in path.parents)
    )


def _assigned(name: str) -> Iterator[Any]:
    """Yield the literals that module-level names are set to."""
    for _, tree in sources():
        for node in tree.body:
            targets = (
                [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            )
            if any(isinstance(one, ast.Name) and one.id == name for one in targets):
                try:
                    yield ast.literal_eval(node.value)
                except ValueError:
                    continue


def model_specification() -> str:
    """Return the fields of a model file's specification."""
    return "\n".join(_fields_of("ModelSpec"))


def model_provenance() -> str:
    """Return the fields of the part of it that tells where a model comes from."""
    return "\n".join(_fields_of("Provenance"))


def _fields_of(name: str) -> Iterator[str]:
    for _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == name:
                for field, after in zip(node.body, node.body[1:], strict=False):
                    if (
                        isinstance(field, ast.AnnAssign)
                        and isinstance(field.target, ast.Name)
                        and isinstance(after, ast.Expr)
                        and isinstance(after.value, ast.Constant)
                    ):
                        text = inspect.cleandoc(str(after.value.value))
                        text = text.replace("\n", " ").replace("``", "`")
                        kind = ast.unparse(field.annotation)
                        yield f"- `{field.target.id}` : `{kind}`: {text}"


def report_fields() -> str:
    """Return the fields of ``report.json``, from its schema."""
    schema = json.loads((DOCS / "reference" / "report.schema.json").read_text(encoding="utf-8"))
    lines = []
    for title, part in (
        ("Of a run", schema["$defs"]["run"]),
        ("Of a watch", schema["$defs"]["watch"]),
        ("Of a file: an item of `slices`", schema["$defs"]["slice"]),
        ("Of a series: an item of `series_records`", schema["$defs"]["series"]),
        ("Of a warning: an item of `series_warnings`", schema["$defs"]["series_warning"]),
        ("Of a stale output: an item of `stale`", schema["$defs"]["stale"]),
        ("Of a stage: an item of `stages`", schema["$defs"]["stage"]),
        ("Of an error, with `--json`", schema["$defs"]["error"]),
    ):
        lines.append(f"### {title}\n")
        lines += [f"- `{name}`: {one['description']}" for name, one in part["properties"].items()]
        lines.append("")
    return "\n".join(lines)
