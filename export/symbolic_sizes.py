"""Whether two lengths are the same whatever the matrix is."""

from __future__ import annotations

from typing import Any

import sympy
import torch

TRIED = (48, 35, 64, 41, 90, 27, 56, 33, 80, 51, 72, 61)
"""Lengths that stand for the open axes, even and odd, in turn."""
TRIALS = 8


def values_of(*lengths: Any) -> list[tuple[int, ...]]:
    """Return what lengths come to for several matrices.

    Parameters
    ----------
    lengths
        Integers, or symbolic ones of `torch.export`.

    Returns
    -------
        One tuple for each matrix that was tried; a single one where nothing is symbolic.
    """
    expressions = [_expression(one) for one in lengths]
    symbols = sorted({symbol for one in expressions for symbol in one.free_symbols}, key=str)
    if not symbols:
        return [tuple(int(one) for one in expressions)]
    found = []
    for trial in range(TRIALS):
        chosen = {
            symbol: TRIED[(trial * (2 * at + 1) + 5 * at) % len(TRIED)]
            for at, symbol in enumerate(symbols)
        }
        found.append(tuple(int(one.subs(chosen)) for one in expressions))
    return found


def _expression(length: Any) -> Any:
    return length.node.expr if isinstance(length, torch.SymInt) else sympy.Integer(length)


def same(left: Any, right: Any, modulus: Any = None) -> bool:
    """Say whether two lengths are equal, or equal in steps of a third, for any matrix."""
    if modulus is None:
        return all(a == b for a, b in values_of(left, right))
    return all((a - b) % n == 0 for a, b, n in values_of(left, right, modulus))


def ratio(length: Any, base: Any) -> int | None:
    """Return how many times longer one length is, whatever the matrix; None if it depends."""
    found = {divmod(a, b) for a, b in values_of(length, base)}
    if len(found) != 1:
        return None
    [(times, rest)] = found
    return times if rest == 0 and times >= 1 else None
