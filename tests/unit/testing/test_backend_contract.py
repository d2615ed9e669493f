"""The contract finds what is wrong: a good backend is spoilt in one way after the other."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import unittest
from contextlib import contextmanager

import numpy as np
import pytest

from kspacesr_rt.errors import InputError
from kspacesr_rt.runtime import self_test
from kspacesr_rt.runtime.backends import BackendOptions
from kspacesr_rt.testing import CONTRACT, Subject, backend_contract, check_backend
from kspacesr_rt.testing.subject import MATRIX


class Spoilt:
    """A backend whose result passes through a distortion."""

    def __init__(self, backend, distortion):
        self._backend, self._distortion = backend, distortion

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def run(self, batch):
        return self._distortion(self._backend, batch)


@dataclasses.dataclass(frozen=True)
class SpoiltSubject(Subject):
    """Opens `Spoilt` backends."""

    distortion: object = None
    wrong: str = ""
    opened: list = dataclasses.field(default_factory=list)

    @contextmanager
    def open(self, matrix=MATRIX, options=None):
        options = options or BackendOptions(threads=1)
        try:
            with super().open(matrix, options) as backend:
                made = Spoilt(backend, self.distortion or (lambda good, batch: good.run(batch)))
                self.opened.append(made)
                if self.wrong == "streams" and options.streams > 1:
                    made._distortion = lambda good, batch: good.run(batch) * np.float32(1 + 1e-6)
                if self.wrong == "threads" and options.threads > 2:
                    made._distortion = lambda good, batch: good.run(batch) * np.float32(1.001)
                if self.wrong == "opened anew":
                    factor = np.float32(1 + 1e-6 * len(self.opened))
                    made._distortion = lambda good, batch: good.run(batch) * factor
                if self.wrong == "spec":
                    made.spec = dataclasses.replace(backend.spec, matrix=MATRIX[::-1])
                yield made
        except LookupError:
            if self.wrong != "swallows":
                raise
        if self.wrong == "closes all":
            for one in self.opened:
                one._distortion = lambda good, batch: good.run(batch) * np.float32(0.5)
        if self.wrong == "thread":
            waiting.clear()
            threading.Thread(target=waiting.wait, daemon=True).start()


waiting = threading.Event()
shared = {}
count = itertools.count(1)


def into_one_buffer(good, batch):
    result = good.run(batch)
    buffer = shared.setdefault(result.shape, np.empty_like(result))
    buffer[:] = result
    return buffer


def by_place(good, batch):
    factors = 1.0 + 1e-6 * np.arange(len(batch), dtype=np.float32)
    return good.run(batch) * factors[:, None, None, None].astype(np.float32)


def changing_the_batch(good, batch):
    result = good.run(batch)
    batch *= 2
    return result


def by_layout(good, batch):
    return good.run(batch if batch.flags.c_contiguous else np.ascontiguousarray(batch) * 2)


def by_thread(good, batch):
    main = threading.current_thread() is threading.main_thread()
    return good.run(batch) * np.float32(1.0 if main else 1 + 1e-6)


def wrong_on_odd(good, batch):
    result = good.run(batch)
    return np.roll(result, 1, axis=3) if batch.shape[3] % 2 else result


def cropping(good, batch):
    rows, columns = good.spec.matrix
    fit = np.zeros((max(1, len(batch)), 1, rows, columns), np.float32)
    return good.run(fit)


DISTORTIONS = {
    "agrees_with_the_reference_on_any_matrix": wrong_on_odd,
    "gives_float32_of_the_sr_matrix": lambda good, batch: good.run(batch).astype(float),
    "puts_things_where_they_are": lambda good, batch: good.run(batch)[..., ::-1],
    "gives_nothing_for_nothing": lambda good, batch: good.run(batch) + np.float32(1e-6),
    "scales_with_its_input": lambda good, batch: np.minimum(good.run(batch), np.float32(4096.0)),
    "keeps_the_slices_of_a_batch_apart": lambda good, batch: (
        good.run(batch) * np.float32(1 + 1e-6 * len(batch))
    ),
    "keeps_the_order_of_a_batch": by_place,
    "leaves_its_input_alone": changing_the_batch,
    "takes_any_memory_layout": by_layout,
    "gives_results_away": into_one_buffer,
    "gives_the_same_bits_again": lambda good, batch: (
        good.run(batch) * np.float32(1 + 1e-6 * next(count))
    ),
    "runs_in_another_thread_than_it_was_opened_in": by_thread,
    "refuses_a_batch_of_another_shape": cropping,
}
STATES = {
    "says_what_was_opened": "spec",
    "takes_any_number_of_threads": "threads",
    "computes_side_by_side_as_alone": "streams",
    "gives_the_same_bits_again": "opened anew",
    "closes_for_itself_alone": "closes all",
    "lets_errors_pass": "swallows",
    "leaves_no_thread_behind": "thread",
}
ELSEWHERE = {"gives_the_known_answer", "refuses_what_it_does_not_run"}
"""Checks that open backends by other functions; they have tests of their own below."""
BY_NAME = {check.__name__: check for check in CONTRACT}


def test_every_check_has_something_that_it_finds():
    """A check that nothing can fail would be a promise that nobody keeps."""
    assert BY_NAME.keys() == DISTORTIONS.keys() | STATES.keys() | ELSEWHERE


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_wrong_result_is_found(name, model):
    shared.clear()
    subject = SpoiltSubject("ort-cpu", model, distortion=DISTORTIONS[name])
    with pytest.raises(AssertionError):
        BY_NAME[name](subject)


@pytest.mark.parametrize("name", STATES)
def test_a_wrong_state_is_found(name, model):
    try:
        with pytest.raises(AssertionError):
            BY_NAME[name](SpoiltSubject("ort-cpu", model, wrong=STATES[name]))
    finally:
        waiting.set()


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_what_is_not_spoilt_passes(check, model):
    """The harness itself breaks nothing."""
    check(SpoiltSubject("ort-cpu", model))


def test_a_wrong_known_answer_is_found(model, monkeypatch):
    real = self_test.open_backend

    @contextmanager
    def opened(*arguments):
        with real(*arguments) as backend:
            yield Spoilt(backend, lambda good, batch: good.run(batch) * np.float32(1.001))

    monkeypatch.setattr(self_test, "open_backend", opened)
    with pytest.raises(AssertionError, match=r"dB against the known answer, 100 are required"):
        backend_contract.gives_the_known_answer(Subject("ort-cpu", model))


def test_what_takes_anything_is_found(model, monkeypatch):
    monkeypatch.setattr(backend_contract, "open_backend", lambda *arguments: None)
    with pytest.raises(AssertionError, match="nothing was raised, expected InputError"):
        backend_contract.refuses_what_it_does_not_run(Subject("ort-cpu", model))


def test_all_checks_at_once_without_pytest(model, monkeypatch):
    """Each has its word, and one that fails does not hide the next."""
    found = check_backend(Subject("ort-cpu", model))
    assert set(found.values()) == {"passed"}
    assert found.keys() == BY_NAME.keys()
    found = check_backend("zero-fill")
    assert found["gives_the_known_answer"] == "backend 'zero-fill' takes no model"
    assert found["gives_float32_of_the_sr_matrix"] == "passed"

    def fails(subject):
        raise ValueError("of its own")

    def does_not_apply(subject):
        raise unittest.SkipTest("not here")

    monkeypatch.setattr(backend_contract, "CONTRACT", (fails, does_not_apply, fails))
    with pytest.raises(AssertionError) as caught:
        check_backend("zero-fill")
    assert str(caught.value).splitlines() == [
        "backend 'zero-fill' breaks its contract",
        *["fails: ValueError: of its own"] * 2,
    ]
    with pytest.raises(InputError):
        check_backend("lucky")
