"""Load what a trainer saved into a user's network: containers, prefixes, others beside it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.export.source_locations import first_line
from kspacesr_rt.train.state_dict_search import containers

PREFERRED = ("state_dict", "model_state_dict", "model", "params_ema", "params", "net", "generator")
"""Keys under which checkpoints of common trainers keep the weights, in the order that is tried."""
UNUSED = ("num_batches_tracked", "n_averaged")
"""Last parts of the names of counters, which no network in evaluation mode computes with."""
_LFS = b"version https://git-lfs"
_SAVED = (b"PK\x03\x04", b"\x80")
"""How what `torch.save` writes begins: a zip file, or a pickle before PyTorch 1.6."""
SHOWN = 5
"""Keys of weights that a message lists."""

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """Weights that may be a network's, and where they were."""

    state: State
    """By the names that the network may have for them."""
    path: tuple[str, ...]
    """Keys of the containers around them, outermost first."""
    prefix: str
    """What was in front of their names."""

    @property
    def rank(self) -> tuple[int, ...]:
        """Lower is preferred: names of common trainers first."""
        return tuple(
            PREFERRED.index(one) if one in PREFERRED else len(PREFERRED) for one in self.path
        )

    @property
    def where(self) -> str:
        """Words for a message."""
        keys = [f"keys '{self.prefix}*'"] if self.prefix else []
        return " / ".join([*(f"'{one}'" for one in self.path), *keys]) or "the file itself"


def load_weights(module: nn.Module, weights: Path) -> None:
    """Load a network's weights from a file, whatever containers and prefixes are around them.

    Parameters
    ----------
    module
        The network; every weight of it must be there, and none beside.
    weights
        A state dictionary, or a checkpoint that holds one: ``.safetensors``, or what `torch.save`
        wrote.

    Raises
    ------
    CheckpointError
        If it cannot be read, does not fit, or holds several that fit.
    """
    document = _read(weights)
    own = module.state_dict()
    candidates = sorted(_candidates(document, own), key=lambda one: one.rank)
    if not candidates:
        raise CheckpointError(
            f"{weights.name} holds no state dictionary",
            hint="save one with torch.save(net.state_dict(), 'weights.pt')",
        )
    fitting = [one for one in candidates if not _problems(own, one.state)]
    if not fitting:
        # The one with the most in common says best what is wrong.
        nearest = max(candidates, key=lambda one: len(own.keys() & one.state.keys()))
        raise CheckpointError(
            f"{weights.name} does not fit the network: {'; '.join(_problems(own, nearest.state))}",
            hint="was it trained with other options? write a factory that sets them",
        )
    best = [one for one in fitting if one.rank == fitting[0].rank]
    if any(not _equal(one.state, best[0].state) for one in best[1:]):
        raise CheckpointError(
            f"{weights.name} holds several state dictionaries that fit: "
            f"{', '.join(one.where for one in best)}",
            hint="save the one that is meant in a file of its own, or load it in a factory",
        )
    used = {key: best[0].state.get(key, own[key]) for key in own}
    module.load_state_dict(used)


def _candidates(document: Any, own: State) -> Iterator[_Found]:
    """Yield the state dictionaries in a document, each with and without what is before its keys."""
    if not isinstance(document, Mapping):
        return
    names = [key for key in own if not key.endswith(UNUSED)]
    for path, mapping in containers(document):
        state = {str(key): value for key, value in mapping.items() if isinstance(value, Tensor)}
        prefixes = {""} | {
            key.removesuffix(names[0]) for key in state if names and key.endswith(f".{names[0]}")
        }
        for prefix in sorted(prefixes):
            inside = {
                key.removeprefix(prefix): value
                for key, value in state.items()
                if key.startswith(prefix)
            }
            if inside:
                yield _Found(state=inside, path=path, prefix=prefix)


def _problems(own: State, state: State) -> list[str]:
    """Return a clause for each way in which weights do not fit."""
    missing = [key for key in own if key not in state and not key.endswith(UNUSED)]
    unexpected = [key for key in state if key not in own and not key.endswith(UNUSED)]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    return [
        f"{what}: {listed(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if keys
    ]


def _equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _read(weights: Path) -> Any:
    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are refused
            return torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as exc:
        what, hint = _why_unreadable(weights, exc)
        raise CheckpointError(f"{weights.name} {what}", hint=hint) from exc


def _why_unreadable(weights: Path, exc: Exception) -> tuple[str, str]:
    """Say what a file is, and what to do."""
    plain = (
        "save them with torch.save(net.state_dict(), 'weights.pt'): nothing but tensors is loaded"
    )
    said = str(exc)
    with weights.open("rb") as file:
        head = file.read(len(_LFS))
    if not head:
        return "is empty", plain
    if head == _LFS:
        return "is a pointer of Git LFS, not the file", "fetch it first: git lfs pull"
    if "TorchScript" in said:
        return (
            "is a TorchScript network, not its weights",
            f"name a factory that returns it: torch.jit.load('{weights.name}')",
        )
    if head.startswith(_SAVED) and "eights_only" in said.replace(" only", "_only"):
        return (
            "holds more than tensors, such as a whole network, which is not loaded",
            "save its weights alone, of a file you trust: torch.save(torch.load("
            f"'{weights.name}', weights_only=False).state_dict(), 'weights.pt')",
        )
    if not head.startswith(_SAVED) or "zip archive" in said:
        return "is damaged, or no file that torch.save wrote", plain
    return f"cannot be read as weights: {type(exc).__name__}: {first_line(exc)}", plain


def listed(keys: list[str]) -> str:
    """Return the first keys, and how many there are beside."""
    shown = ", ".join(keys[:SHOWN])
    more = len(keys) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
