"""Every target at its own pace, and what follows from each answer that it may give."""

from __future__ import annotations

import errno
import json
import queue
import socket
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from node_cases import NodeProcess, TargetServer, make_series, send, wait_until
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from kspacesr_rt.services.log import Log
from kspacesr_rt.services.metrics import Metrics
from kspacesr_rt.services.node.forwarder import Forwarder
from kspacesr_rt.services.node.peers import parse_target
from kspacesr_rt.services.node.requestor import Requestor
from kspacesr_rt.services.node.sent_journal import SentJournal
from kspacesr_rt.services.node.spool import REFUSED, SENT, Spool
from kspacesr_rt.services.node.spool_part import State
from kspacesr_rt.services.node.store_responses import MAX_TRIES, Meaning, meaning_of
from kspacesr_rt.services.node.target_queue import TargetQueue

pytestmark = pytest.mark.usefixtures("from_a_warm_process")

SUCCESS = 0x0000
STORED = (0x0000, 0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007, 0xB00F, 0xBFFF)
LATER = (0xA700, 0xA701, 0xA7FF, 0x0213, 0x0210)
SOME_TRIES = (0xC000, 0xC123, 0xCFFF, 0x0110, 0xFE00, 0xFF00, 0xFF01, 0xA000, 0xD000, 0x0003)
NEVER = (
    *(0x0105, 0x0106, 0x0111, 0x0112, 0x0115, 0x0117, 0x0118, 0x0119, 0x0120, 0x0121, 0x0122),
    *(0x0124, 0x0211, 0x0212, 0xA800, 0xA900, 0xA9FF),
)
"""As PS3.7 Annex C and PS3.4 B.2.3 list them."""


class Bench:
    """A spool with a processed part of three results, and what sends them."""

    def __init__(self, folder) -> None:
        self.paths = make_series(folder / "source", 1)
        self.spool = Spool(folder / "spool")
        for path in self.paths:
            ds = dcmread(path, stop_before_pixels=True)
            series = (str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID))
            uid = str(ds.SOPInstanceUID)
            self.spool.store(series, uid, self.spool.incoming(path.read_bytes()))
        [part] = self.spool.close(timeout_s=0)
        # What is sent need not be derived from anything here.
        place = part.outputs / str(ds.SeriesInstanceUID)
        place.mkdir(parents=True)
        for path in self.paths:
            uid = dcmread(path, stop_before_pixels=True).SOPInstanceUID
            (place / f"{uid}.dcm").write_bytes(path.read_bytes())
        self.spool.finish_processing(part)
        self.metrics = Metrics()
        self.forwarder: Forwarder

    def begin(self, *targets):
        """Begin as a node does that was started just now."""
        journal, log = SentJournal(self.spool.root / SENT), Log(quiet=True)
        common = (self.spool, journal, 0.02, self.metrics, log, lambda: False)
        queues = [TargetQueue("KSPACESR", parse_target(target), *common) for target in targets]
        self.forwarder = Forwarder(queues, self.spool, lambda part: {}, log, lambda: False)

    def step(self):
        for one in self.forwarder.queues:
            one.step()
        self.forwarder.move_finished()

    def steps_until(self, condition, what):
        wait_until(lambda: condition() or self.step() or condition(), what)

    def states(self):
        return {state: n for state, n in self.spool.counts().items() if n}

    def failures(self, reason):
        return self.metrics.value("forward_failures_total", reason=reason)


