"""The HTTP port: whoever can reach it can read numbers there, and do nothing else."""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import threading
import urllib.request

import pytest
from node_cases import few_files, wait_until
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.services.node import status_server
from kspacesr_rt.services.node.status_server import StatusServer

PATIENCE_S = 60


@pytest.fixture
def make_port():
    made = []

    def make(is_healthy=lambda: True):
        server = StatusServer("node", lambda: "n 1\n", lambda: {}, is_healthy)
        made.append(server)
        return server.start(0)

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def port(make_port):
    return make_port()


def get(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        return answer.read()


def connect(port):
    return socket.create_connection(("127.0.0.1", port), PATIENCE_S)


def rest_of(connection):
    """Read to the end, which an attacker may be denied by a reset."""
    content = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            content += part
    return content


def n_threads():
    return sum("process_request_thread" in one.name for one in threading.enumerate())


def test_who_says_nothing_is_cut_off_and_the_oldest_makes_room(port):
    """Hundreds of silent connections take a few threads, and nobody's answer."""
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(connect(port)) for _ in range(5 * status_server.MAX_CONNECTIONS)
        ]
        assert rest_of(silent[0]) == b""
        assert get(port) == b"n 1\n"
        wait_until(
            lambda: n_threads() <= status_server.MAX_CONNECTIONS, "the threads of the oldest"
        )
    wait_until(lambda: n_threads() == 0, "an empty port")


def test_the_deadline_is_for_the_whole_request(make_port, monkeypatch):
    """A header that drips is cut off as if nothing came."""
    monkeypatch.setattr(status_server, "REQUEST_S", 0.5)
    port = make_port()
    with connect(port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET /metrics HTTP/1.0\r\n")
        for _ in range(200):  # ten seconds in all
            connection.sendall(b"A: b\r\n")
            threading.Event().wait(0.05)
        pytest.fail("it was listened to for ten seconds")
    wait_until(lambda: n_threads() == 0, "an empty port")
    assert get(port) == b"n 1\n"


def test_an_answer_that_nobody_reads_is_given_up(make_port, monkeypatch):
    """Its thread would wait for ever."""
    monkeypatch.setattr(status_server, "REQUEST_S", 0.5)
    server = StatusServer("node", lambda: "x" * 50_000_000, lambda: {}, lambda: True)
    port = server.start(0)
    try:
        with connect(port) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert connection.recv(1)
            wait_until(lambda: n_threads() == 0, "the end")
    finally:
        server.stop()


@pytest.mark.parametrize(
    "content",
    [
        b"GET /" + b"a" * 10_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 1_000_000 + b"\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 10_000_000,
        b"\0\xff" * 1_000_000,
    ],
)
def test_a_huge_request_is_not_read(port, content, capfd):
    """Sixteen kilobytes of it are; nothing is printed of it."""
    with connect(port) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(content)
        assert b"200 OK" not in rest_of(connection)
    wait_until(lambda: n_threads() == 0, "an empty port")
    assert get(port) == b"n 1\n"
    assert capfd.readouterr().err == ""


def test_no_more_of_a_request_is_read_than_its_bound():
    """However it comes in."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(bytes(3 * status_server.MAX_REQUEST_BYTES))
        read = io.BufferedReader(status_server._Bounded(ours)).read()
    assert len(read) == status_server.MAX_REQUEST_BYTES


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts descriptors in /proc")
def test_it_recovers_when_there_were_no_file_descriptors(port):
    """The port stays ready meanwhile, and is served afterwards."""
    with connect(port) as first, few_files(spare=1):
        first.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with contextlib.closing(connect(port)) as second:
            second.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            answered = b"n 1" in rest_of(first)
    assert answered
    assert get(port) == b"n 1\n"


def test_health_is_asked_from_outside(make_port):
    """What a container's engine runs: 0, or 3 with a sentence."""

    def ask(port):
        done = CliRunner().invoke(app, ["health", "--http-port", str(port), "--timeout", "5"])
        return done.exit_code, done.output

    assert ask(make_port()) == (0, "ok\n")
    code, text = ask(make_port(is_healthy=lambda: False))
    assert code == 3
    assert "the node is not healthy (503)" in text
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, text = ask(port)
    assert code == 3
    assert f"no node answers on port {port}" in text
