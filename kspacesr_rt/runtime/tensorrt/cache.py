"""Engines that were built on this machine, kept under what went into them.

Every build keeps its own pair of files, ``KEY-PLAN.engine`` and its sidecar, each written whole: so
two processes that build the same engine at the same time leave two good ones, never a mixed one.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from kspacesr_rt.errors import ModelFileError, failing_the_output
from kspacesr_rt.model.binding import BoundModel
from kspacesr_rt.model.engine_files import SIDECAR_SUFFIX, is_engine
from kspacesr_rt.runtime.tensorrt.build import (
    BuiltEngine,
    OnProgress,
    compile_in_subprocess,
    target_notes,
)
from kspacesr_rt.runtime.tensorrt.inputs import (
    RECIPE,
    EngineInputs,
    EngineOptions,
    profile_of,
    resolve_inputs,
)
from kspacesr_rt.runtime.tensorrt.kernel_cache import SUFFIX
from kspacesr_rt.runtime.tensorrt.listing import CacheEntry, entry_of, is_abandoned
from kspacesr_rt.runtime.tensorrt.sidecar import (
    EngineInfo,
    describe,
    load_engine,
    sidecar_path,
    write_engine,
)
from kspacesr_rt.system.cache_folder import CacheFolder, entries_to_remove
from kspacesr_rt.system.files import replace_file

_NAME_DIGITS = 12
"""Digits of a plan's SHA-256 in its file name: enough to tell builds of one key apart."""


