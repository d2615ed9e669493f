"""Backends of other packages, by entry point: found by metadata, imported only when needed.

A package announces a backend with an entry point whose value is a `BackendInfo`::

    [project.entry-points."kspacesr_rt.backends"]
    my-runtime = "my_package:BACKEND"

In the group ``kspacesr_rt.backends.auto`` instead, ``auto`` may take it too. Whatever is wrong
with a plug-in is one sentence about that plug-in; commands that do not need it go on.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from importlib import metadata
from typing import Any, Final, get_type_hints

from kspacesr_rt.errors import first_line
from kspacesr_rt.runtime.protocol import BackendInfo
from kspacesr_rt.system.interruption import deferred_signals

GROUP: Final = "kspacesr_rt.backends"
AUTO_GROUP: Final = "kspacesr_rt.backends.auto"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_OURS: Final = ("package", "libraries", "fault")
"""Fields of a row that are not a plug-in's to fill in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """A backend that another package announces; nothing of it has been imported."""

    name: str
    """What users type."""
    entry: metadata.EntryPoint
    """Where its row is."""
    package: str
    """Name and version of the distribution."""
    libraries: tuple[str, ...]
    """That distribution and those it requires."""
    auto: bool
    """Whether ``auto`` may take it."""

    def row(self) -> BackendInfo:
        """Import its row; a row with a `BackendInfo.fault` if that cannot be used."""
        try:
            found = self._loaded()
        except Exception as exc:
            text = f"{type(exc).__name__}: {first_line(exc)}"
            return self._faulty(f"does not load ({text})")
        if (wrong := _what_is_wrong(found, self.name)) is not None:
            return self._faulty(wrong)
        # These are filled in from metadata, whatever the package says.
        own = {"package": self.package, "libraries": self.libraries, "fault": None}
        row: BackendInfo = replace(found, **own)
        return row

    def _loaded(self) -> Any:
        with deferred_signals(), contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            try:
                return self.entry.load()
            except SystemExit as exc:
                raise RuntimeError(f"it ended the program: {exc.code}") from exc

    def _faulty(self, wrong: str) -> BackendInfo:
        return BackendInfo(
            self.name,
            self.entry.module,
            f"a plug-in of the package {self.package}",
            package=self.package,
            probe_hint="mend or remove that package; kspacesr-rt backends lists others",
            fault=f"backend '{self.name}' of the package {self.package} {wrong}",
        )


def find_plugins(reserved: Collection[str]) -> tuple[dict[str, Plugin], tuple[str, ...]]:
    """Look for backends of other packages, in the metadata of what is installed.

    Parameters
    ----------
    reserved
        Names that are not theirs to take.

    Returns
    -------
        Name to plug-in, in alphabetical order; and of those that were left out, a sentence each.
    """
    found: dict[str, Plugin] = {}
    twice: dict[str, set[str]] = {}
    left_out: list[str] = []
    for plugin in _announced(left_out):
        what = f"backend '{plugin.name}' of the package {plugin.package} is left out"
        if plugin.name in reserved:
            left_out.append(f"{what}: that name is taken by one of ours")
        elif _NAME.fullmatch(plugin.name) is None:
            left_out.append(f"{what}: names are of lower-case letters, digits and dashes")
        elif plugin.name in found:
            twice.setdefault(plugin.name, {found[plugin.name].package}).add(plugin.package)
        else:
            found[plugin.name] = plugin
    for name, packages in twice.items():
        del found[name]  # which of them was meant is not ours to guess
        from_all = " and ".join(sorted(packages))
        left_out.append(f"backend '{name}' is left out: it is announced twice, by {from_all}")
    return dict(sorted(found.items())), tuple(left_out)


def _announced(left_out: list[str]) -> Iterator[Plugin]:
    seen = set()
    for distribution in metadata.distributions():
        try:
            # Parsing every package's metadata would take longer than opening a model.
            announced = distribution.read_text("entry_points.txt") or ""
            if GROUP not in announced:
                continue
            name, entries = distribution.metadata["Name"], distribution.entry_points
            first = metadata.distribution(name).read_text("entry_points.txt")
            if name in seen or first != announced:  # hidden by what comes before it on the path
                continue
            seen.add(name)
            chosen = [one for one in entries if one.group in (GROUP, AUTO_GROUP)]
            if not chosen:
                continue
            package = f"{name} {distribution.version}"
            libraries = (name, *_required(distribution.requires or ()))
        except (
            Exception
        ) as exc:  # whatever stands in there, other packages are not the worse for it
            text = f"{type(exc).__name__}: {first_line(exc)}"
            left_out.append(f"the metadata of an installed package cannot be read ({text})")
            continue
        for entry in chosen:
            yield Plugin(
                name=entry.name,
                entry=entry,
                package=package,
                libraries=libraries,
                auto=entry.group == AUTO_GROUP,
            )


def _required(requirements: Collection[str]) -> Iterator[str]:
    for one in requirements:
        if (name := re.match(r"[\w.-]+", one)) is not None:
            yield name[0]


def _what_is_wrong(row: Any, name: str) -> str | None:
    """Say what keeps a plug-in's row from being one; None if nothing does."""
    if not isinstance(row, BackendInfo):
        return f"gives a {type(row).__name__}, not a BackendInfo"
    types = get_type_hints(BackendInfo)
    for field in fields(row):
        value = getattr(row, field.name)
        if field.name not in _OURS and not isinstance(value, types[field.name]):
            return f"gives a BackendInfo whose '{field.name}' is a {type(value).__name__}"
    if row.name != name:
        return f"calls itself '{row.name}'"
    if row.probe is not None and row.probe.count(":") != 1:
        return "gives a BackendInfo whose 'probe' is not module:function"
    return None
