"""What the tests of the node share: tiny series, a node in a process of its own, and a target."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ

from kspacesr_rt.dicom.uids import stable_uid
from kspacesr_rt.pipeline import InferOptions
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.services.node import Log, Node, NodeOptions, parse_target
from kspacesr_rt.services.node.spool import Spool

PATIENT = "SECRET^PATIENT"
EPOCH = "1700000000"
"""Frees two runs from the clock, so that their outputs are equal to the byte."""
NOWHERE = parse_target("PACS@192.0.2.1:104")
"""A target of which nothing is ever heard (RFC 5737)."""
PATIENCE_S = 90
"""Machines that run the tests are slow and busy; only a failing test waits as long."""


def make_series(folder: Path, number: int, n_slices: int = 3, *, study: str = "a", first: int = 0):
    """Write a small MR series made from the shipped sample; return its paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, source in enumerate(sorted(sample_folder().glob("*.dcm"))[first : first + n_slices]):
        ds = dcmread(source)
        pixels = np.ascontiguousarray(ds.pixel_array[96:128, 96:124] + number)
        ds.Rows, ds.Columns = pixels.shape
        ds.PixelData = pixels.tobytes()
        for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue", "AcquisitionMatrix"):
            if keyword in ds:
                delattr(ds, keyword)
        ds.PatientName, ds.PatientID = PATIENT, "SECRET-ID"
        ds.StudyInstanceUID = stable_uid("study", study)
        ds.SeriesInstanceUID = stable_uid("series", study, number)
        ds.SOPInstanceUID = stable_uid("instance", study, number, first + index)
        ds.SeriesNumber, ds.InstanceNumber = number, first + index + 1
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        path = folder / f"{number}-{first + index}.dcm"
        dcmwrite(path, ds, enforce_file_format=True)
        paths.append(path)
    return paths


