"""A user's network by name: ``package.module:factory`` or ``net.py:Net``, and its weights.

Naming it is what lets its code be imported; no other command does so.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kspacesr_rt.errors import CheckpointError, ExportError
from kspacesr_rt.export.source_locations import first_line, place_of_error

_WRAPPERS = ("state_dict", "model_state_dict", "model", "params_ema", "params", "net", "generator")
"""Keys under which checkpoints of common trainers keep the weights, in the order that is tried."""
SHOWN = 5
"""Keys of weights that a message lists."""


def is_factory(text: str) -> bool:
    """Say whether an argument names a network's factory and not a file of weights."""
    head, colon, attribute = text.rpartition(":")
    return bool(colon and head and attribute.isidentifier() and not Path(text).exists())


def network_from(text: str, weights: Path | None) -> nn.Module:
    """Import a factory, call it, and load weights into what it returns.

    Parameters
    ----------
    text
        ``package.module:factory`` or ``path/net.py:Net``; a callable without arguments, a class,
        or a module that exists already.
    weights
        A state dictionary, or a checkpoint that holds one; None keeps the factory's own.

    Returns
    -------
        The network in evaluation mode, on the CPU.

    Raises
    ------
    ExportError
        If there is no such factory, it raises, or it returns no network.
    CheckpointError
        If the weights cannot be read or do not fit; the first keys are listed.
    """
    where, _, attribute = text.rpartition(":")
    source = _imported(where)
    factory = getattr(source, attribute, None)
    if factory is None:
        raise ExportError(
            f"{where} has no '{attribute}'",
            hint=f"it has: {_listed(_networks_in(source)) or 'no class or function of its own'}",
        )
    try:
        module = factory if isinstance(factory, nn.Module) else factory()
    except SystemExit as exc:
        place = place_of_error(exc)
        raise ExportError(
            f"the factory {text} ended the program (SystemExit: {exc})"
            f"{f' ({place})' if place else ''}",
            hint="leave exit() and the reading of sys.argv out of it: it is to return the network",
        ) from exc
    except Exception as exc:
        place = place_of_error(exc)
        raise ExportError(
            f"{text} raises {type(exc).__name__}: {first_line(exc)}"
            f"{f' ({place})' if place else ''}",
            hint="it is called without arguments: give them defaults, or write a function",
        ) from exc
    if not isinstance(module, nn.Module):
        raise ExportError(
            f"{text} gives {type(module).__name__}, expected a torch.nn.Module",
            hint="name a function that returns the network, or its class",
        )
    if weights is not None:
        load_weights(module, weights)
    return module.cpu().eval()


def _imported(where: str) -> Any:
    try:
        if not where.endswith(".py"):
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            return importlib.import_module(where)
        path = Path(where).resolve()
        if not path.is_file():
            raise ExportError(f"there is no file {where}", hint="name it as path/net.py:Net")
        sys.path.insert(0, str(path.parent))  # for what stands beside it
        found = importlib.util.spec_from_file_location(path.stem, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[path.stem] = module
        found.loader.exec_module(module)
        return module
    except ExportError:
        raise
    except (Exception, SystemExit) as exc:
        place = place_of_error(exc)
        raise ExportError(
            f"{where} cannot be imported: {type(exc).__name__}: {first_line(exc)}"
            f"{f' ({place})' if place else ''}",
            hint="run it with python on its own first",
        ) from exc


def _networks_in(source: Any) -> list[str]:
    own = getattr(source, "__name__", "")
    return sorted(
        name
        for name, value in vars(source).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == own
    )


def load_weights(module: nn.Module, weights: Path) -> None:
    """Load a state dictionary from a file, strictly.

    Raises
    ------
    CheckpointError
        If it cannot be read or does not fit.
    """
    found = _read(weights)
    state = _state_in(found)
    if state is None:
        raise CheckpointError(
            f"{weights.name} holds no state dictionary",
            hint="save one with torch.save(net.state_dict(), 'weights.pt')",
        )
    own = module.state_dict()
    if own.keys() != state.keys():  # of a network wrapped in DataParallel, DDP or torch.compile
        for prefix in ("module.", "_orig_mod.", "model.", "net.", "generator."):
            cut = {key.removeprefix(prefix): value for key, value in state.items()}
            if own.keys() == cut.keys():
                state = cut
                break
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = [
        f"{what}: {_listed(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"{weights.name} does not fit the network: {'; '.join(problems)}",
            hint="was it trained with other options? write a factory that sets them",
        )
    module.load_state_dict(state)


def _read(weights: Path) -> Any:
    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(weights)
        return torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as exc:
        raise CheckpointError(
            f"{weights.name} cannot be read as weights: {type(exc).__name__}: {first_line(exc)}",
            hint="save them with torch.save(net.state_dict(), 'weights.pt'): "
            "nothing but tensors is loaded",
        ) from exc


def _state_in(found: Any) -> dict[str, torch.Tensor] | None:
    if not isinstance(found, Mapping):
        return None
    if found and all(isinstance(value, torch.Tensor) for value in found.values()):
        return dict(found)
    for key in _WRAPPERS:
        if isinstance(found.get(key), Mapping):
            return _state_in(found[key])
    return None


def _listed(keys: list[str]) -> str:
    shown = ", ".join(keys[:SHOWN])
    more = len(keys) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
