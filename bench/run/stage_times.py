"""Where the time of `kspacesr-rt infer` goes: a whole run on the shipped sample, stage by stage.

What it measures: one run over DICOM files, reading and writing included, as its report tells it.
What it leaves out: spread; it is one run, to see what holds the others up, not to compare speeds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from kspacesr_rt.sample import sample_folder


def stage_split(backend: str, model: str) -> dict[str, Any] | None:
    """Run the shipped sample through the pipeline and tell how busy each stage was.

    Parameters
    ----------
    backend
        What computes.
    model
        Path or name of the model.

    Returns
    -------
        ``wall_s`` (seconds of the whole run), ``bottleneck`` (name of a stage) and ``stages``, each
        with ``name``, ``busy_s``, ``workers`` and ``utilisation``; see
        `kspacesr_rt.pipeline.report.StageTiming`. None if the pipeline's report does not tell its
        stages.

    Raises
    ------
    KspaceSRError
        If the run fails.
    """
    from kspacesr_rt.pipeline import InferOptions, infer

    with tempfile.TemporaryDirectory(prefix="kspacesr-stages-") as folder:
        options = InferOptions(backend=backend, model=model)
        report = infer(sample_folder(), Path(folder) / "sr", options)
    stages = getattr(report, "stages", ())
    if not stages:
        return None
    return {
        "wall_s": report.seconds["total"],
        "bottleneck": report.bottleneck,
        "stages": [
            {
                "name": one.name,
                "busy_s": one.busy_s,
                "workers": one.workers,
                "utilisation": one.utilisation,
            }
            for one in stages
        ],
    }
