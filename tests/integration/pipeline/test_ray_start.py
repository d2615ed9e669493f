"""A signal while Ray starts, when Ray's own handler stands in the place of the command line's."""

import signal
from types import SimpleNamespace

import pytest

from kspacesr_rt.pipeline.ray import cluster
from kspacesr_rt.system.interruption import TerminatedError


@pytest.fixture
def starting(monkeypatch):
    """Return what connects to a cluster, while which a SIGTERM arrives at Ray's handler."""

    def connect(*, ours, code=int(signal.SIGTERM)):
        def init(**options):
            signal.signal(signal.SIGTERM, lambda number, frame: None)
            raise SystemExit(code)

        ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
        monkeypatch.setattr(cluster, "import_ray", lambda: ray)
        monkeypatch.setattr(cluster, "_require_reachable", lambda address: None)
        monkeypatch.setattr(cluster, "owns_signals", lambda: ours)
        with cluster.connected("192.0.2.1:6379", cpus=1):
            pytest.fail("Ray has ended the process")

    before = signal.getsignal(signal.SIGTERM)
    yield connect
    signal.signal(signal.SIGTERM, before)


def test_a_sigterm_while_ray_starts_is_the_command_lines(starting):
    """It is told as 143, not as Ray's exit code 15, and what is under way is unwound."""
    told = []

    def handler(number, frame):
        told.append(number)

    signal.signal(signal.SIGTERM, handler)
    with pytest.raises(TerminatedError):
        starting(ours=True)
    assert told == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize(("ours", "code"), [(False, int(signal.SIGTERM)), (True, 3)])
def test_another_end_stays_what_it_is(starting, ours, code):
    """In a program that uses the library, Ray's handler is its affair."""
    signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("nobody asked"))
    with pytest.raises(SystemExit) as caught:
        starting(ours=ours, code=code)
    assert caught.value.code == code