class EngineCache(CacheFolder):
    """A folder of engines, made for its owner alone: an engine is executable code."""

    name = "engines"

    def get_or_build(
        self,
        model: BoundModel,
        options: EngineOptions | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> BuiltEngine:
        """Return an engine for a bound model, and build it if there is none that is whole.

        Parameters
        ----------
        model
            The model, bound to the matrix it will be given.
        options
            What to build for.
        on_progress
            Called as a build goes on, from this thread.

        Raises
        ------
        InputError, BackendUnavailableError, EngineError
            See `kspacesr_rt.runtime.tensorrt.build.build_engine`.
        OutputError
            If the engine cannot be kept.
        """
        start = time.perf_counter()
        inputs = resolve_inputs(model, options or EngineOptions())
        notes = list(target_notes(inputs, model.spec.upscale))
        for path in self._of_key(inputs.key):
            try:
                info = _load_own(path, inputs)
            except ModelFileError as exc:
                notes.append(f"an engine in the cache was not used and is built again: {exc}")
                _remove(path)
                continue
            with suppress(OSError):  # a cache that is only read has no last use
                os.utime(sidecar_path(path))
            return BuiltEngine(
                path=path,
                info=info,
                seconds=time.perf_counter() - start,
                cached=True,
                notes=tuple(notes),
            )
        self.make()
        timing = self._timing_path(inputs)
        compiled = compile_in_subprocess(
            model,
            inputs,
            timing=timing.read_bytes() if timing.exists() else b"",
            on_progress=on_progress,
        )
        if compiled.timing:
            replace_file(timing, compiled.timing)
        info = describe(inputs, model.spec, compiled)
        path = self._keep(compiled.plan, info)
        return BuiltEngine(
            path=path, info=info, seconds=time.perf_counter() - start, notes=tuple(notes)
        )

    def add(self, engine: Path) -> BuiltEngine:
        """Keep an engine that was built elsewhere, where backends will find it.

        Returns
        -------
            Where the copy is. Backends ask for default options: an engine built with others is
            kept, but not found, and a note says so.

        Raises
        ------
        ModelFileError
            If it is no engine, or it or its sidecar is missing or damaged.
        OutputError
            If it cannot be kept.
        """
        start = time.perf_counter()
        _require_engine(engine)
        info, plan = load_engine(engine)
        self.make()
        return BuiltEngine(
            path=self._keep(plan, info),
            info=info,
            seconds=time.perf_counter() - start,
            cached=True,
            notes=_why_not_found(info),
        )

    def listing(self) -> tuple[CacheEntry, ...]:
        """Return every engine in the cache, the one used last first."""
        if self.why_none() is not None:
            return ()
        entries = [entry_of(path) for path in self.folder.glob("*.engine")]
        found = [entry for entry in entries if entry is not None]
        return tuple(sorted(found, key=lambda entry: entry.last_used, reverse=True))

    def as_text(self) -> str:
        """Return the listing for people."""
        return self.describe(self.listing(), "engine")

    def prune(
        self,
        *,
        max_bytes: int | None = None,
        older_than_days: float | None = None,
        everything: bool = False,
    ) -> tuple[CacheEntry, ...]:
        """Remove engines, the ones unused for longest first; what cannot be used goes in any case.

        Parameters
        ----------
        max_bytes
            Keep no more than this.
        older_than_days
            Remove what was not used for this long.
        everything
            Remove all of it.

        Returns
        -------
            What was removed.

        Raises
        ------
        OutputError
            If something cannot be removed.
        """
        removed = tuple(
            entries_to_remove(
                self.listing(),
                max_bytes=max_bytes,
                older_than_days=older_than_days,
                everything=everything,
            )
        )
        for entry in removed:
            _remove(entry.path)
        if self.why_none() is not None:
            return ()
        for leftover in (*self.folder.glob("*.timing"), *self.folder.glob(".*.part")):
            if everything or (leftover.suffix == ".part" and is_abandoned(leftover)):
                leftover.unlink(missing_ok=True)
        return removed

    def _keep(self, plan: bytes, info: EngineInfo) -> Path:
        path = self.folder / f"{info.inputs.key}-{info.plan_sha256[:_NAME_DIGITS]}.engine"
        write_engine(path, plan, info)
        return path

    def _of_key(self, key: str) -> list[Path]:
        return [one.with_suffix("") for one in sorted(self.folder.glob(f"{key}-*.engine.json"))]

    def _timing_path(self, inputs: EngineInputs) -> Path:
        words = f"{inputs.runtime}-{inputs.runtime_version}-{inputs.gpu}-{inputs.gpu_name}"
        return self.folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', words)}.timing"


def _require_engine(path: Path) -> None:
    if path.name.endswith(SIDECAR_SUFFIX):
        raise ModelFileError(
            f"{path.name} is the sidecar of an engine",
            hint="name the engine, which it stands beside",
        )
    if path.suffix == ".onnx" and not is_engine(path):
        raise ModelFileError(
            f"{path.name} is a model file, of which an engine is built",
            hint="kspacesr-rt build MODEL.onnx -o MODEL.engine --gpu sm89",
        )


def _why_not_found(info: EngineInfo) -> tuple[str, ...]:
    """Return a note if no backend asks for such an engine."""
    inputs, asked = info.inputs, EngineOptions()
    batch = profile_of(info.spec, asked.batch)
    others = [
        word
        for word, differs in (
            (f"a batch of {' '.join(map(str, inputs.batch))}", inputs.batch != batch),
            ("a workspace limit", inputs.workspace_bytes is not None),
            ("an optimisation level", inputs.optimisation_level is not None),
            ("an earlier version's recipe", inputs.recipe != RECIPE),
        )
        if differs
    ]
    if not others:
        return ()
    return (
        f"it was built with {' and '.join(others)}, and backends ask for what build does by "
        "default: they will not find it",
    )


def _load_own(path: Path, wanted: EngineInputs) -> EngineInfo:
    info, _ = load_engine(path)
    if info.inputs.key != wanted.key:
        raise ModelFileError(f"{path.name}: was built from other inputs than its name says")
    return info


def _remove(path: Path) -> None:
    """Remove an engine, its sidecar first: without it, nobody takes the engine."""
    with failing_the_output(f"cannot remove {path}"):
        sidecar_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        path.with_suffix(SUFFIX).unlink(missing_ok=True)
