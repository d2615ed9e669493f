"""Find a network's weights inside what a trainer saved: containers, prefixes, several networks.

Trainers wrap state dicts in each other's ways: `torch.compile` puts ``_orig_mod.`` in front of the
keys and DataParallel ``module.``, Lightning the name of the attribute that held the network, and
loops save them under ``model_state_dict``, ``generator`` or ``params_ema`` beside their optimiser.
What is looked for is the network itself: a key that only it has. Nothing is guessed: several that
fit and of which none is an average are refused, by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.system.plain_text import shortened

StateDict = dict[str, Tensor]

DEEPEST = 5
"""Containers within containers that are looked into."""
MOST_CONTAINERS = 1000
"""Containers that are looked into, in all."""
WRAPPERS = ("_orig_mod", "module")
"""Parts of keys that wrappers add, wherever they stand; no layer of ours has such a name."""
COUNTER = "n_averaged"
"""What PyTorch's AveragedModel counts its steps in, among the weights."""
AVERAGES = ("ema", "averaged", "average", "shadow", "swa", "teacher")
"""Words in a container's name, or in a prefix, that say that its weights are averages."""
USUAL = (
    *("state_dict", "model_state_dict", "model", "generator", "generator_state_dict", "params"),
    *("netg", "net_g", "g", "network", "net", "weights"),
)
"""Names of containers, in the order in which they are preferred, small letters."""
SHOWN_KEYS = 8
"""Keys that a message lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The weights of one network, and where they were."""

    weights: StateDict
    """By the network's own names."""
    path: tuple[str, ...] = ()
    """Keys of the containers around them, outermost first."""
    prefix: str = ""
    """What was in front of their names, wrappers left out."""

    @property
    def where(self) -> str:
        """Words for a message; empty if they were the file itself."""
        container = " / ".join(f"'{shortened(key, 80)}'" for key in self.path)
        keys = f"keys '{shortened(self.prefix, 80)}*'" if self.prefix else ""
        return ", ".join(part for part in (container, keys) if part)

    @property
    def _names(self) -> list[str]:
        return [*self.path, *self.prefix.split(".")]

    @property
    def is_average(self) -> bool:
        """Whether a name around them says that they are averages of a run's weights."""
        words = [word for name in self._names for word in name.lower().split("_")]
        return any(word in AVERAGES for word in words)

    @property
    def rank(self) -> tuple[bool, int]:
        """Lower is preferred: averages, the file itself, then the usual names in their order."""
        name = (self.path[-1] if self.path else self.prefix.split(".")[0]).lower()
        usual = USUAL.index(name) + 1 if name in USUAL else len(USUAL) + 1
        return not self.is_average, usual if name else 0


def find_network(document: Mapping[str, object], anchor: str, path: Path) -> tuple[Found, str]:
    """Find the network that has a key.

    Parameters
    ----------
    document
        What a checkpoint file held.
    anchor
        A key of the network's state dict that no other network has.
    path
        Of the file, for messages.

    Returns
    -------
        Its weights, and a sentence about others that were there too; empty if there was no choice.

    Raises
    ------
    CheckpointError
        If there is none, or several of which none is to be preferred; the keys that were found are
        named, and how to unwrap them.
    """
    found = [one for inside in containers(document) for one in _networks(*inside, anchor)]
    if not found:
        raise _nothing_found(document, anchor, path)
    found.sort(key=lambda one: one.rank)
    best = [one for one in found if one.rank == found[0].rank]
    if len(best) > 1 and not all(_equal(best[0].weights, one.weights) for one in best[1:]):
        places = "; ".join(one.where for one in best)
        raise CheckpointError(
            f"{path}: holds several networks that fit: {places}", hint=_how_to_unwrap(path)
        )
    taken, others = found[0], [one.where or "the file itself" for one in found[1:]]
    if not others:
        return taken, ""
    return taken, f"weights are taken from {taken.where or 'the file itself'}; " + (
        f"also there, not taken: {'; '.join(others)}"
    )


def without_wrappers(key: str) -> str:
    """Return a key without the parts that wrappers add to it."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def tensors_of(mapping: Mapping[str, object]) -> StateDict:
    """Return the tensors of a mapping by their names without wrappers."""
    return {
        without_wrappers(str(key)): value
        for key, value in mapping.items()
        if isinstance(value, Tensor) and str(key).rpartition(".")[2] != COUNTER
    }


def containers(
    document: Mapping[str, object],
) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    """Yield the mappings of a document with their paths, the outer ones first."""
    waiting: list[tuple[tuple[str, ...], Mapping[str, object]]] = [((), document)]
    for _ in range(MOST_CONTAINERS):
        if not waiting:
            return
        where, mapping = waiting.pop(0)
        yield where, mapping
        if len(where) < DEEPEST:
            waiting += [
                ((*where, str(key)), value)
                for key, value in mapping.items()
                if isinstance(value, Mapping)
            ]


def _is_cut_short(document: Mapping[str, object]) -> bool:
    """Return whether a document has containers that were not looked into."""
    looked_into = list(containers(document))
    return len(looked_into) == MOST_CONTAINERS or any(
        isinstance(value, Mapping)
        for where, mapping in looked_into
        if len(where) == DEEPEST
        for value in mapping.values()
    )


def _networks(
    where: tuple[str, ...], mapping: Mapping[str, object], anchor: str
) -> Iterator[Found]:
    """Yield the networks whose weights lie in a mapping, one a prefix."""
    weights = tensors_of(mapping)
    for key in weights:
        prefix = key.removesuffix(anchor)
        if prefix == key or (prefix and not prefix.endswith(".")):
            continue
        own = {name.removeprefix(prefix): value for name, value in weights.items()
               if name.startswith(prefix)}  # fmt: skip
        yield Found(weights=own, path=where, prefix=prefix)


def _equal(a: StateDict, b: StateDict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _nothing_found(document: Mapping[str, object], anchor: str, path: Path) -> CheckpointError:
    holders = [(where, inside) for where, inside in containers(document) if tensors_of(inside)]
    if not holders and _is_cut_short(document):
        return CheckpointError(
            f"{path}: what it holds lies deeper than {DEEPEST} containers, or beyond the first "
            f"{MOST_CONTAINERS}; keys found: {_listed(document)}",
            hint=_how_to_unwrap(path),
        )
    if not holders:
        return CheckpointError(
            f"{path}: holds no tensors", hint=f"keys found: {_listed(document) or 'none'}"
        )
    where, inside = holders[0]
    nested = " / ".join(shortened(key, 80) for key in where)
    return CheckpointError(
        f"{path.stem}: these weights are neither ours nor the seed network's; "
        f"keys found{f' in {nested}' if nested else ''}: {_listed(inside)}",
        hint=f"expected keys such as '{anchor}' and 'block8.0.conv.weight'"
        + (f"; {_how_to_unwrap(path)}" if len(holders) > 1 else ""),
    )


def _listed(mapping: Mapping[str, object]) -> str:
    keys = [shortened(key, 80) for key in list(mapping)[:SHOWN_KEYS]]
    more = f" and {len(mapping) - len(keys)} more" if len(mapping) > len(keys) else ""
    return f"{', '.join(keys)}{more}"


def _how_to_unwrap(path: Path) -> str:
    name = shortened(path.name, 80)
    return (
        f"save the one that is meant: torch.save(torch.load('{name}')['KEY'], 'bare.pt'), "
        "with the keys that are around it for KEY"
    )
