"""TorchScript networks, run operator by operator in Python, which `torch.export` can trace.

`torch.jit.script` and `torch.jit.load` give modules that it does not look into. Their graphs are
read here; lengths stay open, and decisions by numbers that follow from them are made as they run.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from kspacesr_rt.errors import ExportError, KspaceSRError
from kspacesr_rt.export.module_graph import FUNCTIONS
from kspacesr_rt.export.source_locations import first_line

_NUMBERS = int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool


class Scripted(nn.Module):
    """A TorchScript module as one of Python.

    Parameters
    ----------
    module
        From `torch.jit.script`, `torch.jit.trace` or `torch.jit.load`; it is not changed.
    """

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        super().__init__()
        self._script = (module,)  # in a tuple: no layer of this one
        self._names: dict[str, str] = {}
        for name, parameter in module.named_parameters():
            self.register_parameter(self._named(name), nn.Parameter(parameter.detach(), False))
        for name, buffer in module.named_buffers():
            self.register_buffer(self._named(name), buffer)
        self.eval()

    def _named(self, name: str) -> str:
        self._names[name] = name.replace(".", "__")
        return self._names[name]

    def forward(self, *given: Tensor) -> Any:
        """Run the network's graph."""
        script: Any = self._script[0]
        graph = script.inlined_graph
        names = list(graph.inputs())
        run = _Run(self)
        run.values[names[0].unique()] = _Layer("", script)
        for formal, actual in zip(names[1:], given, strict=False):
            run.values[formal.unique()] = actual
        run.block(graph)
        found = [run.value(one) for one in graph.outputs()]
        return found[0] if len(found) == 1 else tuple(found)

    def state(self, name: str) -> Any:
        """Return a weight by its name in the script, None if it has none of that name."""
        own = self._names.get(name)
        return None if own is None else getattr(self, own)


def without_scripts(module: nn.Module) -> nn.Module:
    """Return a network whose TorchScript layers, or it itself, are of Python.

    Layers of `module` are replaced in it.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return nn.Sequential(Scripted(module))  # which takes one input, and says so
    for parent in list(module.modules()):
        if isinstance(parent, torch.jit.ScriptModule):
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.jit.ScriptModule):
                setattr(parent, name, Scripted(child))
    return module


class _Layer:
    """A layer of the script, by its name."""

    def __init__(self, path: str, script: Any) -> None:
        self.path, self.script = path, script

    def attribute(self, owner: Scripted, name: str) -> Any:
        path = f"{self.path}.{name}" if self.path else name
        state = owner.state(path)
        if state is not None:
            return state
        found = getattr(self.script, name)
        return _Layer(path, found) if isinstance(found, torch.jit.ScriptModule) else found


class _Run:
    """One run of a graph."""

    def __init__(self, owner: Scripted) -> None:
        self.owner = owner
        self.values: dict[int, Any] = {}

    def value(self, one: Any) -> Any:
        return self.values[one.unique()]

    def block(self, block: Any) -> None:
        """Run the nodes of a graph, or of a branch or loop in it."""
        for node in block.nodes():
            try:
                self._step(node)
            except KspaceSRError:
                raise
            except NotImplementedError as exc:
                raise ExportError(
                    f"{_place(node)}: {node.kind()} of TorchScript has no lowering: "
                    f"{first_line(exc)}",
                    hint="build the network in Python and load its weights",
                ) from exc

    def _step(self, node: Any) -> None:
        kind = node.kind()
        if kind == "prim::If":
            self._branch(node)
        elif kind == "prim::Loop":
            self._loop(node)
        else:
            inputs = [self.value(one) for one in node.inputs()]
            made = self._made(node, kind, inputs)
            outputs = list(node.outputs())
            for output, one in zip(outputs, made if len(outputs) > 1 else [made], strict=False):
                self.values[output.unique()] = one

    def _branch(self, node: Any) -> None:
        [condition] = (self.value(one) for one in node.inputs())
        chosen = list(node.blocks())[0 if bool(condition) else 1]
        self.block(chosen)
        for output, one in zip(node.outputs(), chosen.outputs(), strict=True):
            self.values[output.unique()] = self.value(one)

    def _loop(self, node: Any) -> None:
        most, going, *carried = (self.value(one) for one in node.inputs())
        [body] = node.blocks()
        turn = 0
        while turn < most and bool(going):
            for formal, one in zip(body.inputs(), [turn, *carried], strict=True):
                self.values[formal.unique()] = one
            self.block(body)
            going, *carried = (self.value(one) for one in body.outputs())
            turn += 1
        for output, one in zip(node.outputs(), carried, strict=True):
            self.values[output.unique()] = one

    def _made(self, node: Any, kind: str, inputs: list[Any]) -> Any:
        if kind == "prim::Constant":
            return node.output().toIValue()
        if kind == "prim::GetAttr":
            layer: _Layer = inputs[0]
            return layer.attribute(self.owner, node.s("name"))
        if kind in _OF_PYTHON:
            return _OF_PYTHON[kind](*inputs)
        if kind.startswith("prim::"):
            return _primitive(node, kind, inputs)
        return _called(node, kind, inputs)


def _primitive(node: Any, kind: str, inputs: list[Any]) -> Any:
    if kind == "prim::DictConstruct":
        return dict(zip(inputs[::2], inputs[1::2], strict=True))
    if kind == "prim::RaiseException":
        raise ExportError(f"{_place(node)}: the network raises {inputs[0]}")
    raise NotImplementedError("it is no operation on tensors")


def _called(node: Any, kind: str, inputs: list[Any]) -> Any:
    """Compute an operator of ATen, on tensors, lists or numbers."""
    name = kind.removeprefix("aten::")
    of_lists = inputs and isinstance(inputs[0], list | str | dict)
    if name in _LISTS and of_lists:
        return _LISTS[name](*inputs)
    numbers = bool(inputs) and all(_plain(one) for one in inputs)
    if name in _ARITHMETIC and (numbers or (inputs and isinstance(inputs[0], _NUMBERS))):
        return _ARITHMETIC[name](*map(_number, inputs))
    if name in _CASTS and isinstance(inputs[0], _NUMBERS):
        return inputs[0]
    if not kind.startswith("aten::"):
        raise NotImplementedError("it is no operator of ATen")
    found = FUNCTIONS.get(getattr(torch, name, None))
    if found is None:
        found = FUNCTIONS.get(getattr(torch.Tensor, name, None))
    schema = torch._C.parse_schema(node.schema())
    call = found or getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
    formal = schema.arguments
    args = [one for one, a in zip(inputs, formal, strict=True) if not a.kwarg_only]
    named = {a.name: one for one, a in zip(inputs, formal, strict=True) if a.kwarg_only}
    return call(*args, **named)


def _number(value: Any) -> Any:
    """Return a constant that a traced script keeps as a tensor as the number it is."""
    if not isinstance(value, Tensor):
        return value
    with _disable_current_modes():
        return value.item()


def _plain(value: Any) -> bool:
    """Say whether a value is neither a tensor nor a list of such."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return not isinstance(value, Tensor)


