"""fastMRI's HDF5: the reconstructions ``(slice, y, x)`` that stand beside k-space, and results.

References
----------
.. [1] https://github.com/facebookresearch/fastMRI, ``fastmri/data/README.md``
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from kspacesr_rt.dicom import Derivation
from kspacesr_rt.dicom.file_limits import current_limits, too_large
from kspacesr_rt.errors import SliceFailed, SliceSkipped
from kspacesr_rt.volumes.arrays import array_layout, upscaled_shape
from kspacesr_rt.volumes.layout import ByteSource, Layout
from kspacesr_rt.volumes.provenance import is_own
from kspacesr_rt.volumes.source_volume import Plane
from kspacesr_rt.volumes.volume import ByteSink, Volume

RECONSTRUCTIONS: Final = ("reconstruction_rss", "reconstruction_esc", "reconstruction")
"""Of several coils, of one, and of a result that was handed in; the first that is there counts."""
_MEASURED: Final = ("max", "norm")
"""Attributes that speak of the reconstruction's values: those of an output are its own."""
_OWN: Final = "description"


@dataclass(frozen=True, kw_only=True, slots=True)
class FastmriVolume(Volume):
    """See `Volume`."""

    name: str
    """Of the data set."""
    shape: tuple[int, ...]
    attributes: Mapping[str, Any]
    """Those that an output keeps."""

    @classmethod
    def read(cls, path: Path, plane: Plane) -> Self:
        """Read what a file holds; raises as `kspacesr_rt.volumes.triage` says."""
        with _opened(path) as file:
            if is_own(_text(file.attrs.get(_OWN))):
                raise SliceSkipped("already-derived", "was written by kspacesr-rt")
            name = next((one for one in RECONSTRUCTIONS if _is_data_set(file, one)), None)
            if name is None:
                raw = "kspace" in file
                raise SliceSkipped(
                    "no-reconstruction",
                    "holds raw k-space alone" if raw else "holds no reconstruction",
                    hint=f"expected a data set {', '.join(RECONSTRUCTIONS)}",
                )
            data = file[name]
            _require_own_samples(file, name)
            shape, dtype = tuple(int(n) for n in data.shape), data.dtype
            others = sum(1 for other in file if other != name)
            attributes = _kept(file)
        layout = array_layout(shape, dtype, plane)
        return cls(
            path=path,
            layout=layout,
            name=name,
            shape=shape,
            attributes=attributes,
            # They are what every such file has beside its images: no warning.
            dropped={"data set": others} if others else {},
        )

    @property
    def header_content(self) -> bytes:
        """The attributes that an output keeps."""
        kept = sorted((name, repr(value)) for name, value in self.attributes.items())
        return repr((self.name, self.shape, self.layout.dtype, kept)).encode()

    @contextmanager
    def samples(self) -> Iterator[ByteSource]:
        """Open the data set; see `Volume.samples`."""
        with _opened(self.path) as file:
            yield _Rows(file[self.name], self.layout)

    def result(self, path: Path, derivation: Derivation) -> Self:
        """Return what the result is; see `Volume.result`."""
        layout = self.layout.upscaled(derivation.upscale)
        return replace(self, path=path, layout=layout, shape=upscaled_shape(self.shape, layout))

    def of_floats(self, path: Path) -> Self:
        """Return a file of 32-bit floats like this; see `Volume.of_floats`."""
        return replace(self, path=path, layout=self.layout.of_floats())

    @contextmanager
    def begin(self, said: str) -> Iterator[ByteSink]:
        """Write the header; see `Volume.begin`."""
        import h5py

        with h5py.File(self.path, "w", libver="earliest") as file:
            dtype = np.dtype(self.layout.dtype)
            data = file.create_dataset(self.name, self.shape, dtype, track_times=False)
            rows = _Rows(data, self.layout)
            for name, value in sorted(self.attributes.items()):
                file.attrs[name] = value
            file.attrs[_OWN] = said
            yield rows
            file.attrs["max"] = rows.largest
            file.attrs["norm"] = math.sqrt(rows.energy)


class _Rows:
    """A data set as a stream of its samples, in the order that a file of NumPy has them."""

    def __init__(self, data: Any, layout: Layout) -> None:
        self._data, self._layout = data, layout
        self._chunk = layout.chunk[0]
        self._place = 0
        self._content = b""
        self.largest = self.energy = 0.0
        """Of what was written."""

    def _next(self) -> tuple[Any, ...]:
        """Return the index of the next chunk."""
        slow = self._layout.block[0]
        block, first = divmod(self._place, slow)
        self._place += self._chunk
        shape = self._data.shape
        if len(shape) == 2:
            return ()
        leading = np.unravel_index(block, shape[:-3]) if len(shape) > 3 else ()
        return (*(int(n) for n in leading), slice(first, first + self._chunk))

    def read(self, n_bytes: int, /) -> bytes:
        """Return the next bytes, none at the end."""
        at_end = self._place >= self._layout.n_blocks * self._layout.block[0]
        if not self._content and not at_end:
            try:
                values = np.asarray(self._data[self._next()], np.dtype(self._layout.dtype))
            except (OSError, RuntimeError, ValueError) as exc:
                raise SliceFailed("unreadable", "its data set cannot be read") from exc
            self._content = values.tobytes()
        given, self._content = self._content[:n_bytes], self._content[n_bytes:]
        return given

    def write(self, content: bytes, /) -> int:
        """Append a chunk."""
        values = np.frombuffer(content, np.dtype(self._layout.dtype))
        self.largest = max(self.largest, float(values.max()))
        self.energy += float(np.square(values, dtype=np.float64).sum())
        index = self._next()
        shape = self._layout.chunk[1:] if index == () else self._layout.chunk
        self._data[index] = values.reshape(shape)
        return len(content)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5py

    path.stat()  # what the system says of it comes first
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError, ValueError) as exc:
        raise SliceFailed("unreadable", "is no sound HDF5 file") from exc
    with file:
        yield file


def _is_data_set(file: Any, name: str) -> bool:
    import h5py

    if name not in file:
        return False
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise _elsewhere()  # before it is followed
    try:
        return isinstance(file.get(name), h5py.Dataset)
    except (KeyError, RuntimeError, OSError):
        return False


def _elsewhere() -> SliceFailed:
    return SliceFailed("unreadable", "its samples lie elsewhere than in it, and are not looked for")


def _require_own_samples(file: Any, name: str) -> None:
    """Refuse samples that lie in other files, or that unfold into gigabytes at once."""
    data = file[name]
    if data.external or data.is_virtual:
        raise _elsewhere()
    chunk = math.prod(data.chunks or (0,)) * data.dtype.itemsize
    if chunk > current_limits().volume:
        raise too_large("has chunks of more bytes than", "volume")


def _kept(file: Any) -> dict[str, Any]:
    """Return the attributes that an output keeps: whose image it is, and how it was acquired."""
    left = (*_MEASURED, _OWN)
    return {name: value for name, value in file.attrs.items() if name not in left}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
