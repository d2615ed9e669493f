"""Whether ``infer --tier`` is as fast as the row of the benchmark that it takes, end to end.

What it measures: whole runs over the shipped sample, in turns: with the tier, with the row's own
file and backend named (what `bench` shows under stages), and in fp32; and beside them the backend
alone, as a row is timed. What it leaves out: the first use, which makes and proves the file.

Run it on a machine with nothing else to do::

    python -m kspacesr_rt.bench.run.tier_speed x2-fast --tier max
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from kspacesr_rt.conversion.row_speed import seconds_per_slice
from kspacesr_rt.model.spec import Tier
from kspacesr_rt.pipeline import InferOptions, Session, infer
from kspacesr_rt.pipeline.stage_timer import auto_streams
from kspacesr_rt.runtime.backends import BackendOptions, backend_info
from kspacesr_rt.sample import sample_folder

ALLOWED = 1.10
"""Time of a run with the tier over that of its row, at most."""


def tier_speed(model: str, tier: Tier, *, rounds: int = 5, threads: int = 0) -> dict[str, Any]:
    """Time runs with a tier, with the row that it takes, and in fp32.

    Parameters
    ----------
    model
        Path or shipped name.
    tier
        ``fast`` or ``max``.
    rounds
        Runs of each.
    threads
        CPU threads; 0: every core.

    Returns
    -------
        The row, medians of the seconds of a run for ``tier``, ``row`` and ``exact``, the row's
        milliseconds a slice, and ``ratio``, the time with the tier over that of the row.
    """
    asked = InferOptions(model=model, tier=tier, threads=threads)
    with tempfile.TemporaryDirectory(prefix="kspacesr-tier-") as name:
        folder = Path(name)
        with Session(asked) as session:  # makes and proves what is not there yet
            session.run(sample_folder(), folder / "first")
            chosen = session.choice
            found = dict(chosen.tier or {})
            content = session.model_content()
        named = folder / "row.onnx"
        if content is not None:
            named.write_bytes(content)
        of_row = InferOptions(
            model=model if content is None else str(named),
            backend=chosen.backend,
            threads=threads,
        )
        kinds = {
            "tier": asked,
            "row": of_row,
            "exact": InferOptions(model=model, threads=threads),
        }
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in range(rounds):
            for kind, options in kinds.items():
                started = time.perf_counter()
                infer(sample_folder(), folder / f"{kind}-{number}", options)
                times[kind].append(time.perf_counter() - started)
        alone = _alone(of_row, chosen.backend, tuple(found["matrices"][0]), threads)
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    return {
        "model": Path(model).name,
        "tier": tier,
        "row": f"{found['precision']} on {chosen.backend}",
        "run_s": {kind: round(value, 4) for kind, value in medians.items()},
        "row_ms_per_slice": round(1e3 * alone, 3),
        "ratio": round(medians["tier"] / medians["row"], 4),
        "gain_over_exact": round(medians["exact"] / medians["tier"], 4),
        "passed": medians["tier"] <= ALLOWED * medians["row"],
    }


def _alone(options: InferOptions, backend: str, matrix: tuple[int, int], threads: int) -> float:
    from kspacesr_rt.model.file import load_model, resolve_model

    model = load_model(resolve_model(options.model, upscale=None))
    streams = auto_streams(backend_info(backend), threads)
    return seconds_per_slice(
        model, backend, matrix, BackendOptions(threads=threads, streams=streams)
    )


def main() -> None:
    """Print the figures as a line of JSON; exit with 1 if a tier is too slow."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="x2-fast")
    parser.add_argument("--tier", choices=("fast", "max"), default="max")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    found = tier_speed(given.model, given.tier, rounds=given.rounds, threads=given.threads)
    print(json.dumps(found))
    raise SystemExit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