def _place(node: Any) -> str:
    """Return where an operator stands in the source that the script was made of."""
    found = re.findall(r'File "([^"]+)", line (\d+)', node.sourceRange())
    if not found:
        return "the network"
    path, line = found[0]
    return f"{Path(path).name}:{line}"


def _size(value: Tensor, axis: int | None = None) -> Any:
    """Return lengths that stay open, as those of ATen's own operator do not."""
    return list(value.shape) if axis is None else value.shape[axis]


def _formatted(text: str, *values: Any) -> str:
    return text.format(*values)


def _appended(values: list[Any], one: Any) -> list[Any]:
    values.append(one)
    return values


def _extended(values: list[Any], more: Iterable[Any]) -> None:
    values.extend(more)


def _sliced(values: Any, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    return values[start:end:step]


def _same(value: Any, *_: Any) -> Any:
    return value


_OF_PYTHON: dict[str, Callable[..., Any]] = {
    "prim::ListConstruct": lambda *values: list(values),
    "prim::TupleConstruct": lambda *values: tuple(values),
    "prim::ListUnpack": _same,
    "prim::TupleUnpack": _same,
    "prim::TupleIndex": operator.getitem,
    "prim::NumToTensor": _same,
    "prim::unchecked_cast": _same,
    "prim::data": _same,
    "prim::Uninitialized": lambda: None,
    "prim::dtype": lambda value: value.dtype,
    "prim::device": lambda value: value.device,
    "prim::layout": lambda value: value.layout,
    "prim::is_cuda": lambda value: False,
    "prim::min": min,
    "prim::max": max,
    "aten::__is__": operator.is_,
    "aten::__isnot__": operator.is_not,
    "aten::format": _formatted,
    "aten::warn": lambda *_: None,
    "aten::size": _size,
    "aten::_convolution": lambda *values: torch.convolution(*values[:9]),
    "aten::dim": lambda value: value.dim(),
}
_LISTS: dict[str, Callable[..., Any]] = {
    "__getitem__": operator.getitem,
    "len": len,
    "append": _appended,
    "extend": _extended,
    "list": list,
    "slice": _sliced,
    "add": operator.add,
    "mul": operator.mul,
    "eq": operator.eq,
    "ne": operator.ne,
    "__contains__": operator.contains,
    "keys": list,
}
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": lambda a, b, alpha=1: a + alpha * b,
    "sub": lambda a, b, alpha=1: a - alpha * b,
    "rsub": lambda a, b, alpha=1: b - alpha * a,
    "mul": operator.mul,
    "div": lambda a, b, rounding_mode=None: a // b if rounding_mode else a / b,
    "floordiv": operator.floordiv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "pow": operator.pow,
    "neg": operator.neg,
    "abs": abs,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__not__": operator.not_,
    "__and__": lambda a, b: a and b,
    "__or__": lambda a, b: a or b,
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "Float": lambda value: value if isinstance(value, torch.SymFloat) else float(value),
    "Int": lambda value: value if isinstance(value, torch.SymInt) else int(value),
    "Bool": bool,
}
_CASTS = ("Int", "IntImplicit", "Float", "FloatImplicit", "ScalarImplicit", "Bool", "to", "detach")