def derived_from(paths, folder: Path) -> dict[str, Path]:
    """Return what `infer` makes of files, by SOP Instance UID: what a node must deliver."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from kspacesr_rt.pipeline import InferOptions, infer\n"
        "options = InferOptions(backend='zero-fill', name='uid')\n"
        "infer(Path(sys.argv[1]), Path(sys.argv[2]), options)\n"
    )
    inputs = folder / "in"
    inputs.mkdir(parents=True)
    for number, path in enumerate(paths):
        (inputs / f"{number}.dcm").write_bytes(path.read_bytes())
    subprocess.run(
        [sys.executable, "-c", code, str(inputs), str(folder / "out")],
        check=True,
        env=environment(),
    )
    return {path.stem: path for path in (folder / "out").glob("*/*.dcm")}


def dataset_bytes(file: Path | bytes) -> bytes:
    """Return a data set as it is encoded, without the File Meta Information."""
    content = file if isinstance(file, bytes) else file.read_bytes()
    stream = io.BytesIO(content)
    meta = dcmread(stream, stop_before_pixels=True).file_meta
    # (0002,0000) counts what follows its own 12 bytes, behind preamble and prefix.
    return content[132 + 12 + int(meta.FileMetaInformationGroupLength) :]


def find_dcmtk(name: str) -> str | None:
    """Return a program of dcmtk; pynetdicom puts its own ones of the same names into its folder."""
    folders = [*os.environ["PATH"].split(os.pathsep), "/usr/bin"]
    own = Path(sys.executable).parent
    # Any environment's folder, not only this one's: one may have been activated in another.
    foreign = (one for one in folders if Path(one) != own and not _is_environment(Path(one)))
    return shutil.which(name, path=os.pathsep.join(foreign))


def _is_environment(folder: Path) -> bool:
    return (folder.parent / "pyvenv.cfg").exists()


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": EPOCH}


class NodeProcess:
    """``kspacesr-rt serve`` on ephemeral ports; its log is read line by line."""

    def __init__(self, spool: Path, target: str, *more: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "kspacesr_rt", "serve", "--port", "0", "--http-port", "0"),
                *("--spool", str(spool), "--forward", target, "--backend", "zero-fill"),
                *("--retry-max", "1", *more),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.lines: list[str] = []
        self._events: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        line = self.wait_for("listening")
        self.port = int(re.search(r" port=(\d+)", line)[1])
        self.http_port = int(re.search(r"http_port=(\d+)", line)[1])

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)
            self._events.put(line)
        self._events.put("")

    def wait_for(self, event: str) -> str:
        """Return the next line that tells of an event."""
        while True:
            line = self._events.get(timeout=PATIENCE_S)
            assert line, "the node has ended:\n" + "".join(self.lines)
            if f"event={event}" in line:
                return line

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=PATIENCE_S)

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        if self.process.poll() is None:
            self.kill()
        self._reader.join(PATIENCE_S)  # it may still hold a line of a process that has ended
        self.process.stderr.close()


class Running:
    """A node in a thread, on a port that the system chose."""

    def __init__(self, spool, *, infer=None, **how) -> None:
        options = {"ae_title": "KSPACESR", "targets": (NOWHERE,), "spool": spool, "port": 0}
        self.text = io.StringIO()
        self.node = Node(
            NodeOptions(**options | how),
            infer or InferOptions(backend="zero-fill"),
            Log(self.text),
        )
        self.thread = threading.Thread(target=self.node.run)

    def __enter__(self):
        self.thread.start()
        wait_until(lambda: "event=listening" in self.text.getvalue(), "the node")
        [line] = [one for one in self.text.getvalue().splitlines() if "event=listening" in one]
        self.port = int(line.partition(" port=")[2].split()[0])
        return self

    def __exit__(self, *exc) -> None:
        self.node.stop()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()

    def sends(self, host, path, title="SENDER"):
        """Send an instance; return its status, or None if nobody listens to us."""
        with association(self.port, calling=title, host=host) as held:
            return store(held, path) if held.is_established else None


class TargetServer:
    """A storage SCP in a thread, which counts what it acknowledged."""

    def __init__(
        self, *, syntaxes=(ExplicitVRLittleEndian, ImplicitVRLittleEndian), address="127.0.0.1"
    ) -> None:
        self.received: list[str] = []
        self.datasets: dict[str, bytes] = {}
        self.classes = [str(MRImageStorage)]
        self.answer = lambda n: 0x0000
        self.fall_over = lambda uid: False
        self._syntaxes, self._server, self.port = list(syntaxes), None, 0
        self._address = address

    def start(self):
        ae = AE(ae_title="PACS")
        for sop_class in self.classes:
            ae.add_supported_context(sop_class, self._syntaxes)
        self._server = ae.start_server(
            (self._address, self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._on_store)],
        )
        self.port = self._server.server_address[1]
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.ae.shutdown()
            self._server = None

    def _on_store(self, event) -> int:
        if self.fall_over(event.request.AffectedSOPInstanceUID):
            event.assoc.abort()
            return 0xC000
        status = self.answer(len(self.received))
        if status == 0x0000:
            uid = str(event.request.AffectedSOPInstanceUID)
            self.received.append(uid)
            self.datasets[uid] = event.encoded_dataset(include_meta=False)
        return status

    @property
    def name(self) -> str:
        return f"PACS@127.0.0.1:{self.port}"

    def sources(self) -> set[str]:
        """Return the SOP Instance UIDs that the received instances were derived from."""
        return {
            str(item.ReferencedSOPInstanceUID)
            for content in list(self.datasets.values())
            for item in read_dataset(io.BytesIO(content), False, True).SourceImageSequence
        }

    def wait_for(self, n: int) -> None:
        wait_until(lambda: len(self.received) >= n, f"{n} instances at the target")

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc) -> None:
        self.stop()


@contextlib.contextmanager
def no_series_ends():
    """Let no series be taken for complete meanwhile, however long this machine stalls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spool, "close", lambda spool, *args, **how: [])
        yield


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def association(
    port: int,
    *,
    called="KSPACESR",
    calling="SENDER",
    syntaxes=None,
    echo=False,
    host="127.0.0.1",
    source="",
):
    """Associate as a sender does; yields the association, established or not.

    ``source`` is the address of this machine that it comes from, if not the system's choice.
    """
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = PATIENCE_S
    if echo:
        ae.add_requested_context("1.2.840.10008.1.1")
    else:
        ae.add_requested_context(MRImageStorage, syntaxes or [ExplicitVRLittleEndian])
    refusals = []

    def note(event):
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            refusals.append(event.pdu.to_primitive())

    handlers = [(evt.EVT_PDU_RECV, note)]
    where = {"bind_address": (source, 0)} if source else {}
    held = ae.associate(host, port, ae_title=called, evt_handlers=handlers, **where)
    # A refusal that closes before this thread runs again is no refusal to pynetdicom.
    held.refusal = refusals[0] if refusals else None
    # Its own thread may take an answer for a request and drop it, on a machine as busy as ours.
    get_message = held.dimse.get_msg
    held.dimse.get_msg = lambda block=False: get_message(block) if block else (None, None)
    try:
        yield held
    finally:
        if held.is_established:
            held.release()


@contextlib.contextmanager
def few_files(spare: int):
    """Leave this process so many file descriptors."""
    import resource  # no other system than Linux has what follows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    free = [number for number in range(max(used) + spare + 2) if number not in used]
    # Listing them took one of them.
    gaps = [os.dup(0) for _ in [number for number in free if number < max(used)]]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(used | set(gaps)) + 1 + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in gaps:
            os.close(number)


def send(port: int, paths, **how) -> list[int]:
    """Send files over one association; return the answers."""
    with association(port, **how) as held:
        assert held.is_established
        return [store(held, path) for path in paths]


def store(held, file) -> int:
    return int(held.send_c_store(dcmread(file) if isinstance(file, Path) else file).Status)
