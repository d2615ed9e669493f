"""One resident session: what it opens once, and what it gives for arrays, series and studies."""

import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest

import kspacesr_rt
from kspacesr_rt.errors import InputError, NonFiniteError, ShapeError
from kspacesr_rt.kspace import zero_fill_image
from kspacesr_rt.pipeline import InferOptions, Session, backend_pool, infer
from kspacesr_rt.sample import sample_folder

ZERO_FILL = InferOptions(backend="zero-fill", upscale=2)


@pytest.fixture
def opened(monkeypatch):
    """List what is opened, in order."""
    made, real = [], backend_pool.open_backend

    def counting(*args, **more):
        made.append(real(*args, **more))
        return made[-1]

    monkeypatch.setattr(backend_pool, "open_backend", counting)
    return made


@pytest.fixture
def slices():
    return np.random.default_rng(7).uniform(0, 1000, (2, 3, 12, 10)).astype(np.float32)


def test_arrays_of_any_leading_axes_keep_them(slices):
    with Session(ZERO_FILL) as session:
        whole = session.super_resolve(slices)
        one = session.super_resolve(slices[1, 2])
    assert (whole.shape, whole.dtype) == ((2, 3, 24, 20), np.float32)
    np.testing.assert_array_equal(whole[1, 2], one)
    expected = zero_fill_image(slices[0, 0].astype(np.float64), 2).real
    np.testing.assert_allclose(whole[0, 0], expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("shape", [(0, 12, 10), (2, 0, 12, 10)])
def test_no_slices_give_no_slices(shape):
    with Session(ZERO_FILL) as session:
        assert session.super_resolve(np.empty(shape)).shape == (*shape[:-2], 24, 20)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int16, np.uint16, np.int64, ">u2"])
def test_real_numbers_of_any_type_and_layout_are_taken(dtype):
    values = np.arange(120).reshape(10, 12).astype(dtype)
    with Session(ZERO_FILL) as session:
        expected = session.super_resolve(values.astype(np.float32))
        np.testing.assert_array_equal(session.super_resolve(values), expected)
        turned = session.super_resolve(np.asfortranarray(values))
        np.testing.assert_array_equal(turned, expected)
        np.testing.assert_array_equal(session.super_resolve(values.tolist()), expected)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (np.ones(8), ShapeError),
        (np.float32(1), ShapeError),
        (np.ones((3, 0, 8)), ShapeError),
        (np.ones((8, 8), complex), InputError),
        (np.ones((8, 8), bool), InputError),
        (np.full((8, 8), np.nan), InputError),
        (np.full((8, 8), 1e300), InputError),
        (np.ma.masked_less(np.arange(64.0).reshape(8, 8), 3.0), InputError),
        (np.full((8, 8), "a"), InputError),
        ([[1.0, 2.0], [3.0, None]], InputError),
    ],
)
def test_what_is_no_image_is_refused(values, error):
    """And every refusal says what to do."""
    with Session(ZERO_FILL) as session, pytest.raises(error) as caught:
        session.super_resolve(values)
    assert caught.value.hint


def test_a_mask_that_hides_nothing_is_no_hindrance():
    """Readers of other libraries give masked arrays of whole images."""
    values = np.arange(48.0).reshape(8, 6)
    with Session(ZERO_FILL) as session:
        expected = session.super_resolve(values)
        np.testing.assert_array_equal(session.super_resolve(np.ma.masked_array(values)), expected)


def test_a_result_beyond_float32_is_an_error():
    """Every value is finite, but sums of them are not: infinity is no brightness."""
    with Session(ZERO_FILL) as session:
        with pytest.raises(NonFiniteError, match="not finite") as caught:
            session.super_resolve(np.full((8, 6), 3e38))
        assert "divide" in caught.value.hint
        assert np.isfinite(session.super_resolve(np.full((8, 6), 1e30))).all()


@pytest.mark.parametrize("lowest", [-0.02, -0.5, -3.0])
def test_negative_values_are_said_of_a_model_and_computed(lowest):
    """No magnitude image has such: differences, phase and normalised arrays do."""
    pytest.importorskip("onnxruntime")
    values = np.ones((2, 12, 10))
    values[1, 3, 4] = lowest
    with Session(InferOptions(backend="ort-cpu", model="x2-fast", threads=1)) as session:
        with pytest.warns(UserWarning, match="negative"):
            result = session.super_resolve(values)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            alone = session.super_resolve(values[0])
            session.super_resolve(np.where(values < 0, -0.005, values))  # as interpolation leaves
    np.testing.assert_allclose(result[0], alone, rtol=0, atol=1e-3)


def test_baselines_are_linear_and_take_negative_values():
    values = np.random.default_rng(0).standard_normal((8, 6))
    with Session(ZERO_FILL) as session, warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(
            session.super_resolve(-values), -session.super_resolve(values), atol=1e-6
        )


