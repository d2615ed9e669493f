"""With Orthanc, a PACS that others wrote, as source and as target, and a crash in between."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from node_cases import (
    NodeProcess,
    association,
    dataset_bytes,
    derived_from,
    find_dcmtk,
    make_series,
    store,
    wait_until,
)
from pydicom import dcmread

ORTHANC = shutil.which("Orthanc", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))

pytestmark = pytest.mark.skipif(
    ORTHANC is None, reason="Orthanc is not installed (Debian: apt-get install orthanc)"
)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


class Archive:
    """An Orthanc of its own, which knows nobody but this machine."""

    def __init__(self, folder) -> None:
        self.http_port, self.dicom_port = free_port(), free_port()
        folder.mkdir()
        config = {
            "Name": "kspacesr-rt test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "Plugins": [],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom_port,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomCheckModalityHost": True,
            "DicomModalities": {"finder": ["FINDSCU", "127.0.0.1", 104]},
        }
        (folder / "orthanc.json").write_text(json.dumps(config))
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [ORTHANC, str(folder / "orthanc.json")], stdout=self.log, stderr=self.log, cwd=folder
        )
        wait_until(self._answers, "Orthanc")

    def _answers(self) -> bool:
        assert self.process.poll() is None, Path(self.log.name).read_text()
        try:
            return bool(self.get("/system"))
        except OSError:
            return False

    def request(self, path, data=None, method=None) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}{path}", data=data, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def get(self, path):
        return json.loads(self.request(path))

    def post(self, path, value):
        return json.loads(self.request(path, json.dumps(value).encode()))

    def name(self, port) -> None:
        """Tell where the node is."""
        place = json.dumps(["KSPACESR", "127.0.0.1", port]).encode()
        self.request("/modalities/node", place, method="PUT")

    def n_instances(self) -> int:
        return self.get("/statistics")["CountInstances"]

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)
        self.log.close()


def test_studies_go_from_an_archive_through_the_node_and_back(tmp_path):
    """Three interleaved series from two senders; the node is killed while it answers them."""
    series = [make_series(tmp_path / "source", number) for number in (1, 2, 3)]
    everything = [path for paths in series for path in paths]
    wanted = derived_from(everything, tmp_path / "wanted")
    assert len(wanted) == 9
    spool = tmp_path / "spool"
    with Archive(tmp_path / "orthanc") as archive:
        names = {
            path: json.loads(archive.request("/instances", path.read_bytes()))["ID"]
            for path in everything
        }
        target = f"ORTHANC@127.0.0.1:{archive.dicom_port}"
        more = ("--series-timeout", "3", "--accept", "ORTHANC@127.0.0.1", "--accept", "B@127.0.0.1")
        with NodeProcess(spool, target, *more) as node:
            archive.name(node.port)
            by_archive = [names[path] for trio in zip(*series, strict=True) for path in trio][:-2]
            sent = []
            sender = threading.Thread(
                target=lambda: sent.append(
                    archive.post(
                        "/modalities/node/store", {"Resources": by_archive, "Synchronous": True}
                    )
                )
            )
            sender.start()
            with association(node.port, calling="B") as held:
                # The last two of series 2 and 3, and one that the archive sends, too.
                for path in (series[2][2], series[0][0], series[1][2]):
                    assert store(held, path) == 0x0000
            sender.join()
            assert sent[0]["FailedInstancesCount"] == 0
            wait_until(lambda: archive.n_instances() > 9, "the first derived instance")
            node.kill()
        with NodeProcess(spool, target, *more) as node:
            wait_until(lambda: archive.n_instances() >= 18, "every derived instance")
            wait_until(lambda: not list(spool.glob("[rcpf]*ed/*")), "an empty spool")
            assert node.terminate() == 0
        _check_archive(archive, wanted)
        lines = [line for path in spool.glob("sent/*/*") for line in path.read_text().split()]
        assert Counter(lines) == Counter(dict.fromkeys(wanted, 1))


def _check_archive(archive, wanted) -> None:
    """Nothing more, nothing less, nothing else, in one study, and it can be looked at."""
    assert archive.n_instances() == 18
    [study] = archive.get("/studies?expand")
    assert len(study["Series"]) == 6
    described = [one["MainDicomTags"]["SeriesDescription"] for one in archive.get("/series?expand")]
    assert sum("[SR x2 RESEARCH]" in text for text in described) == 3
    found = {
        one["MainDicomTags"]["SOPInstanceUID"]: one["ID"]
        for one in archive.get("/instances?expand")
    }
    assert set(wanted) < set(found)
    for uid, path in wanted.items():
        stored = archive.request(f"/instances/{found[uid]}/file")
        assert dataset_bytes(stored) == dataset_bytes(path)
        picture = archive.request(f"/instances/{found[uid]}/preview")
        assert picture.startswith(b"\x89PNG")
        ds = dcmread(path)
        assert struct.unpack(">II", picture[16:24]) == (ds.Columns, ds.Rows)
    if findscu := find_dcmtk("findscu"):
        asked = subprocess.run(
            [
                *(findscu, "-S", "-aec", "ORTHANC", "-k", "QueryRetrieveLevel=SERIES"),
                *("-k", f"StudyInstanceUID={ds.StudyInstanceUID}", "-k", "SeriesInstanceUID"),
                *("127.0.0.1", str(archive.dicom_port)),
            ],
            capture_output=True,
            text=True,
        )
        told = asked.stdout + asked.stderr
        assert f"[{ds.SeriesInstanceUID}" in told
        assert told.count("Find Response:") == 6, told
