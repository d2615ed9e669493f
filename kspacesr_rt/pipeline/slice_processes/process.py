"""A process beside the run's, from the run's side: started, asked, replaced when it is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Final, Self

import numpy as np

from kspacesr_rt.errors import BackendUnavailableError, system_message
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.pipeline.slice_processes.messages import (
    Answer,
    DraftWritten,
    Request,
    Rest,
    SharedSamples,
    Step,
)

HELD: Final = (signal.SIGINT, signal.SIGTERM)
"""Signals that a process must not meet before it ignores them."""
ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)
"""Environment of a process: there are several, and one core for each."""
END_S: Final = 5.0
"""Seconds that a process is given to end once it is not asked any more."""
NO_PROCESSES: Final = "--processes 0 does all in one process"
_MAIN: Final = (
    # pydicom loads `requests`, where it is there, to download examples: a sixth of its time.
    "import sys; sys.path[:] = {path!r}; sys.modules['requests'] = None\n"
    "from kspacesr_rt.pipeline.slice_processes.child import main; main({link}, {life}, {samples})"
)


class ProcessLostError(Exception):
    """A process ended before it answered; says how."""


def why_no_processes() -> str | None:
    """Say why no processes can be started here; None if they can."""
    if sys.platform != "linux":
        return "they need Linux"
    if getattr(sys, "frozen", False) or not Path(sys.executable or "").name.startswith("py"):
        return "this program is not run by a Python interpreter of its own"
    return None


class SliceProcess:
    """One process; of its run's process, one thread at a time asks it."""

    def __init__(self) -> None:
        self._running: _Running | None = None
        self.generation = 0
        """Rises with each that is started or lost: what an earlier one knew is gone."""
        self.forgotten: deque[int] = deque()
        """Slices that nobody will ask for; for any threads."""

    @property
    def id(self) -> int | None:
        """Its process id, while it runs."""
        return None if self._running is None else self._running.process_id

    def start(self) -> None:
        """Start it, unless it runs; it is not waited for.

        Raises
        ------
        BackendUnavailableError
            If that is not possible.
        """
        if self._running is None:
            self._running = _Running.started()
            self.generation += 1
            self.forgotten.clear()

    def ask(self, step: Step, sr: FloatArray | None = None) -> tuple[Answer, int | None]:
        """Have a step taken.

        Parameters
        ----------
        step
            What is to be done.
        sr
            Samples that go with it.

        Returns
        -------
            The answer, and the open file of a draft.

        Raises
        ------
        ProcessLostError
            If it ends meanwhile.
        BackendUnavailableError
            If it cannot be started.
        """
        self.start()
        running = self._running
        assert running is not None
        forgotten = tuple(self.forgotten.popleft() for _ in range(len(self.forgotten)))
        try:
            return running.ask(Request(step=step, forgotten=forgotten), sr)
        except (EOFError, OSError) as exc:
            self._running = None
            self.generation += 1  # before the next one is started, too
            raise ProcessLostError(running.end()) from exc

    def values(self, shape: Matrix) -> FloatArray:
        """Return a copy of the values of the slice that was read last."""
        assert self._running is not None
        return np.array(self._running.samples.array(shape))

    def rest(self) -> None:
        """Let it forget everything, if it runs."""
        if self._running is not None and self._running.is_ready:
            try:
                self.ask(Rest())
            except ProcessLostError:
                return  # the next run starts another

    def close(self) -> None:
        """End it; a second time is no error."""
        if self._running is not None:
            self._running.end()
            self._running = None

    def let_go(self) -> None:
        """Leave it, in a forked process, to the one that started it."""
        if self._running is not None:
            self._running.let_go()
            self._running = None


