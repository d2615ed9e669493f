"""Processing and forwarding of single parts: what goes wrong there, and what follows."""

from __future__ import annotations

import errno
import io
import os
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
from node_cases import (
    TargetServer,
    association,
    dataset_bytes,
    make_series,
    send,
    store,
    wait_until,
)
from pydicom import dcmread
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.dsutils import encode

from kspacesr_rt.errors import BackendUnavailableError, InputError, OutputError
from kspacesr_rt.node import durable, processing
from kspacesr_rt.node.events import Log
from kspacesr_rt.node.forwarder import Forwarder
from kspacesr_rt.node.metrics import Metrics
from kspacesr_rt.node.network import load_pynetdicom
from kspacesr_rt.node.part import State
from kspacesr_rt.node.peers import ANY_ON_THIS_MACHINE, Peer, parse_target
from kspacesr_rt.node.processing import Keep, Processor
from kspacesr_rt.node.receiver import Receiver
from kspacesr_rt.node.sent import SentJournal
from kspacesr_rt.node.service import Node, NodeOptions
from kspacesr_rt.node.spool import MAX_ATTEMPTS, SENT, Spool
from kspacesr_rt.pipeline import InferOptions, infer

ZERO_FILL = InferOptions(backend="zero-fill")
CANNOT_UNDERSTAND = 0xC000


def put(spool, paths):
    for path in paths:
        ds = dcmread(path, stop_before_pixels=True)
        series = (str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID))
        spool.store(series, str(ds.SOPInstanceUID), spool.incoming(path.read_bytes()))


class Bench:
    """A spool with one closed part of three slices, and what works on it."""

    def __init__(self, folder, paths, keep=Keep.all) -> None:
        self.spool = Spool(folder / "spool")
        put(self.spool, paths)
        self.spool.close(timeout_s=0)
        self.metrics, self.log = Metrics(), Log(quiet=True)
        self.stop = lambda: False
        self.processor = Processor(
            self.spool, ZERO_FILL, keep, self.metrics, self.log, lambda: self.stop()
        )

    def forwarder(self, *targets):
        return Forwarder(
            "KSPACESR",
            [parse_target(target.name) for target in targets],
            self.spool,
            SentJournal(self.spool.root / SENT),
            self.processor.reasons,
            0.05,
            self.metrics,
            self.log,
            lambda: self.stop(),
        )

    def only(self, state):
        [part] = self.spool.parts(state)
        return part

    def states(self):
        return {state: n for state, n in self.spool.counts().items() if n}


def step(forwarder):
    """Do once, one after the other, what the node's threads do again and again."""
    for lane in forwarder.lanes:
        lane.step()
    forwarder.settle()


@pytest.fixture
def paths(tmp_path):
    return make_series(tmp_path / "source", 1)


@pytest.fixture
def make_bench(tmp_path, paths):
    made = []

    def make(**more):
        made.append(Bench(tmp_path, paths, **more))
        return made[-1]

    yield make
    for one in made:
        one.spool.close_all()


@pytest.fixture
def receiver(tmp_path):
    """Run a receiver without what follows it; yields its port, spool and metrics."""
    spool, metrics = Spool(tmp_path / "received"), Metrics()
    one = Receiver("KSPACESR", [ANY_ON_THIS_MACHINE], spool, metrics, Log(quiet=True))
    yield one.start("127.0.0.1", 0), spool, metrics
    one.stop(patience_s=5)
    spool.close_all()


@pytest.mark.parametrize(
    ("syntax", "encoding"),
    [
        (ExplicitVRLittleEndian, (False, True, False)),
        (ImplicitVRLittleEndian, (True, True, False)),
        (DeflatedExplicitVRLittleEndian, (False, True, True)),
    ],
)
def test_it_keeps_the_bytes_as_they_came(receiver, paths, syntax, encoding):
    """Neither decoded nor encoded again, whatever stands in there; a repetition is known."""
    port, spool, metrics = receiver
    ds = dcmread(paths[0])
    ds.PatientComments = "Zürich"
    with association(port, syntaxes=[syntax]) as held:
        assert store(held, ds) == store(held, ds) == 0x0000
    [part] = spool.parts(State.received)
    [path] = part.inputs.iterdir()
    assert dataset_bytes(path) == encode(ds, *encoding)
    assert dcmread(path).file_meta.TransferSyntaxUID == syntax
    assert metrics.value("instances_received_total") == 1
    assert metrics.value("instances_repeated_total") == 1


