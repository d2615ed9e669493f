"""GPUs by name: what their makers' data sheets say, without one at hand.

Figures are peaks of dense arithmetic without sparsity, of the largest common variant; a GPU with a
smaller power limit or memory has less.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from kspacesr_rt.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuModel:
    """One kind of GPU."""

    name: str
    """What users type, such as ``L4``; case, blanks and hyphens do not matter."""
    sm: int
    """Compute capability without its dot."""
    memory_gb: int
    """Of the GPU; of the whole board where it is shared with the CPU."""
    bandwidth_gb_s: int
    """Of that memory, in GB/s."""
    fp32_tflop_s: float
    """Outside of tensor cores, in TFLOP/s."""
    fp16_tflop_s: float
    """In tensor cores that add in fp32, in TFLOP/s."""
    jetson: bool = False
    """Whether it is a module with an ARM CPU, which takes its software from JetPack."""

    @property
    def label(self) -> str:
        """Return its compute capability as users type it, such as ``sm89``."""
        return f"sm{self.sm}"


def _gpu(name: str, *figures: float, jetson: bool = False) -> GpuModel:
    sm, memory, bandwidth, fp32, fp16 = figures
    return GpuModel(
        name=name,
        sm=int(sm),
        memory_gb=int(memory),
        bandwidth_gb_s=int(bandwidth),
        fp32_tflop_s=fp32,
        fp16_tflop_s=fp16,
        jetson=jetson,
    )


GPU_MODELS = {
    gpu.name: gpu
    for gpu in (
        _gpu("T4", 75, 16, 320, 8.1, 65.0),
        _gpu("A10", 86, 24, 600, 31.2, 125.0),
        _gpu("A30", 80, 24, 933, 10.3, 165.0),
        _gpu("A40", 86, 48, 696, 37.4, 149.7),
        _gpu("A100", 80, 80, 2039, 19.5, 312.0),
        _gpu("L4", 89, 24, 300, 30.3, 121.0),
        _gpu("L40", 89, 48, 864, 90.5, 181.0),
        _gpu("L40S", 89, 48, 864, 91.6, 362.0),
        _gpu("H100", 90, 80, 3350, 67.0, 989.0),
        _gpu("H200", 90, 141, 4800, 67.0, 989.0),
        _gpu("B200", 100, 180, 8000, 75.0, 2250.0),
        _gpu("RTX 3090", 86, 24, 936, 35.6, 71.0),
        _gpu("RTX 4090", 89, 24, 1008, 82.6, 165.2),
        _gpu("RTX 5090", 120, 32, 1792, 104.8, 209.5),
        _gpu("Jetson Orin", 87, 64, 205, 5.3, 42.5, jetson=True),
        _gpu("Jetson Thor", 110, 128, 273, 8.1, 258.0, jetson=True),
    )
}
"""From NVIDIA's data sheets of each."""
_BY_CAPABILITY = {
    r"(gtx16|rtx20)\d\d(ti|super)*|titanrtx": 75,
    r"rtx30\d\d(ti|super)*|rtxa\d000|a2|a16": 86,
    r"a800": 80,
    r"rtx40\d\d(ti|super)*|rtx\d000ada|l2|l20": 89,
    r"gh200|h20|h800": 90,
    r"b100|gb200": 100,
    r"b300|gb300": 103,
    r"rtx50\d\d(ti|super)*|rtxpro\d000(blackwell)?": 120,
    r"gb10|dgxspark": 121,
    r"v100|titanv": 70,
    r"(jetson)?xavier(nx)?": 72,
    r"p4|p40|gtx10\d\d(ti)?|titanxp?": 61,
    r"p100": 60,
    r"jetsontx2": 62,
    r"m4|m40|m60|gtx9\d\d(ti)?": 52,
    r"jetsonnano|jetsontx1": 53,
    r"k40": 35,
    r"k80": 37,
}
"""Pattern of further names to their compute capability, all that is known of them here [1]_.

.. [1] NVIDIA, "CUDA GPU Compute Capability" and its page of legacy GPUs
"""
CAPABILITIES = tuple(sorted({gpu.sm for gpu in GPU_MODELS.values()} | {103, 121}))
"""Compute capabilities that CUDA 13 knows."""
OLDEST = CAPABILITIES[0]
"""The oldest of them; CUDA 13 dropped those before it, and TensorRT 10.13 with it."""
OLDER_HINT = f"CUDA 13 and TensorRT begin with sm{OLDEST} (T4): on older GPUs take ort-webgpu"
"""What to do about a GPU that is too old."""
NAMES_HINT = "names such as L4, H100 or 'RTX 4090' are known, too: kspacesr-rt targets"
_LESSER = frozenset({"laptop", "mobile", "max", "d"})
"""Words in a driver's name of a GPU with fewer cores or a slower memory: ``Max-Q``, ``4090 D``."""
_NEAR = 3
"""Names that are offered for one that nobody knows."""


