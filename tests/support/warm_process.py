"""Starts processes of the command line as forks of one that has loaded its modules.

A process of `kspacesr-rt infer` takes 1.0 s of processor time to its end, if zero-filling does the
work, and 0.3 s if its modules are loaded already. Where a test is not about them, the fixture
`from_a_warm_process` makes `subprocess` fork it from a process of this file, which has loaded what
most commands load and nothing else: no session, no thread. It is a child of the test
like any other, with the streams, folder and environment that were asked for, and ends as one would.
Commands that load torch are forked from another one that has loaded that, too: 3.5 s of 5.

A process is started as ever where a fork could not stand for it: another program, options of
Python, code to run before it begins, variables that decide how Python starts, and where this is not
Linux.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

LOADED = (
    *("kspacesr_rt.cli.commands", "kspacesr_rt.pipeline.inference", "kspacesr_rt.dicom.derive"),
    *("kspacesr_rt.pipeline.executors", "kspacesr_rt.pipeline.nifti_of_series", "onnxruntime"),
)
"""What loads the modules of most commands."""
OF_TORCH = ("torch", "kspacesr_rt.train.run", "kspacesr_rt.export.exporter")
"""What loads those of `TORCH_COMMANDS` besides."""
TORCH_COMMANDS = ("train", "export", "seed-table")
"""Commands that load torch, whatever they are told; no other is forked with it."""
BEFORE_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_", "TZ")
"""Beginnings of variables that Python and the C library read as they start. What is loaded here
starts no threads of its own, so those of OpenMP and BLAS change nothing."""
HERE = Path(__file__).parent
SCRIPTS = (HERE / "fault_cases.py", HERE / "held_training.py")
"""What else is forked: they run the command line with something slowed down."""
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
_CHILD = (
    *("executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env", "startupinfo"),
    *("creationflags", "shell", *_PIPES, "restore_signals", "gid", "gids", "uid", "umask"),
    *("start_new_session", "process_group"),
)
"""What `subprocess` hands over besides the words, in CPython 3.11 to 3.14."""
_PLAIN = {
    **{"executable": None, "preexec_fn": None, "close_fds": True, "pass_fds": (), "shell": False},
    **{"gid": None, "gids": None, "uid": None, "umask": -1, "start_new_session": False},
    **{"process_group": -1},
}
"""Of these, what a fork is started with."""
_SET_CHILD_SUBREAPER = 36
_SIZE, _CODE = struct.Struct("!I"), struct.Struct("!i")


class WarmProcess(subprocess.Popen):
    """A `subprocess.Popen` that forks the command line from a process that has loaded it."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        given = dict(zip(_CHILD, rest, strict=True))
        words = None if isinstance(args, str | bytes | os.PathLike) else [*map(os.fsdecode, args)]
        environment = dict(os.environ if given["env"] is None else given["env"])
        plain = all(given[name] == value for name, value in _PLAIN.items())
        if words is None or not plain or not _is_forked(words, environment):
            super()._execute_child(args, *rest)
            return
        pipes = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [number if one == -1 else one for number, one in enumerate(pipes)]
        folder = os.fspath(given["cwd"] or ".")
        request = {"words": words, "folder": folder, "environment": environment}
        self.pid = _server(torch=_loads_torch(words)).fork(request, streams)
        self._child_created = True
        self._close_pipe_fds(*(given[name] for name in _PIPES))


def _is_forked(words: Sequence[str], environment: Mapping[str, str]) -> bool:
    known = words[:2] in ([sys.executable, str(one)] for one in SCRIPTS)
    if not known and words[:3] != [sys.executable, "-m", "kspacesr_rt"]:
        return False
    ours = _server().environment
    changed = {name for name in {*environment, *ours} if environment.get(name) != ours.get(name)}
    if known and environment.get("PYTHONPATH") == str(HERE):
        changed.discard("PYTHONPATH")  # where a script that stands there looks anyway
    return not any(name.startswith(BEFORE_START) for name in changed)


def _loads_torch(words: Sequence[str]) -> bool:
    command = words[2:3] if words[1].endswith(".py") else words[3:4]
    return bool(command) and command[0] in TORCH_COMMANDS


