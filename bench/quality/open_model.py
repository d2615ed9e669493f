"""Open a model for matrix after matrix on the backend that was asked for; names for several."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.spec import LONGEST_NAME
from kspacesr_rt.runtime.backends import BACKENDS, Backend, BackendOptions, open_backend
from kspacesr_rt.runtime.selection import choose_backend

Opener = Callable[[Matrix], Backend]
"""LR matrix to a backend that is not open yet."""
BASELINES = tuple(name for name, info in BACKENDS.items() if not info.model)
"""What every model is judged beside."""


def opener_of(model: ModelFile, backend: str, threads: int) -> Opener:
    """Return what opens a model for an LR matrix; ``auto`` is settled once, for all of them.

    Raises
    ------
    BackendUnavailableError
        If the backend cannot be used here.
    """
    options = BackendOptions(threads=threads)
    settled = choose_backend(backend, model, options).backend
    return lambda matrix: open_backend(settled, bind(model, matrix), options)


def with_distinct_names(
    models: Sequence[ModelFile], taken: Sequence[str] = BASELINES
) -> list[ModelFile]:
    """Return the models, each with a name that is no other's: tables and JSON go by name.

    Versions of a model all say its name. Where two do, those that are not in fp32 have the
    precision behind it, and what is alike even so a number, in the order given.

    Parameters
    ----------
    models
        As they were read.
    taken
        Names of what is judged beside them.
    """
    names = [one.spec.name for one in models]
    often = Counter([*names, *taken])
    names = [
        one.spec.name
        if often[one.spec.name] == 1 or one.spec.precision == "fp32"
        else _followed(one.spec.name, f" {one.spec.precision}")
        for one in models
    ]
    often, used = Counter([*names, *taken]), Counter[str]()
    distinct = []
    for one, name in zip(models, names, strict=True):
        used[name] += 1
        alone = name if often[name] == 1 else _followed(name, f" ({used[name]})")
        spec = one.spec if alone == one.spec.name else dataclasses.replace(one.spec, name=alone)
        distinct.append(one if spec is one.spec else dataclasses.replace(one, spec=spec))
    return distinct


def _followed(name: str, end: str) -> str:
    return name[: LONGEST_NAME - len(end)] + end
