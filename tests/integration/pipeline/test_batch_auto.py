"""A batch that is left to the run: one on a CPU, measured once on a GPU, and said."""

from __future__ import annotations

import json

import fault_cases
import numpy as np
import pytest
from fault_cases import MATRIX, OTHER_MATRIX, contents

from kspacesr_rt.errors import InputError, ShapeError
from kspacesr_rt.pipeline import InferOptions, Session, backend_pool, infer
from kspacesr_rt.pipeline.batch_choice import ON_CPU, BatchChoice

AUTO = InferOptions(backend="zero-fill", batch="auto")


@pytest.fixture(autouse=True)
def fixed_date(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", fault_cases.EPOCH)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two series of two matrices, and a multi-frame file; read only."""
    folder = tmp_path_factory.mktemp("study") / "in"
    fault_cases.make_mixed(folder, n_slices=7, n_others=4)
    return folder


@pytest.fixture
def sizes(monkeypatch):
    """Return the shapes of all batches that are computed from now on."""
    seen = []
    real = backend_pool.open_backend

    def watched(*arguments):
        backend = real(*arguments)
        run = backend.run

        def noted(batch):
            seen.append(batch.shape)
            return run(batch)

        backend.run = noted
        return backend

    monkeypatch.setattr(backend_pool, "open_backend", watched)
    return seen


@pytest.fixture
def card(monkeypatch):
    """Stand for a GPU whose best batch is 3, of whatever comes first; return what was measured."""
    measured = []

    def measure(backend, sample):
        measured.append(sample.shape)
        return BatchChoice(
            asked="auto", batch=3, reason="measured", matrix=sample.shape[-2:], measured=((3, 0.5),)
        )

    settled = backend_pool.settled_batch
    monkeypatch.setattr(
        backend_pool, "settled_batch", lambda asked, *, on_gpu: settled(asked, on_gpu=True)
    )
    monkeypatch.setattr(backend_pool, "measured_batch", measure)
    return measured


def test_on_a_cpu_it_is_what_it_is_by_default(study, tmp_path, sizes):
    """Never slower than that, since it is the same; and the report says why."""
    report = infer(study, tmp_path / "auto", AUTO)
    by_auto = list(sizes)
    sizes.clear()
    infer(study, tmp_path / "default", InferOptions(backend="zero-fill"))
    assert by_auto == sizes
    assert contents(tmp_path / "auto") == contents(tmp_path / "default")
    stored = json.loads((tmp_path / "auto" / "report.json").read_bytes())
    assert stored["options"]["batch"] == "auto"
    assert (stored["batch_choice"]["batch"], stored["batch_choice"]["reason"]) == (1, ON_CPU)
    assert "batch 1, chosen by auto (-v says why)" in report.as_text().splitlines()
    assert f"batch 1, chosen by auto: {ON_CPU}" in report.as_text(verbose=True).splitlines()


def test_of_a_number_nothing_is_said(study, tmp_path):
    """The user knows it."""
    report = infer(study, tmp_path / "out", InferOptions(backend="zero-fill", batch=2))
    assert "batch" not in report.as_text(verbose=True)
    assert report.batch_choice["reason"] == "asked for"


def test_on_a_gpu_it_is_measured_once_with_the_first_slice(study, tmp_path, sizes, card):
    """Batches of it follow, also of other matrices and of frames, and the bytes are the same."""
    report = infer(study, tmp_path / "auto", AUTO)
    assert card == [(1, *sizes[0][1:])]
    by_matrix = {}
    for n, _, rows, columns in sizes:
        by_matrix.setdefault((rows, columns), []).append(n)
    assert (sum(by_matrix[MATRIX]), sum(by_matrix[OTHER_MATRIX])) == (7, 4)
    assert max(map(max, by_matrix.values())) == 3
    infer(study, tmp_path / "one", InferOptions(backend="zero-fill"))
    assert contents(tmp_path / "auto") == contents(tmp_path / "one")
    assert report.batch_choice["batch"] == 3
    assert "  3 at once: 6 slices/s, 500.0 ms a batch" in report.as_text(verbose=True)


def test_a_slice_that_cannot_be_measured_keeps_the_others_from_nothing(
    study, tmp_path, monkeypatch, card
):
    """It is told as what it is when its turn comes; here it is computed all the same."""

    def refuse(backend, sample):
        raise ShapeError("not this one")

    monkeypatch.setattr(backend_pool, "measured_batch", refuse)
    report = infer(study, tmp_path / "out", AUTO)
    assert (report.count("written"), report.exit_code) == (12, 0)
    assert report.batch_choice == {}


def test_arrays_are_computed_in_such_batches(sizes, card):
    """As slices of files are; a session measures once for both."""
    values = np.random.default_rng(0).random((7, 16, 12), dtype=np.float32)
    with Session(AUTO) as session:
        first = session.super_resolve(values)
        session.super_resolve(values)
    assert [shape[0] for shape in sizes] == [3, 3, 1] * 2
    assert card == [(1, 1, 16, 12)]
    with Session(InferOptions(backend="zero-fill")) as session:
        np.testing.assert_array_equal(session.super_resolve(values), first)


def test_a_run_of_a_session_may_name_its_own_batch(study, tmp_path, sizes):
    """It decides nothing that is opened."""
    with Session(AUTO) as session:
        options = InferOptions(backend="zero-fill", batch=3)
        session.run(study, tmp_path / "out", options=options)
    assert max(shape[0] for shape in sizes) == 3


@pytest.mark.parametrize("batch", ["all", "", 0, -1])
def test_what_is_no_batch_is_refused(batch):
    """By the library, too."""
    with pytest.raises(InputError, match="batch"):
        InferOptions(batch=batch)