class SliceProcesses:
    """The processes of a session, started when they are first wanted; a context manager."""

    def __init__(self) -> None:
        self._processes: list[SliceProcess] = []
        _opened.add(self)

    def taken(self, n: int) -> tuple[SliceProcess, ...]:
        """Return `n` processes, which are starting or run.

        Raises
        ------
        BackendUnavailableError
            If they cannot be started.
        """
        self._processes += [SliceProcess() for _ in range(n - len(self._processes))]
        taken = tuple(self._processes[:n])
        for one in taken:
            one.start()
        return taken

    @property
    def ids(self) -> tuple[int, ...]:
        """Those that run, by their process ids."""
        return tuple(one.id for one in self._processes if one.id is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for one in self._processes:
            one.close()

    def let_go(self) -> None:
        """Leave them, in a forked process, to the one that started them."""
        for one in self._processes:
            one.let_go()


_opened: weakref.WeakSet[SliceProcesses] = weakref.WeakSet()


def _after_fork() -> None:
    """Let go, in a forked process, of the other one's: they end when nobody holds their links."""
    for processes in tuple(_opened):
        processes.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Running:
    """A process that was started."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        link: socket.socket,
        lifeline: socket.socket,
        samples: SharedSamples,
        errors: IO[bytes],
    ) -> None:
        self._process, self._link, self._lifeline = process, link, lifeline
        self._connection = Connection(os.dup(link.fileno()))
        self._errors = errors
        self.samples = samples
        self.is_ready = False

    @property
    def process_id(self) -> int:
        return self._process.pid

    @classmethod
    def started(cls) -> Self:
        with ExitStack() as failing, ExitStack() as theirs:
            try:
                link, link_there = socket.socketpair()
                lifeline, lifeline_there = socket.socketpair()
                for one in (link, lifeline):
                    failing.enter_context(one)
                for one in (link_there, lifeline_there):
                    theirs.enter_context(one)
                samples = SharedSamples.create()
                failing.callback(samples.close)
                errors = failing.enter_context(tempfile.TemporaryFile())
                passed = (link_there.fileno(), lifeline_there.fileno(), samples.descriptor)
                with _blocked_signals():
                    process = _popen(passed, errors)
            except OSError as exc:
                raise _unavailable(system_message(exc)) from exc
            failing.pop_all()
        return cls(process, link, lifeline, samples, errors)

    def ask(self, request: Request, sr: FloatArray | None) -> tuple[Answer, int | None]:
        self._wait_until_ready()
        if sr is not None:
            rows, columns = sr.shape
            self.samples.array((rows, columns))[...] = sr
        self._connection.send(request)
        answer: Answer = self._connection.recv()
        if not isinstance(answer.result, DraftWritten):
            return answer, None
        _, [descriptor], *_ = socket.recv_fds(self._link, 1, 1)
        os.set_inheritable(descriptor, False)
        return answer, descriptor

    def _wait_until_ready(self) -> None:
        if self.is_ready:
            return
        try:
            self._connection.recv()
        except (EOFError, OSError):
            self._process.wait()
            if self._process.returncode < 0:  # by a signal: as later
                raise
            self._errors.seek(0)
            lines = self._errors.read().decode("utf-8", "replace").splitlines()
            message = lines[-1] if lines else f"exit code {self._process.returncode}"
            raise _unavailable(message) from None
        self.is_ready = True
        self._errors.close()

    def end(self) -> str:
        """End it, if it runs still, and say how it ended."""
        self._connection.close()
        self._link.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lifeline.close()
        self.samples.close()
        self._errors.close()
        code = self._process.returncode
        return f"exit code {code}" if code >= 0 else f"signal {_signal_name(-code)}"

    def let_go(self) -> None:
        """Close this side's ends alone: neither wait for it, which is no child here, nor end it."""
        self._process.returncode = 0  # else it would be looked after, and warned of
        for one in (self._connection, self._link, self._lifeline, self.samples, self._errors):
            one.close()


def _popen(passed: tuple[int, int, int], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    link, life, samples = passed
    code = _MAIN.format(path=sys.path, link=link, life=life, samples=samples)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=passed,
        env={**os.environ, **ONE_THREAD},
    )


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Let a process begin with signals blocked in it, until it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _unavailable(message: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"a process to read and write slices cannot be started: {message}", hint=NO_PROCESSES
    )