def capability_of(text: str) -> int:
    """Return the compute capability of what a user calls a GPU.

    Parameters
    ----------
    text
        A name, such as ``RTX 4090`` or ``nvidia-l4``, or a capability, such as ``sm89``.

    Returns
    -------
        Without its dot: 89 for 8.9.

    Raises
    ------
    InputError
        If no GPU is called that, or CUDA 13 knows no such capability.
    """
    sm = _capability(text)
    if sm in CAPABILITIES:
        return sm
    if sm is not None and sm < OLDEST:
        is_number = _number(text) is not None
        older = OLDER_HINT if is_number else f"that is sm{sm}: {OLDER_HINT}"
        raise InputError(
            f"no GPU target is called '{text}'", hint=f"{older}; kspacesr-rt targets lists names"
        )
    known = ", ".join(f"sm{sm}" for sm in CAPABILITIES)
    near = names_near(text)
    meant = f"is it {' or '.join(near)}? " if near else ""
    raise InputError(
        f"no GPU target is called '{text}'", hint=f"{meant}one of: {known}; {NAMES_HINT}"
    )


def _capability(text: str) -> int | None:
    if (found := find_gpu_model(text)) is not None:
        return found.sm
    if (number := _number(text)) is not None:
        return number
    plain = _plain(text)
    return next((sm for names, sm in _BY_CAPABILITY.items() if re.fullmatch(names, plain)), None)


def _number(text: str) -> int | None:
    """Read a capability as users and tools write it: ``sm89``, ``sm_89`` or ``8.9``."""
    found = re.fullmatch(r"sm_?(\d{2,3})|(\d{1,2})\.(\d)", text.strip().lower())
    return None if found is None else int("".join(part for part in found.groups() if part))


def names_near(text: str) -> list[str]:
    """Return names that may have been meant: as a driver writes them, or with a wrong letter."""
    if (found := find_gpu_model(known_part(text))) is not None:
        return [found.name]
    names = {_plain(name): name for name in GPU_MODELS} | {
        f"sm{sm}": f"sm{sm}" for sm in CAPABILITIES
    }
    plain = _plain(text)
    if len(plain) >= _NEAR and (part_of := [name for one, name in names.items() if plain in one]):
        return part_of[:_NEAR]
    return [names[one] for one in difflib.get_close_matches(plain, names, n=_NEAR)]


def known_part(name: str) -> str:
    """Return a driver's name of a GPU without its variant: of ``H100 80GB HBM3``, the H100.

    A laptop's GPU is another one, for all that its name begins with; its name is returned whole.
    """
    words = re.split(r"[\s_-]+", name.strip())
    if not _LESSER.isdisjoint(word.lower() for word in words):
        return name
    for end in range(len(words), 0, -1):
        if find_gpu_model(" ".join(words[:end])) is not None:
            return " ".join(words[:end])
    return name


def find_gpu_model(text: str) -> GpuModel | None:
    """Return the GPU of a name; None if there is none."""
    return {_plain(name): gpu for name, gpu in GPU_MODELS.items()}.get(_plain(text))


def _plain(name: str) -> str:
    letters = re.sub(r"[\s_-]+", "", name.lower())
    return re.sub(r"^(nvidia)?(geforce|tesla)?", "", letters).replace("jetsonagx", "jetson")
