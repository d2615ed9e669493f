"""Recipes: every option of a training run in a TOML file, overridden by the command line."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kspacesr_rt.errors import InputError, library_message
from kspacesr_rt.train.augmentation import Augmentation
from kspacesr_rt.train.balance import Balance
from kspacesr_rt.train.options import FREE, TrainingOptions

RECIPES = Path(__file__).with_name("recipes")
"""The shipped recipes, ``NAME.toml`` each."""


def find_recipe(name: str) -> Path:
    """Return the file of a recipe: a path that exists, or the name of a shipped one.

    Raises
    ------
    InputError
        If it is neither.
    """
    if (path := Path(name)).is_file():
        return path
    if (shipped := RECIPES / f"{name}.toml").is_file():
        return shipped
    known = ", ".join(sorted(one.stem for one in RECIPES.glob("*.toml")))
    raise InputError(f"no recipe '{name}'", hint=f"a TOML file, or one of: {known}")


SHIPPED = "shipped"
"""Table of what a shipped model states of itself; no run inherits it unasked."""
STATED = ("name", "training", "licence", "attribution")
"""What it may hold, and what may be overridden all the same."""


def read_recipe(
    path: Path | None, overrides: Mapping[str, Any], *, as_shipped: bool = False
) -> TrainingOptions:
    """Combine a recipe file with overrides.

    Parameters
    ----------
    path
        TOML with the fields of `TrainingOptions`, and tables ``[augmentation]`` and
        ``[balance]``; None for defaults. Its table ``[shipped]`` is what the shipped model states:
        name, training data, licence, attribution.
    overrides
        Fields given on the command line; None means not given.
    as_shipped
        Whether the run repeats the shipped model, on its data: only then is that stated of it too.

    Raises
    ------
    InputError
        If the file is not TOML, or names a field that does not exist; if a run that is to be stated
        as the shipped model's has other options.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            raise InputError(f"{path}: not a readable recipe: {library_message(exc)}") from exc
    shipped = values.pop(SHIPPED, {})
    if not isinstance(shipped, dict) or not all(name in STATED for name in shipped):
        raise InputError(f"recipe, [{SHIPPED}]: expected {', '.join(STATED)}")
    given = {name: value for name, value in overrides.items() if value is not None}
    if as_shipped:
        _require_unchanged(values, given, shipped, path)
        values |= shipped
    values |= given
    augmentation, balance = values.pop("augmentation", {}), values.pop("balance", None)
    for name, table in (("augmentation", augmentation), ("balance", balance or {})):
        if not isinstance(table, dict):
            raise InputError(f"recipe: {name} is {table!r}, expected a table")
    _require_known(TrainingOptions, values, "recipe")
    _require_known(Augmentation, augmentation, "recipe, [augmentation]")
    _require_known(Balance, balance or {}, "recipe, [balance]")
    try:
        return TrainingOptions(
            **values,
            augmentation=Augmentation(**augmentation),
            balance=None if balance is None else Balance(**balance),
        )
    except TypeError as exc:
        raise InputError(f"recipe: {exc}") from exc


def _require_unchanged(
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    shipped: Mapping[str, Any],
    path: Path | None,
) -> None:
    """Refuse to state of another run what is true of the shipped model's."""
    if not shipped:
        raise InputError(f"--as-shipped: {path or 'no recipe'} is no shipped model's recipe")
    free = (*STATED, *FREE)
    changed = sorted(n for n, v in given.items() if n not in free and values.get(n) != v)
    if changed:
        raise InputError(
            f"--as-shipped: {', '.join(changed)} differ from the recipe, so this is another model",
            hint="leave --as-shipped out, and state what is true: --name, --training, --licence, "
            "--attribution",
        )


def _require_known(cls: type, values: Mapping[str, Any], where: str) -> None:
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
        raise InputError(
            f"{where}: unknown option {', '.join(unknown)}",
            hint=f"known: {', '.join(sorted(known))}",
        )
