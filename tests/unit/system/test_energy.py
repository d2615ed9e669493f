"""Energy and the GPU's state: right where a machine tells, and a reason where it does not."""

import os
from types import SimpleNamespace

import pytest

from kspacesr_rt.bench.run.environment import environment
from kspacesr_rt.system import energy, gpu_driver, machine_conditions
from kspacesr_rt.system.cpu import available_cores
from kspacesr_rt.system.energy import NoEnergy, NvmlMeter, RaplMeter, energy_source, open_meter
from kspacesr_rt.system.gpu_state import GpuMonitor, GpuUnknown, open_gpu


def zone(root, name, title, uj, largest=262_143_328_850):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{title}\n")
    (folder / "energy_uj").write_text(f"{uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n")
    return folder / "energy_uj"


@pytest.fixture
def powercap(tmp_path):
    """Two packages, and what must not be added to them."""
    counters = [
        zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000),
        zone(tmp_path, "intel-rapl:1", "package-1", 5_000_000),
    ]
    zone(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 7_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    (tmp_path / "intel-rapl:3").mkdir()  # a zone that tells nothing
    return tmp_path, counters


def test_packages_are_added_up_and_nothing_else(powercap):
    """A zone inside a package, the whole board, and a second view of it would count twice."""
    root, counters = powercap
    meter = RaplMeter(root)
    before = meter.counts()
    assert before == (1_000_000, 5_000_000)
    counters[0].write_text("3500000\n")
    counters[1].write_text("6000000\n")
    assert meter.joules(before, meter.counts()) == pytest.approx(3.5)
    assert energy_source(False, root=root) == "rapl"


def test_a_counter_that_wrapped_is_no_negative_energy(tmp_path):
    """Counters start again at 0; one package may while the other does not."""
    first = zone(tmp_path, "intel-rapl:0", "package-0-die-0", 9_900_000, largest=10_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-0-die-1", 100, largest=10_000_000)
    meter = RaplMeter(tmp_path)
    before = meter.counts()
    first.write_text("400000\n")
    second.write_text("1000100\n")
    assert meter.joules(before, meter.counts()) == pytest.approx(0.5 + 1.0)


def test_a_machine_without_counters_says_so(tmp_path):
    with pytest.raises(NoEnergy, match="shows no RAPL counter"):
        RaplMeter(tmp_path / "none")
    assert energy_source(False, root=tmp_path).startswith("not available: the kernel shows no")


def test_a_counter_for_root_only_says_what_opens_it(powercap, monkeypatch):
    """As every current Linux ships it; running as root must not hide the case from this test."""
    root, _ = powercap

    def refuse(self):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return original(self)

    original = energy.Path.read_text
    monkeypatch.setattr(energy.Path, "read_text", refuse)
    with pytest.raises(NoEnergy, match=r"root only.*sudo chmod a\+r .*energy_uj"):
        RaplMeter(root)
    assert "root only" in energy_source(False, root=root)


def test_a_damaged_counter_is_a_reason(powercap):
    root, counters = powercap
    counters[0].write_text("much\n")
    with pytest.raises(NoEnergy, match="cannot be read"):
        RaplMeter(root)


def test_the_processors_counter_never_stands_for_the_gpus(powercap, monkeypatch):
    """Joules of a GPU row that were the CPU's would be a factor off, silently."""
    root, _ = powercap

    def none():
        raise GpuUnknown("no driver")

    monkeypatch.setattr(energy, "open_gpu", none)
    with pytest.raises(NoEnergy, match="no driver"):
        open_meter(True, root=root)


class FakeNvml:
    """What `pynvml` gives on a machine with one busy GPU; functions of `lacks` are refused."""

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self, *lacks, processes=((7, 100),), mode=3):
        self.processes, self.mode, self.mj = processes, mode, 1000
        for name in lacks:
            setattr(self, name, self._refuse)

    def _refuse(self, *_):
        raise self.NVMLError("Not Supported")

    def nvmlInit(self):
        """Do nothing."""

    def nvmlDeviceGetHandleByPciBusId(self, bus_id):
        assert isinstance(bus_id, bytes)
        return bus_id

    def nvmlDeviceGetName(self, _):
        return "NVIDIA Stand-in"

    def nvmlSystemGetDriverVersion(self):
        return b"580.1"

    def nvmlDeviceGetMemoryInfo(self, _):
        return SimpleNamespace(total=24 << 30, used=3 << 30)

    def nvmlDeviceGetComputeMode(self, _):
        return self.mode

    def nvmlDeviceGetEnforcedPowerLimit(self, _):
        return 72_000

    def nvmlDeviceGetPersistenceMode(self, _):
        return 1

    def nvmlDeviceGetMigMode(self, _):
        return [0, 0]

    def nvmlDeviceGetClockInfo(self, _, kind):
        return {1: 2040, 2: 6251}[kind]

    def nvmlDeviceGetTemperature(self, *_):
        return 48

    def nvmlDeviceGetCurrentClocksEventReasons(self, _):
        return 0x1 | 0x4

    def nvmlDeviceGetComputeRunningProcesses(self, _):
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in self.processes]

    def nvmlDeviceGetTotalEnergyConsumption(self, _):
        self.mj += 2500
        return self.mj


