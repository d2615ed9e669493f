"""A user's own network, from a class to a proved model file, and all that may be wrong with it."""

import ctypes
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import kspacesr_rt as ks
from kspacesr_rt import layers
from kspacesr_rt.cli import app
from kspacesr_rt.errors import CheckpointError, ExporterError, ExportError, ParityError
from kspacesr_rt.export.module_export import multiple_remark
from kspacesr_rt.export.network_factories import network_from
from kspacesr_rt.model.file import load_model
from kspacesr_rt.model.spec import ModelSpec
from kspacesr_rt.runtime.self_test import verify_model

UP = nn.Upsample(scale_factor=2, mode="bilinear")


class OnOurLayers(nn.Module):
    """Zero-fill, a CNN with pooling, weighted data consistency."""

    def __init__(self):
        super().__init__()
        self.to_kspace, self.to_image = layers.FFT2c(), layers.IFFT2c(real=True)
        self.fill, self.consistent = layers.CentreFill(2), layers.DataConsistency("weighted", 3.0)
        self.maximum = layers.SliceMaximum()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(4),
            nn.Upsample(scale_factor=4),
            nn.Conv2d(4, 1, 3, padding=1),
        )

    def forward(self, lr):
        maximum = self.maximum(lr)
        measured = self.to_kspace(lr / maximum) * 2
        image = self.to_image(self.fill(measured))
        predicted = self.to_kspace(image + self.cnn(image))
        return self.to_image(self.consistent(predicted, measured)) * maximum


class Dies(nn.Module):
    def forward(self, lr):
        ctypes.string_at(0)
        return UP(lr)


class OfTheBatch(nn.Module):
    """It divides by the maximum of all slices, where that of each is meant."""

    def forward(self, lr):
        return torch.sqrt(UP(lr / lr.max()))


class Distances(nn.Module):
    """Each row is scaled by its distances to the others."""

    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def forward(self, lr):
        rows = lr[:, 0] + self.offset
        far = torch.cdist(rows, rows).mean(-1) / lr.shape[-1]
        return UP(lr * (1 + far[:, None, :, None]))


class Cancels(nn.Module):
    """Large sums that cancel, but for the digits that rounding left."""

    def forward(self, lr):
        up = UP(lr)
        return up * (1 + 20 * ((up + 1000).mean((-2, -1), keepdim=True) - 1000))


class OfTwoInputs(nn.Module):
    def forward(self, lr, sigma):
        return UP(lr * sigma)


class WithoutChannels(nn.Module):
    def forward(self, lr):
        _, rows, columns = lr.shape
        return functional.interpolate(lr[:, None], (2 * rows, 2 * columns))[:, 0]


class LosesTheChannel(nn.Module):
    def forward(self, lr):
        return UP(lr)[:, 0]


class Turned(nn.Module):
    def __init__(self, turn):
        super().__init__()
        self.turn = turn

    def forward(self, lr):
        return self.turn(UP(lr))


class Rounds(nn.Module):
    def forward(self, lr):
        padded = math.ceil(lr.shape[-2] / 4) * 4
        rows, columns = round(lr.shape[-2] * 2.0), math.ceil(lr.shape[-1] * 2)
        lr = functional.pad(lr, (0, 0, 0, padded - lr.shape[-2]))[..., : lr.shape[-2], :]
        return functional.interpolate(lr, (rows, columns), mode="bilinear")


class ThreeChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, lr):
        return UP(self.cnn(lr))


class Branches(nn.Module):
    def forward(self, lr):
        return UP(lr) if lr.mean() > 0 else UP(-lr)


class SingularValues(nn.Module):
    def forward(self, lr):
        return UP(lr) + torch.linalg.svdvals(torch.fft.fft2(lr)).sum()


class TwoResults(nn.Module):
    def forward(self, lr):
        return UP(lr), lr


class Hangs(nn.Module):
    def forward(self, lr):
        time.sleep(3600)
        return UP(lr)


class MovesTheBatch(nn.Module):
    """Its shift has no axes: it takes the slices of a batch for one more of them."""

    def forward(self, lr):
        kspace = torch.fft.fftshift(torch.fft.fft2(lr))
        return UP(torch.fft.ifft2(torch.fft.ifftshift(kspace * 2, dim=(-2, -1))).real)


