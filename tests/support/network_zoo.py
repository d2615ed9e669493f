"""Networks of well-known packages, small and with random weights, as image to image networks.

What a package's network wants otherwise is around it here, as its user would write it: three
channels for one, the zero-filled image for a network that keeps the matrix, multi-coil k-space.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import own_networks
import torch
from own_networks import fft2c, filled, measured_mask
from torch import Tensor, nn
from torch.nn import functional

SCALE = 2
INSTALLED = {
    "spandrel": "spandrel einops",
    "monai": "monai",
    "fastmri": "fastmri runstats pandas python-dateutil six pytz tqdm",
}
"""Family to what pip is asked for. With their dependencies, torchvision and others come, which
bring builds of torch of their own; none of it is needed here."""


@dataclass(frozen=True)
class Network:
    """A network of the zoo."""

    family: str
    """``own``, or the package that has it."""
    name: str
    make: Callable[[], nn.Module]
    """Makes it, seeded, in evaluation mode."""
    upscale: int = SCALE
    fixed: tuple[int, int] | None = None
    """Its only LR matrix."""

    @property
    def id(self) -> str:
        return f"{self.family}: {self.name}"

    def why_not(self) -> str | None:
        """Say which package is missing; None if none is."""
        if self.family == "own" or importlib.util.find_spec(self.family) is not None:
            return None
        return f"'{self.family}' is not installed: pip install --no-deps {INSTALLED[self.family]}"

    def __call__(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()


class Grey(nn.Module):
    """A colour network on grey images: three equal channels in, their mean out."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, lr: Tensor) -> Tensor:
        made = self.net(torch.cat([lr, lr, lr], 1))
        sr = made[0] if isinstance(made, tuple) else made  # MMRealSR gives degradations too
        return sr.mean(1, keepdim=True)


class ToOne(nn.Module):
    """A network of images from 0 to 1: a slice is divided by its maximum, and multiplied again."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, lr: Tensor) -> Tensor:
        top = lr.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-20)
        return self.net(lr / top) * top


class OnInterpolated(nn.Module):
    """A network that keeps the matrix, on the bilinear image; it adds what is missing."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, lr: Tensor) -> Tensor:
        up = functional.interpolate(lr, scale_factor=SCALE, mode="bilinear", align_corners=False)
        return up + self.net(up)


