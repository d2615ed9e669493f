"""``/metrics``, ``/health`` and a small page, on loopback: numbers of parts, never a patient's."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from kspacesr_rt.services.health import LOOPBACK
from kspacesr_rt.services.node.ports import bind_port, open_port
from kspacesr_rt.services.node.status_page import Sections, page

TEXT_FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPTION: Final = "--http-port"
MAX_CONNECTIONS: Final = 16
"""At a time; the oldest makes room."""
MAX_REQUEST_BYTES: Final = 1 << 14
"""Line and headers of a request: what follows is not read."""
REQUEST_S: Final = 30.0
"""From the connection to the last byte of the answer, however either drips."""
REST_S: Final = 0.2
"""Pause when the system gives no further connection."""


class _Bounded(io.RawIOBase):
    """The first bytes of what a connection brings; then it is at its end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._left = connection, MAX_REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = self._connection.recv_into(memoryview(buffer)[: self._left]) if self._left else 0
        self._left -= n
        return n


class _BoundedServer(ThreadingHTTPServer):
    """So many connections, each for so long."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, taken: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}
        super().__init__(taken.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = taken

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # The port stays ready, so without a pause a core would be busy with it.
            time.sleep(REST_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            crowd = list(self._deadlines)
            self._deadlines[request] = time.monotonic() + REQUEST_S
        for oldest in crowd[: len(crowd) + 1 - MAX_CONNECTIONS]:
            self._cut_off(oldest)
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End what takes too long; called twice a second."""
        now = time.monotonic()
        with self._lock:
            late = [one for one, deadline in self._deadlines.items() if deadline <= now]
        for request in late:
            self._cut_off(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the standard library would print what it met, with a traceback."""

    @staticmethod
    def _cut_off(request: socket.socket) -> None:
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


class StatusServer:
    """An HTTP server of the standard library in a thread of its own.

    Parameters
    ----------
    title
        Of the page.
    metrics
        Returns Prometheus text.
    sections
        Returns what the page shows.
    is_healthy
        Decides between 200 and 503 for ``/health``.
    """

    def __init__(
        self,
        title: str,
        metrics: Callable[[], str],
        sections: Callable[[], Sections],
        is_healthy: Callable[[], bool],
    ) -> None:
        self._title, self._metrics, self._sections = title, metrics, sections
        self._is_healthy = is_healthy
        self._server: ThreadingHTTPServer | None = None

    def start(self, port: int) -> int:
        """Listen on loopback; return the port.

        Raises
        ------
        OutputError
            If the port is taken or not allowed.
        """
        return self.listen(bind_port(LOOPBACK, port, option=OPTION))

    def listen(self, bound: socket.socket) -> int:
        """Listen on a port that was taken; return its number.

        Raises
        ------
        OutputError
            If another program listens there already.
        """
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            server_version, sys_version = "kspacesr-rt", ""

            def setup(self) -> None:
                super().setup()
                self.rfile = io.BufferedReader(_Bounded(self.connection))

            def do_GET(self) -> None:
                status, kind, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Content-Type-Options", "nosniff")
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        open_port(bound, MAX_CONNECTIONS, option=OPTION)
        server = _BoundedServer(bound, Handler)
        threading.Thread(target=server.serve_forever, name="status", daemon=True).start()
        self._server = server
        return int(server.server_address[1])

    def stop(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        place = path.partition("?")[0]
        if place == "/metrics":
            return 200, TEXT_FORMAT, self._metrics().encode()
        if place == "/health":
            healthy = self._is_healthy()
            return (200 if healthy else 503), TEXT_FORMAT, b"ok\n" if healthy else b"not ok\n"
        if place == "/":
            text = page(self._title, self._sections(), is_healthy=self._is_healthy())
            return 200, "text/html; charset=utf-8", text.encode()
        return 404, TEXT_FORMAT, b"not found\n"
