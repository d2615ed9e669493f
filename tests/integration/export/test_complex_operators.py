"""Operations on complex tensors as users write them, on pairs of real tensors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as users write it

from kspacesr_rt.errors import KspaceSRError
from kspacesr_rt.export.module_graph import exported_graph, open_axes
from kspacesr_rt.export.real_program import RealProgram

AXES = (-2, -1)
KERNEL = torch.complex(
    torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0)),
    torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(1)),
)
fft2, ifft2 = torch.fft.fft2, torch.fft.ifft2
fftshift, ifftshift = torch.fft.fftshift, torch.fft.ifftshift


def k(x):
    """Complex values that are no spectrum of a real image."""
    return torch.complex(x, x.flip(-1) - 0.3)


def placed(x):
    big = torch.zeros(*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1], dtype=torch.complex64)
    y, w = x.shape[-2:]
    big[..., y // 2 : y // 2 + y, w // 2 : w // 2 + w] = k(x)
    return big


def fastmri_roll(x, shift, dim):
    left, right = x.narrow(dim, 0, x.size(dim) - shift), x.narrow(dim, x.size(dim) - shift, shift)
    return torch.cat((right, left), dim=dim)


def fastmri_fft(x):
    data = torch.view_as_real(k(x))
    for dim in (-3, -2):
        data = fastmri_roll(data, (data.shape[dim] + 1) // 2, dim)
    data = torch.view_as_real(
        torch.fft.fftn(torch.view_as_complex(data), dim=(-2, -1), norm="ortho")
    )
    for dim in (-3, -2):
        data = fastmri_roll(data, data.shape[dim] // 2, dim)
    return data[..., 1]


def in_channels(x):
    parts = torch.view_as_real(k(x).squeeze(1)).permute(0, 3, 1, 2)
    parts = F.avg_pool2d(parts, 3, 1, 1)
    return torch.view_as_complex(parts.permute(0, 2, 3, 1).contiguous()).unsqueeze(1)


def without_its_middle(x):
    kspace = fftshift(fft2(x))
    quarter = x.shape[-2] // 4
    kspace[..., quarter : x.shape[-2] - quarter, :] = 0
    kspace[..., :2] = 0.5 - 1j
    return ifft2(ifftshift(kspace)).real + (x.new_zeros(x.shape) + kspace.abs())


def used_twice(x):
    """Take the modulus of a shifted spectrum, and transform it back."""
    kspace = fftshift(fft2(x), dim=AXES)
    return ifft2(ifftshift(kspace, dim=AXES)).real + kspace.abs()


def by_rolls(x):
    y, w = x.shape[-2:]
    moved = fft2(torch.roll(k(x), (-(y // 2), -(w // 2)), AXES))
    return torch.roll(moved, (y // 2, w // 2), AXES)


OPERATIONS = {
    "add": lambda x: k(x) + x + 1 - (2 + 1j) * k(x),
    "radd": lambda x: 1j + k(x) - 1j,
    "alpha": lambda x: torch.sub(k(x), k(x) * 1j, alpha=3),
    "rsub": lambda x: 1 - k(x),
    "mul": lambda x: k(x) * k(x).flip(-1) * x * 2,
    "imaginary unit": lambda x: x * 1j,
    "div": lambda x: k(x) / (k(x).flip(-2) + 2) / 2 / (x + 1),
    "rdiv": lambda x: 1 / (k(x) + 2j),
    "neg": lambda x: -k(x),
    "conj": lambda x: k(x) * k(x).conj() + torch.conj(k(x)),
    "pow": lambda x: k(x) ** 2 + (k(x) + 2) ** -1 + (k(x) + 2) ** 0.5,
    "abs": lambda x: k(x).abs() ** 2,
    "angle": lambda x: torch.angle(k(x)),
    "polar": lambda x: torch.polar(x, 3 * x),
    "exp": lambda x: torch.exp(1j * x) + torch.exp(k(x)),
    "log sqrt": lambda x: torch.log(k(x) + 2) + torch.sqrt(k(x)),
    "sgn": lambda x: torch.sgn(k(x)),
    "tanh sigmoid": lambda x: torch.tanh(k(x)) + torch.sigmoid(k(x)) + torch.sin(k(x)),
    "parts": lambda x: torch.real(k(x)) + torch.imag(k(x)) + k(x).real * k(x).imag,
    "view_as_real": lambda x: torch.view_as_real(k(x))[..., 1],
    "channels": in_channels,
    "complex pad": lambda x: F.pad(k(x), (1, 2, 3, 0)),
    "pad with a number": lambda x: F.pad(k(x), (1, 2, 3, 0), value=2.0),
    "reflection": lambda x: F.pad(k(x), (1, 2, 3, 0), mode="reflect"),
    "slices": lambda x: k(x)[..., 1:, ::2],
    "crop": lambda x: k(x)[..., x.shape[-2] // 4 : -(x.shape[-2] // 4), :],
    "placed": placed,
    "assigned": lambda x: torch.cat([k(x), placed(x)[..., : x.shape[-2], : x.shape[-1]]], 1),
    "cat with real": lambda x: torch.cat([k(x), x.to(torch.complex64)], dim=1),
    "stack": lambda x: torch.stack([k(x), k(x) * 2], dim=1).sum(1),
    "where": lambda x: torch.where(x > 0.5, k(x), k(x).conj()),
    "where zero": lambda x: torch.where(x > 0.5, k(x), 0),
    "masked": lambda x: k(x).masked_fill(x > 0.5, 0),
    "masked product": lambda x: k(x) * (x > 0.5),
    "axes": lambda x: k(x).squeeze(1).unsqueeze(1).reshape(x.shape).permute(0, 1, 3, 2),
    "movedim": lambda x: k(x).movedim(-1, 2).transpose(-1, -2).flatten(2),
    "flip roll": lambda x: k(x).flip(-1).roll(3, -1).roll((1, -2), (-2, -1)),
    "chunk": lambda x: k(torch.cat([x, 2 * x], 1)).chunk(2, 1)[1],
    "unbind": lambda x: k(x).unbind(1)[0],
    "repeat": lambda x: k(x).repeat(1, 2, 1, 1).expand(-1, -1, -1, -1),
    "mean sum": lambda x: k(x).mean((-2, -1), keepdim=True) + k(x).sum(dim=1, keepdim=True),
    "matmul": lambda x: k(x) @ k(x).transpose(-1, -2) + (x @ x.mT),
    "matmul with real": lambda x: k(x) @ x.transpose(-1, -2).to(torch.complex64),
    "einsum": lambda x: torch.einsum("nchw,nchv->ncwv", k(x), k(x).conj()),
    "einsum one": lambda x: torch.einsum("nchw->ncwh", k(x)),
    "conv2d": lambda x: F.conv2d(k(x), KERNEL, padding=1),
    "conv by hand": lambda x: torch.complex(
        F.conv2d(k(x).real, KERNEL.real) - F.conv2d(k(x).imag, KERNEL.imag),
        F.conv2d(k(x).real, KERNEL.imag) + F.conv2d(k(x).imag, KERNEL.real),
    ),
    "norm": lambda x: torch.linalg.vector_norm(k(x), dim=1, keepdim=True),
    "std": lambda x: k(x).std(dim=(-2, -1), keepdim=True) + k(x).var(dim=-1, keepdim=True),
    "type": lambda x: k(x).to(torch.complex128).to(torch.complex64),
    "ones_like": lambda x: torch.ones_like(k(x)) * k(x) + torch.zeros_like(k(x)),
    "constant": lambda x: k(x) * torch.tensor([1 + 2j, 3 - 1j]).reshape(1, 2, 1, 1),
    "fft2": lambda x: fft2(x) + fft2(k(x), norm="ortho") + ifft2(k(x), norm="forward"),
    "fftn": lambda x: torch.fft.fftn(x, dim=(-2, -1)) + torch.fft.ifftn(k(x), dim=(2, 3)),
    "fft of one axis": lambda x: torch.fft.fft(x, dim=-2) + torch.fft.ifft(k(x), norm="ortho"),
    "fft of channels": lambda x: torch.fft.fft(k(torch.cat([x, x * x, 2 * x], 1)), dim=1),
    "rfft2": lambda x: torch.fft.rfft2(x, norm="ortho").abs(),
    "irfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=x.shape[-2:]),
    "irfft2 without a length": lambda x: torch.fft.irfft2(torch.fft.rfft2(x)),
    "irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=-2), n=x.shape[-2], dim=-2),
    "rfftn": lambda x: torch.fft.irfftn(
        torch.fft.rfftn(x, dim=AXES, norm="ortho"), s=x.shape[-2:], dim=AXES, norm="ortho"
    ),
    "fft of another length": lambda x: fft2(x, s=(x.shape[-2] * 2, x.shape[-1] - 3)),
    "centred": lambda x: fftshift(fft2(ifftshift(k(x), dim=AXES), norm="ortho"), dim=AXES),
    "centred backward": lambda x: fftshift(ifft2(ifftshift(k(x), dim=AXES)), dim=AXES).real,
    "swapped shifts": lambda x: ifftshift(fft2(fftshift(k(x), dim=AXES)), dim=AXES),
    "shifted once": lambda x: fftshift(fft2(x), dim=AXES),
    "shift of one axis": lambda x: fftshift(fft2(fftshift(x, dim=-1)), dim=-2),
    "all axes shifted": lambda x: fftshift(fft2(x)),
    "all axes shifted back": lambda x: ifftshift(ifft2(k(x))).real + ifftshift(ifft2(x)).imag,
    "shifted there and back": lambda x: ifft2(ifftshift(fftshift(fft2(x)))).real,
    "shifted spectrum used twice": used_twice,
    "half spectrum there and back": lambda x: torch.fft.irfft2(
        ifftshift(fftshift(torch.fft.rfft2(x))), s=x.shape[-2:]
    ),
    "part of a shift": lambda x: torch.real(fftshift(ifft2(x), dim=-1)) + fftshift(ifft2(x)).imag,
    "parts of a shift": lambda x: torch.view_as_real(fftshift(ifft2(x)))[..., 0],
    "roll of all": lambda x: torch.roll(ifft2(x), 3).real + torch.roll(fft2(x), 1, -1).imag,
    "assigned numbers": without_its_middle,
    "fused": lambda x: torch.addcmul(k(x), x, k(x), value=2) + torch.lerp(k(x), fft2(x), 0.3),
    "fused quotient": lambda x: torch.addcdiv(k(x), k(x), x + 1),
    "part of a conjugate": lambda x: k(x).conj().imag + k(x).mH.mT.imag,
    "matrix norm": lambda x: torch.linalg.norm(k(x), dim=AXES, keepdim=True),
    "tensordot": lambda x: torch.tensordot(k(x), k(x[:1, 0, :4]), dims=([3], [2])),
    "by rolls": by_rolls,
    "fastmri": fastmri_fft,
    "fftfreq": lambda x: x * torch.fft.fftfreq(x.shape[-1]) + torch.fft.rfftfreq(9)[:1],
    "linspace": lambda x: x * torch.linspace(-1, 1, x.shape[-1]).square(),
    "real roll": lambda x: torch.roll(x, x.shape[-1] // 3, -1) + torch.roll(x, 2),
    "no grad": lambda x: _without_gradients(x),
}


def _without_gradients(x):
    with torch.no_grad():
        return fft2(x).abs()


class Operation(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        result = self.function(x)
        return torch.view_as_real(result.contiguous()) if result.is_complex() else result


class Operations(nn.Module):
    """Several results in one: a trace of each would take three times as long."""

    def __init__(self, names):
        super().__init__()
        self.each = nn.ModuleList(Operation(OPERATIONS[name]) for name in names)

    def forward(self, x):
        results = [one(x) for one in self.each]
        # The zeros have the shape that torch's result has: another one would not go with it.
        return torch.cat([(one + one.new_zeros(one.shape)).flatten() for one in results])


AT_ONCE = 8
NAMES = tuple(OPERATIONS)
GROUPS = [NAMES[first : first + AT_ONCE] for first in range(0, len(NAMES), AT_ONCE)]


@pytest.mark.parametrize("names", GROUPS, ids=", ".join)
def test_operations_on_pairs_give_what_torch_gives(names):
    """At the matrix of the trace and at others, odd ones too: nothing holds on to a length."""
    module = Operations(names).eval()
    example = torch.rand(3, 1, 16, 12)
    program = RealProgram(
        exported_graph(module, example, open_axes(example, batch=True, matrix=True))
    )
    for shape in ((3, 1, 16, 12), (2, 1, 15, 21), (4, 1, 18, 18)):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            expected, found = [one(image) for one in module.each], program(image)
        parts = found.split([one.numel() for one in expected])
        for name, of_torch, of_ours in zip(names, expected, parts, strict=True):
            scale = of_torch.abs().max()
            off = (of_ours.reshape(of_torch.shape) - of_torch).abs().max()
            assert off <= 3e-6 * scale, (name, shape)


def test_what_has_no_lowering_is_named_by_its_line():
    module = Operation(lambda x: torch.acosh(k(x))).eval()
    example = torch.rand(3, 1, 16, 12)
    program = RealProgram(exported_graph(module, example, {}))
    with pytest.raises(KspaceSRError, match=r"test_complex_operators.py:\d+ .*acosh") as raised:
        program(example)
    assert raised.value.hint