class Picky(TargetServer):
    """A target that gives one answer, and counts how often each instance was offered."""

    def __init__(self, status=SUCCESS, **more) -> None:
        super().__init__(**more)
        self.status, self.offered = status, Counter()

    def _on_store(self, event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.offered[uid] += 1
        status = self.status(uid) if callable(self.status) else self.status
        self.answer = lambda n: status
        return super()._on_store(event)


@pytest.fixture
def bench(tmp_path):
    one = Bench(tmp_path)
    yield one
    one.spool.close_all()


@pytest.mark.parametrize(
    ("statuses", "meaning"),
    [
        (STORED, Meaning.stored),
        (LATER, Meaning.later),
        (SOME_TRIES, Meaning.some_tries),
        (NEVER, Meaning.refused),
    ],
)
def test_answers_mean_what_the_standard_says(statuses, meaning):
    """Every one that it lists, and what no C-STORE should be answered with."""
    assert {status: meaning_of(status) for status in statuses} == dict.fromkeys(statuses, meaning)


@pytest.mark.parametrize("status", STORED[1:])
def test_a_warning_is_as_good_as_success(bench, status):
    """The target has the instance: offering it again would only add a copy."""
    with Picky(status) as target:
        bench.begin(target.name)
        bench.step()
        assert set(target.offered.values()) == {1}
        assert len(target.offered) == 3
    assert bench.states() == {}


@pytest.mark.parametrize(("status", "n"), [(0x0111, 1), (0xA900, 1), (0xC000, MAX_TRIES)])
def test_what_is_refused_for_good_is_set_aside_with_its_reason(bench, status, n):
    """Neither offered for ever, nor thrown away, nor in the way of what is received."""
    with Picky(status) as target:
        bench.begin(target.name)
        bench.steps_until(lambda: State.undelivered in bench.states(), "the end of tries")
        for _ in range(3):
            bench.step()
        assert list(target.offered.values()) == [n] * 3
    assert bench.states() == {State.undelivered: 1}
    [part] = bench.spool.parts(State.undelivered)
    assert len(part.results()) == 3
    told = json.loads((part.folder / REFUSED).read_text())
    assert set(told[target.name].values()) == {f"status-{status:04x}"}
    assert set(told[target.name]) == {path.stem for path in part.results()}
    assert bench.failures(f"status-{status:04x}") == 3 * n
    assert bench.metrics.value("instances_undelivered_total", target=target.name) == 3
    assert not bench.spool.is_full()


@pytest.mark.parametrize("status", LATER)
def test_a_target_that_is_not_able_now_is_waited_for(bench, status):
    """However long its disk is full: nothing is set aside, and in the end it has everything."""
    with Picky(status) as target:
        bench.begin(target.name)
        tries = f"forward_failures_total of {2 * MAX_TRIES}"
        bench.steps_until(
            lambda: bench.metrics.value("forward_failures_total") > 2 * MAX_TRIES, tries
        )
        assert bench.states() == {State.processed: 1}
        assert len(target.offered) == 1, "the others would be refused likewise"
        target.status = SUCCESS
        bench.steps_until(lambda: not bench.states(), "delivery")
    assert Counter(target.received) == Counter(target.offered.keys())


def test_one_target_refuses_what_the_other_takes(bench):
    """The rest arrives everywhere, once; what was refused is known by target and instance."""
    odd = str(dcmread(bench.paths[1], stop_before_pixels=True).SOPInstanceUID)
    with Picky(lambda uid: 0x0117 if uid == odd else SUCCESS) as picky, Picky() as easy:
        bench.begin(picky.name, easy.name)
        bench.steps_until(lambda: State.undelivered in bench.states(), "the end")
        assert (len(picky.received), len(easy.received)) == (2, 3)
        [part] = bench.spool.parts(State.undelivered)
        assert json.loads((part.folder / REFUSED).read_text()) == {picky.name: {odd: "status-0117"}}
        # Offered again: to that target, and that instance only.
        picky.status = SUCCESS
        assert bench.spool.requeue_undelivered() == 1
        bench.begin(picky.name, easy.name)
        bench.steps_until(lambda: not bench.states(), "delivery")
    assert set(Counter(picky.received).values()) == set(Counter(easy.received).values()) == {1}
    assert len(picky.received) == 3


def test_what_is_refused_for_good_is_not_offered_along_with_what_may_still_be_taken(bench):
    """Each to its own number of tries."""
    refused, is_uncertain = sorted(str(dcmread(path).SOPInstanceUID) for path in bench.paths)[:2]
    statuses = {refused: 0x0111, is_uncertain: 0xC000}
    with Picky(lambda uid: statuses.get(uid, SUCCESS)) as target:
        bench.begin(target.name)
        bench.steps_until(lambda: State.undelivered in bench.states(), "the end of tries")
        assert target.offered[refused] == 1
        assert target.offered[is_uncertain] == MAX_TRIES
        assert set(target.received) == set(target.offered) - statuses.keys()


def test_a_node_that_is_killed_offers_once_more_and_forgets_nothing(bench):
    """Refusals of a part that another target still waits for are not on the disk."""
    with Picky(0x0111) as picky, Picky(0xA700) as slow:
        bench.begin(picky.name, slow.name)
        bench.steps_until(lambda: bench.failures("out-of-resources") >= 2, "tries")
        bench.begin(picky.name, slow.name)  # as after a kill -9
        slow.status = SUCCESS
        bench.steps_until(lambda: State.undelivered in bench.states(), "the end")
        assert len(slow.received) == 3
    assert set(picky.offered.values()) == {2}


def test_what_is_set_aside_is_there_after_a_restart(tmp_path):
    """Until somebody asks for it."""
    bench = Bench(tmp_path)
    [part] = bench.spool.parts(State.processed)
    bench.spool.keep_undelivered(part, {"PACS": {"1.2.3": "status-0111"}})
    bench.spool.close_all()
    spool = Spool(bench.spool.root)
    try:
        assert spool.counts()[State.undelivered] == 1
        assert spool.n_bytes() > 0
        assert spool.requeue_undelivered() == 1
        [part] = spool.parts(State.processed)
        assert not (part.folder / REFUSED).exists()
    finally:
        spool.close_all()


def test_a_target_without_a_context_is_asked_some_times(bench):
    """It knows MR or will not; an association each time, not for ever."""
    with Picky() as target:
        target.stop()
        target.classes = ["1.2.840.10008.5.1.4.1.1.2"]
        target.start()
        bench.begin(target.name)
        bench.steps_until(lambda: State.undelivered in bench.states(), "the end of tries")
    assert bench.failures("no-context") == 3 * MAX_TRIES
    assert not target.offered


def test_what_is_compressed_is_not_sent_as_what_it_is_not(bench):
    """A target of implicit VR alone could not read it, and a name for it would be a lie."""
    [part] = bench.spool.parts(State.processed)
    for path in part.results():
        ds = dcmread(path)
        ds.compress(RLELossless)
        ds.save_as(path)
    with Picky(syntaxes=[ImplicitVRLittleEndian]) as target:
        bench.begin(target.name)
        bench.steps_until(lambda: State.undelivered in bench.states(), "the end of tries")
    assert bench.failures("no-context") == 3 * MAX_TRIES
    assert not target.offered


def test_a_target_that_knows_no_such_node_is_tried_until_somebody_mends_it(bench):
    """It would refuse every part: nothing is set aside for a wrong title."""
    with Picky() as target:
        target._server.ae.require_called_aet = True
        bench.begin(target.name.replace("PACS", "OTHER"))
        bench.steps_until(lambda: bench.failures("rejected") > 2 * MAX_TRIES, "tries")
        assert bench.states() == {State.processed: 1}
        target._server.ae.require_called_aet = False
        bench.steps_until(lambda: not bench.states(), "delivery")
    assert len(target.received) == 3


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists descriptors")
def test_a_target_that_is_away_costs_no_file_descriptor(bench):
    """It may be away for weeks."""
    descriptors = Path("/proc/self/fd")
    with Picky() as target:
        target.stop()
        before = len(list(descriptors.iterdir()))
        bench.begin(target.name)
        bench.steps_until(lambda: bench.failures("no-connection") == 5, "tries")
        assert len(list(descriptors.iterdir())) == before


def test_a_lane_without_file_descriptors_says_so(bench, monkeypatch):
    """No name server is to blame, nor the target."""

    def none_left(*args, **more):
        raise OSError(errno.EMFILE, "Too many open files")

    with Picky() as target:
        bench.begin(target.name)
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", none_left)
            bench.step()
        assert bench.failures("file-limit") == 1
        assert bench.metrics.value("file_limit_total", where="forward") == 1
        bench.steps_until(lambda: not bench.states(), "delivery")


class Confused(Picky):
    """A target that answers another message than it was sent, so many times."""

    wrong_answers = 0

    def _on_store(self, event) -> int:
        if self.wrong_answers:
            self.wrong_answers -= 1
            dimse = event.assoc.dimse
            send = dimse.send_msg

            def send_wrong(answer, context_id):
                dimse.send_msg = send
                answer.MessageIDBeingRespondedTo += 7
                send(answer, context_id)

            dimse.send_msg = send_wrong
        return super()._on_store(event)


def test_an_answer_to_another_message_is_no_success(bench):
    """It may be of an instance before: what it was taken for would be lost."""
    with Confused() as target:
        target.wrong_answers = 1
        bench.begin(target.name)
        bench.step()
        assert bench.states() == {State.processed: 1}
        assert bench.failures("wrong-answer") == 1
        bench.steps_until(lambda: not bench.states(), "delivery")
    assert sorted(target.offered.values()) == [1, 1, 2], "the one in doubt, once more"


def test_a_target_that_never_answers_right_is_given_up(bench):
    """After some tries, instance by instance; a person sees it in the spool."""
    with Confused() as target:
        target.wrong_answers = 1000
        bench.begin(target.name)
        bench.steps_until(lambda: State.undelivered in bench.states(), "the end of patience")
    assert set(target.offered.values()) == {MAX_TRIES}
    assert len(target.offered) == 3
    [part] = bench.spool.parts(State.undelivered)
    [refused] = json.loads((part.folder / REFUSED).read_text()).values()
    assert set(refused.values()) == {"wrong-answer"}


def test_an_answer_is_left_to_whoever_waits_for_it():
    """Pynetdicom's thread of an association may take it, and drop it, on a busy machine."""
    answers: queue.Queue = queue.Queue()

    def get_message(block=False):
        try:
            return answers.get(block=block)
        except queue.Empty:
            return None, None

    association = SimpleNamespace(dimse=SimpleNamespace(get_msg=get_message))
    Requestor("KSPACESR", parse_target("PACS@host:104"))._bound_answers(association)
    answers.put((1, "answer"))
    assert association.dimse.get_msg(block=False) == (None, None)
    assert association.dimse.get_msg(block=True) == (1, "answer")


def test_a_slow_target_delays_nobody_and_retry_brings_back(tmp_path):
    """One that answers late and one that never takes anything: the third has all at once."""
    free = threading.Event()
    series = [make_series(tmp_path / "in", number) for number in (1, 2, 3)]

    def late(uid):
        free.wait()
        return SUCCESS

    more = ("--series-timeout", "1")
    with Picky(late) as slow, Picky(0x0111) as full, Picky() as good:
        others = ("--forward", full.name, "--forward", good.name)
        try:
            with NodeProcess(tmp_path / "spool", slow.name, *others, *more) as node:
                for paths in series:
                    assert send(node.port, paths) == [SUCCESS] * 3
                good.wait_for(9)
                wait_until(lambda: len(full.offered) == 9, "all offers")
                assert not slow.received
                free.set()
                slow.wait_for(9)
                for _ in series:
                    assert "instances=3" in node.wait_for("undelivered")
                assert node.terminate() == 0
        finally:
            free.set()
        assert set(full.offered.values()) == {1}
        full.status = SUCCESS
        with NodeProcess(tmp_path / "spool", slow.name, *others, *more, "--retry") as node:
            assert any("event=offered-again parts=3" in line for line in node.lines)
            full.wait_for(9)
            wait_until(
                lambda: not list((tmp_path / "spool").glob("[rcpfu]*ed/*")), "an empty spool"
            )
            assert node.terminate() == 0
        for target in (slow, full, good):
            assert len(target.received) == len(set(target.received)) == 9
