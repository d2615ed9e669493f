"""Read the file of a checkpoint from a stranger: tensors and plain values, never code.

A checkpoint may be of any size, but it must be what it looks like: an archive that unpacks to more
than it holds, or a tensor that claims more values than were stored, is refused before memory is
asked for.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kspacesr_rt.errors import CheckpointError
from kspacesr_rt.system.plain_text import shortened

UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, struct.error),
    *(LookupError, AttributeError, TypeError, AssertionError, RecursionError, MemoryError),
    *(OverflowError, zipfile.BadZipFile),
)
"""What `torch.load` raises on files of other kinds and on truncated ones, format by format."""
WEIGHTS_ONLY = "a checkpoint must hold weights only: save generator.state_dict()"
LARGEST_ARCHIVE_RATIO = 1.01
"""Bytes an archive may unpack to, over its own: torch stores tensors as they are."""


def read_document(path: Path) -> dict[str, Any]:
    """Read a checkpoint file to its raw content, never running code from it.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, needs unpickling of objects, unpacks to more than it
        holds, or is no mapping.
    """
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        _refuse_packed_archive(path)
        with warnings.catch_warnings():
            # What torch says of old and of foreign formats advises to load them as code.
            warnings.simplefilter("ignore")
            document = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:  # which is a ValueError, too
        raise
    except UNREADABLE as exc:
        raise CheckpointError(
            f"{path}: not a readable checkpoint: {_reason(exc)}", hint=WEIGHTS_ONLY
        ) from exc
    if not isinstance(document, dict):
        raise CheckpointError(
            f"{path}: holds {_described(document)}, not a mapping of names to tensors",
            hint=_unpacking(document, path) or WEIGHTS_ONLY,
        )
    return document


def _described(document: object) -> str:
    if isinstance(document, list | tuple):
        kinds = [type(one).__name__ for one in document[:4]] + ["..."] * (len(document) > 4)
        return f"a {type(document).__name__} of {len(document)} ({', '.join(kinds)})"
    return f"one {type(document).__name__}"


def _unpacking(document: object, path: Path) -> str | None:
    """Say how to save alone the weights that stand in a list or tuple."""
    places = enumerate(document) if isinstance(document, list | tuple) else ()
    at = next((n for n, one in places if isinstance(one, dict) and one), None)
    if at is None:
        return None
    return f"save its weights alone: torch.save(torch.load('{path.name}')[{at}], 'weights.pt')"


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as exc:
        raise CheckpointError(f"{path}: not a readable safetensors file: {shortened(exc)}") from exc


def _refuse_packed_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    held = path.stat().st_size * LARGEST_ARCHIVE_RATIO
    if packed or sum(member.file_size for member in members) > held:
        raise CheckpointError(
            f"{path}: not a readable checkpoint: an archive with compressed or overlapping parts, "
            "which torch.save does not write",
            hint="save it again with torch.save",
        )


def _reason(exc: BaseException) -> str:
    """Say why a file was refused, without torch's advice to load it as code."""
    if isinstance(exc, LookupError):  # of its parser, which has lost its way
        return "it is no file that torch.save writes"
    text = str(exc)
    if "weights_only" not in text and "eights only" not in text:
        return shortened(text.split("\n", 1)[0]) or type(exc).__name__
    if "TorchScript" in text:
        return "it is a TorchScript archive, which is a program"
    if ".tar" in text:
        return "it is in the legacy .tar format, which is read as code"
    found = re.search(r"GLOBAL ([\w.]+)", text)
    named = f" ('{shortened(found.group(1), 80)}')" if found else ""
    return f"it holds Python objects{named}, which are code, beside its weights"


def require_stored(weights: dict[str, Tensor], path: Path) -> None:
    """Refuse tensors that claim more values than the file stored for them.

    Raises
    ------
    CheckpointError
        If a tensor is a view that repeats a smaller storage, is sparse, or is on no device.
    """
    for name, value in weights.items():
        plain = value.layout == torch.strided and value.device.type == "cpu"
        plain = plain and not (value.is_quantized or value.is_complex())
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: tensor '{shortened(name, 80)}' of shape "
                f"{shortened(tuple(value.shape), 80)} is not stored as it is",
                hint=WEIGHTS_ONLY,
            )
