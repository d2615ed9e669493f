"""`kspacesr-rt` for shells, of which `warm_process` makes one: it has the command line forked.

It starts in a fiftieth of the time that the command line takes to load.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence


def run(
    doors: Mapping[str, str],
    program: str,
    environment: Mapping[str, str],
    before_start: Sequence[str],
) -> None:
    """Have a program forked with this process's words, streams, folder and environment.

    Signals are passed on to it, and this process ends as it does.

    Parameters
    ----------
    doors
        Addresses of the processes that are forked, by command; of all others "".
    program
        Path of the program.
    environment
        What that process was started with.
    before_start
        Beginnings of variables of which another value makes a fork no stand-in: then the program is
        run itself.
    """
    own = dict(os.environ)
    names = {name for name in {*own, *environment} if name.startswith(tuple(before_start))}
    if any(own.get(name) != environment.get(name) for name in names - {"PYTHONUNBUFFERED"}):
        os.execv(program, [program, *sys.argv[1:]])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(doors.get(sys.argv[1] if sys.argv[1:] else "", doors[""]))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
        words = [program, *sys.argv[1:]]
        request = {"words": words, "folder": os.path.realpath("."), "environment": own}
        message = json.dumps(request).encode()
        socket.send_fds(connection, [struct.pack("!I", len(message))], [0, 1, 2])
        connection.sendall(message)
        (code,) = struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
