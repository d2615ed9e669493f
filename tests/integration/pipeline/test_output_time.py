"""The environment's time is named when it cannot be read, and no file is blamed for it."""

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError
from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.sample import sample_folder
from kspacesr_rt.services.watch import watch
from kspacesr_rt.system.output_time import (
    fixed_time,
    in_local_time,
    output_time,
    unusable_time_zone,
)

BAD = ("abc", "1700000000.5", "99999999999999", "-1", "1_000", " 5", "²", "1" * 400, "nan")


@pytest.fixture
def zone(monkeypatch):
    """Return what sets the time zone of this process."""

    def put(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield put
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("text", BAD)
def test_an_epoch_that_is_none_is_named_once(text, tmp_path, monkeypatch):
    """Every file was called unreadable, and none was."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH is a whole number of seconds") as one:
        infer(sample_folder(), tmp_path / "out", InferOptions(backend="zero-fill"))
    assert one.value.hint.startswith("unset it")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH"):
        watch(sample_folder(), tmp_path / "out", InferOptions(backend="zero-fill"))
    told = CliRunner().invoke(app, ["infer", str(sample_folder()), str(tmp_path / "out")])
    assert told.exit_code == 2
    assert "SOURCE_DATE_EPOCH" in told.output


def test_an_epoch_that_is_one(monkeypatch):
    """Up to the last day of the year 9999, which is the year 10000 elsewhere; empty is unset."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "253402214399")
    assert output_time().isoformat() == "9999-12-30T23:59:59+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "253402214400")
    with pytest.raises(InputError, match="9999"):
        output_time()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    assert fixed_time() is None


@pytest.mark.parametrize(
    "name",
    ["XXX+25", "XXX-24", "XXX+167", "Nope/Where", "Europe/Berlni", ":Nope", "CEST+x", "x" * 5000],
)
def test_a_time_zone_that_cannot_be_is_utc_and_said_once(name, zone, tmp_path, monkeypatch):
    """A day or more off UTC: Python has no such offset. A misspelt name: C says nothing."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    zone(name)
    report = infer(sample_folder(), tmp_path / "out", InferOptions(backend="zero-fill"))
    assert report.exit_code == 0
    assert report.backend_notes.count(unusable_time_zone()) == 1
    assert unusable_time_zone().startswith("TZ names no time zone")
    assert in_local_time(output_time()).utcoffset().total_seconds() == 0


def test_a_time_zone_that_can_be_is_taken(zone):
    """Nothing is said of it."""
    here = Path("/usr/share/zoneinfo/Europe/Berlin")
    files = ("Europe/Berlin", ":Europe/Berlin", str(here)) if here.is_file() else ()
    rules = ("CET-1CEST,M3.5.0,M10.5.0/3", "<+0530>-5:30", "EST5EDT", "<-03>3", "AAA0BBB,J60,J300")
    for name in ("", "UTC", "GMT", *files, *rules):
        zone(name)
        assert unusable_time_zone() is None, name
    zone("XXX-3")
    assert unusable_time_zone() is None
    assert in_local_time(output_time()).utcoffset().total_seconds() == 3 * 3600
