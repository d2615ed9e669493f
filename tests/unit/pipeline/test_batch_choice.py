"""The batch that is chosen: as fast as the fastest, no larger, within memory and latency."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kspacesr_rt.pipeline import batch_choice
from kspacesr_rt.pipeline.batch_choice import (
    GAIN,
    GPU_SHARE,
    HOST_BYTES,
    LARGEST,
    LATENCY_S,
    ON_CPU,
    UNSEEN_LARGEST,
    measured_batch,
    settled_batch,
)
from kspacesr_rt.pipeline.batch_size import batch_text
from kspacesr_rt.runtime.gpu_memory import halved_note

SLICE = np.ones((1, 1, 64, 48), np.float32)
GB = 1 << 30


class Card:
    """A GPU whose time and memory follow from the batch; its clock is its own."""

    def __init__(self, seconds_of, *, slice_bytes=0, total=80 * GB, known=True):
        self.spec = SimpleNamespace(upscale=2)
        self._seconds_of, self._slice_bytes = seconds_of, slice_bytes
        self.now, self.used, self.total, self._known = 0.0, GB, total, known
        self.sizes = []
        self.notes = ()

    def run(self, batch):
        self.sizes.append(len(batch))
        self.now += self._seconds_of(len(batch))
        self.used = max(self.used, GB + len(batch) * self._slice_bytes)
        if self.used > self.total:
            raise MemoryError
        return np.repeat(np.repeat(batch, 2, axis=2), 2, axis=3)

    def choose(self, values=SLICE):
        return measured_batch(
            self,
            values,
            clock=lambda: self.now,
            used_bytes=lambda: (self.used, self.total) if self._known else None,
        )


class HalvingCard(Card):
    """Takes two slices at once, and more in parts, as backends do once their memory was full."""

    def run(self, batch):
        if len(batch) > 2:
            self.notes = self.notes or (halved_note(len(batch)),)
            return np.concatenate([super(HalvingCard, self).run(one[None]) for one in batch])
        return super().run(batch)


def test_what_is_computed_in_parts_is_no_batch():
    """However fast: larger ones would not be at once either, and the report would say they were."""
    card = HalvingCard(call_cost(1e-4, 1e-3, 64))
    choice = card.choose()
    assert choice.batch <= 2
    assert [size for size, _ in choice.measured] == [1, 2]
    assert choice.reason.endswith("the GPU's memory does not hold 4 at once")


def call_cost(call_s, slice_s, most_at_once=LARGEST):
    """Return the seconds of a batch: a cost a call, and one that some slices share."""
    return lambda n: call_s + slice_s * max(1.0, n / most_at_once)


def test_a_cost_a_call_is_shared_out_until_the_card_is_busy():
    """It computes 8 slices in the time of one: 16 gain nothing beyond what 8 do."""
    chosen = Card(lambda n: 1e-4 * max(1.0, n / 8)).choose()
    assert chosen.batch == 8
    assert "more at once gain nothing" in chosen.reason
    assert max(size for size, _ in chosen.measured) <= 32


def test_where_every_slice_costs_the_same_one_at_a_time_is_enough():
    """A larger batch would only make the first slice later."""
    card = Card(lambda n: 1e-3 * n)
    assert card.choose().batch == 1
    assert max(card.sizes) <= 4


def test_a_batch_is_over_within_the_latency():
    """However much faster a larger one were."""
    chosen = Card(lambda n: 0.02 + 0.006 * n).choose()
    assert chosen.batch == 4
    assert dict(chosen.measured)[chosen.batch] <= LATENCY_S
    assert "compute for more than 50 ms" in chosen.reason


def test_a_slice_that_takes_longer_than_the_latency_is_computed_alone():
    """There is no smaller batch."""
    assert Card(lambda n: 0.2 * n).choose().batch == 1


@given(
    slice_bytes=st.integers(0, 40 * GB),
    total=st.integers(42 * GB, 200 * GB),
    call_s=st.floats(0, 1e-3),
    slice_s=st.floats(1e-6, 1e-2),
)
def test_what_is_tried_fits_if_one_does(slice_bytes, total, call_s, slice_s):
    """A card that ran full would have its batches halved for the rest of the run."""
    card = Card(lambda n: call_s + n * slice_s, slice_bytes=slice_bytes, total=total)
    free = total - GB
    chosen = card.choose()
    assert card.used <= total
    for n in sorted(set(card.sizes) - {1}):
        assert n // 2 * slice_bytes <= GPU_SHARE * (free - n // 2 * slice_bytes)
    rates = {size: size / seconds for size, seconds in chosen.measured}
    assert rates[chosen.batch] * GAIN >= max(rates.values())


def test_without_the_drivers_word_little_is_tried():
    """Nobody knows what else is on the card."""
    chosen = Card(call_cost(1e-3, 1e-4), known=False).choose()
    assert chosen.batch == UNSEEN_LARGEST
    assert "memory is not known" in chosen.reason


def test_large_slices_are_bounded_by_the_hosts_memory():
    """They lie there several times, in and out."""
    values = np.ones((1, 1, 2048, 2048), np.float32)
    card = Card(call_cost(1e-3, 1e-4))
    chosen = card.choose(values)
    assert max(card.sizes) * values.nbytes * 5 <= HOST_BYTES
    assert "256 MB" in chosen.reason


@pytest.mark.parametrize(
    ("matrix", "batch"), [((64, 48), 8), ((32, 24), 8), ((128, 48), 4), ((640, 480), 1)]
)
def test_a_larger_matrix_has_smaller_batches(matrix, batch):
    """Of the same memory."""
    assert Card(lambda n: 1e-4 * max(1.0, n / 8)).choose().at(matrix) == batch


def test_on_a_cpu_nothing_is_measured():
    """Streams are what a CPU has; it says so."""
    chosen = settled_batch("auto", on_gpu=False)
    assert (chosen.batch, chosen.at((512, 512)), chosen.reason) == (1, 1, ON_CPU)
    assert settled_batch("auto", on_gpu=True) is None


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_number_is_a_number(on_gpu):
    """For every matrix."""
    assert settled_batch(12, on_gpu=on_gpu).at((4096, 4096)) == 12


def test_a_choice_is_said_in_words_and_in_json():
    """Under ``-v`` with what was measured."""
    chosen = Card(lambda n: 1e-4 * max(1.0, n / 8)).choose()
    assert batch_text(chosen.to_dict(), verbose=False) == "batch 8, chosen by auto (-v says why)"
    lines = batch_text(chosen.to_dict(), verbose=True).splitlines()
    assert "  8 at once: 80000 slices/s, 0.1 ms a batch" in lines
    stored = json.loads(json.dumps(chosen.to_dict(), allow_nan=False))
    assert (stored["asked"], stored["batch"], stored["matrix"]) == ("auto", 8, [64, 48])


def test_a_driver_that_says_nothing_is_no_error(monkeypatch):
    """As on this machine: no GPU."""

    def unknown():
        raise batch_choice.GpuUnknown("no driver")

    monkeypatch.setattr(batch_choice, "open_gpu", unknown)
    assert batch_choice.gpu_bytes() is None