def test_a_series_of_known_size_is_complete_at_once(receiver, paths):
    """Some archives tell (0020,1209); then nobody waits for the silence."""
    port, spool, _ = receiver
    for n_sent, path in enumerate(paths, start=1):
        ds = dcmread(path)
        ds.NumberOfSeriesRelatedInstances = len(paths)
        send(port, [ds])
        assert len(spool.close(timeout_s=3600)) == (n_sent == len(paths))


def test_a_disk_that_fails_is_no_success(receiver, paths, monkeypatch):
    """The sender keeps what we could not keep; the next try is taken."""
    port, spool, metrics = receiver
    with monkeypatch.context() as patch:

        def broken(*args, **more):
            raise OSError(5, "Input/output error")

        patch.setattr(durable, "move", broken)
        assert send(port, [paths[0]]) == [0xA700]
    assert list((spool.root / "incoming").glob("*.dcm")) == []
    assert send(port, [paths[0]]) == [0x0000]
    assert metrics.value("instances_refused_total", reason="spool-error") == 1


def test_an_accident_at_the_door_lets_nobody_in(receiver, monkeypatch):
    """What checks the sender must fail closed."""
    port, _, metrics = receiver

    def broken(self, ae_title, address):
        raise RuntimeError

    monkeypatch.setattr(Peer, "is_from", broken)
    with association(port, echo=True) as held:
        # A requestor on a busy machine may see the end of the connection before the answer.
        assert not held.is_established
    assert metrics.value("associations_rejected_total", reason="congested") == 1
    assert metrics.value("internal_errors_total", where="receive", kind="RuntimeError") == 1


def test_a_part_that_always_ends_in_an_error_is_set_aside_whatever_the_option(
    make_bench, monkeypatch
):
    """It must not stand in the way for ever, and nobody knows what it is: it is kept."""
    bench = make_bench(keep=Keep.none)

    def broken(source, *args, **more):
        if bench.spool.root in source.parents:
            raise ZeroDivisionError("SECRET^PATIENT")
        return infer(source, *args, **more)

    monkeypatch.setattr(processing, "infer", broken)
    for _ in range(MAX_ATTEMPTS):
        assert not bench.processor.process(bench.only(State.closed))
    assert bench.processor.process(bench.only(State.closed))
    assert bench.states() == {State.quarantined: 1}
    assert len(list(bench.only(State.quarantined).inputs.iterdir())) == 3
    assert bench.metrics.value("processing_errors_total", kind="ZeroDivisionError") == MAX_ATTEMPTS
    assert "SECRET" not in bench.metrics.as_text()


def test_no_part_is_set_aside_while_nothing_can_be_computed(make_bench, monkeypatch):
    """A GPU that is gone must not send every series into quarantine, one after the other."""

    def broken(*args, **more):
        raise RuntimeError("CUDA failure")

    bench = make_bench()
    with monkeypatch.context() as patch:
        patch.setattr(processing, "infer", broken)
        for _ in range(3 * MAX_ATTEMPTS):
            assert not bench.processor.process(bench.only(State.closed))
        assert not bench.processor.able
        assert bench.metrics.value("processing_errors_total", kind="proof-RuntimeError") >= 2
    assert bench.processor.process(bench.only(State.closed))
    assert bench.processor.able
    assert len(bench.only(State.processed).results()) == 3


