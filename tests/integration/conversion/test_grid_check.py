"""Where a model's samples lie: proved at export, and at the same millimetre in the patient."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from own_networks import Unrolled

from kspacesr_rt.conversion.grid_check import find_placement, require_placed
from kspacesr_rt.dicom import geometry
from kspacesr_rt.errors import ParityError
from kspacesr_rt.export.exporter import export_model, torch_runner
from kspacesr_rt.kspace.resampling import zero_fill
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model
from kspacesr_rt.model.spec import NEW_IN
from kspacesr_rt.runtime.backends import open_backend
from kspacesr_rt.train.checkpoint import SpecOverrides
from kspacesr_rt.train.degradation import DEGRADATIONS, GRID_OF
from kspacesr_rt.train.generators import SeedNetwork
from kspacesr_rt.train.options import TrainingOptions


def resizing_weights(upscale: int, width: int = 4) -> dict[str, torch.Tensor]:
    """Make weights of the seed's image-domain network that repeat each sample over its block.

    What a network trained on resized images does at its crudest: an LR sample is the middle of
    `upscale` SR samples.
    """
    network = SeedNetwork(1, upscale, width, bias=True)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim != 1 or name.endswith("bias"):
                value.zero_()
        weights = network.state_dict()
        weights["block1.0.weight"][0, 0, 4, 4] = 1.0
        for step in range(int(np.log2(upscale))):
            for phase in range(4):  # pixel shuffle: four output channels make one finer channel
                weights[f"block8.{step}.conv.weight"][phase, 0, 1, 1] = 1.0
        last = int(np.log2(upscale))
        weights[f"block8.{last}.weight"][0, 0, 4, 4] = 2.0
        weights[f"block8.{last}.bias"][0] = -1.0
    return weights


@pytest.fixture(params=[2, 4])
def resizing(request, tmp_path):
    path = tmp_path / "resizing.pth"
    torch.save(resizing_weights(request.param), path)
    return path, request.param


def test_a_blob_lands_at_its_millimetre(resizing, tmp_path):
    """From the checkpoint to the patient: what the file says is where the blob is."""
    path, upscale = resizing
    exported = export_model(path, tmp_path / "m.onnx")
    assert exported.spec.output_grid == "pixel-centre"
    model = load_model(tmp_path / "m.onnx")
    matrix, centre, spacing = (40, 43), (18.3, 22.9), (1.3, 0.7)
    y, x = np.ogrid[: matrix[0], : matrix[1]]
    lr = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * 3.0**2)).astype(np.float32)
    with open_backend("ort-cpu", bind(model, matrix)) as backend:
        sr = backend.run(lr[None, None])[0, 0].astype(float)
    weights = np.where(sr > sr.max() / 2, sr, 0.0)
    y, x = np.ogrid[: sr.shape[0], : sr.shape[1]]
    found = ((weights * y).sum() / weights.sum(), (weights * x).sum() / weights.sum())
    position, orientation = (-10.0, -20.0, 30.0), (1, 0, 0, 0, 1, 0)
    first = geometry.sr_position_mm(
        position, orientation, spacing, matrix, upscale, model.spec.sample_grid
    )
    fine = geometry.sr_spacing_mm(spacing, upscale)
    there = geometry.moved_position_mm(first, orientation, fine, found)
    wanted = geometry.moved_position_mm(position, orientation, spacing, centre)
    assert np.linalg.norm(np.subtract(there, wanted)) < 0.1 * min(spacing)


def test_a_grid_that_is_not_the_models_is_refused(resizing, tmp_path):
    """Nobody would see it in an image, and every registration would be off."""
    path, upscale = resizing
    report = tmp_path / "gate.json"
    with pytest.raises(ParityError) as caught:
        export_model(
            path, tmp_path / "m.onnx", stated=SpecOverrides(grid="kspace"), report_file=report
        )
    assert "does not answer on the grid 'kspace'" in str(caught.value)
    assert caught.value.hint.startswith("--grid pixel-centre")
    assert not (tmp_path / "m.onnx").exists()
    stored = json.loads(report.read_text())["placement"]
    assert not stored["passed"]
    # Down, an even axis: (upscale - 1) / 2 SR samples. The other axis is odd.
    assert stored["miss_sr_samples"][0] == pytest.approx((upscale - 1) / 2, abs=0.1)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("grid", ["kspace", "pixel-centre"])
def test_each_grid_is_recognised(make_spec, upscale, grid):
    """An interpolation that is exact on its grid is in its place there, and only there."""
    spec = make_spec("seed-image", upscale, output_grid=grid)
    other = {"kspace": "pixel-centre", "pixel-centre": "kspace"}[grid]
    right = find_placement(spec, lambda lr: zero_fill(lr, upscale, grid))
    wrong = find_placement(spec, lambda lr: zero_fill(lr, upscale, other))
    assert right.passed
    assert right.fitting == grid
    require_placed(right)
    assert wrong.fitting == other
    with pytest.raises(ParityError, match="a blob comes back"):
        require_placed(wrong)


@pytest.mark.parametrize("architecture", ["seed-kspace", "seed-image"])
def test_of_an_untrained_network_nothing_is_claimed(make_generator, architecture):
    """What comes back is no blob: the file's word stands, and the report says that it is a word."""
    generator, spec = make_generator(architecture, 2)
    found = find_placement(spec, torch_runner(generator))
    assert not found.conclusive
    assert found.passed
    assert "as stated, not proved" in found.as_text()
    assert found.to_dict()["conclusive"] is False


