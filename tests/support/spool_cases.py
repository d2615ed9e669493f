"""What the tests of the spool share: a clock, and a disk whose every change may be the last."""

from __future__ import annotations

import os


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def put(spool, series, uid, content=b"pixels", **more):
    return spool.store(series, uid, spool.incoming(content), **more)


def contents(part):
    return sorted(path.read_bytes() for path in part.inputs.iterdir())


CHANGES = ("open", "write", "fsync", "rename", "mkdir", "unlink", "rmdir", "ftruncate")
"""Every system call by which the package changes a disk."""


class CrashError(BaseException):
    """The process is gone."""


class Crashing:
    """Lets `after` changes of the disk happen and none after those, as `kill -9` does.

    A negative `left` lets all happen. A killed process leaves to the kernel what it has not synced:
    `fsync`, what stands for the call, need do nothing then.
    """

    def __init__(self, monkeypatch, after: int, fsync) -> None:
        self.left, self.crashed = after, False
        for name in CHANGES:
            call = fsync if name == "fsync" else getattr(os, name)
            monkeypatch.setattr(os, name, self._counted(call))

    def _counted(self, call):
        def counted(*args, **more):
            reads = call.__name__ == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR)
            if not reads:
                if self.left == 0:
                    self.crashed = True
                    raise CrashError  # and so does every clean-up on the way out
                self.left -= 1
            return call(*args, **more)

        return counted
