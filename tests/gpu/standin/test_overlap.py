"""The real CUDA provider with two batches under way: what is pinned, copied, held and waited for.

Kernels of the stand-in do nothing and its copies are made at once, so it shows in which stream and
order things were asked for, never that they took place at the same time.
"""

from __future__ import annotations

import pytest

SIZE = (64, 49)
BATCHES = [2, 2, 2, 2, 2]
SAMPLE_BYTES = 4
SUMS = 6
COPIES_A_BATCH = 6
"""In, to the session, from it twice (result and sums), and back twice."""


@pytest.fixture(scope="module")
def seen(shared_machine):
    """Return what was seen of full batches, and of one that is smaller."""
    cases = [
        {"model": "x2-fast", "matrix": SIZE, "overlap": BATCHES},
        {"model": "x2-fast", "matrix": SIZE, "overlap": [2, 2, 1, 2, 2]},
        {"model": "x4-base", "matrix": SIZE, "overlap": [1, 1, 1], "precision": "fp16"},
    ]
    return shared_machine.probe(cases)


def calls_of(seen, what, batch):
    """Return what was asked for in a step."""
    (step,) = [one for one in seen["steps"] if (one["what"], one["batch"]) == (what, batch)]
    return [(event, details.split()) for _, event, details in step["calls"]]


def copies(calls):
    """Return direction, bytes, pinned or not, and stream of copies."""
    found = []
    for event, details in calls:
        if event.startswith("copy"):
            direction, size, _, _, kind, stream = details
            found.append((event, direction, int(size), kind, stream))
    return found


@pytest.mark.parametrize("case", [0, 2])
def test_a_batch_is_sent_before_the_one_before_it_is_waited_for(seen, case):
    """Once graphs are captured, nothing in the way of a batch waits for anything."""
    steps = [(one["what"], one["batch"]) for one in seen[case]["steps"]]
    assert steps.index(("start", 2)) < steps.index(("result", 1))
    last = len(seen[case]["shapes"]) - 1
    for number in range(2, last + 1):
        asked = [event for event, _ in calls_of(seen[case], "start", number)]
        assert "synchronize" not in asked
        assert "malloc" not in asked
        assert "pinned" not in asked
        assert asked.count("launch") == 2  # the model, and the sums over spectra
        assert "unhandled" not in asked
    waits = [event for event, _ in calls_of(seen[case], "result", last)]
    assert waits == ["synchronize"]  # and no copy: the result lies in pinned memory


def test_copies_are_asynchronous_from_and_to_pinned_memory(seen):
    """From pageable memory the driver would copy through its own, and make the host wait."""
    rows, columns = SIZE
    lr, sr = (2 * rows * columns * SAMPLE_BYTES * n for n in (1, 4))
    sums = 2 * SUMS * SAMPLE_BYTES
    for number in range(2, len(BATCHES)):
        made = copies(calls_of(seen[0], "start", number))
        assert len(made) == COPIES_A_BATCH
        assert {event for event, *_ in made} == {"copy_async"}
        assert [(direction, size, kind) for _, direction, size, kind, _ in made] == [
            ("h2d", lr, "pinned"),
            ("d2d", lr, "-"),
            ("d2d", sr, "-"),
            ("d2d", sums, "-"),
            ("d2h", sr, "pinned"),
            ("d2h", sums, "pinned"),
        ]


def test_copies_have_streams_of_their_own_and_wait_by_events(seen):
    """In one stream they would wait for computing; without events they would not wait enough."""
    for number in range(2, len(BATCHES)):
        calls = calls_of(seen[0], "start", number)
        streams = {direction: stream for _, direction, _, _, stream in copies(calls)}
        assert len(set(streams.values())) == 3
        launched = {details[1] for event, details in calls if event == "launch"}
        assert launched == {streams["d2d"]}
        happens = {
            details[0]: (at, details[1])
            for at, (event, details) in enumerate(calls)
            if event == "happens"
        }
        held = [(at, *details) for at, (event, details) in enumerate(calls) if event == "held"]
        assert [stream for _, _, stream in held] == [streams["d2d"], streams["d2h"]]
        for (at, event, _), source in zip(held, (streams["h2d"], streams["d2d"]), strict=True):
            assert happens[event][0] < at
            assert happens[event][1] == source


