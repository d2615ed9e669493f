"""`infer`: a folder of DICOM in, derived series and a report out; by default in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from os import PathLike
from pathlib import Path

from kspacesr_rt.pipeline.executors import Executor
from kspacesr_rt.pipeline.options import InferOptions, RunProgress
from kspacesr_rt.pipeline.report import RunReport
from kspacesr_rt.pipeline.session import Session, require_source
from kspacesr_rt.system.path_arguments import require_path


def infer(
    source: str | PathLike[str],
    output: str | PathLike[str],
    options: InferOptions | None = None,
    *,
    executor: Executor | None = None,
    report_file: str | PathLike[str] | None = None,
    on_progress: Callable[[RunProgress], None] | None = None,
    on_stall: Callable[[str], None] | None = None,
    on_start: Callable[[str], object] | None = None,
) -> RunReport:
    """Super-resolve every MR image below a folder into derived series.

    Parameters
    ----------
    source
        Folder (or one file); it is only read.
    output
        Folder for ``<series>/<instance>.dcm``, see `InferOptions.name`; made if missing. If it
        holds a run with the same parameters, that run is completed: what it has finished is not
        computed again.
    options
        Backend, model, batch and the like.
    executor
        Where series are processed; None: in this process. The same bytes come out of each.
    report_file
        Where the report goes; default ``report.json`` in `output`.
    on_progress
        Called after every slice (or every series, if others process them), in the caller's
        thread. What it raises ends the run.
    on_stall
        Called with a sentence, in another thread, when nothing has finished for a while; None: a
        warning of the logger ``kspacesr_rt``. See `kspacesr_rt.pipeline.stalls`.
    on_start
        Called once, before the first slice, with what is about to be done: slices, series, model
        and backend in a few words.

    Returns
    -------
        What became of every file. Failed slices do not raise: see `RunReport.exit_code`.

    Raises
    ------
    InputError, ModelFileError, ModelSpecError
        If the options or the model cannot be used.
    BackendUnavailableError
        If the backend cannot run here.
    OutputError
        If the output is unsafe, in use by another run or cannot be written.
    RunMismatchError
        If the output holds a run with other parameters.
    StaleOutputError
        If the output holds what the input no longer says, and `options` do not say what to do.
        No output is touched; the report is written, and is the error's `report`.
    NoMRImageError
        If nothing could be processed; nothing is written.

    Examples
    --------
    >>> from pathlib import Path
    >>> import kspacesr_rt as ks
    >>> from kspacesr_rt.sample import sample_folder
    >>> report = ks.infer(sample_folder(), Path("out"), ks.InferOptions(model="x2-fast"))
    >>> report.count("written")
    20
    """
    started = time.perf_counter()
    require_source(Path(require_path(source, "source")))
    require_path(output, "output")
    with Session(options, executor=executor, on_stall=on_stall, output=output) as session:
        return session.run(
            source,
            output,
            report_file=report_file,
            on_progress=on_progress,
            on_stall=on_stall,
            on_start=on_start,
            since=started,
        )