def test_a_result_that_is_nothing_proves_nothing(make_spec):
    """Air, NaN and infinity are no blobs."""
    spec = make_spec("seed-image", 2)
    for value in (0.0, np.nan, np.inf):
        found = find_placement(spec, lambda lr, v=value: np.full((96, 90), v, np.float32))
        assert not found.conclusive
        json.dumps(found.to_dict(), allow_nan=False)


def test_the_gates_finding_travels_in_the_file(checkpoint_file, tmp_path):
    """Whoever gets the model can see whether its grid was proved."""
    exported = export_model(checkpoint_file, tmp_path / "m.onnx")
    assert load_model(tmp_path / "m.onnx").spec.parity["placement"]["passed"] is True
    assert any("output grid 'kspace'" in remark for remark in exported.remarks)


def test_an_old_file_answers_on_the_grid_of_kspace(model_file):
    """Of schema 1, before grids were stated: it loads, and means what it meant."""
    proto = onnx.load(str(model_file))
    for entry in proto.metadata_props:
        if entry.key == "kspacesr_rt.model_spec":
            newer = {field for fields in NEW_IN.values() for field in fields}
            values = json.loads(entry.value) | {"schema": 1}
            values = {name: value for name, value in values.items() if name not in newer}
            entry.value = json.dumps(values)
    old = model_file.with_name("old.onnx")
    old.write_bytes(proto.SerializeToString())
    spec = load_model(old).spec
    assert spec == dataclasses.replace(load_model(model_file).spec)
    assert (spec.output_grid, spec.sr_origin((40, 41))) == ("kspace", (0.0, -0.5))


def test_kept_measurements_hold_an_image_on_the_grid_of_kspace():
    """A network between them cannot shift them, however its LR images were made."""
    for consistency, grid in (("hard", "kspace"), ("additive", "pixel-centre")):
        options = TrainingOptions(
            architecture="seed-kspace", degradation="seed-resize", data_consistency=consistency
        )
        assert options.spec().output_grid == grid


def test_every_degradation_has_its_grid():
    """A new way to make LR must say where a network that learns from it answers."""
    assert GRID_OF.keys() == DEGRADATIONS.keys()


@pytest.mark.parametrize(("n_echoes", "refused"), [(0, True), (10, False)])
def test_off_every_grid(make_spec, n_echoes, refused):
    """A sharp blob elsewhere is a network's fault; a distorted one is as of untrained weights."""

    def moved(lr):
        sr = np.roll(zero_fill(lr, 2), 2, axis=1)
        return sr + sum(0.04 * np.roll(sr, 3 * step, axis=0) for step in range(n_echoes))

    found = find_placement(make_spec("seed-image", 2, output_grid="kspace"), moved)
    assert found.fitting is None
    assert found.likeness > 0.9
    assert found.conclusive is refused
    if refused:
        with pytest.raises(ParityError, match="from its place"):
            require_placed(found)
    else:
        require_placed(found)
        assert "not proved: a blob comes back blurred" in found.as_text()
        assert "+2.01 SR samples off" in found.as_text()


def test_shifts_that_are_right_where_even_are_told(make_spec):
    """`fftshift` without `ifftshift` is one sample off along an odd axis: the hint says so."""

    def moved(lr):
        return np.roll(zero_fill(lr, 2), tuple(-(n % 2) for n in lr.shape), axis=(0, 1))

    found = find_placement(make_spec("seed-image", 2, output_grid="kspace"), moved)
    assert found.right_where_even
    with pytest.raises(ParityError, match="of an LR matrix of 48 x 45 a blob comes back") as caught:
        require_placed(found)
    assert "take ifftshift before a transform" in caught.value.hint
    assert "--multiple 2" in caught.value.hint


@pytest.mark.parametrize("upscale", [2, 4])
@pytest.mark.parametrize("fault", ["mirrored", "shifted"])
def test_nearest_neighbours_elsewhere_are_refused(make_spec, upscale, fault):
    """Stairs make a blob less like one, and are no sign of untrained weights."""

    def moved(lr):
        sr = np.kron(lr, np.ones((upscale, upscale), np.float32))
        return sr[::-1] if fault == "mirrored" else np.roll(sr, upscale, axis=0)

    found = find_placement(make_spec("seed-image", upscale, output_grid="pixel-centre"), moved)
    assert found.fitting is None
    assert found.likeness < 0.996
    with pytest.raises(ParityError, match="from its place"):
        require_placed(found)


def test_no_unrolled_network_without_training_is_refused_for_its_place(make_spec):
    """They move a blob off every grid, and distort it."""
    spec = make_spec("seed-image", 2, output_grid="kspace")
    off_grids = 0
    for seed in range(40):
        torch.manual_seed(seed)
        with torch.no_grad():
            found = find_placement(spec, image_runner(Unrolled().eval()))
        if found.fitting is None:
            off_grids += 1
            assert not found.conclusive
    assert off_grids > 20


def image_runner(network):
    return lambda lr: network(torch.from_numpy(lr)[None, None])[0, 0].numpy()
