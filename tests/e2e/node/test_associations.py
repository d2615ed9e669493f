"""The node in a process of its own, met by real associations: what it takes and delivers."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections import Counter

import pytest
from node_cases import (
    PATIENCE_S,
    PATIENT,
    NodeProcess,
    TargetServer,
    association,
    dataset_bytes,
    derived_from,
    environment,
    find_dcmtk,
    make_series,
    send,
    store,
    wait_until,
)
from node_wire import EXPLICIT, MR, Wire, command, pdv, request
from pydicom import dcmread
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
)
from pynetdicom import AE

from kspacesr_rt.dicom.codecs import DECODER_DEPENDENCIES

pytestmark = pytest.mark.usefixtures("from_a_warm_process")

SUCCESS, OUT_OF_RESOURCES, DOES_NOT_MATCH = 0x0000, 0xA700, 0xA900
REJECTED = {"calling": (1, 1, 3), "called": (1, 1, 7), "congestion": (2, 3, 1)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two series of three slices."""
    folder = tmp_path_factory.mktemp("series")
    return [make_series(folder, number) for number in (1, 2)]


@pytest.fixture(scope="module")
def wanted(files, tmp_path_factory):
    """Return what must arrive for both series, by SOP Instance UID."""
    return derived_from(files[0] + files[1], tmp_path_factory.mktemp("wanted"))


@pytest.fixture(scope="module")
def target():
    with TargetServer() as server:
        yield server


@pytest.fixture(scope="module")
def node(target, tmp_path_factory):
    """Run a node that accepts two senders."""
    spool = tmp_path_factory.mktemp("node") / "spool"
    more = ("--accept", "SENDER@127.0.0.1", "--accept", "STORESCU@127.0.0.1")
    with NodeProcess(spool, target.name, "--series-timeout", "3", *more) as process:
        process.spool = spool
        yield process


def get(node, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}{path}", timeout=30) as answer:
        return answer.read().decode()


def metric(node, line):
    """Return a value of /metrics by its name and labels."""
    for told in get(node, "/metrics").splitlines():
        name, _, value = told.rpartition(" ")
        if name == f"kspacesr_node_{line}":
            return float(value)
    return None


def rejection(held):
    """Return result, source and reason of a refused association."""
    assert not held.is_established
    answer = held.refusal
    assert answer is not None
    return answer.result, answer.result_source, answer.diagnostic


# Who is let in -----------------------------------------------------------------------------------


def test_it_answers_an_echo(node):
    """The first thing that everybody tries."""
    with association(node.port, echo=True) as held:
        assert held.send_c_echo().Status == SUCCESS


@pytest.mark.parametrize(
    ("how", "reason"),
    [({"calling": "STRANGER"}, "calling"), ({"called": "OTHER"}, "called")],
)
def test_strangers_and_wrong_numbers_are_refused(node, how, reason):
    """Both for good, each with its own reason, and counted."""
    name = f'associations_rejected_total{{reason="{reason}-ae"}}'
    before = metric(node, name) or 0
    with association(node.port, **how) as held:
        assert rejection(held) == REJECTED[reason]
    assert metric(node, name) == before + 1


def test_only_mr_in_syntaxes_that_can_be_decoded_is_negotiated(node):
    """A sender learns before it sends that a CT is not for this node."""
    ae = AE(ae_title="SENDER")
    ae.acse_timeout = PATIENCE_S
    ae.add_requested_context(CTImageStorage)
    held = ae.associate("127.0.0.1", node.port, ae_title="KSPACESR")
    assert not held.accepted_contexts
    held.abort()


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([JPEGExtended12Bit, JPEGLosslessSV1], JPEGLosslessSV1),
        ([JPEGLosslessSV1, ImplicitVRLittleEndian], ImplicitVRLittleEndian),
        *(([one], one) for one in (RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian)),
        ([ExplicitVRBigEndian], ExplicitVRBigEndian),
    ],
)
def test_a_sender_with_a_choice_is_not_asked_to_lose_anything(node, offered, chosen):
    """The acceptor chooses: native, then lossless, and lossy only if that is all there is."""
    with association(node.port, syntaxes=offered) as held:
        assert [context.transfer_syntax[0] for context in held.accepted_contexts] == [chosen]


def test_every_syntax_that_infer_decodes_is_taken(node):
    """What the pipeline can read, the network must not refuse."""
    for syntax in DECODER_DEPENDENCIES:
        with association(node.port, syntaxes=[syntax]) as held:
            assert len(held.accepted_contexts) == 1, syntax.name


# What is taken -----------------------------------------------------------------------------------


def test_a_data_set_that_is_not_what_it_says_is_refused(node, files):
    """An instance without a series could never be complete."""
    ds = dcmread(files[0][0])
    del ds.SeriesInstanceUID
    assert send(node.port, [ds]) == [DOES_NOT_MATCH]
    assert metric(node, 'instances_refused_total{reason="no-series"}') == 1


