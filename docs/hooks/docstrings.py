"""Docstrings of public names as Markdown, from the sources: nothing is imported for it."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"(?P<path>\S+?)(?: as (?P<name>\S+?))?(?:: (?P<members>.+))?")
SECTION = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", re.MULTILINE)
WIDTH = 88
"""Of a signature on one line."""
Definition = ast.ClassDef | ast.FunctionDef


def python_name(asked: str) -> str:
    """Return what a name is: its signature, its docstring, its fields and members.

    Parameters
    ----------
    asked
        ``PATH``, ``PATH as NAME`` or ``PATH as NAME: MEMBER MEMBER``; of a class without members,
        all public ones are shown.
    """
    found = NAMED.fullmatch(asked)
    assert found is not None, asked
    module, _, own = found["path"].rpartition(".")
    node, source = _definition(module, own)
    name = found["name"] or own
    members = found["members"].split() if found["members"] else None
    lines = [f"### `{name}`", ""]
    if isinstance(node, ast.ClassDef):
        lines += [*_markdown(node), *_members(node, name, members)]
    else:
        lines += [*_signature(node, name), *_markdown(node)]
    return "\n".join([*lines, f"Source: [{source}](../../{source})"])


@functools.cache
def _definition(module: str, name: str) -> tuple[Definition, str]:
    """Return where a name of a module is defined, and in which file of the checkout."""
    folder, *rest = module.removeprefix("kspacesr_rt.").split(".")
    top = "" if folder in ("train", "export", "bench") else "kspacesr_rt/"
    path = f"{top}{'/'.join((folder, *rest))}.py"
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, Definition) and node.name == name:
            return node, path
    raise LookupError(f"{path} defines no {name}")


def _signature(node: ast.FunctionDef, name: str) -> list[str]:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = ast.parse(f"def f({ast.unparse(node.args)}): ...").body[0]
    assert isinstance(arguments, ast.FunctionDef)
    own = arguments.args
    if own.args and own.args[0].arg == "self":
        del own.args[0]
    one_line = f"{name}({', '.join(_parameters(own))}){returns}"
    if len(one_line) > WIDTH:
        parts = "".join(f"    {one},\n" for one in _parameters(own))
        one_line = f"{name}(\n{parts}){returns}"
    return ["```text", one_line, "```", ""]


def _parameters(own: ast.arguments) -> Iterator[str]:
    defaults = [None] * (len(own.args) - len(own.defaults)) + list(own.defaults)
    for argument, default in zip(own.args, defaults, strict=True):
        yield _parameter(argument, default)
    if own.kwonlyargs:
        yield "*"
    for argument, default in zip(own.kwonlyargs, own.kw_defaults, strict=True):
        yield _parameter(argument, default)


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return f"{argument.arg}{kind}" + (f" = {ast.unparse(default)}" if default else "")


def _members(node: ast.ClassDef, name: str, wanted: list[str] | None) -> Iterator[str]:
    """Yield the fields and properties of a class as a list, then its methods."""
    fields, methods = [], []
    for one, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            if one.target.id.startswith("_"):
                continue
            default = f" = {ast.unparse(one.value)}" if one.value else ""
            kind = f"{ast.unparse(one.annotation)}{_short(default)}"
            fields.append((one.target.id, kind, _text_of(after)))
        elif isinstance(one, ast.FunctionDef):
            if not (one.name in wanted if wanted else not one.name.startswith("_")):
                continue
            if any(
                isinstance(mark, ast.Name) and mark.id == "property" for mark in one.decorator_list
            ):
                text = _inline(ast.get_docstring(one) or "")
                fields.append((one.name, ast.unparse(one.returns) if one.returns else "", text))
            else:
                methods.append(one)
    if fields:
        yield from ("**Fields**", "")
    for field, kind, text in fields:
        yield f"- `{field}` : `{kind}`: {text}" if text else f"- `{field}` : `{kind}`"
    if fields:
        yield ""
    for one in methods:
        called = name.rsplit(".", 1)[-1].lower() if one.name == "__call__" else one.name
        yield from (f"#### `{name}.{one.name}`", "")
        yield from (*_signature(one, called), *_markdown(one))


def _short(default: str) -> str:
    return "" if "field(" in default else default


def _text_of(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return _inline(inspect.cleandoc(str(node.value.value)))
    return ""


def _inline(text: str) -> str:
    """Return a text on one line, its code marked as Markdown marks it."""
    return " ".join(text.replace("``", "`").split())


def _markdown(node: Definition) -> Iterator[str]:
    """Yield a docstring's lines, its sections as lists."""
    head, *sections = SECTION.split(ast.get_docstring(node) or "")
    yield from (head.replace("``", "`").rstrip(), "")
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        yield from (f"**{title}**", "")
        if title == "Examples":
            yield from ("```pycon", text.strip(), "```", "")
        elif title in ("Parameters", "Attributes", "Raises"):
            yield from (*_items(text), "")
        else:
            yield from (textwrap.dedent(text).replace("``", "`").strip(), "")


def _items(text: str) -> Iterator[str]:
    for one in re.split(r"\n(?=\S)", text.strip("\n")):
        names, _, said = one.partition("\n")
        marked = ", ".join(f"`{name.strip()}`" for name in names.split(","))
        yield f"- {marked}: {_inline(said)}"
