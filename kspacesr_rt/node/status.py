"""``/metrics``, ``/health`` and a small page, on loopback: numbers of parts, never a patient's."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from kspacesr_rt.errors import OutputError

TEXT_FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"
LOOPBACK: Final = "127.0.0.1"
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<title>kspacesr-rt node</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:2em;max-width:50em}}
table{{border-collapse:collapse}}td,th{{padding:.2em 1em .2em 0;text-align:left;font-weight:normal}}
th{{color:#555}}</style></head>
<body><h1>{title}</h1>
<table>{rows}</table>
<p>Research software: detail outside the measured k-space is predicted, not measured.
<a href="/metrics">/metrics</a></p></body></html>
"""


class StatusServer:
    """An HTTP server of the standard library in a thread of its own.

    Parameters
    ----------
    title
        Of the page.
    metrics
        Returns Prometheus text.
    rows
        Returns what the page shows: names and values.
    is_healthy
        Decides between 200 and 503 for ``/health``.
    """

    def __init__(
        self,
        title: str,
        metrics: Callable[[], str],
        rows: Callable[[], Mapping[str, object]],
        is_healthy: Callable[[], bool],
    ) -> None:
        self._title, self._metrics, self._rows = title, metrics, rows
        self._is_healthy = is_healthy
        self._server: ThreadingHTTPServer | None = None

    def start(self, port: int) -> int:
        """Listen on loopback; return the port.

        Raises
        ------
        OutputError
            If the port is taken or not allowed.
        """
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            server_version, sys_version = "kspacesr-rt", ""
            timeout = 10

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

        try:
            server = ThreadingHTTPServer((LOOPBACK, port), Handler)
        except OSError as exc:
            raise OutputError(
                f"cannot listen on HTTP port {port}: {exc.strerror or exc}",
                hint="choose another with --http-port",
            ) from exc
        server.daemon_threads = True
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
            rows = "".join(
                f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
                for name, value in self._rows().items()
            )
            page = _PAGE.format(title=html.escape(self._title), rows=rows)
            return 200, "text/html; charset=utf-8", page.encode()
        return 404, TEXT_FORMAT, b"not found\n"
