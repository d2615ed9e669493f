"""Nouns in the singular or the plural, behind a number."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """Return ``1 slice``, ``2 slices``; of a noun in ``s``, such as *series*, it never changes."""
    return f"{n} {noun}" if n == 1 or noun.endswith("s") else f"{n} {noun}s"