def test_two_senders_and_a_late_instance_deliver_everything_once(node, target, files, wanted):
    """Two series, interleaved over two associations, and a slice that comes after the end."""
    first, second = files
    with association(node.port) as one, association(node.port) as other:
        for a, b in zip(first[:2], second, strict=False):
            assert store(one, a) == store(other, b) == SUCCESS
        assert store(other, second[2]) == SUCCESS
    wait_until(lambda: len(set(target.received) & set(wanted)) >= 5, "five derived instances")
    assert send(node.port, [first[2], first[0]]) == [SUCCESS, SUCCESS]
    wait_until(lambda: set(wanted) <= set(target.received), "the late one")
    # The repeated source has been processed with the late one, and its result is known as sent.
    wait_until(lambda: metric(node, 'parts{state="processed"}') == 0, "an idle node")
    counts = Counter(target.received)
    assert {uid: counts[uid] for uid in wanted} == dict.fromkeys(wanted, 1)
    for uid, path in wanted.items():
        assert target.datasets[uid] == dataset_bytes(path)


def test_what_cannot_be_processed_is_counted_and_kept_with_its_reason(node, files, tmp_path):
    """A phase image is no fault, yet nothing that got Success may vanish without a trace."""
    ds = dcmread(files[0][0])
    ds.ImageType = ["ORIGINAL", "PRIMARY", "PHASE"]
    ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.3.88", "1.2.3.88.1"
    assert send(node.port, [ds]) == [SUCCESS]
    place = node.spool / "quarantined"
    wait_until(lambda: list(place.glob("*/reasons.json")), "the quarantine")
    wait_until(lambda: list(place.glob("*/in/*.dcm")), "the image")
    [told] = place.glob("*/reasons.json")
    assert '"skipped: phase"' in told.read_text()
    assert metric(node, 'left_out_total{outcome="skipped",reason="phase"}') == 1


def test_its_own_results_are_not_processed_again(node, target, wanted):
    """An archive that forwards everything would otherwise have it run in circles."""
    before = len(target.received), metric(node, 'parts{state="quarantined"}')
    assert send(node.port, [min(wanted.values())]) == [SUCCESS]
    name = 'left_out_total{outcome="skipped",reason="already-derived"}'
    wait_until(lambda: metric(node, name) == 1, "the loop to be noticed")
    wait_until(lambda: metric(node, 'parts{state="closed"}') == 0, "an idle node")
    assert (len(target.received), metric(node, 'parts{state="quarantined"}')) == before


@pytest.mark.skipif(find_dcmtk("storescu") is None, reason="dcmtk is not installed")
def test_dcmtk_sends_to_it(node, target, tmp_path):
    """A second implementation of the protocol, as a scanner would be."""
    paths = make_series(tmp_path, 5)
    place = ("127.0.0.1", str(node.port))
    titles = ("-aet", "STORESCU", "-aec", "KSPACESR")
    echo = subprocess.run([find_dcmtk("echoscu"), *titles, *place], capture_output=True, text=True)
    assert echo.returncode == 0, echo.stderr
    sent = subprocess.run(
        [find_dcmtk("storescu"), *titles, *place, *map(str, paths)], capture_output=True, text=True
    )
    assert sent.returncode == 0, sent.stderr
    sources = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths}
    wait_until(lambda: sources <= target.sources(), "dcmtk's series")
    refused = subprocess.run(
        [find_dcmtk("echoscu"), "-aet", "STRANGER", "-aec", "KSPACESR", *place]
    )
    assert refused.returncode != 0


# What it tells -----------------------------------------------------------------------------------


def test_pages_and_log_name_no_patient(node):
    """They are read by people who have no business with patients."""
    page, metrics = get(node, "/"), get(node, "/metrics")
    assert "instances received" in page
    assert get(node, "/health") == "ok\n"
    told = "".join((page, metrics, *node.lines))
    for value in (PATIENT, "SECRET", "2.25.", "1.2.3."):
        assert value not in told
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(node, "/spool")
    refused.value.close()


def test_no_uid_reaches_the_log_whatever_a_sender_does(target, tmp_path, monkeypatch):
    """Pydicom's warnings quote UIDs and names, and a thread that ends prints why."""
    monkeypatch.setenv("PYTHONWARNINGS", "always")
    odd = "1.2.840.113619.2.0099.12345.7"
    [path] = make_series(tmp_path / "in", 8, 1)
    ds = dcmread(path)
    with NodeProcess(tmp_path / "spool", target.name, "--series-timeout", "0.5") as node:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds.SOPInstanceUID, ds.StudyDate = odd, "SECRETDATE"
            ds.file_meta.MediaStorageSOPInstanceUID = odd
            assert send(node.port, [ds]) == [SUCCESS]
        for content in (
            pdv(3, command(odd, field=0x7777)),
            pdv(3, command(odd)[:-20]) + pdv(2, odd.encode()),
            pdv(3, command(odd)) + pdv(2, b"SECRET"),
            pdv(2, odd.encode()),
        ):
            with Wire(node.port) as wire:
                wire.associate(contexts=((MR, (EXPLICIT,)), (odd, (odd,))))
                wire.send(content)
                assert wire.answer()
        with Wire(node.port) as wire:
            wire.send(request(contexts=(("1." * 600 + "2", (odd,)),)))
            assert wire.answer()
        # It need not go through; it must be settled.
        node.wait_for("processed")
        assert node.terminate() == 0
    told = "".join(node.lines)
    for value in (odd, "0099", "SECRET", "Traceback", "Warning", "1.1.1."):
        assert value not in told
    assert all(" event=" in line for line in node.lines)