class _Server:
    """A process that is forked, as the tests see it."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = ours
        self._lock = threading.Lock()
        self._folder = TemporaryDirectory(prefix="warm-")
        place = Path(self._folder.name) / "door"
        with theirs, socket.socket(socket.AF_UNIX) as door:
            door.bind(str(place))
            door.listen()
            ways = [theirs.fileno(), door.fileno()]
            self.process = subprocess.Popen(
                [sys.executable, __file__, *map(str, ways), *modules],
                pass_fds=ways,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=self.environment,
            )
        self.door = place

    def fork(self, request: dict[str, Any], streams: list[int]) -> int:
        """Return the number of a new child of this process."""
        folder = Path(request["folder"]).resolve(strict=True)
        message = json.dumps({**request, "folder": str(folder)}).encode()
        with self._lock:
            # A child whose parent ends meanwhile becomes one of this process.
            _set_child_subreaper(1)
            try:
                socket.send_fds(self._socket, [_SIZE.pack(len(message))], streams)
                self._socket.sendall(message)
                return int(_SIZE.unpack(_received(self._socket, _SIZE.size))[0])
            finally:
                _set_child_subreaper(0)

    def end(self) -> None:
        """Let the process end; its forks go on."""
        self._socket.close()
        self.process.wait(60)
        self._folder.cleanup()


_running: dict[bool, _Server] = {}


def _server(*, torch: bool = False) -> _Server:
    if torch not in _running:
        _running[torch] = _Server((*LOADED, *OF_TORCH) if torch else LOADED)
    return _running[torch]


def _set_child_subreaper(value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "children cannot be adopted")


def _received(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise EOFError("the process that is forked has ended")
        found += part
    return found


@pytest.fixture(scope="session")
def _warm_process() -> Iterator[None]:
    yield
    while _running:
        _running.popitem()[1].end()


@pytest.fixture(scope="module")
def from_a_warm_process(_warm_process: None) -> Iterator[None]:
    """Let processes of the command line be forks of one that has loaded its modules."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux":
            patch.setattr(subprocess, "Popen", WarmProcess)
        yield


@pytest.fixture(scope="session")
def warm_programs(_warm_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Return a folder for a shell's search path: its `kspacesr-rt` has the real one forked."""
    if sys.platform != "linux":
        return None
    plain, torch = _server(), _server(torch=True)
    program = tmp_path_factory.mktemp("programs") / "kspacesr-rt"
    doors = {"": str(plain.door)} | dict.fromkeys(TORCH_COMMANDS, str(torch.door))
    real = str(Path(sys.executable).with_name(program.name))
    given = (doors, real, plain.environment, BEFORE_START)
    program.write_text(
        f"#!{sys.executable} -ISE\nimport sys\nsys.path.insert(0, {str(HERE)!r})\n"
        f"from warm_program import run\nrun{given!r}\n"
    )
    program.chmod(0o755)
    return program.parent


# --- the process that is forked -------------------------------------------------------------------


def _await_a_request(connection: socket.socket, door: socket.socket) -> list[str]:
    """Return in a fork, with its words; its streams, folder and environment are in place."""
    while True:
        ready, _, _ = select.select([connection, door], [], [])
        visitor = door.accept()[0] if door in ready else None
        head, streams, _, _ = socket.recv_fds(visitor or connection, _SIZE.size, 3)
        if not head and visitor is None:
            os._exit(0)
        if not head:  # ended before it asked
            visitor.close()
            continue
        request = json.loads(_received(visitor or connection, *_SIZE.unpack(head)))
        told, tell = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child == 0:
                break
            if visitor is None:
                os.write(tell, _SIZE.pack(child))
            else:
                _look_after(child, visitor)
            os._exit(0)
        if visitor is None:
            os.waitpid(between, 0)  # the child is no longer of this process, but of the test's
            connection.sendall(os.read(told, _SIZE.size))
        else:
            visitor.close()
        with suppress(ChildProcessError):  # those that have looked after theirs
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        for one in (told, tell, *streams):
            os.close(one)
    for number, one in enumerate(streams):
        os.dup2(one, number)
    for one in (told, tell, *streams):
        os.close(one)
    for one in (connection, door, visitor):
        if one is not None:
            one.close()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if (torch := sys.modules.get("torch")) and "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # as it would as it loads
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
    words: list[str] = request["words"]
    return words


def _look_after(child: int, visitor: socket.socket) -> None:
    """Pass signals on to a child, and its end to who asked for it."""
    end = os.pidfd_open(child)
    while end not in select.select([end, visitor], [], [])[0]:
        asked = visitor.recv(1)
        os.kill(child, asked[0] if asked else signal.SIGKILL)
        if not asked:
            return
    visitor.sendall(_CODE.pack(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


def _main() -> None:
    connection, door = (socket.socket(fileno=int(one)) for one in sys.argv[1:3])
    for name in sys.argv[3:]:
        importlib.import_module(name)
    if threading.active_count() > 1 or len([*Path("/proc/self/task").iterdir()]) > 1:
        raise RuntimeError("a process of several threads cannot be forked")
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    words = _await_a_request(connection, door)
    sys.orig_argv[:] = words
    if words[1:2] == ["-m"]:
        sys.path[0] = str(Path.cwd())
        sys.argv[:] = words[2:]
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        return
    sys.argv[:] = words[1:] if words[0] == sys.executable else words
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _main()
