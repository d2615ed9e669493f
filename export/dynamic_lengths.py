"""Python arithmetic on lengths that would hold an open axis to that of its example.

Window transformers count their windows with ``int(n / (h * w / 8 / 8))``: `int` makes a number of
what should stay open. While a network is traced, its own modules see an `int` that leaves lengths
open, and a division of lengths that leaves no rest is one of whole numbers. So with `len`, which
Python holds to a number.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch import nn

from kspacesr_rt.export.symbolic_sizes import values_of


class _OpenIntKind(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, builtins.int)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, builtins.int)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], torch.SymInt):
            return args[0]
        if len(args) == 1 and not kwargs and isinstance(args[0], torch.SymFloat):
            # torch's stubs leave this function untyped.
            return torch.sym_int(args[0])  # type: ignore[no-untyped-call]
        return builtins.int(*args, **kwargs)


class OpenInt(metaclass=_OpenIntKind):
    """Stands for `int` where a network is traced."""


def _open_len(value: Any) -> Any:
    """Stand for `len` where a network is traced."""
    return value.shape[0] if isinstance(value, torch.Tensor) else builtins.len(value)


@contextmanager
def short_division() -> Iterator[None]:
    """Let torch divide lengths without trying every rule that sympy has.

    It simplifies both sides of each floor division of lengths, which for lengths that a network
    filled up to its windows takes minutes each; cancelling common factors is what is needed of it.
    """
    symbols: Any = sympy
    simplify = symbols.simplify
    symbols.simplify = sympy.cancel
    try:
        yield
    finally:
        symbols.simplify = simplify


@contextmanager
def open_arithmetic(module: nn.Module) -> Iterator[None]:
    """Let the source files of a network's layers compute with open lengths."""
    sources = {type(part).__module__ for part in module.modules()}
    changed = []
    for name in sources:
        source = sys.modules.get(name)
        if source is None or name.split(".")[0] in ("torch", "builtins", "kspacesr_rt"):
            continue
        for word, stand_in in (("int", OpenInt), ("len", _open_len)):
            if word not in vars(source):
                vars(source)[word] = stand_in
                changed.append((source, word))
    symbolic: Any = torch.SymInt
    divide = symbolic.__truediv__

    def divided(length: Any, by: Any) -> Any:
        if isinstance(by, builtins.int | torch.SymInt) and all(
            b != 0 and a % b == 0 for a, b in values_of(length, by)
        ):
            return length // by
        return divide(length, by)

    symbolic.__truediv__ = divided
    try:
        yield
    finally:
        symbolic.__truediv__ = divide
        for source, word in changed:
            del vars(source)[word]