def test_a_full_disk_is_not_the_parts_fault(make_bench, monkeypatch):
    """It is tried until there is room, however often that is."""

    def full(*args, **more):
        cause = OSError(28, "No space left on device")
        raise OutputError("an output cannot be written") from cause

    bench = make_bench()
    with monkeypatch.context() as patch:
        patch.setattr(processing, "infer", full)
        for _ in range(2 * MAX_ATTEMPTS):
            assert not bench.processor.process(bench.only(State.closed))
    assert bench.processor.process(bench.only(State.closed))
    assert len(bench.only(State.processed).results()) == 3


@pytest.mark.parametrize("n_broken", [1, 3])
@pytest.mark.parametrize(
    ("error", "kind"), [(errno.EMFILE, "file-limit"), (errno.EIO, "spool-unreadable")]
)
def test_a_file_that_the_system_does_not_give_is_tried_again(
    make_bench, paths, monkeypatch, n_broken, error, kind
):
    """A slice that got Success must not end in quarantine since descriptors were short."""
    bench = make_bench()
    broken = sorted(bench.only(State.closed).inputs.iterdir())[:n_broken]
    original = Path.open

    def give_none(self, *args, **more):
        if self.name in {path.name for path in broken}:
            raise OSError(error, os.strerror(error))
        return original(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", give_none)
        for _ in range(MAX_ATTEMPTS - 1):
            assert not bench.processor.process(bench.only(State.closed))
    assert bench.metrics.value("processing_errors_total", kind=kind) == MAX_ATTEMPTS - 1
    assert bench.processor.process(bench.only(State.closed))
    assert len(bench.only(State.processed).results()) == 3


def test_a_file_that_the_disk_has_lost_holds_nothing_up_for_ever(make_bench, monkeypatch):
    """The others are delivered; it is kept, with its reason."""
    bench = make_bench()
    broken = min(bench.only(State.closed).inputs.iterdir()).name
    original = Path.open

    def give_none(self, *args, **more):
        if self.name == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(self, *args, **more)

    monkeypatch.setattr(Path, "open", give_none)
    for _ in range(MAX_ATTEMPTS - 1):
        assert not bench.processor.process(bench.only(State.closed))
    assert bench.processor.process(bench.only(State.closed))
    part = bench.only(State.processed)
    assert len(part.results()) == 2
    assert bench.processor.reasons(part) == {broken: "failed: unreadable"}


def test_sigterm_ends_processing_at_a_slice_and_the_next_start_goes_on(make_bench):
    """A volume takes minutes; what is done is not done again."""
    bench = make_bench()
    bench.stop = lambda: len(bench.only(State.closed).results()) >= 1
    assert not bench.processor.process(bench.only(State.closed))
    first, *_ = bench.only(State.closed).results()
    before = first.stat().st_mtime_ns
    bench.stop = lambda: False
    assert bench.processor.process(bench.only(State.closed))
    results = bench.only(State.processed).results()
    assert len(results) == 3
    assert before in [path.stat().st_mtime_ns for path in results]


@pytest.mark.parametrize(("keep", "kept"), [(Keep.all, 2), (Keep.failed, 1), (Keep.none, 0)])
def test_what_is_left_out_of_a_series_is_kept_as_asked(tmp_path, make_bench, paths, keep, kept):
    """The good slice is delivered; the phase image is skipped, the cut one has failed."""
    ds = dcmread(paths[0])
    ds.ImageType = ["ORIGINAL", "PRIMARY", "PHASE"]
    ds.save_as(paths[0])
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    bench = make_bench(keep=keep)
    assert bench.processor.process(bench.only(State.closed))
    with TargetServer() as target:
        forwarder = bench.forwarder(target)
        wait_until(lambda: step(forwarder) or not bench.spool.parts(State.processed), "a step")
        assert len(target.received) == 1
    assert bench.states() == ({State.quarantined: 1} if kept else {})
    if kept:
        assert len(list(bench.only(State.quarantined).inputs.iterdir())) == kept
    assert bench.metrics.value("left_out_total") == 2


def test_one_refused_instance_holds_back_neither_the_others_nor_the_other_target(make_bench):
    """It is offered again; each target has the rest long since, once."""
    bench = make_bench()
    bench.processor.process(bench.only(State.closed))
    with TargetServer() as moody, TargetServer() as easy:
        asked = []

        def refuse_the_first(n):
            asked.append(n)
            return CANNOT_UNDERSTAND if len(asked) == 1 else 0x0000

        moody.answer = refuse_the_first
        forwarder = bench.forwarder(moody, easy)
        step(forwarder)
        assert (len(moody.received), len(easy.received)) == (2, 3)
        assert bench.states() == {State.processed: 1}
        wait_until(lambda: step(forwarder) or not bench.states(), "the last one")
        assert Counter(moody.received) == Counter(easy.received)
        assert set(Counter(easy.received).values()) == {1}
    assert bench.metrics.value("forward_failures_total", reason="status-c000") == 1


def test_a_part_that_a_target_chokes_on_does_not_stand_in_the_way(tmp_path, make_bench):
    """Whether it takes nothing of it or falls over: the next part has its turn."""
    bench = make_bench()
    put(bench.spool, make_series(tmp_path / "more", 2))
    put(bench.spool, make_series(tmp_path / "more", 3))
    bench.spool.close(timeout_s=0)
    for part in bench.spool.parts(State.closed):
        bench.processor.process(part)
    first, second, _ = bench.spool.parts(State.processed)
    for path in first.results():  # as an Enhanced MR would be, to this target
        content = path.read_bytes()
        path.write_bytes(
            content.replace(b"1.2.840.10008.5.1.4.1.1.4\0", b"1.2.840.10008.5.1.4.1.1.2\0")
        )
    poison = {path.stem for path in second.results()}
    with TargetServer() as target:
        forwarder = bench.forwarder(target)
        target.fall_over = lambda uid: uid in poison
        wait_until(lambda: step(forwarder) or len(target.received) == 3, "the third part")
        assert bench.metrics.value("forward_failures_total", reason="no-context") >= 1
        assert bench.metrics.value("forward_failures_total", reason="connection-lost") >= 1
        target.fall_over = lambda uid: False
        wait_until(lambda: step(forwarder) or len(target.received) == 6, "the second part")
    assert [part.name for part in bench.spool.parts(State.processed)] == [first.name]


def test_a_target_without_an_address_is_tried_again(make_bench, monkeypatch):
    """A name server that is down for a night is like a target that is."""
    bench = make_bench()
    bench.processor.process(bench.only(State.closed))

    def unknown(*args, **more):
        raise socket.gaierror(-2, "Name or service not known")

    with TargetServer() as target, monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", unknown)
        step(bench.forwarder(target))
    assert bench.metrics.value("forward_failures_total", reason="unknown-host") == 1
    assert bench.states() == {State.processed: 1}


def test_a_target_that_knows_only_implicit_vr_gets_that(make_bench):
    """The one syntax that every node must know (PS3.5 10.1)."""
    bench = make_bench()
    bench.processor.process(bench.only(State.closed))
    with TargetServer(syntaxes=[ImplicitVRLittleEndian]) as target:
        step(bench.forwarder(target))
        assert len(target.received) == 3
    for uid, content in target.datasets.items():
        ds = read_dataset(io.BytesIO(content), is_implicit_VR=True, is_little_endian=True)
        assert (ds.SOPInstanceUID, ds.Rows) == (uid, 64)


def test_what_is_missing_is_named_with_the_line_that_installs_it(monkeypatch):
    """The base install has no network."""
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    with pytest.raises(BackendUnavailableError, match="pynetdicom") as raised:
        load_pynetdicom()
    assert raised.value.hint == "pip install 'kspacesr-rt[serve]'"


def test_a_node_needs_stable_uids_and_a_target(tmp_path):
    """Without them it could not know what it has sent, or where to."""
    target = parse_target("PACS@127.0.0.1:104")
    options = NodeOptions(ae_title="A", targets=(target,), spool=tmp_path / "spool")
    with pytest.raises(InputError, match="stable UIDs"):
        Node(options, InferOptions(random_uids=True), Log(quiet=True))
    with pytest.raises(InputError, match="needs a target"):
        NodeOptions(ae_title="A", targets=(), spool=tmp_path / "spool")
