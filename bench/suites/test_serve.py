"""A series through `serve`, from its last Success to the archive's: what a sender waits for.

What it measures: seconds from the moment at which the node has answered for a series' last slice to
the moment at which its target has the last derived one: for a node's first series, and for further
ones. The slices say how many they are, as archives do in (0020,1209): nothing waits for silence.
What it leaves out: the node's start, which loads the model, the sender's own time, and the silence
that completes a series whose size nobody told (``--series-timeout``, ``--released-timeout``).
How to read it: what the first takes beyond the others is what a resident session saves once it has
met a matrix; where that is little, computing dominates. The time beyond the resident suite's of the
same size is the spool's (every file and every step synced to the disk) and the network's.

Run: ``pytest bench/suites/test_serve.py``, or ``kspacesr-rt bench --suite --only serve``.
"""

import os
import threading

import pytest
from pydicom.uid import generate_uid

from kspacesr_rt.bench.run.sample_series import cut_sample
from kspacesr_rt.bench.run.suite_runner import THREADS, usable_backends
from kspacesr_rt.pipeline import InferOptions
from kspacesr_rt.services.log import Log
from kspacesr_rt.services.node import parse_target
from kspacesr_rt.services.node.service import Node, NodeOptions

pynetdicom = pytest.importorskip("pynetdicom", reason="the node needs pynetdicom")

ROUNDS, PATIENCE_S = 7, 120.0
SLICES = int(os.environ.get("KSPACESR_RT_SLICES", "20"))
SERIES = ((3, 64), (3, 256), (SLICES, 256))
"""Slices, and rows and columns cut out of the sample."""
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


class Archive:
    """Takes every instance and counts them."""

    def __init__(self):
        self.n, self._came = 0, threading.Condition()
        ae = pynetdicom.AE(ae_title="ARCHIVE")
        ae.add_supported_context(MR_IMAGE)
        handlers = [(pynetdicom.evt.EVT_C_STORE, self._store)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]

    def _store(self, event):
        with self._came:
            self.n += 1
            self._came.notify_all()
        return 0x0000

    def wait(self, n):
        """Wait for so many, counted from the beginning."""
        with self._came:
            assert self._came.wait_for(lambda: self.n >= n, PATIENCE_S)

    def close(self):
        """Take nothing any more."""
        self._server.shutdown()


class Listening(Log):
    """Tells the port on which the node listens."""

    def __init__(self):
        super().__init__(quiet=True)
        self.port, self.is_there = 0, threading.Event()

    def write(self, event, **values):
        """Take note of the one event that matters."""
        if event == "listening":
            self.port = values["port"]
            self.is_there.set()


@pytest.fixture
def archive():
    """Run a target."""
    opened = Archive()
    yield opened
    opened.close()


@pytest.fixture(params=usable_backends())
def node(request, archive, tmp_path):
    """Run a node; yields the port that it listens on."""
    options = NodeOptions(
        ae_title="NODE",
        targets=(parse_target(f"ARCHIVE@127.0.0.1:{archive.port}"),),
        spool=tmp_path / "spool",
        port=0,
    )
    log = Listening()
    infer_options = InferOptions(model="x2-fast", backend=request.param, threads=THREADS)
    running = Node(options, infer_options, log)
    thread = threading.Thread(target=running.run)
    thread.start()
    assert log.is_there.wait(PATIENCE_S)
    yield log.port
    running.stop()
    thread.join()


def _series(n_slices, size):
    """Return the middle of some slices of the sample as a series of its own."""
    series_uid, datasets = generate_uid(), []
    for dataset in cut_sample(n_slices, size):
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = series_uid, generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.NumberOfSeriesRelatedInstances = n_slices
        datasets.append(dataset)
    return datasets


def _send(port, datasets):
    """Send a series; return the association, which is still there: releasing it takes time."""
    ae = pynetdicom.AE(ae_title="SENDER")
    ae.add_requested_context(MR_IMAGE)
    association = ae.associate("127.0.0.1", port, ae_title="NODE")
    assert association.is_established
    for dataset in datasets:
        assert association.send_c_store(dataset).Status == 0x0000
    return association


def _measure(benchmark, archive, port, size, *, rounds, warmup_rounds):
    benchmark.group = f"{size[0]} slices of {size[1]} x {size[1]}, to the archive"
    held = []

    def sent():
        while held:
            held.pop().release()
        before = archive.n
        held.append(_send(port, _series(*size)))
        return (before + size[0],), {}

    benchmark.pedantic(archive.wait, setup=sent, rounds=rounds, warmup_rounds=warmup_rounds)
    held.pop().release()


@pytest.mark.parametrize("size", SERIES, ids=lambda one: f"{one[0]}x{one[1]}")
def test_first_series(benchmark, archive, node, size):
    """Time the first series of a node, once: a further one would need another node."""
    _measure(benchmark, archive, node, size, rounds=1, warmup_rounds=0)


@pytest.mark.parametrize("size", SERIES, ids=lambda one: f"{one[0]}x{one[1]}")
def test_further_series(benchmark, archive, node, size):
    """Time series of one kind through one node, one after another, but for the first."""
    _measure(benchmark, archive, node, size, rounds=ROUNDS, warmup_rounds=1)