def test_two_batches_have_memory_of_their_own(seen):
    """What is copied in next must not overwrite what is computed, or not yet fetched."""
    addresses = []
    for number in range(2, len(BATCHES)):
        calls = [
            details
            for event, details in calls_of(seen[0], "start", number)
            if event == "copy_async"
        ]
        addresses.append({place for details in calls for place in details[2:4]})
    shared = addresses[0] & addresses[1]
    assert len(shared) == 3  # the session's own input, output and sums
    assert addresses[0] & addresses[2] == addresses[0]  # every second batch has the same


def test_memory_is_that_of_two_batches_and_is_given_back(seen):
    """However many batches there are, of whatever sizes."""
    for one in seen:
        calls = [
            (event, details.split()) for step in one["steps"] for _, event, details in step["calls"]
        ]
        pinned = [details for event, details in calls if event == "pinned"]
        assert len(pinned) == 2 * 3  # input, result and sums of either
        assert sum(event == "unpinned" for event, _ in calls) == len(pinned)
        assert one["notes"] == []
        assert one["errors"] == {}
        assert one["copied_s"] == pytest.approx(0.002 * len(one["shapes"]))  # 1 ms a copy, it says


def test_every_batch_comes_back_with_its_sums(seen):
    """In the order they were started, smaller ones too."""
    assert [shape[0] for shape in seen[1]["shapes"]] == seen[1]["sums"] == [2, 2, 1, 2, 2]
    assert {tuple(shape[1:]) for shape in seen[1]["shapes"]} == {(1, 128, 98)}


def test_captured_graphs_hold_no_copy_of_the_sums_either(seen):
    """The graph beside the model's: all of it on the GPU, and nothing from the host."""
    captured = [
        (event, details)
        for step in seen[0]["steps"]
        for is_captured, event, details in step["calls"]
        if is_captured
    ]
    assert sum(event == "begin_capture" for event, _ in captured) in (0, 2)
    for event, details in captured:
        assert event not in ("malloc", "free", "pinned", "synchronize", "copy", "unhandled")
        assert event != "copy_async" or details.startswith("d2d")


def test_without_memory_for_two_batches_one_is_computed_at_a_time(machine):
    """That is said, and is no error."""
    rows, columns = SIZE
    room = int(1.5 * 2 * rows * columns * 5 * SAMPLE_BYTES)
    (found,) = machine.probe(
        [{"model": "x2-fast", "matrix": SIZE, "overlap": [2, 2, 2]}], PINNED=room
    )
    assert found["notes"] == [
        "the GPU's memory does not hold two batches: copies wait for computing"
    ]
    assert found["errors"] == {}
    assert [shape[0] for shape in found["shapes"]] == [2, 2, 2]
    assert found["sums"] == [2, 0, 0]  # NumPy measures the others


@pytest.mark.parametrize("after", [0, 3, 6])
def test_a_lost_device_is_met_by_the_batches_that_it_was_lost_over(machine, after):
    """Those before have their results; none is left hanging, and nothing raises at the end."""
    (found,) = machine.probe(
        [{"model": "x2-fast", "matrix": SIZE, "overlap": [2] * 5}], LOST_AFTER=after
    )
    text = "the GPU failed while it computed: CUDA failure 719: unspecified launch failure"
    assert set(found["errors"].values()) == {text}
    failed = sorted(map(int, found["errors"]))
    assert failed == list(range(failed[0], 5))
    assert len(found["shapes"]) == failed[0]
    assert after // 2 - failed[0] in (0, 1)  # two launches a batch, and one batch more under way
