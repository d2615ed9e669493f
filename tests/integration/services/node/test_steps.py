"""Processing and forwarding of single parts: what goes wrong there, and what follows."""

from __future__ import annotations

import errno
import io
import os
import socket
import sys
from collections import Counter
from dataclasses import replace
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
from power_cut import watched
from pydicom import dcmread
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.dsutils import encode
from step_cases import ZERO_FILL, Bench, put, session_of, step

from kspacesr_rt.errors import (
    BackendUnavailableError,
    InputError,
    OutputError,
    PluginError,
    ResultError,
)
from kspacesr_rt.pipeline import InferOptions, Session, backend_pool
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.services import durable_files
from kspacesr_rt.services.log import Log
from kspacesr_rt.services.node.peers import Peer, parse_target
from kspacesr_rt.services.node.processing import Keep, Processor
from kspacesr_rt.services.node.pynetdicom_setup import load_pynetdicom
from kspacesr_rt.services.node.service import Node, NodeOptions
from kspacesr_rt.services.node.spool import MAX_ATTEMPTS
from kspacesr_rt.services.node.spool_part import State

CANNOT_UNDERSTAND = 0xC000


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

        patch.setattr(durable_files, "move", broken)
        assert send(port, [paths[0]]) == [0xA700]
    assert list((spool.root / "incoming").glob("*.dcm")) == []
    assert send(port, [paths[0]]) == [0x0000]
    assert metrics.value("instances_refused_total", reason="spool-error") == 1


def test_what_was_answered_with_success_outlives_a_power_cut(receiver, paths, tmp_path):
    """The sender may delete its own then."""
    port, spool, _ = receiver
    with watched(spool.root) as disk:
        assert send(port, [paths[0]]) == [0x0000]
        restored = disk.restore(tmp_path / "restored")
    [part] = spool.parts(State.received)
    [path] = part.inputs.iterdir()
    assert (restored / path.relative_to(spool.root)).read_bytes() == path.read_bytes()


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

    run = Session.run

    def broken(session, source, *args, **more):
        if bench.spool.root in source.parents:
            raise ZeroDivisionError("SECRET^PATIENT")
        return run(session, source, *args, **more)

    monkeypatch.setattr(Session, "run", broken)
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
        patch.setattr(Session, "run", broken)
        for _ in range(3 * MAX_ATTEMPTS):
            assert not bench.processor.process(bench.only(State.closed))
        assert not bench.processor.can_infer
        assert bench.metrics.value("processing_errors_total", kind="proof-RuntimeError") >= 2
    assert bench.processor.process(bench.only(State.closed))
    assert bench.processor.can_infer
    assert len(bench.only(State.processed).results()) == 3


@pytest.fixture
def failing(monkeypatch):
    """Yield a list; as long as it holds an exception, every backend raises that."""
    errors, real = [], backend_pool.open_backend

    def open_failing(*args, **more):
        backend = real(*args, **more)
        run = backend.run

        def run_or_fail(batch):
            if errors:
                raise errors[0]
            return run(batch)

        backend.run = run_or_fail
        return backend

    monkeypatch.setattr(backend_pool, "open_backend", open_failing)
    return errors


@pytest.mark.parametrize(
    "error",
    [MemoryError(), PluginError("backend 'own' failed"), BackendUnavailableError("it is gone")],
    ids=lambda error: type(error).__name__,
)
def test_a_part_whose_backend_failed_for_a_while_is_delivered(make_bench, failing, error):
    """Neither memory that others hold nor a device that is busy is the fault of a series."""
    bench = make_bench()
    failing.append(error)
    for _ in range(2 * MAX_ATTEMPTS):
        assert not bench.processor.process(bench.only(State.closed))
        assert not bench.processor.can_infer  # the node is not healthy, from the first attempt on
    failing.clear()
    assert bench.processor.process(bench.only(State.closed))
    assert bench.processor.can_infer
    part = bench.only(State.processed)
    assert len(part.results()) == 3
    assert bench.processor.reasons(part) == {}


def test_slices_that_alone_are_never_computed_hold_nothing_up_for_ever(make_bench, monkeypatch):
    """A matrix that needs more memory than there is, where a shipped slice needs less."""
    bench = make_bench()
    real = backend_pool.open_backend
    matrix = dcmread(min(bench.only(State.closed).inputs.iterdir())).pixel_array.shape

    def open_short_of_memory(*args, **more):
        backend = real(*args, **more)
        run = backend.run

        def run_if_small(batch):
            if batch.shape[-2:] == matrix:
                raise MemoryError
            return run(batch)

        backend.run = run_if_small
        return backend

    monkeypatch.setattr(backend_pool, "open_backend", open_short_of_memory)
    for _ in range(MAX_ATTEMPTS - 1):
        assert not bench.processor.process(bench.only(State.closed))
    assert bench.processor.process(bench.only(State.closed))
    reasons = bench.processor.reasons(bench.only(State.processed))
    assert set(reasons.values()) == {"failed: backend"}
    assert len(reasons) == 3
    assert bench.processor.can_infer


