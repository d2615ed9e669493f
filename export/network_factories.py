"""A user's network by name: ``package.module:factory`` or ``net.py:Net``, and its weights.

Naming it is what lets its code be imported; no other command does so.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from kspacesr_rt.errors import ExportError
from kspacesr_rt.export.network_weights import listed, load_weights
from kspacesr_rt.export.source_locations import raised
from kspacesr_rt.system.interruption import received_signal


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
    with _first_on_path(Path(where).resolve().parent if where.endswith(".py") else Path.cwd()):
        module = _made(text, where, attribute)
    if weights is not None:
        load_weights(module, weights)
    return module.cpu().eval()


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    """Look for modules in a folder first, as Python does for a script of it; from then on last.

    What is imported within a network's own functions is found then, too, while nothing in the
    folder takes the place of a module of Python's or ours that is imported later, or by a child.
    """
    name = str(folder)
    sys.path.insert(0, name)
    try:
        yield
    finally:
        with suppress(ValueError):  # the code that was imported may have changed it
            sys.path.remove(name)
        if name not in sys.path:
            sys.path.append(name)


def _made(text: str, where: str, attribute: str) -> nn.Module:
    """Import a factory and call it; see `network_from`."""
    source = _imported(where)
    factory = getattr(source, attribute, None)
    if factory is None:
        raise ExportError(
            f"{where} has no '{attribute}'",
            hint=f"it has: {listed(_networks_in(source)) or 'no class or function of its own'}",
        )
    try:
        module = factory if isinstance(factory, nn.Module) else factory()
    except SystemExit as exc:
        raise ExportError(
            f"the factory {text} ended the program: {raised(exc)}",
            hint="leave exit() and the reading of sys.argv out of it: it is to return the network",
        ) from exc
    except BaseException as exc:
        if received_signal() is not None:
            raise
        raise ExportError(f"{text} raises {raised(exc)}", hint=_hint_of_factory(exc)) from exc
    if not isinstance(module, nn.Module):
        raise ExportError(
            f"{text} gives {type(module).__name__}, expected a torch.nn.Module",
            hint="name a function that returns the network, or its class",
        )
    return module


def _hint_of_factory(exc: BaseException) -> str:
    """Return what to change in a factory that raises."""
    if isinstance(exc, TypeError) and "required" in str(exc) and "argument" in str(exc):
        return "it is called without arguments: give them defaults, or write a function"
    return (
        "call it in Python on its own first, where this command runs: without arguments, on the CPU"
    )


def _imported(where: str) -> Any:
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        path = Path(where).resolve()
        if not path.is_file():
            raise ExportError(f"there is no file {where}", hint="name it as path/net.py:Net")
        found = importlib.util.spec_from_file_location(path.stem, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        # Under a name of its own where another module has it, as json.py would take Python's.
        taken = path.stem in sys.modules or path.stem in sys.stdlib_module_names
        sys.modules[f"_network_{path.stem}" if taken else path.stem] = module
        found.loader.exec_module(module)
        return module
    except ExportError:
        raise
    except BaseException as exc:
        if received_signal() is not None:
            raise
        raise ExportError(
            f"{where} cannot be imported: {raised(exc)}",
            hint="it is part of a package: name it as package.module:Net, from the package's folder"
            if "relative import" in str(exc)
            else "run it with python on its own first",
        ) from exc


def _networks_in(source: Any) -> list[str]:
    own = getattr(source, "__name__", "")
    return sorted(
        name
        for name, value in vars(source).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == own
    )
