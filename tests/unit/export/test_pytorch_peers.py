"""What our rows are compared with must itself compute the model: a peer that errs flatters us."""

import numpy as np
import pytest
import torch

from kspacesr_rt.errors import BackendUnavailableError, InputError
from kspacesr_rt.export import machine_peaks, pytorch_peers
from kspacesr_rt.export.plain_layers import with_plain_layers
from kspacesr_rt.model.file import load_model, shipped_models
from kspacesr_rt.quality.metrics import psnr_between
from kspacesr_rt.train.generator_from_model import generator_from_model
from kspacesr_rt.train.layers import FFT2c, IFFT2c

pytestmark = [
    # torch 2.13's exporter uses what its own pytree module calls deprecated.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # OpenVINO's front end traces; the shapes are meant to be fixed.
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


@pytest.fixture(scope="module", params=["x2-fast", "x4-fast"])
def generator(request):
    return generator_from_model(load_model(shipped_models()[request.param]))


def batch_of(*shape):
    return np.random.default_rng(3).random(shape, dtype=np.float32)


@pytest.mark.parametrize("shape", [(1, 1, 24, 24), (2, 1, 21, 34), (1, 1, 33, 17)])
def test_plain_layers_compute_the_same(generator, shape):
    """Odd, even, not square: the same arithmetic, so nothing but the exporter is compared."""
    lr = torch.from_numpy(batch_of(*shape))
    with torch.inference_mode():
        difference = (with_plain_layers(generator)(lr) - generator(lr)).abs().max()
    assert float(difference) <= 1e-6


def test_plain_layers_leave_the_original_alone(generator):
    before = {name: type(layer) for name, layer in generator.named_modules()}
    plain = with_plain_layers(generator)
    assert {name: type(layer) for name, layer in generator.named_modules()} == before
    assert not any(isinstance(layer, FFT2c | IFFT2c) for layer in plain.modules())


@pytest.mark.parametrize(("precision", "most"), [("bf16", 100.0), ("fp16", 125.0)])
def test_narrow_convolutions_are_close_and_not_the_same(generator, precision, most):
    """Autocast must have happened, and only to the convolutions."""
    lr = batch_of(1, 1, 32, 32)
    expected = pytorch_peers.eager(generator)(lr)
    narrow = pytorch_peers.eager(generator, precision=precision, channels_last=True)(lr)
    assert narrow.dtype == np.float32
    assert 45.0 < psnr_between(narrow, expected, float(expected.max())) < most
    generator.to(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_machines_peak_is_measured_in_each_precision(precision, monkeypatch):
    """The product must be of the size that its operations are counted for."""
    monkeypatch.setattr(machine_peaks, "GEMM_SIZE", 64)
    assert machine_peaks.gemm_flop() == 2 * 64**3
    sizes = []
    multiply = torch._int_mm if precision == "int8" else torch.mm
    name = "_int_mm" if precision == "int8" else "mm"
    monkeypatch.setattr(
        torch, name, lambda a, b: (sizes.append((a.shape, a.dtype)), multiply(a, b))[1]
    )
    once = machine_peaks.gemm(precision)
    sizes.clear()
    once()
    expected = machine_peaks.DTYPES.get(precision, torch.int8)
    assert sizes == [((64, 64), expected)]


def test_a_precision_without_a_peak_is_an_error():
    with pytest.raises(InputError, match="fp8"):
        machine_peaks.gemm("fp8")


def test_an_emulated_precision_is_no_peak(monkeypatch):
    """A share of a rate that nothing could reach faster would flatter every row."""
    monkeypatch.setattr(machine_peaks, "SLOWEST_GEMM_S", 0.0)
    with pytest.raises(InputError, match="no fast matrix product in fp16"):
        machine_peaks.gemm("fp16")


def test_a_triad_is_larger_than_the_last_level_cache(tmp_path, monkeypatch):
    """From a cache, memory would look faster than it is; without telling, one is assumed."""
    for index, size in enumerate(("48K", "2048K", "24M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert machine_peaks.last_level_cache_bytes(tmp_path) == 24 << 20
    assert machine_peaks.array_bytes(tmp_path) == 4 * (24 << 20)
    (tmp_path / "index2" / "size").write_text("491520K\n")
    assert machine_peaks.array_bytes(tmp_path) == machine_peaks.LARGEST_ARRAY_BYTES
    (tmp_path / "index2" / "size").write_text("1M\n")
    assert machine_peaks.array_bytes(tmp_path) == machine_peaks.SMALLEST_ARRAY_BYTES
    assert machine_peaks.last_level_cache_bytes(tmp_path / "none") == 32 << 20


def test_a_triad_moves_what_is_counted_for_it(monkeypatch):
    """Two arrays read, one written, in fp32."""
    monkeypatch.setattr(machine_peaks, "array_bytes", lambda: 4000)
    made = []
    full = torch.full
    monkeypatch.setattr(torch, "full", lambda *a: (made.append(full(*a)), made[-1])[1])
    machine_peaks.triad()()
    assert [array.nbytes for array in made] == [4000] * 3
    assert machine_peaks.triad_bytes() == 3 * 4000
    assert made[0].unique().tolist() == [7.0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU for PyTorch here")
@pytest.mark.parametrize("open_peer", [pytorch_peers.eager, pytorch_peers.compiled])
def test_a_gpu_peer_without_a_gpu_is_refused(generator, open_peer):
    """It must not run on the CPU under the GPU's name."""
    with pytest.raises(BackendUnavailableError, match="has no CUDA device here"):
        open_peer(generator, cuda=True)
    with pytest.raises(BackendUnavailableError, match="has no CUDA device here"):
        machine_peaks.gemm("fp32", cuda=True)
