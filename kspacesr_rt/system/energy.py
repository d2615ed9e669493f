"""Energy of a visit: what the processor's or the GPU's own counter rose by.

What it measures: the whole package (RAPL) or the whole GPU (NVML), with everything else that ran on
it. What it leaves out: memory beside the package, the board, the power supply; for a row on a GPU,
the processor that feeds it.
How to read it: as a ratio within one table, on a machine that does nothing else. A machine that
gives no counter says so once, in the result's environment; its rows then have no figure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kspacesr_rt.errors import library_message
from kspacesr_rt.system.gpu_state import GpuMonitor, GpuUnknown, open_gpu

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows Running Average Power Limit counters, of Intel and AMD processors [1]_.

.. [1] Linux kernel, Documentation/power/powercap/powercap.rst
"""
_ZONE = re.compile(r"intel-rapl:\d+")
"""A top-level zone. Zones below it (cores, memory) and ``intel-rapl-mmio`` are parts of it or show
the same package again."""
_PACKAGE = re.compile(r"package-\d+(-die-\d+)?")
"""Name of a processor's zone; ``psys`` is the whole board, packages included."""
RAPL, NVML = "rapl", "nvml"


class NoEnergy(Exception):  # noqa: N818 - an answer, not a fault
    """No energy counter can be read here; the message says why."""


class Meter(Protocol):
    """A counter that only rises."""

    source: str
    """`RAPL` or `NVML`."""

    def counts(self) -> tuple[int, ...]:
        """Read it; raises `NoEnergy` if it cannot be read any more."""
        ...

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Return what it rose by between two readings."""
        ...


@dataclass(frozen=True, slots=True)
class _Package:
    counter: Path
    """File with microjoules."""
    largest: int
    """Microjoules at which it starts from 0 again: minutes to hours at full power."""


class RaplMeter:
    """The sum over all processor packages."""

    source = RAPL

    def __init__(self, root: Path = POWERCAP) -> None:
        """Find the packages.

        Raises
        ------
        NoEnergy
            If there are none, or this user may not read them.
        """
        self.packages = _packages(root)
        if not self.packages:
            raise NoEnergy(f"the kernel shows no RAPL counter of a processor under {root}")
        self.counts()

    def counts(self) -> tuple[int, ...]:
        """Read the microjoules of each package."""
        try:
            return tuple(int(one.counter.read_text()) for one in self.packages)
        except PermissionError as exc:
            raise NoEnergy(
                "RAPL counters are for root only, as Linux ships them since 5.10: "
                f"sudo chmod a+r {self.packages[0].counter.parent.parent}/intel-rapl:*/energy_uj"
            ) from exc
        except (OSError, ValueError) as exc:
            raise NoEnergy(f"a RAPL counter cannot be read: {library_message(exc)}") from exc

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Add the packages' rises up; a counter that is lower than before has wrapped once."""
        rises = (
            end - start if end >= start else end - start + one.largest
            for one, start, end in zip(self.packages, before, after, strict=True)
        )
        return sum(rises) * 1e-6


class NvmlMeter:
    """The whole GPU, from its driver.

    Notes
    -----
    The driver refreshes the counter every 20 to 100 ms, so a visit of a quarter of a second is
    known to a third at worst; the median over rounds is better. GPUs before Volta have none.
    """

    source = NVML

    def __init__(self, gpu: GpuMonitor) -> None:
        """Take an open GPU.

        Raises
        ------
        NoEnergy
            If it has no such counter.
        """
        self._gpu = gpu
        self.counts()

    def counts(self) -> tuple[int, ...]:
        """Read the millijoules since the driver was loaded."""
        value = self._gpu.energy_mj()
        if value is None:
            raise NoEnergy("this GPU has no energy counter")
        return (value,)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Return the difference; 64 bits of millijoules do not wrap."""
        return (after[0] - before[0]) * 1e-3


def open_meter(on_gpu: bool, *, root: Path = POWERCAP) -> Meter:
    """Open the counter of what a row runs on.

    Parameters
    ----------
    on_gpu
        Whether that is the GPU.
    root
        Where the kernel shows RAPL.

    Raises
    ------
    NoEnergy
        If there is none; one counter never stands for another.
    """
    if not on_gpu:
        return RaplMeter(root)
    try:
        return NvmlMeter(open_gpu())
    except GpuUnknown as exc:
        raise NoEnergy(str(exc)) from exc


def energy_source(on_gpu: bool, *, root: Path = POWERCAP) -> str:
    """Say which counter is read, or why none is, for a result's environment."""
    try:
        return open_meter(on_gpu, root=root).source
    except NoEnergy as exc:
        return f"not available: {library_message(exc)}"


def _packages(root: Path) -> tuple[_Package, ...]:
    found = []
    for zone in sorted(root.glob("intel-rapl:*")):
        if not _ZONE.fullmatch(zone.name):
            continue
        try:
            name = (zone / "name").read_text().strip()
            largest = int((zone / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            continue  # a zone that does not describe itself cannot be added up
        if _PACKAGE.fullmatch(name):
            found.append(_Package(zone / "energy_uj", largest))
    return tuple(found)
