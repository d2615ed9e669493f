"""Fixtures of the node's tests: a clock that a test moves, a spool, a receiver alone."""

import pytest
from spool_cases import Clock

from kspacesr_rt.services.log import Log
from kspacesr_rt.services.metrics import Metrics
from kspacesr_rt.services.node.peers import ANY_ON_THIS_MACHINE
from kspacesr_rt.services.node.receiver import Receiver
from kspacesr_rt.services.node.spool import Spool


@pytest.fixture
def clock():
    """Stand still until a test sets ``now``."""
    return Clock()


@pytest.fixture
def spool(tmp_path, clock):
    """Open a spool by that clock."""
    opened = Spool(tmp_path / "spool", clock=clock)
    yield opened
    opened.close_all()


@pytest.fixture
def receiver(tmp_path):
    """Run a receiver without what follows it; yields its port, spool and metrics."""
    spool, metrics = Spool(tmp_path / "received"), Metrics()
    one = Receiver("KSPACESR", [ANY_ON_THIS_MACHINE], spool, metrics, Log(quiet=True))
    yield one.start("127.0.0.1", 0), spool, metrics
    one.stop(timeout_s=5)
    spool.close_all()