def test_a_gpu_tells_its_limits_and_its_moment():
    gpu = open_gpu(FakeNvml(), "0000:01:00.0")
    assert gpu.facts() == {
        "name": "NVIDIA Stand-in",
        "driver": "580.1",
        "memory_bytes": 24 << 30,
        "compute_mode": "exclusive-process",
        "power_limit_w": 72.0,
        "persistence": True,
        "mig": False,
    }
    assert gpu.snapshot() == {
        "sm_mhz": 2040,
        "memory_mhz": 6251,
        "temperature_c": 48,
        "throttled": True,
        "processes": 1,
        "used_bytes": 3 << 30,
    }


def test_what_a_gpu_does_not_tell_is_none():
    """A partitioned or older GPU refuses single questions; the others still have answers."""
    lacking = ("nvmlDeviceGetMigMode", "nvmlDeviceGetTotalEnergyConsumption")
    gpu = open_gpu(FakeNvml(*lacking, "nvmlDeviceGetComputeRunningProcesses"), "0000:01:00.0")
    assert gpu.facts()["mig"] is None
    assert gpu.facts()["name"] == "NVIDIA Stand-in"
    assert gpu.processes() is None
    assert gpu.process_bytes(7) is None
    with pytest.raises(NoEnergy, match="no energy counter"):
        NvmlMeter(gpu)


def test_an_older_binding_lacks_whole_functions():
    nvml = FakeNvml()
    assert GpuMonitor(SimpleNamespace(NVMLError=nvml.NVMLError), None).energy_mj() is None


def test_the_memory_of_a_process_is_its_own():
    """In a container the driver knows processes by other numbers, and must not be misread."""
    gpu = open_gpu(FakeNvml(processes=((7, 100), (8, 5), (9, None))), "0000:01:00.0")
    assert gpu.process_bytes(8) == 5
    assert gpu.process_bytes(9) is None
    assert gpu.process_bytes(10) is None


def test_the_gpus_joules_are_what_its_counter_rose_by():
    meter = NvmlMeter(open_gpu(FakeNvml(), "0000:01:00.0"))
    before = meter.counts()
    assert meter.joules(before, meter.counts()) == pytest.approx(2.5)
    assert meter.source == "nvml"


def test_a_driver_that_refuses_is_a_reason():
    with pytest.raises(GpuUnknown, match="NVML tells nothing about the GPU: Not Supported"):
        open_gpu(FakeNvml("nvmlInit"), "0000:01:00.0")


def test_a_missing_binding_or_driver_is_a_reason(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(GpuUnknown, match="nvidia-ml-py is not installed"):
        open_gpu()
    monkeypatch.setattr(gpu_driver, "LIBRARY", "libno-such-driver.so")
    with pytest.raises(GpuUnknown, match=r"no NVIDIA driver here: libno-such-driver\.so"):
        open_gpu(FakeNvml())


@pytest.mark.parametrize(
    ("mode", "processes", "exclusive"),
    [("default", 0, True), ("default", 2, False), ("exclusive-process", 1, True)],
)
def test_a_shared_gpu_is_called_shared(mode, processes, exclusive):
    found = machine_conditions._is_exclusive({"compute_mode": mode}, {"processes": processes})
    assert found is exclusive
    assert machine_conditions._is_exclusive({"reason": "no GPU"}, {}) is None


def test_a_benchmark_counts_the_cores_that_it_may_use(monkeypatch):
    """In a container with one core of many, curves over 64 threads would measure a queue."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    monkeypatch.setattr("kspacesr_rt.bench.run.environment._commit", str)  # asks git
    assert environment()["cores"] == 1
    assert machine_conditions.conditions({"gpu": {}}, threads=0)["threads"]["count"] == 1


def test_conditions_tell_threads_clocks_and_load(tmp_path, monkeypatch):
    """What a figure hangs on besides the hardware must be in the result, or be None."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name: x\ncpu MHz\t\t: 2000.0\ncpu MHz\t\t: 3000.0\n")
    stat = tmp_path / "stat"
    stat.write_text("cpu  1 2 3 4 5 6 7 800 0 0\ncpu0 1\n")
    monkeypatch.setattr(machine_conditions, "CPUINFO", cpuinfo)
    monkeypatch.setattr(machine_conditions, "STOLEN", stat)
    start = machine_conditions.snapshot()
    assert start["cpu_mhz"] == 2500.0
    assert start["stolen_s"] == 800 / os.sysconf("SC_CLK_TCK")
    found = machine_conditions.conditions(start, threads=3)
    assert found["threads"]["count"] == 3
    assert "OMP_NUM_THREADS" in found["threads"]["set_by"]
    assert found["end"]["time_s"] >= found["start"]["time_s"]
    assert set(found["energy"]) == {"cpu", "gpu"}
    assert all(found["energy"].values())
    assert machine_conditions.conditions(start, threads=0)["threads"] == {
        "count": available_cores(),
        "set_by": [],
    }
    monkeypatch.setattr(machine_conditions, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(machine_conditions, "STOLEN", tmp_path / "none")
    assert machine_conditions.snapshot()["cpu_mhz"] is None
    assert machine_conditions.snapshot()["stolen_s"] is None