def test_a_model_of_magnitudes_refuses_what_is_negative_mostly(monkeypatch):
    """As a slice of a DICOM file is: it would be clipped to nothing."""
    pytest.importorskip("onnxruntime")
    with Session(InferOptions(backend="ort-cpu", model="x2-fast", threads=1)) as session:
        magnitudes = replace(session.spec, output="magnitude")
        monkeypatch.setattr(Session, "spec", property(lambda self: magnitudes))
        with pytest.raises(InputError, match="negative"):
            session.super_resolve(np.full((12, 10), -1.0))


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("streams", [1, 3])
def test_batches_and_streams_change_no_value(slices, batch, streams):
    """Slices do not influence each other, however they are handed to the runtime."""
    pytest.importorskip("onnxruntime")
    options = InferOptions(backend="ort-cpu", model="x2-fast", threads=1)
    flat = slices.reshape(6, 12, 10)
    with Session(options) as session:
        alone = [session.super_resolve(one) for one in flat]
    with Session(replace(options, batch=batch, streams=streams)) as session:
        together = session.super_resolve(flat)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-3)


def test_a_study_gives_the_bytes_that_infer_gives(tmp_path):
    infer(sample_folder(), tmp_path / "one", ZERO_FILL)
    with Session(ZERO_FILL) as session:
        session.super_resolve(np.ones((8, 8)))
        report = session.run(sample_folder(), tmp_path / "two")
    assert report.count("written") == 20
    one, two = (
        {path.relative_to(tmp_path / name): path for path in (tmp_path / name).rglob("*.dcm")}
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    assert len(one) == 20


def test_nothing_is_opened_twice(tmp_path, opened):
    with Session(ZERO_FILL) as session:
        session.run(sample_folder(), tmp_path / "one")
        session.run(sample_folder(), tmp_path / "two")
        session.super_resolve(np.ones((8, 6)))
        session.super_resolve(np.ones((8, 6)))
    assert len(opened) == 2


def test_what_is_released_is_opened_again(opened):
    with Session(ZERO_FILL) as session:
        session.super_resolve(np.ones((8, 6)))
        session.release()
        session.super_resolve(np.ones((8, 6)))
    assert len(opened) == 2


def test_reports_of_one_session_tell_nothing_of_each_other(tmp_path, monkeypatch):
    """Seconds, notes and counts are of one run."""
    with Session(ZERO_FILL) as session:
        with monkeypatch.context() as patch:
            patch.setattr("kspacesr_rt.pipeline.session.unusable_time_zone", lambda: "no such zone")
            first = session.run(sample_folder(), tmp_path / "one")
        second = session.run(sample_folder(), tmp_path / "two")
    assert first.backend_notes == ("no such zone",)
    assert second.backend_notes == ()
    assert second.count("written") == 20


def test_a_run_may_have_options_of_its_own_but_for_what_is_open(tmp_path):
    with Session(ZERO_FILL) as session:
        options = replace(ZERO_FILL, compress="rle", batch=3)
        assert session.run(sample_folder(), tmp_path / "out", options=options).exit_code == 0
        for other in (
            replace(ZERO_FILL, backend="bicubic"),
            replace(ZERO_FILL, upscale=3),
            replace(ZERO_FILL, threads=2),
        ):
            with pytest.raises(InputError, match="opened with another"):
                session.run(sample_folder(), tmp_path / "other", options=other)
    assert not (tmp_path / "other").exists()


def messages_of(use):
    with pytest.raises(InputError) as caught:
        use()
    return f"{caught.value} {caught.value.hint}"


def test_errors_in_python_speak_of_python():
    """No option of a command line that nobody has typed."""
    for use in (
        lambda: kspacesr_rt.load("x2-fast", upscale=4),
        lambda: kspacesr_rt.load("x2-fast", backend="zero-fill"),
        lambda: kspacesr_rt.load(None, upscale=7),
        lambda: kspacesr_rt.load("no-such-model"),
        lambda: InferOptions(on_interpolated="perhaps"),
        lambda: InferOptions(stale="perhaps"),
    ):
        assert "--" not in messages_of(use)
    assert "auto, or one of: zero-fill" in messages_of(lambda: kspacesr_rt.load(backend="best"))


def test_a_closed_model_is_called_a_model():
    model = kspacesr_rt.load(None, backend="zero-fill")
    model.close()
    assert "the model is closed" in messages_of(lambda: model([[1.0, 1.0], [1.0, 1.0]]))


@pytest.mark.parametrize(
    ("kind", "word"), [(bool, "mask"), (complex, "numpy.abs"), (object, "regular")]
)
def test_what_is_no_numbers_is_refused_with_what_to_do(kind, word):
    with kspacesr_rt.load(None, backend="zero-fill") as model:
        assert word in messages_of(lambda: model(np.ones((4, 4), kind)))


def test_a_closed_session_says_so(tmp_path):
    session = Session(ZERO_FILL)
    session.close()
    session.close()
    for use in (
        lambda: session.super_resolve(np.ones((8, 8))),
        lambda: session.run(sample_folder(), tmp_path / "out"),
        session.release,
    ):
        with pytest.raises(InputError, match="closed"):
            use()
    assert not (tmp_path / "out").exists()


def test_threads_take_turns(slices):
    """A session may be shared: nobody's values end in another's result."""
    with Session(ZERO_FILL) as session:
        expected = [session.super_resolve(one) for one in slices]
        results = {}

        def work(number):
            results[number] = session.super_resolve(slices[number % 2])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 8
    for number, result in results.items():
        np.testing.assert_array_equal(result, expected[number % 2])
