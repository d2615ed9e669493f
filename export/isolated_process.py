"""Work on a user's network in a process of its own, which may die without taking ours along.

Importing the network, running it and torch's exporters are all code of others, and any of it may
end in a segmentation fault, or not end at all.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from kspacesr_rt.errors import ExporterError, ExportError, KspaceSRError
from kspacesr_rt.export.source_locations import raised
from kspacesr_rt.system.interruption import received_signal

if sys.platform != "win32":
    import resource

Result = TypeVar("Result")
_HINT = "run the network on its own in PyTorch, on images of several matrices"
TIME_LIMIT_S = 1800.0
"""Seconds that one piece of work on a network may take, where nothing else is said."""
_SIGNAL_AT_PROCESSOR_LIMIT: int = getattr(signal, "SIGXCPU", 0)
_SIGNAL_AT_PARENTS_DEATH = 1
"""``PR_SET_PDEATHSIG`` of Linux's ``prctl``."""


class TimeLimitError(ExporterError):
    """Work on a network that was not done in time, and was ended."""


def in_own_process(
    work: Callable[[], Result],
    doing: str,
    time_limit_s: float = TIME_LIMIT_S,
    *,
    processor_limit_s: int | None = None,
) -> Result:
    """Return what a function returns that runs in a process of its own.

    Parameters
    ----------
    work
        Takes nothing, returns what can be pickled. Where processes fork it may hold anything,
        such as a module of classes that no other process could import.
    doing
        What it does, for messages: ``exporting the network``.
    time_limit_s
        Seconds after which the process is ended.
    processor_limit_s
        Seconds of processor time after which it is ended too, whatever else the computer does; None
        sets no such limit. Where the system has none, they are seconds.

    Raises
    ------
    TimeLimitError
        If it is not done in time.
    ExporterError
        If the process dies.
    KspaceSRError
        As `work` raises.
    """
    if sys.platform == "win32" and processor_limit_s is not None:
        time_limit_s, processor_limit_s = min(time_limit_s, processor_limit_s), None
    forks = "fork" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if forks else "spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(work, doing, sending, processor_limit_s), daemon=False
    )
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # A fork of a process with threads: the child uses none of theirs, see `_work`.
        warnings.simplefilter("ignore", DeprecationWarning)
        collects = gc.isenabled()
        # Python runs some of its own code in the child before `_work`, see there.
        gc.disable()
        try:
            process.start()
        except (AttributeError, TypeError, pickle.PicklingError) as exc:
            raise ExportError(
                f"{doing}: the network cannot be handed to another process: {exc}",
                hint="define its class in a module of its own, not in a script or a notebook",
            ) from exc
        finally:
            if collects:
                gc.enable()
    sending.close()
    try:
        if not receiving.poll(time_limit_s):
            process.kill()
            raise _not_in_time(doing, f"{time_limit_s:g} s")
        answer = pickle.loads(receiving.recv_bytes())
    except EOFError:
        answer = None
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()
        receiving.close()
    ran_out = processor_limit_s is not None and process.exitcode == -_SIGNAL_AT_PROCESSOR_LIMIT
    if answer is None and ran_out:
        raise _not_in_time(doing, f"{processor_limit_s} s of processor time")
    if answer is None:
        raise ExporterError(
            f"{doing}: the process that did it died ({_ending(process.exitcode)}); no file was "
            "written",
            hint="run the network on its own in PyTorch; if that works, its exporter is at fault",
        )
    succeeded, value = answer
    if not succeeded:
        raise value
    result: Result = value
    return result


def _not_in_time(doing: str, limit: str) -> TimeLimitError:
    return TimeLimitError(
        f"{doing}: not done after {limit}, and ended; no file was written",
        hint="does the network run in PyTorch on an image of 128 x 128? give it longer "
        "with --time-limit SECONDS, or one matrix with --fixed-matrix ROWSxCOLUMNS",
    )


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _work(
    work: Callable[[], Any], doing: str, sending: Connection, processor_limit_s: int | None
) -> None:
    if sys.platform != "win32" and processor_limit_s is not None:
        _, most = resource.getrlimit(resource.RLIMIT_CPU)  # nobody but root may raise it
        least = (
            processor_limit_s if most == resource.RLIM_INFINITY else min(processor_limit_s, most)
        )
        resource.setrlimit(resource.RLIMIT_CPU, (least, most))
    if sys.platform == "linux":  # what is killed leaves nothing behind that computes on
        ctypes.CDLL(None).prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)
    # OpenMP threads do not survive a fork: one thread needs none.
    torch.set_num_threads(1)
    # Nor do a runtime's: what the parent left to the collector would wait for them as it is freed.
    gc.freeze()
    gc.enable()
    # Torch's exporters print whole graphs, and what a network prints is no result of ours.
    logging.disable(logging.CRITICAL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    answer: tuple[bool, Any]
    try:
        answer = True, work()
    except KspaceSRError as exc:
        answer = False, exc
    except BaseException as exc:
        if (number := received_signal()) is not None:  # the parent has it too, and ends
            os._exit(128 + number)
        answer = False, ExportError(f"{doing}: {raised(exc)}", hint=_HINT)
    try:
        content = pickle.dumps(answer)
    except Exception as exc:
        content = pickle.dumps((False, ExportError(f"{doing}: {raised(exc)}", hint=_HINT)))
    sending.send_bytes(content)
    sending.close()
    sys.stderr.flush()
    os._exit(0)  # neither exit handlers nor destructors of the parent's libraries
