"""Headless Chromium for tests: where it is, its flags, and a page driven over its pipe.

The DevTools protocol runs over two pipes (descriptors 3 and 4 of the browser), so that neither a
port nor a package for WebSockets is needed.
"""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
ANSWER_S = 60.0

LAUNCH = """
import fcntl, os, sys
r, w = (fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3])
os.dup2(r, 3); os.dup2(w, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Moves the pipes to where Chromium looks for them."""


class Page:
    """One page; a context manager that ends its browser."""

    def __init__(self, profile: Path, *, width=1280, height=900, mobile=False, dark=False):
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        command = [sys.executable, "-c", LAUNCH, str(read), str(write), CHROMIUM, *FLAGS]
        command += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"]
        self._process = subprocess.Popen(
            command,
            pass_fds=(read, write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._buffer, self._ids, self._session = b"", itertools.count(1), None
        self.problems, self.requests = [], []
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            self.size(width, height, mobile=mobile)
            self.scheme("dark" if dark else "light")
        except BaseException:
            self.close()
            raise

    def size(self, width, height, *, mobile=False):
        """Make the window so many CSS pixels large; a phone also has touch."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def scheme(self, name):
        """Prefer light or dark colours."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def open(self, file: Path):
        """Load a file and wait until its scripts ran."""
        self.call("Page.navigate", url=file.as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def call(self, method, **params):
        """Send one command and return its result; events on the way are kept."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._keep(answer)

    def run(self, expression):
        """Return the value of an expression in the page."""
        done = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, expression, seconds=20.0):
        """Wait until an expression holds."""
        ends = time.monotonic() + seconds
        while not self.run(expression):
            assert time.monotonic() < ends, f"never: {expression}"
            time.sleep(0.05)

    def key(self, key, code=None, number=0, text=None):
        """Press a key, as the page sees it."""
        shared = {"key": key, "code": code or key, "windowsVirtualKeyCode": number}
        if text:
            shared["text"] = text
        self.call("Input.dispatchKeyEvent", type="keyDown", **shared)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=code or key)

    def mouse(self, kind, x, y, **params):
        """Send a mouse event: pressed, moved, released or wheel."""
        name = "mouseWheel" if kind == "wheel" else f"mouse{kind.capitalize()}"
        self.call("Input.dispatchMouseEvent", type=name, x=x, y=y, **params)

    def drag(self, start, end, button="left"):
        """Press, move in steps, release."""
        held = {"button": button, "buttons": {"left": 1, "right": 2}[button], "clickCount": 1}
        self.mouse("pressed", *start, **held)
        for i in range(1, 5):
            at = [a + (b - a) * i / 4 for a, b in zip(start, end, strict=True)]
            self.mouse("moved", *at, button=button, buttons=held["buttons"])
        self.mouse("released", *end, button=button, clickCount=1)

    def touch(self, kind, *fingers):
        """Send a touch event with the fingers that are down."""
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(fingers)]
        self.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)

    def picture(self, *, whole=False):
        """Return a screenshot as PNG, of the window or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def close(self):
        """End the browser."""
        with contextlib.suppress(OSError):
            os.close(self._write)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _next(self):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], ANSWER_S)
            assert ready, "Chromium does not answer"
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "Chromium ended"
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _keep(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(params)
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