class Brighter(nn.Module):
    def forward(self, lr):
        return UP(lr) + 0.1


class InBfloat16(nn.Module):
    def forward(self, lr):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return UP(torch.einsum("nchw,wv->nchv", lr, torch.eye(lr.shape[-1])).float())


class Dropout(nn.Module):
    """Its author forgot ``training=self.training``."""

    def forward(self, lr):
        return UP(torch.nn.functional.dropout(lr, 0.1))


class Counts(nn.Module):
    """Keeps something between calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, lr):
        self.calls += 1
        return UP(lr) * self.calls


class ChangesItsInput(nn.Module):
    def forward(self, lr):
        lr.mul_(2)
        lr += 1
        return UP(lr)


class OfOneMatrix(nn.Module):
    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.rand(96, 80))

    def forward(self, lr):
        return UP(lr + self.places)


class FillsItsWindows(nn.Module):
    """With zeros, where a file in multiples of its windows reflects."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, lr):
        rows, columns = lr.shape[-2:]
        filled = functional.pad(lr, (0, -columns % 4, 0, -rows % 4))
        means = functional.interpolate(functional.avg_pool2d(filled, 4), scale_factor=4.0)
        return functional.pixel_shuffle(self.cnn(filled + means)[..., :rows, :columns], 2)


class Overflows(nn.Module):
    """Right on values from 0 to 1, as it was trained; `exp` of a scanner's overflows."""

    def forward(self, lr):
        return UP(torch.exp(lr))


class Labels(nn.Module):
    def forward(self, lr):
        return (UP(lr) > 0.5).long()


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.LazyConv2d(1, 3, padding=1)

    def forward(self, lr):
        return UP(self.cnn(lr))


class OnAGpu(nn.Module):
    def forward(self, lr):
        if not torch.cuda.is_available():
            raise RuntimeError("Found no NVIDIA driver on your system: CUDA")
        return UP(lr)


class NotFinite(nn.Module):
    def forward(self, lr):
        return UP(lr) / 0.0


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    network = OnOurLayers().eval()
    path = tmp_path_factory.mktemp("exported") / "own.onnx"
    return network, ks.export_module(network, path, upscale=2, name="own", description="Mine.")


def test_what_is_exported_runs_at_any_matrix_and_says_what_it_is(exported):
    """Pooling needs even matrices: that is found, and others are padded."""
    network, made = exported
    assert (made.spec.architecture, made.spec.matrix_multiple) == ("custom", 2)
    assert made.spec.fixed_matrix == (0, 0)
    assert made.spec.description == "Mine."
    assert min(one.psnr_between_db for one in made.report.agreements) > 120
    assert len({one.matrix for one in made.report.agreements}) == 5  # the self-test has its own
    model = ks.load(made.path)
    lr = np.random.default_rng(0).random((2, 34, 26), dtype=np.float32)
    with torch.no_grad():
        reference = network(torch.from_numpy(lr)[:, None])[:, 0].numpy()
    assert np.abs(model(lr) - reference).max() < 1e-5 * np.abs(reference).max()
    assert model(lr[:, :33, :25]).shape == (2, 66, 50)


def test_the_file_names_no_place_of_its_maker(exported):
    _, made = exported
    assert str(Path(__file__).parent).encode() not in made.path.read_bytes()
    assert load_model(made.path).spec.parity["failures"] == []