class OnKSpace(nn.Module):
    """A reconstruction of masked k-space ``(n, coils, y, x, 2)``, from a LR image's."""

    def __init__(self, net: nn.Module, *, lines: bool = False) -> None:
        super().__init__()
        self.net, self.lines = net, lines

    def forward(self, lr: Tensor) -> Tensor:
        rows, columns = (length * SCALE for length in lr.shape[-2:])
        kspace = torch.view_as_real(filled(fft2c(lr) * SCALE, rows, columns))
        mask = measured_mask(lr, rows, columns)[..., None] > 0
        if self.lines:  # of k-space, along the readout
            mask = mask[:, :, rows // 2 : rows // 2 + 1]
        return self.net(kspace, mask)[:, None]


class OnComplexImage(nn.Module):
    """A network of complex images ``(n, coils, y, x, 2)``, on the zero-filled one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, lr: Tensor) -> Tensor:
        rows, columns = (length * SCALE for length in lr.shape[-2:])
        image = own_networks.ifft2c(filled(fft2c(lr) * SCALE, rows, columns))
        pair = self.net(torch.view_as_real(image))
        return torch.linalg.vector_norm(pair, dim=-1)


class OneCoil(nn.Module):
    """The sensitivity of a single coil is one."""

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(kspace[..., 0]), torch.zeros_like(kspace[..., 0])], -1)


# spandrel ---------------------------------------------------------------------------------------

_SMALL = {"depths": (2, 2), "num_heads": (2, 2), "embed_dim": 24}
SPANDREL: dict[str, tuple[str, dict[str, object]]] = {
    "ATD": ("ATD", {**_SMALL, "upscale": 2, "upsampler": "pixelshuffledirect", "num_tokens": 16}),
    "AuraSR": (
        "AuraSR",
        {
            **{"dim": 8, "image_size": 64, "input_image_size": 16},
            "style_network": {"dim_in": 8, "dim_out": 8, "depth": 1},
        },
    ),
    "CRAFT": (
        "CRAFT",
        {"embed_dim": 64, "depths": [1, 1], "num_heads": [4, 4], "window_size": 16, "upscale": 2},
    ),
    "Compact": ("Compact", {"num_feat": 16, "num_conv": 4, "upscale": 2}),
    "DAT": ("DAT", {"embed_dim": 64, "depth": [2], "num_heads": [2], "split_size": [8, 8]}),
    "DCTLSA": ("DCTLSA", {"nf": 20, "upscale": 2}),
    "DITN": ("DITN", {"dim": 20, "ITL_blocks": 1, "SAL_blocks": 1, "upscale": 2}),
    "DRCT": (
        "DRCT",
        {
            **{"depths": (2, 2), "num_heads": (2, 2), "embed_dim": 24, "gc": 8},
            **{"window_size": 8, "upscale": 2, "upsampler": "pixelshuffle"},
        },
    ),
    "ESRGAN": ("ESRGAN", {"num_filters": 16, "num_blocks": 2, "scale": 2}),
    "FDAT": ("FDAT", {"scale": 2, "embed_dim": 24, "num_groups": 1, "depth_per_group": 2}),
    "GRL": (
        "GRL",
        {
            **{"embed_dim": 24, "upscale": 2, "upsampler": "pixelshuffledirect", "depths": [2, 2]},
            **{"num_heads_window": [2, 2], "num_heads_stripe": [2, 2]},
            **{"window_size": 8, "stripe_size": [8, 8]},
        },
    ),
    "HAT": (
        "HAT",
        {**_SMALL, "window_size": 8, "squeeze_factor": 8, "upscale": 2, "num_feat": 16},
    ),
    "IPT": (
        "IPT",
        {"patch_size": 48, "n_feats": 16, "scale": [2], "num_heads": 4, "num_layers": 1},
    ),
    "MMRealSR": (
        "MMRealSR",
        {
            **{"num_in_ch": 3, "num_out_ch": 3, "scale": 4, "num_feat": 16, "num_block": 1},
            **{"num_grow_ch": 8, "num_feats": [8, 8, 8, 8], "num_blocks": [1, 1, 1, 1]},
        },
    ),
    "MoESR": ("MoESR", {"scale": 2, "dim": 16, "n_blocks": 1, "n_block": 1, "upsample_dim": 16}),
    "MoSR": ("MoSR", {"upscale": 2, "n_block": 2, "dim": 16}),
    "OmniSR": ("OmniSR", {"num_feat": 16, "up_scale": 2}),
    "PLKSR": ("PLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}),
    "RealPLKSR": ("PLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}),
    "RCAN": ("RCAN", {"scale": 2, "n_resgroups": 1, "n_resblocks": 2, "n_feats": 16}),
    "RGT": ("RGT", {"embed_dim": 64, "depth": [2], "num_heads": [2], "c_ratio": 0.5}),
    "UpCunet2x": ("RealCUGAN", {}),
    "SAFMN": ("SAFMN", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}),
    "SPAN": ("SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16, "upscale": 2}),
    "SeemoRe": ("SeemoRe", {"scale": 2, "num_experts": 2, "num_layers": 1, "embedding_dim": 16}),
    "SwiftSRGAN": ("SwiftSRGAN", {"num_channels": 16, "num_blocks": 2, "upscale_factor": 2}),
    "Swin2SR": ("Swin2SR", {**_SMALL, "window_size": 8, "upsampler": "pixelshuffledirect"}),
    "SwinIR": (
        "SwinIR",
        {**_SMALL, "window_size": 8, "upscale": 2, "upsampler": "pixelshuffledirect"},
    ),
}
"""Class to package below `spandrel.architectures`, and arguments that make it small and x2."""
OTHER_UPSCALES = {"AuraSR": 4, "MMRealSR": 4}
TO_ONE = {"SPAN"}
"""What loses digits in scanner units: it subtracts a mean of colours from 0 to 1."""
FIXED = {"IPT": (48, 48), "UNETR": (64, 64)}
"""The only LR matrices of networks whose position codes have one length."""


@contextlib.contextmanager
def _without_torchvision() -> Iterator[None]:
    """Let spandrel be imported without torchvision: a face restorer and an inpainter use it."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    for name in names:
        made = types.ModuleType(name)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        made.__path__ = []
        vars(made).update(InterpolationMode=object, rotate=object, normalize=object)
        sys.modules[name] = made
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def _of_spandrel(name: str) -> nn.Module:
    package, settings = SPANDREL[name]
    with _without_torchvision():
        home = importlib.import_module(f"spandrel.architectures.{package}")
    net = Grey(getattr(home, name)(**settings))
    return ToOne(net) if name in TO_ONE else net


# MONAI and fastMRI ------------------------------------------------------------------------------


def _monai(name: str, **settings: object) -> nn.Module:
    nets = importlib.import_module("monai.networks.nets")
    return getattr(nets, name)(**settings)


def _of_monai(name: str, settings: dict[str, object]) -> nn.Module:
    return OnInterpolated(_monai(name, **settings))


def _reconstruction(name: str) -> object:
    module, _, attribute = name.partition(":")
    home = importlib.import_module(f"monai.apps.reconstruction.networks.nets.{module}")
    return getattr(home, attribute)


def _monai_refiner() -> nn.Module:
    complex_unet = _reconstruction("complex_unet:ComplexUnet")
    return complex_unet(features=(8, 8, 8, 8, 8, 8), pad_factor=16)


def _monai_varnet(*, coils: bool) -> nn.Module:
    varnet = _reconstruction("varnet:VariationalNetworkModel")
    sensitivity = _reconstruction("coil_sensitivity_model:CoilSensitivityModel")
    first = sensitivity(features=(8, 8, 8, 8, 8, 8)) if coils else OneCoil()
    return OnKSpace(varnet(first, _monai_refiner(), num_cascades=2), lines=coils)


_PLANE = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1}
_FEATURES = {"features": (8, 8, 8, 8, 8, 8)}
MONAI: dict[str, tuple[str, dict[str, object]]] = {
    "UNet": ("UNet", {**_PLANE, "channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 1}),
    "AttentionUnet": ("AttentionUnet", {**_PLANE, "channels": (8, 16), "strides": (2,)}),
    "BasicUNet": ("BasicUNet", {**_PLANE, **_FEATURES}),
    "DynUNet": (
        "DynUNet",
        {
            **_PLANE,
            **{"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]},
            "filters": [8, 16, 32],
        },
    ),
    "SegResNet": (
        "SegResNet",
        {**_PLANE, "init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)},
    ),
    "SwinUNETR": (
        "SwinUNETR",
        {**_PLANE, "feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)},
    ),
    "UNETR": (
        "UNETR",
        {
            **_PLANE,
            **{"img_size": (128, 128), "feature_size": 4, "hidden_size": 24, "mlp_dim": 24},
            "num_heads": 2,
        },
    ),
    "HighResNet": ("HighResNet", {**_PLANE}),
}


def _of_fastmri(name: str) -> nn.Module:
    with _without_torchvision():
        models = importlib.import_module("fastmri.models")
    if name == "Unet":
        return OnInterpolated(models.Unet(1, 1, chans=8, num_pool_layers=2))
    if name == "NormUnet":
        return OnComplexImage(models.NormUnet(8, 2))
    settings = {"sens_chans": 4, "sens_pools": 2, "chans": 4, "pools": 2}
    return OnKSpace(models.VarNet(num_cascades=2, mask_center=False, **settings))


def _sizes(name: str) -> tuple[int, tuple[int, int] | None]:
    return OTHER_UPSCALES.get(name, SCALE), FIXED.get(name)


def networks() -> list[Network]:
    """Return every network of the zoo."""
    found = [Network("own", name, make) for name, make in own_networks.NETWORKS.items()]
    found += [
        Network("spandrel", name, partial(_of_spandrel, name), *_sizes(name)) for name in SPANDREL
    ]
    found += [
        Network("monai", name, partial(_of_monai, *made), *_sizes(name))
        for name, made in MONAI.items()
    ]
    found += [
        Network("monai", "ComplexUnet", lambda: OnComplexImage(_monai_refiner())),
        Network("monai", "VarNet, one coil", partial(_monai_varnet, coils=False)),
        Network("monai", "VarNet, estimated coils", partial(_monai_varnet, coils=True)),
    ]
    found += [
        Network("fastmri", name, partial(_of_fastmri, name))
        for name in ("Unet", "NormUnet", "VarNet")
    ]
    return found
