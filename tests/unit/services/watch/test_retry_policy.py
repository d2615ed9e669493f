"""What follows from an error in a watch: how long it pauses, whom it blames, when it gives up."""

import shutil

import fault_cases
import pytest

from kspacesr_rt.errors import OutputError
from kspacesr_rt.services.watch import arrivals, change_events, retry_policy
from kspacesr_rt.services.watch.arrivals import Arrivals
from kspacesr_rt.services.watch.change_events import NotifiedEvents
from kspacesr_rt.services.watch.retry_policy import (
    MAX_ATTEMPTS,
    MAX_SET_ASIDE,
    RetryPolicy,
    is_disk_error,
)

ONE, OTHER, THIRD = ("1", "1.1"), ("1", "1.2"), ("2", "2.1")


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(retry_policy, "time", clock)
    return clock


def test_pauses_double_up_to_their_cap_until_a_round_goes_through(clock):
    """A disk that is full for a night is not asked ten times a second."""
    met = RetryPolicy(retry_max_s=5.0)
    assert not met.paused
    assert [met.pause() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert met.paused
    clock.now += 4.9
    assert met.paused
    clock.now += 0.2
    assert not met.paused
    met.round_ended()
    assert met.pause() == 1.0


def test_of_a_round_of_several_series_none_is_blamed_but_each_is_tried_alone(clock):
    """Which of them it was is found out one by one."""
    met = RetryPolicy(retry_max_s=5.0)
    for _ in range(2 * MAX_ATTEMPTS):
        assert not met.record_failure({ONE, OTHER}, n_series=2)
    assert met.alone == {ONE, OTHER}
    assert met.on_hold == set()
    met.forget(ONE)
    assert met.alone == {OTHER}


def test_a_series_is_held_for_longer_after_each_attempt_and_then_set_aside(clock):
    """A fault that passes by itself deserves a second try, not a thousand."""
    met, waits = RetryPolicy(retry_max_s=5.0), []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert met.record_failure({ONE}, n_series=1) is (attempt == MAX_ATTEMPTS)
        before = clock.now
        while met.on_hold:
            clock.now += 0.5
        waits.append(clock.now - before)
    assert waits == [2.0, 4.0, 0.0]  # set aside, it is held no longer: it has its outcome
    assert met.alone == met.on_hold == set()
    assert not met.record_failure({ONE}, n_series=1)  # it changed, and begins anew


def test_it_gives_up_after_series_in_a_row_without_a_slice(clock):
    """A device that fell off the bus; one slice that is written shows that it did not."""
    met = RetryPolicy(retry_max_s=5.0)

    def set_aside(key):
        for _ in range(MAX_ATTEMPTS):
            met.record_failure({key}, n_series=1)

    for key in (ONE, OTHER):
        set_aside(key)
    assert MAX_SET_ASIDE == 3
    assert not met.is_permanent
    met.slice_written()
    set_aside(THIRD)
    assert not met.is_permanent
    for key in (ONE, OTHER):
        set_aside(key)
    assert met.is_permanent


def raised(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (raised(OutputError("full"), OSError(28, "No space left on device")), True),
        (raised(OutputError("taken"), FileExistsError(17, "File exists")), False),
        (raised(OutputError("a value"), OSError("pydicom's own")), False),
        (OutputError("reads back differently"), False),
        (raised(RuntimeError("x"), OSError(28, "No space left on device")), False),
    ],
)
def test_a_full_disk_is_no_series_fault_and_a_taken_name_is(error, expected):
    """The one pauses everything, the other sets its series aside."""
    assert is_disk_error(error) is expected


@pytest.fixture
def two_series(tmp_path):
    """Return a look at a folder of two series that are at rest, and their keys, oldest first."""
    for name in ("one", "other"):
        fault_cases.make_slices(tmp_path / "in" / name, 2, salt=name)
    seen = Arrivals(tmp_path / "in", settle_s=0.0)
    seen.look(None)
    found = seen.ready(at_most=100)
    return seen, [arrivals.key_of(series.slices[0]) for series in found.series]


def keys_of(scan):
    return {arrivals.key_of(series.slices[0]) for series in scan.series} if scan else set()


def test_what_is_held_is_not_taken(two_series):
    """The others go on meanwhile."""
    seen, [one, other] = two_series
    assert keys_of(seen.ready(at_most=100, held={one})) == {other}
    assert keys_of(seen.ready(at_most=100, held={one, other})) == set()


def test_what_ended_a_round_is_taken_alone(two_series):
    """Else it would take the others with it again."""
    seen, [one, other] = two_series
    assert keys_of(seen.ready(at_most=100, alone={other})) == {other}
    assert keys_of(seen.ready(at_most=100, alone={one, other}, held={one})) == {other}


def test_a_series_waits_for_rest_and_a_change_begins_the_wait_anew(tmp_path):
    """Its last file decides."""
    clock, folder = Clock(), tmp_path / "in"
    files = fault_cases.make_slices(tmp_path / "stock", 2)
    folder.mkdir()
    seen = Arrivals(folder, settle_s=10.0, clock=clock.monotonic)
    seen.look(None)
    shutil.copy(files[0], folder)
    seen.look(None)
    clock.now += 9.0
    shutil.copy(files[1], folder)
    seen.look(None)
    clock.now += 9.0
    seen.look(None)
    assert seen.ready(at_most=100) is None
    clock.now += 1.5
    assert seen.ready(at_most=100) is None, "nothing is known of the time since the last look"
    seen.look(None)
    assert seen.ready(at_most=100).n_slices == 2


@pytest.mark.parametrize(("every_s", "expected"), [(600.0, [None, set()]), (0.0, [None, None])])
def test_everything_is_looked_at_now_and_then_although_nothing_is_notified(
    tmp_path, monkeypatch, every_s, expected
):
    """A queue of notifications that overflowed tells of nothing that was in it."""
    pytest.importorskip("watchdog")
    monkeypatch.setattr(change_events, "RESCAN_S", every_s)
    notified = NotifiedEvents(tmp_path)
    assert [notified.changed_folders() for _ in range(2)] == expected


def test_a_folder_in_the_place_of_another_is_looked_into(tmp_path):
    """Its name is known: only that it was moved there tells that it holds something else."""
    pytest.importorskip("watchdog")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    seen: set = set()
    with NotifiedEvents(tmp_path) as notified:
        notified.changed_folders()
        (tmp_path / "one").rename(tmp_path / "old")
        (tmp_path / "other").rename(tmp_path / "one")
        assert fault_cases.wait_until(
            lambda: seen.update(notified.changed_folders() or ()) or tmp_path / "one" in seen
        )