@pytest.mark.parametrize(
    ("network", "error", "says"),
    [
        (3, ExportError, "expected a torch.nn.Module, found int"),
        (nn.Sequential(UP, nn.Dropout()).train(), ExportError, "in training mode"),
        (ThreeChannels().eval(), ExportError, "takes 3 channels"),
        (TwoResults().eval(), ExportError, "returns a tuple of 2"),
        (NotFinite().eval(), ExportError, "not finite"),
        (nn.Upsample(scale_factor=3).eval(), ExportError, "upscales by 3, not by 2"),
        (nn.Flatten().eval(), ExportError, "expected 1 x 1"),
        (OnOurLayers().double().eval(), ExportError, "is float64, expected float32"),
        (Dies().eval(), ExporterError, "died (SIGSEGV)"),
        (InBfloat16().eval(), ExportError, r"test_module_export.py:\d+ .*computes in bfloat16"),
        (Dropout().eval(), ExportError, r"test_module_export.py:\d+ .*dropout.*differs from call"),
        (Counts().eval(), ExportError, "the network's output on the same image differs"),
        (Labels().eval(), ExportError, "output is int64, expected float32"),
        (Lazy().eval(), ExportError, "weight 'cnn.weight' is of a lazy layer"),
        (nn.Sequential(UP, nn.Threshold(9.0, 0.0)).eval(), ExportError, "is zero everywhere"),
        (Branches().eval(), ExportError, r"test_module_export.py:\d+ .*depends on the values"),
        (SingularValues().eval(), ExportError, r"test_module_export.py:\d+ .*svdvals.*ONNX has no"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_exported_is_one_sentence_and_no_file(tmp_path, network, error, says):
    output = tmp_path / "net.onnx"
    with pytest.raises(error, match=says if "\\" in says else None) as raised:
        ks.export_module(network, output, upscale=2, name="net")
    assert "\\" in says or says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == (4 if error is ExporterError else 2)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_overflows_in_scanner_units_says_so(tmp_path):
    """It is right on arrays from 0 to 1; whoever gives it DICOM must know beforehand."""
    made = ks.export_module(Overflows().eval(), tmp_path / "n.onnx", upscale=2, name="n")
    assert any("overflows in scanner units" in one for one in made.remarks)
    assert not any("scanner units" in one.case for one in made.report.agreements)
    with ks.load(made.path, backend="ort-cpu") as model:
        assert model(np.ones((8, 8), np.float32)).max() == pytest.approx(np.e)


def test_a_network_may_change_its_input_in_place(tmp_path):
    """It was taken for one whose output differs from call to call."""
    made = ks.export_module(ChangesItsInput().eval(), tmp_path / "n.onnx", upscale=2, name="n")
    assert (made.spec.fixed_matrix, made.spec.single_slice) == ((0, 0), False)
    lr = np.random.default_rng(0).random((19, 23), dtype=np.float32)
    expected = UP(torch.from_numpy(2 * lr + 1)[None, None])[0, 0].numpy()
    with ks.load(made.path, backend="ort-cpu") as model:
        assert np.allclose(model(lr), expected, atol=1e-5)


def test_a_network_of_one_matrix_is_told_how_to_state_it(tmp_path):
    with pytest.raises(ExportError, match="fails on an input of 1 x 1 x 37 x 45") as raised:
        ks.export_module(OfOneMatrix().eval(), tmp_path / "net.onnx", upscale=2, name="net")
    assert "--fixed-matrix ROWSxCOLUMNS" in raised.value.hint


def test_a_network_that_fills_its_windows_itself_has_its_own_padding(tmp_path):
    """In multiples of its windows odd matrices were reflected, 54 dB from PyTorch."""
    torch.manual_seed(0)
    network = FillsItsWindows().eval()
    made = ks.export_module(network, tmp_path / "net.onnx", upscale=2, name="net")
    assert made.spec.matrix_multiple == 1
    lr = np.random.default_rng(0).random((37, 45), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(lr)[None, None])[0, 0].numpy()
    with ks.load(made.path, backend="ort-cpu") as model:
        assert np.allclose(model(lr), expected, atol=1e-5)


def test_multiples_that_a_network_does_not_need_are_said_to_change_results():
    spec = ModelSpec(name="n", architecture="custom", upscale=2, matrix_multiple=16)
    said = multiple_remark(spec, 1, ("any matrix and any batch: fails",))
    assert "differ from PyTorch's" in said
    assert said.endswith("--multiple 1 asks for none (any matrix and any batch: fails)")
    assert "differ" not in multiple_remark(spec, 16, ())


def test_what_spreads_batches_over_gpus_is_exported_as_what_it_holds(tmp_path):
    """Weights are often saved, and networks handed over, inside of it."""
    network = nn.DataParallel(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), UP)).eval()
    made = ks.export_module(network, tmp_path / "net.onnx", upscale=2, name="net")
    assert made.spec.fixed_matrix == (0, 0)


def test_a_network_that_wants_a_gpu_is_told_what_to_write(tmp_path):
    """Where there is one, the network is exported; the sentence is of machines without."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ExportError) as raised:
        ks.export_module(OnAGpu().eval(), tmp_path / "net.onnx", upscale=2, name="net")
    assert "device=x.device" in raised.value.hint


def test_what_does_not_end_is_ended(tmp_path):
    """A loop in a network, or a trace that simplifies lengths for hours."""
    output = tmp_path / "net.onnx"
    with pytest.raises(ExporterError, match="not done after 3 s") as raised:
        ks.export_module(Hangs().eval(), output, upscale=2, name="net", time_limit_s=3)
    assert "--time-limit" in raised.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("network", [MovesTheBatch(), OfTheBatch()], ids=["moves", "divides"])
def test_a_network_that_mixes_slices_takes_one_at_a_time(tmp_path, network):
    """Of slices of noise alone, maxima, means and spreads are so alike that nothing is seen."""
    made = ks.export_module(network.eval(), tmp_path / "net.onnx", upscale=2, name="net")
    assert made.spec.single_slice
    assert made.spec.fixed_matrix == (0, 0)


def test_where_pytorch_rounds_more_than_is_allowed_its_fp64_is_what_counts(tmp_path):
    """Its `cdist` squares and subtracts; the file takes differences, and is 50 dB more exact."""
    report = tmp_path / "report.json"
    made = ks.export_module(
        Distances(30.0).eval(),
        tmp_path / "net.onnx",
        upscale=2,
        name="net",
        fixed_matrix=(40, 72),
        report_file=report,
    )
    assert made.report.least_db < 100
    assert not made.report.failures
    for one in made.report.in_fp64:
        assert one.reference_db < 100 < one.result_db
    assert any("PyTorch's own fp32 is" in one for one in made.remarks)
    assert json.loads(report.read_text())["in_fp64"][0]["result_db"] > 100
    verification = verify_model(load_model(made.path), "ort-cpu")  # of the stored answer, too
    assert verification.passed


def test_a_refusal_says_how_far_pytorch_is_from_fp64(tmp_path):
    """Two orders of summation, of which neither is the better one: nothing says who is right."""
    with pytest.raises(
        ParityError, match=r"PyTorch's own fp32 is \d+\.\d dB from its fp64"
    ) as raised:
        ks.export_module(
            Cancels().eval(), tmp_path / "net.onnx", upscale=2, name="net", fixed_matrix=(24, 24)
        )
    assert "no file was written" in str(raised.value)
    assert "subtract a mean" in raised.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (OfTwoInputs(), "give its other arguments defaults"),
        (WithoutChannels(), "net(x[:, 0])[:, None]"),
        (LosesTheChannel(), ".unsqueeze(1)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_network_of_other_arguments_or_axes_is_told_how_to_wrap_it(tmp_path, network, says):
    with pytest.raises(ExportError) as raised:
        ks.export_module(network.eval(), tmp_path / "net.onnx", upscale=2, name="net")
    assert says in raised.value.hint


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        (lambda image: image.flip(-2), "upside down"),
        (lambda image: image.flip(-1), "mirrored left to right"),
        (lambda image: torch.rot90(image, 1, (-2, -1)), "by a quarter to the left"),
    ],
    ids=["flipped", "mirrored", "turned"],
)
def test_a_network_that_turns_its_image_is_told_so(tmp_path, turn, says):
    with pytest.raises(ParityError) as raised:
        ks.export_module(Turned(turn).eval(), tmp_path / "net.onnx", upscale=2, name="net")
    assert says in raised.value.hint


def test_lengths_that_python_rounds_stay_open(tmp_path):
    """``math.ceil(2 * n)`` of a whole number had no operator, and the network one matrix."""
    made = ks.export_module(Rounds().eval(), tmp_path / "net.onnx", upscale=2, name="net")
    assert made.spec.fixed_matrix == (0, 0)
    lr = np.random.default_rng(0).random((21, 35), dtype=np.float32)
    with torch.no_grad(), ks.load(made.path, backend="ort-cpu") as model:
        expected = Rounds()(torch.from_numpy(lr)[None, None])[0, 0].numpy()
        assert np.allclose(model(lr), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "declared", "says"),
    [
        (UP, {"data_consistency": "hard"}, "measured k-space samples are off by .*consistency"),
        (UP, {"output_range": (0.0, 0.5)}, r"0 to 0.5 is declared \(output-range\)"),
        (UP, {"output_grid": "kspace"}, "grid"),
        (Brighter(), {"homogeneous": True}, r"a slice times 3 gives another .*\(homogeneity\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_false_declaration_is_refused(tmp_path, network, declared, says):
    """It would otherwise be known on the first series, from every slice of it."""
    with pytest.raises(ParityError, match=says) as raised:
        ks.export_module(network.eval(), tmp_path / "n.onnx", upscale=2, name="n", **declared)
    assert raised.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_kspace_declares_nothing_of_images(tmp_path):
    with pytest.raises(ExportError, match="this one takes k-space"):
        ks.export_module(
            *(UP, tmp_path / "n.onnx"), upscale=2, name="n", input="kspace", output_range=(0, 1)
        )


NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, features=2):
        super().__init__()
        self.cnn = nn.Conv2d(1, features, 3, padding=1)
        self.tail = nn.Conv2d(features, 4, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, lr):
        return self.shuffle(self.tail(torch.relu(self.cnn(lr))))

def wide():
    return Net(3)

def fails():
    return Net(features="many")

def ends():
    raise SystemExit(0)

def stops():
    raise KeyboardInterrupt

def closes():
    raise GeneratorExit("done")

def reads():
    open("nowhere.txt")

class Stops(Net):
    def forward(self, lr):
        raise KeyboardInterrupt
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "own_net.py"
    path.write_text(NETWORK)
    return path


def test_the_command_line_imports_what_it_names_and_loads_its_weights(tmp_path, source):
    weights = tmp_path / "weights.pt"
    torch.save(
        {"state_dict": network_from(f"{source}:Net", None).state_dict(), "epoch": 3}, weights
    )
    output = tmp_path / "net.onnx"
    arguments = [f"{source}:Net", "--weights", str(weights), "-o", str(output), "--upscale", "2"]
    result = CliRunner().invoke(app, ["export", *arguments])
    assert result.exit_code == 0, result.output
    assert load_model(output).spec.name == "net"
    assert load_model(output).spec.lowering == "none"  # it has no transform
    assert "no FFT layers\n" in result.output
    assert "lowered as" not in result.output


def test_weights_that_do_not_fit_are_listed(tmp_path, source):
    weights = tmp_path / "weights.pt"
    torch.save(network_from(f"{source}:Net", None).state_dict() | {"more": torch.ones(1)}, weights)
    with pytest.raises(CheckpointError, match=r"unexpected: more"):
        network_from(f"{source}:Net", weights)
    with pytest.raises(CheckpointError, match=r"of another shape: cnn.weight \(2, 1, 3, 3\) for"):
        network_from(f"{source}:wide", weights)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fails", r"raises TypeError.*own_net.py:\d+"),
        ("ends", r"the factory .* ended the program: SystemExit: 0 \(own_net.py:\d+"),
        ("stops", r"raises KeyboardInterrupt without a message \(own_net.py:\d+"),
        ("closes", r"raises GeneratorExit: done \(own_net.py:\d+"),
        ("nothing", "has no 'nothing'"),
        ("torch", "expected a torch.nn.Module|is not callable"),
    ],
)
def test_a_factory_that_fails_is_named(source, name, says):
    with pytest.raises(ExportError, match=says):
        network_from(f"{source}:{name}", None)


def test_a_network_that_ends_the_program_is_refused_with_its_line(tmp_path, source):
    """The sentence was empty: an interruption says nothing, and was taken for one of ours."""
    output = tmp_path / "net.onnx"
    words = ["export", f"{source}:Stops", "-o", str(output), "--upscale", "2", "-q"]
    result = CliRunner().invoke(app, words)
    said = " ".join(result.output.split())
    assert result.exit_code == 2, said
    assert "KeyboardInterrupt without a message (own_net.py:" in said
    assert "out of forward" in said
    (tmp_path / "ends.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(ExportError, match="cannot be imported: KeyboardInterrupt without a"):
        network_from(f"{tmp_path / 'ends.py'}:Net", None)


def test_a_file_called_as_one_of_pythons_modules_takes_nothings_place(tmp_path):
    """``json.py`` stood for Python's own afterwards, and torch's exporter failed on it."""
    path = tmp_path / "json.py"
    path.write_text("from torch import nn\nclass Net(nn.Upsample):\n    pass\n")
    assert type(network_from(f"{path}:Net", None)).__name__ == "Net"
    assert sys.modules["json"] is json
    # Nor in a process that is started later and looks where this one does.
    code = f"import sys; sys.path[:] = {sys.path!r}; import json; print(json.__file__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == json.__file__


@pytest.mark.parametrize("named", ["file", "module"])
def test_what_stands_beside_a_network_is_found_early_and_late(named, tmp_path, monkeypatch):
    """As its module is imported, before one of that name elsewhere, and within its functions."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.syspath_prepend(elsewhere)
    place = tmp_path / "mine"
    place.mkdir()
    early, late, net = (f"{one}_{named}_beside" for one in ("early", "late", "net"))
    (elsewhere / f"{early}.py").write_text("scale = 3\n")
    (place / f"{early}.py").write_text("scale = 2\n")
    (place / f"{late}.py").write_text("mode = 'nearest'\n")
    (place / f"{net}.py").write_text(
        f"from torch import nn\nfrom {early} import scale\n"
        "class Net(nn.Module):\n    def forward(self, x):\n"
        f"        from {late} import mode\n"
        "        return nn.functional.interpolate(x, scale_factor=scale, mode=mode)\n"
    )
    monkeypatch.chdir(place)
    before = list(sys.path)
    network = network_from(f"{net}.py:Net" if named == "file" else f"{net}:Net", None)
    assert network(torch.ones(1, 1, 4, 5)).shape == (1, 1, 8, 10)
    assert sys.path == [*before, str(place)]


def test_a_part_of_a_package_is_named_as_such(tmp_path):
    (tmp_path / "part.py").write_text("from .base import Base\n")
    with pytest.raises(ExportError, match="relative import") as raised:
        network_from(f"{tmp_path / 'part.py'}:Net", None)
    assert "package.module:Net" in raised.value.hint


def test_a_factory_that_raises_is_not_told_of_arguments_it_does_not_have(source):
    with pytest.raises(ExportError, match="raises FileNotFoundError") as raised:
        network_from(f"{source}:reads", None)
    assert "in Python on its own first" in raised.value.hint


def test_options_of_other_networks_are_refused(tmp_path, source):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"")
    for arguments in (
        [str(weights), "--upscale", "2"],
        [f"{source}:Net", "--h-lr", str(weights), "--upscale", "2"],
        [f"{source}:Net"],
        [str(tmp_path / "nothing.pt")],
        [str(source)],
    ):
        result = CliRunner().invoke(app, ["export", *arguments, "-o", str(tmp_path / "net.onnx")])
        assert result.exit_code == 2, result.output
    assert not (tmp_path / "net.onnx").exists()