@pytest.mark.parametrize("stopped", [True, False])
def test_a_stop_that_cuts_the_first_slice_short_is_no_fault_of_the_backend(
    tmp_path, monkeypatch, stopped
):
    """SIGTERM while a node starts: that it cannot process a slice would be untrue."""
    text = io.StringIO()
    node = Node(
        NodeOptions(
            ae_title="KSPACESR", targets=(parse_target("A@127.0.0.1:1"),), spool=tmp_path, port=0
        ),
        ZERO_FILL,
        Log(text),
    )
    run = Session.run

    def cut_short(*args, **more):
        report = run(*args, **more)
        if stopped:
            node.stop()
        return replace(report, interrupted=True, ended_with=143)

    monkeypatch.setattr(Session, "run", cut_short)
    if not stopped:
        with pytest.raises(ResultError, match="cannot process a shipped slice"):
            node.run()
        return
    node.run()
    assert "event=stopped cut_off=nothing waiting=0" in text.getvalue()
    assert "listening" not in text.getvalue()


def test_a_backend_that_met_an_accident_is_opened_anew(make_bench, monkeypatch):
    """A node stays up for months: what broke once must not stay broken until somebody looks."""
    bench, opened = make_bench(), []
    real = backend_pool.open_backend

    def breaks_once(*args, **more):
        opened.append(real(*args, **more))
        if len(opened) == 1:
            monkeypatch.setattr(opened[0], "run", lambda batch: 1 / 0)
        return opened[-1]

    monkeypatch.setattr(backend_pool, "open_backend", breaks_once)
    assert not bench.processor.process(bench.only(State.closed))
    assert bench.processor.process(bench.only(State.closed))
    assert len(bench.only(State.processed).results()) == 3
    matrices = [backend.spec.matrix for backend in opened]
    assert matrices.count(matrices[0]) == 2
    assert len(opened) == 3  # and one for the slice that shows who is to blame


def test_a_second_part_needs_no_second_opening(make_bench, monkeypatch):
    """The model stays open from one series to the next."""
    bench, opened = make_bench(), []
    real = backend_pool.open_backend
    monkeypatch.setattr(
        backend_pool,
        "open_backend",
        lambda *args, **more: opened.append(args) or real(*args, **more),
    )
    assert bench.processor.process(bench.only(State.closed))
    other = replace(bench.processor._session.options, on_interpolated="warn", strict=False)
    report = bench.processor._session.run(sample_folder(), bench.spool.root / "more", options=other)
    assert report.count("written") == 20
    assert len(opened) == 2  # one for each matrix
    bench.processor._session.run(sample_folder(), bench.spool.root / "again", options=other)
    assert len(opened) == 2


@pytest.mark.parametrize("for_all", [True, False], ids=["full", "full but for a single slice"])
def test_a_full_disk_is_not_the_parts_fault(make_bench, monkeypatch, for_all):
    """It is tried until there is room, however often that is."""
    bench = make_bench()
    run = Session.run

    def full(session, source, *args, **more):
        if not for_all and bench.spool.root not in source.parents:
            return run(session, source, *args, **more)
        cause = OSError(28, "No space left on device")
        raise OutputError("an output cannot be written") from cause

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", full)
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


def test_a_node_that_is_stopped_again_and_again_blames_no_part(make_bench):
    """An update a night, and a series that takes longer: it is not the series' fault."""
    bench = make_bench()
    bench.stop = lambda: True
    for _ in range(2 * MAX_ATTEMPTS):
        assert not bench.processor.process(bench.only(State.closed))
    bench.stop = lambda: False
    assert bench.processor.process(bench.only(State.closed))
    assert len(bench.only(State.processed).results()) == 3


def test_a_part_that_was_begun_with_other_options_is_begun_anew(make_bench):
    """A node that is started with another model must not refuse what it finds half done."""
    bench = make_bench()
    bench.stop = lambda: len(bench.only(State.closed).results()) >= 1
    assert not bench.processor.process(bench.only(State.closed))
    bench.stop = lambda: False
    other = replace(ZERO_FILL, backend="bicubic")
    processor = Processor(
        bench.spool, session_of(other), Keep.all, bench.metrics, bench.log, bench.stop
    )
    assert not processor.process(bench.only(State.closed))
    assert bench.metrics.value("processing_errors_total", kind="RunMismatchError") == 1
    assert processor.process(bench.only(State.closed))
    results = bench.only(State.processed).results()
    assert len(results) == 3
    assert {dcmread(path).SeriesInstanceUID for path in results} == {results[0].parent.name}


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


def test_a_target_that_is_named_twice_is_one_target(tmp_path):
    """Two lanes to it would send everything twice at the same time."""
    one, other = (parse_target(f"PACS@127.0.0.1:{port}") for port in (104, 105))
    options = NodeOptions(ae_title="A", targets=(one, other, one), spool=tmp_path / "spool")
    assert options.targets == (one, other)
