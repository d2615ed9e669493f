"""Blocks of commands and code in README and docs: found, and run as a reader would.

A block of ``sh`` or ``python`` is run in the order of its page, in one folder for the page that
looks like a clone with a folder ``study`` of four slices and an ``archive`` of two series. A
comment in the line before a block says otherwise:

* ``<!-- not run: REASON -->``: one of `REASONS`;
* ``<!-- until: TEXT -->``: it goes on until the page ends; the next block waits for TEXT;
* ``<!-- command: NAME -->``: a test of its own runs it.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path

from repository import ROOT

from kspacesr_rt.bench.run.sample_series import cut_sample

REASONS = {
    "a GPU": "no machine of the tests has one",
    "hours": "a whole training or benchmark",
    "installs": "changes the environment that the tests run in",
    "another machine": "a scanner, a PACS, a cluster or a registry that is not here",
    "root": "changes the system",
    "your files": "weights, images or results that only the reader has",
    "the clone": "writes into the checkout",
    "the tests": "would run the tests within the tests",
}
"""Why a block is not run."""
PORTS = ("11112", "11113", "8080")
"""Of the pages; free ones take their places."""
MATRIX = 96
"""Rows and columns of `study` and `archive`: what is computed shows nothing that 256 would not."""
PATIENCE_S = 900
BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?P<marker>[a-z ]+): (?P<told>.*?) -->\n\n?)?"
    r"^(?P<indent>[ ]*)```(?P<kind>sh|python)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    line: int
    kind: str
    text: str
    marker: str
    told: str


def pages():
    """Return every page that a reader may copy from."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {str(path.relative_to(ROOT)): path for path in found}


def runnable(path):
    """Return the blocks of a page that a test runs."""
    return [
        block for block in blocks_of(path.read_text()) if block.marker not in ("not run", "command")
    ]


def blocks_of(text):
    return [
        Block(
            line=text.count("\n", 0, found.start("kind")) + 1,
            kind=found["kind"],
            text=textwrap.dedent(found["text"]),
            marker=found["marker"] or "",
            told=found["told"] or "",
        )
        for found in BLOCK.finditer(text)
    ]


def commands_of(block):
    """Yield the words of each call of the command line in a block."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    text = re.sub(r"\$\(.*?\)", "VALUE", text)
    for line in text.splitlines():
        code = re.sub(r"(^|\s)#.*", "", line)
        for part in re.split(r"&&|\|\||[|;&]|<|>", code):
            if found := re.search(r"(?:^|[\s/])(?:kspacesr-rt|-m kspacesr_rt)\s+(.*)", part):
                yield found[1].split()


def looks_like_a_clone(folder):
    """Fill a folder with links to the checkout, and with what pages call `study` and `archive`."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("build", "dist", "site", "out"):
            (folder / path.name).symlink_to(path)
    (folder / "study").mkdir()
    sample = cut_sample(14, MATRIX)
    for number, dataset in enumerate(sample[8:12]):
        dataset.save_as(folder / "study" / f"brain_{number:03}.dcm")
    for series, first in ((1, 4), (2, 12)):
        (folder / "archive" / f"series{series}").mkdir(parents=True)
        for number, dataset in enumerate(sample[first : first + 2]):
            dataset.SeriesInstanceUID += f".{series}"
            dataset.save_as(folder / "archive" / f"series{series}" / f"brain_{number:03}.dcm")


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Reader:
    """Does what a page says, in a folder of its own."""

    def __init__(self, folder, cache, *, programs=None):
        looks_like_a_clone(folder)
        self._folder = folder
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._going_on = []
        home = folder / ".home"
        home.mkdir()
        places = [programs, Path(sys.executable).parent, os.environ["PATH"]]
        path = os.pathsep.join(str(one) for one in places if one is not None)
        self._environment = {
            **os.environ,
            **{"PATH": path, "HOME": str(home), "KSPACESR_RT_CACHE": str(cache)},
            **{"COLUMNS": "160", "PYTHONUNBUFFERED": "1"},
        }

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for process, _, _ in reversed(self._going_on):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process, _, listener in reversed(self._going_on):
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            listener.join()
            process.stdout.close()

    def run(self, block, page):
        """Run a block; raise with all that it said if it fails."""
        text = re.sub("|".join(PORTS), lambda found: self._ports[found[0]], block.text)
        command = ["bash", "-euo", "pipefail", "-c", text]
        if block.kind == "python":
            command = [sys.executable, "-W", "error", "-c", text]
        process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        said = []
        heard = threading.Event()
        wanted = block.told if block.marker == "until" else None

        def listen():
            for line in process.stdout:
                said.append(line)
                if wanted and wanted in line:
                    heard.set()
            heard.set()

        listener = threading.Thread(target=listen)
        listener.start()
        where = f"{page}:{block.line}"
        if wanted:
            self._going_on.append((process, said, listener))
            assert heard.wait(PATIENCE_S), f"{where}: never said {wanted!r}: {''.join(said)}"
            assert any(wanted in line for line in said), f"{where}: ended: {''.join(said)}"
            return
        listener.join(PATIENCE_S)
        if listener.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        listener.join()
        process.stdout.close()
        status = process.wait()
        others = "".join(
            f"\n--- going on beside it: {''.join(one)}" for _, one, _ in self._going_on
        )
        assert status == 0, f"{where} ended with {status}:\n{block.text}\n{''.join(said)}{others}"