class Body(nn.Module):
    """Three by three, and twice the matrix."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Conv2d(1, 4, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, lr):
        return self.shuffle(self.cnn(lr))


class KeepsForEachLength(Body):
    """A window is computed once for each length, as networks with masks or grids do."""

    def __init__(self):
        super().__init__()
        self.windows = {}

    def forward(self, lr):
        columns = lr.shape[-1]
        if columns not in self.windows:
            self.windows[columns] = torch.hann_window(columns)
        if lr.shape[-2:] not in KEPT:
            KEPT[lr.shape[-2:]] = torch.linspace(0.5, 1, columns)
        return super().forward(lr * self.windows[columns] * KEPT[lr.shape[-2:]])


KEPT: dict[object, torch.Tensor] = {}


def test_what_a_network_keeps_for_each_length_does_not_hold_it_to_one(tmp_path):
    """It was written for one matrix: torch lets no open length be a key."""
    torch.manual_seed(0)
    made = ks.export_module(
        KeepsForEachLength().eval(), tmp_path / "net.onnx", upscale=2, name="kept"
    )
    assert made.spec.fixed_matrix == (0, 0)
    assert made.report.least_db >= 100


class Named(Body):
    def forward(self, lr):
        return {"features": lr, "sr": super().forward(lr)}


class Second(Body):
    def forward(self, lr):
        return lr, super().forward(lr)


class NeedsMore(Body):
    def forward(self, lr, *, sigma):
        return super().forward(lr * sigma)


class Remembers(Body):
    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.zeros(1))

    def forward(self, lr):
        self.level = 0.5 * self.level + lr.mean()
        return super().forward(lr) + self.level


class TakesGradient(Body):
    def forward(self, lr):
        with torch.enable_grad():
            image = functional.interpolate(lr, scale_factor=2.0).detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.cnn(image).pow(2).sum(), image)
        return image - 0.1 * slope


class InFrames(Body):
    def forward(self, lr):
        rows = lr.reshape(-1, lr.shape[-1])
        parts = torch.stft(rows, 16, 4, window=torch.hann_window(16), return_complex=True)
        return super().forward(lr * parts.abs().mean())


@pytest.mark.parametrize(
    ("network", "says", "hint"),
    [
        (Named, "returns a dict of 'features', 'sr', expected", r"net\(x\)\['sr'\]"),
        (Second, "returns a tuple of 2, expected", r"net\(x\)\[1\]"),
        (NeedsMore, "missing 1 required keyword-only argument: 'sigma'", "other arguments def"),
        (Remembers, "its buffer 'level' changes each time", "out of forward"),
        (TakesGradient, r"^torch.onnx.export fails on .*_backward", "conv_transpose2d"),
        (InFrames, r"test_module_export.py:\d+ .*STFT", "unfold"),
    ],
)
def test_who_is_refused_hears_what_to_write(tmp_path, network, says, hint):
    """With the place, where there is one, and no file."""
    with pytest.raises((ExportError, ExporterError), match=says) as caught:
        ks.export_module(network().eval(), tmp_path / "n.onnx", upscale=2, name="n")
    assert re.search(hint, caught.value.hint), caught.value.hint
    assert not list(tmp_path.iterdir())


class CountsByLogarithm(nn.Module):
    """It smooths once more at four times the matrix, as RGT reduces."""

    def forward(self, lr):
        for _ in range(int(math.log(lr.shape[-2] // 16, 4))):
            lr = functional.avg_pool2d(lr, 3, 1, 1)
        return functional.interpolate(lr, scale_factor=2.0)


def test_a_network_that_is_another_one_at_large_matrices_is_not_left_open(tmp_path):
    """Below 80 rows, where the gate's matrices are, it takes the example's path."""
    network = CountsByLogarithm().eval()
    exported = ks.export_module(network, tmp_path / "net.onnx", upscale=2, name="net")
    assert exported.spec.fixed_matrix == (128, 128)
    assert any(text.startswith("right at one matrix only") for text in exported.remarks)


class BrighterWhereWide(nn.Module):
    def forward(self, lr):
        return UP(lr) * (3 if lr.shape[-1] > 100 else 1)


def test_a_network_that_branches_on_its_columns_is_not_left_open(tmp_path):
    """It was written for any matrix, and 12 dB from PyTorch at 101 columns."""
    exported = ks.export_module(
        BrighterWhereWide().eval(), tmp_path / "net.onnx", upscale=2, name="net"
    )
    assert exported.spec.fixed_matrix == (128, 128)
    assert any("64 x 320" in text for text in exported.remarks)


class NormsOfFarMeans(nn.Module):
    """An instance norm of values whose mean is 1000 deviations from zero."""

    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(1)

    def forward(self, lr):
        detail = self.norm(lr / lr.amax((1, 2, 3), keepdim=True).clamp_min(1e-20) * 1e-3 + 1.0)
        return nn.functional.interpolate(lr + 0.1 * detail, scale_factor=2, mode="nearest")


def test_norms_are_centred_where_the_gate_asks_for_it(tmp_path):
    """They cost time: other networks have none of it."""
    far = ks.export_module(NormsOfFarMeans().eval(), tmp_path / "far.onnx", upscale=2, name="far")
    kinds = [node.op_type for node in load_model(far.path).proto.graph.node]
    assert "ReduceMean" in kinds
    assert far.report.least_db > 100.0