def test_sigterm_ends_it_cleanly(node):
    """The last test of this node: no traceback, exit code 0."""
    assert node.terminate() == 0
    assert "event=stopped" in node.lines[-1]
    assert not any("Traceback" in line or "internal-error" in line for line in node.lines)


# Trouble -----------------------------------------------------------------------------------------


def test_a_full_queue_says_so_and_a_late_target_gets_everything(tmp_path, files, wanted):
    """The target is down: the queue fills, senders hear it, and all is delivered in the end."""
    with TargetServer() as down:
        pass  # its port is free again
    more = ("--queue", "1", "--series-timeout", "5")
    with NodeProcess(tmp_path / "spool", down.name, *more) as node:
        with association(node.port) as held:
            assert store(held, files[0][0]) == SUCCESS
            assert store(held, files[1][0]) == OUT_OF_RESOURCES, "a further series"
            assert store(held, files[0][1]) == SUCCESS, "the series that has begun"
            assert store(held, files[0][2]) == SUCCESS
        node.wait_for("forward-failed")
        with association(node.port) as held:
            assert rejection(held) == REJECTED["congestion"]
        with association(node.port, echo=True) as held:
            assert held.send_c_echo().Status == SUCCESS, "an echo is always answered"
        name = f'forward_failures_total{{reason="no-connection",target="{down.name}"}}'
        assert metric(node, name) >= 1
        assert metric(node, 'instances_refused_total{reason="full-queue"}') == 1
        with down:
            down.answer = lambda n: OUT_OF_RESOURCES if n == 1 and not refused else SUCCESS
            refused: list[int] = []
            wait_until(lambda: len(down.received) == 1, "the first instance")
            wait_until(
                lambda: (metric(node, name.replace("no-connection", "out-of-resources")) or 0) >= 1,
                "a refusal",
            )
            refused.append(1)
            down.wait_for(3)
            wait_until(lambda: metric(node, 'parts{state="processed"}') == 0, "an idle node")
        expected = {uid for uid, path in wanted.items() if down.datasets.get(uid)}
        assert len(expected) == 3
        assert sorted(down.received) == sorted(expected)
        assert node.terminate() == 0


def test_a_killed_node_delivers_everything_once(tmp_path, files, wanted):
    """`kill -9` while it receives, and again while it sends: the spool knows where it was."""
    spool = tmp_path / "spool"
    with TargetServer() as target:
        with NodeProcess(spool, target.name, "--series-timeout", "60") as node:
            assert send(node.port, [*files[0], files[1][0]]) == [SUCCESS] * 4
            node.kill()
        killed, sent = [], threading.Event()

        def kill_in_the_middle(n):
            if n == 2 and not killed:
                sent.wait(PATIENCE_S)
                killed.append(n)
                node.kill()
                return OUT_OF_RESOURCES  # to nobody
            return SUCCESS

        target.answer = kill_in_the_middle
        with NodeProcess(spool, target.name, "--series-timeout", "2") as node:
            # The sender has not heard of the first one's Success, say.
            assert send(node.port, files[1]) == [SUCCESS] * 3
            sent.set()
            wait_until(lambda: killed, "the second instance")
            node.process.wait()
        with NodeProcess(spool, target.name, "--series-timeout", "2") as node:
            target.wait_for(6)
            wait_until(lambda: not list(spool.glob("[rcpf]*ed/*")), "an empty spool")
            assert node.terminate() == 0
        assert Counter(target.received) == Counter(dict.fromkeys(wanted, 1))
        for uid, path in wanted.items():
            assert target.datasets[uid] == dataset_bytes(path)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--forward", "PACS"), 2, "--forward is AE@host:port"),
        (("--forward", "PACS@127.0.0.1:104", "--accept", "X"), 2, "--accept is AE@host"),
        (("--forward", "PACS@127.0.0.1:104", "--backend", "no-such"), 2, "no-such"),
    ],
)
def test_what_cannot_work_is_refused_before_it_listens(tmp_path, more, code, message):
    """An engineer sees it at once, not at the first patient."""
    done = subprocess.run(
        [*(sys.executable, "-m", "kspacesr_rt", "serve"), "--spool", str(tmp_path / "s"), *more],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert "listening" not in done.stderr
