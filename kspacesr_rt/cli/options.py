"""Every option that more than one command takes: one name, one type, one help text, one panel.

Types are spelled here and not imported: what defines them loads NumPy, and ``--help`` does not wait
for that. mypy compares them where they are handed on, and a test compares the sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

import typer

from kspacesr_rt.cli.config_file import AlsoWord, read_config
from kspacesr_rt.system.counts import BATCH_MOST, PROCESSES_MOST, THREADS_MOST

if TYPE_CHECKING:
    from kspacesr_rt.pipeline import InferOptions

# Panels of a command's help, in the order of use ---------------------------------------------

INPUT: Final = "Input"
OUTPUT: Final = "Output"
MODEL: Final = "Model and backend"
SPEED: Final = "Speed"
CHECKS: Final = "Checks"
MESSAGES: Final = "Messages"
PANELS: Final = (
    *("Network", "Spool", "Watching", "Data", "Networks and weights", "Training"),
    "For its card",
    *(MODEL, INPUT, OUTPUT, SPEED, CHECKS, MESSAGES),
)

# Closed sets ---------------------------------------------------------------------------------

Backend = Literal[
    "auto",
    "zero-fill",
    "bicubic",
    "ort-cpu",
    "openvino",
    "ort-cuda",
    "ort-tensorrt",
    "ort-webgpu",
    "tensorrt",
    "tensorrt-rtx",
]
Compression = Literal["none", "rle", "j2k", "htj2k"]
Consistency = Literal["none", "additive", "hard", "magnitude"]
Degradation = Literal["kspace-crop", "seed-resize"]
Device = Literal["auto", "cpu", "cuda"]
Durability = Literal["file", "batch", "none"]
OnInterpolated = Literal["warn", "skip", "crop"]
OnOutside = Literal["warn", "skip", "zero-fill"]
Plane = Literal["auto", "axial", "coronal", "sagittal", "first", "second", "third"]
OutputFormat = Literal["same", "nifti", "dicom"]
OnStale = Literal["refuse", "keep", "replace"]
Rim = Literal["crop", "keep", "mix"]
TargetRuntime = Literal[
    "ort-cpu", "ort-cuda", "ort-tensorrt", "ort-webgpu", "tensorrt", "tensorrt-rtx", "openvino"
]
Tier = Literal["exact", "fast", "max"]
TrainingPrecision = Literal["fp32", "bf16"]
Uids = Literal["stable", "random"]

# Options -------------------------------------------------------------------------------------

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        callback=read_config,
        is_eager=True,  # before the options that it gives values to
        help="Take options from a TOML file; what stands on the command line comes first.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=MESSAGES, help="Print JSON, an object a line."),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", rich_help_panel=MESSAGES, help="Print errors only.")
]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        rich_help_panel=MESSAGES,
        help="Tell more: what was left out, why this backend, where options came from.",
    ),
]
ShowPaths = Annotated[
    bool,
    typer.Option(
        rich_help_panel=MESSAGES,
        help="Name input files by their paths, which may hold names of patients.",
    ),
]

ModelArgument = Annotated[str, typer.Argument(help="Model file, or a shipped model's name.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        rich_help_panel=MODEL,
        help="Model file, or a shipped one: x2-fast, x2-base, x4-fast, x4-base (see `kspacesr-rt "
        "inspect`); default: fast, by upscale.",
    ),
]
ModelNames = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        rich_help_panel=MODEL,
        help="Model files or shipped names; repeatable. Default: all shipped that fit.",
    ),
]


def backend_word(value: str) -> str:
    """Take the name of a backend: one of ours, or of a plug-in, which is looked for only then."""
    ours = get_args(Backend)
    if value in ours:
        return value
    from kspacesr_rt.runtime.backends import backend_names

    known = ("auto", *backend_names())
    if value in known:
        return value
    words = ", ".join(f"'{word}'" for word in known)
    raise typer.BadParameter(f"'{value}' is not one of {words}.")


BackendName = Annotated[
    Backend,
    typer.Option(
        "--backend",
        rich_help_panel=MODEL,
        parser=backend_word,
        help="What computes, or a plug-in's name; it is never replaced by another. See "
        "`kspacesr-rt backends`.",
    ),
]
TierName = Annotated[
    Tier,
    typer.Option(
        "--tier",
        rich_help_panel=MODEL,
        help="How far results may be from fp32: exact computes in fp32, fast and max in what is "
        "fastest here and keeps the tier, proved at first use.",
    ),
]
Upscale = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=16,
        rich_help_panel=MODEL,
        help="SR / LR, along each axis; default: the model's, or 2.",
    ),
]


AUTOMATIC = {"batch": 0, "processes": -1}
"""What stands for the word ``auto`` once an option is read, by parameter."""


def _number_or_auto(value: int | str, auto: int, least: int, most: int) -> int:
    """Take a whole number in these bounds, or ``auto``, for which `auto` stands from here."""
    if value == "auto":
        return auto
    try:
        number = int(value)
    except ValueError as exc:
        raise typer.BadParameter(f"'{value}' is not a whole number, or auto.") from exc
    if number < least:
        raise typer.BadParameter(f"{number} is not at least {least}.")
    if number > most:
        raise typer.BadParameter(f"{number} is not at most {most}.")
    return number


def batch_number(value: int | str) -> int:
    """Take a number of slices, or ``auto``, which is another from here on."""
    return _number_or_auto(value, auto=AUTOMATIC["batch"], least=1, most=BATCH_MOST)


def process_number(value: int | str) -> int:
    """Take a number of processes, or ``auto``, which is another from here on."""
    auto = AUTOMATIC["processes"]
    if value == auto:  # the default, which is taken as it is
        return auto
    return _number_or_auto(value, auto=auto, least=0, most=PROCESSES_MOST)


Batch = Annotated[
    int,
    typer.Option(
        metavar="N|auto",
        parser=batch_number,
        rich_help_panel=SPEED,
        help="Slices given to the backend at once; auto: one on a CPU, on a GPU what is measured "
        "with the first slice.",
    ),
    AlsoWord("auto"),
]
Threads = Annotated[
    int,
    typer.Option(
        min=0,
        max=THREADS_MOST,
        rich_help_panel=SPEED,
        help="CPU threads; 0 takes every core.",
    ),
]
Streams = Annotated[
    int,
    typer.Option(
        min=0,
        max=THREADS_MOST,
        rich_help_panel=SPEED,
        help="Batches computed side by side; 0: by backend and cores.",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        min=0,
        max=THREADS_MOST,
        rich_help_panel=SPEED,
        help="Threads that read and write beside it; 0: by the cores.",
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        metavar="N|auto",
        parser=process_number,
        show_default="auto",
        rich_help_panel=SPEED,
        help="Processes that read and write classic slices beside it; 0: none; auto: by cores, "
        "backend and slices (Linux).",
    ),
    AlsoWord("auto"),
]

IncludeDerived = Annotated[
    bool, typer.Option(rich_help_panel=INPUT, help="Process maps and MIPs too.")
]
HandleInterpolated = Annotated[
    OnInterpolated,
    typer.Option(
        rich_help_panel=INPUT,
        help="What to do with series that the scanner interpolated: process them as they are, "
        "leave them out, or crop them to what was acquired.",
    ),
]
HandleOutside = Annotated[
    OnOutside,
    typer.Option(
        rich_help_panel=INPUT,
        help="What to do with series outside the limits that the model's file states (noise, empty "
        "k-space, body part): process them all the same, leave them out, or zero-fill them.",
    ),
]
LimitTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=NUMBER",
        rich_help_panel=INPUT,
        help="What one file may ask for before it fails as too-large: samples (of a slice), extra "
        "(bytes beside its pixels), inflated (bytes of a deflated one), items and elements (of its "
        "header), volume (bytes held as a whole); repeatable, such as extra=256M.",
    ),
]

SlicePlane = Annotated[
    Plane,
    typer.Option(
        "--plane",
        rich_help_panel=INPUT,
        help="Slices of NIfTI and arrays: auto (by the header, else the thickest voxels), a plane "
        "of the patient, or those across the first, second or third axis.",
    ),
]

KeepPrivate = Annotated[bool, typer.Option(rich_help_panel=OUTPUT, help="Keep private elements.")]
Compress = Annotated[
    Compression, typer.Option(rich_help_panel=OUTPUT, help="Lossless compression of outputs.")
]
SyncPolicy = Annotated[
    Durability,
    typer.Option(
        "--durability",
        rich_help_panel=OUTPUT,
        help="When outputs are on the disk: batch, before they are reported, some together; file, "
        "each at once; none, whenever the system likes. What serve has spooled is at least batch.",
    ),
]
UidKind = Annotated[
    Uids,
    typer.Option(rich_help_panel=OUTPUT, help="stable: the same input gives the same UIDs."),
]
NameText = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="FOLDER/FILE.dcm",
        rich_help_panel=OUTPUT,
        help="What outputs are called: a template, or uid. Default: a folder by series number, "
        "upscale and 6 digits of the UID; a file by instance number.",
    ),
]
FormatName = Annotated[
    OutputFormat,
    typer.Option(
        "--format",
        rich_help_panel=OUTPUT,
        help="same: each as it came; nifti: derived DICOM series as NIfTI, too; dicom: DICOM only.",
    ),
]
Preview = Annotated[
    bool, typer.Option(rich_help_panel=OUTPUT, help="Write a PNG contact sheet a series.")
]
TrustMap = Annotated[
    bool,
    typer.Option(
        rich_help_panel=OUTPUT,
        help="Write a map of each series, or volume, of how far each sample may be off, by what "
        "the model's file states.",
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option(rich_help_panel=OUTPUT, help="Where the report goes; default OUT/report.json."),
]
Force = Annotated[bool, typer.Option(rich_help_panel=OUTPUT, help="Replace what stands there.")]

Strict = Annotated[
    bool,
    typer.Option(
        rich_help_panel=CHECKS,
        help="Refuse what is only warned about: infer then writes nothing, watch leaves the "
        "series out.",
    ),
]
HandleStale = Annotated[
    OnStale,
    typer.Option(
        rich_help_panel=CHECKS,
        help="What to do about outputs in OUT whose source has changed, or left its series.",
    ),
]
VerifyExisting = Annotated[
    bool,
    typer.Option(rich_help_panel=CHECKS, help="Read earlier outputs; make again what was damaged."),
]
RetryMax = Annotated[
    float,
    typer.Option(
        min=0.0,
        rich_help_panel=OUTPUT,
        help="Longest pause between two attempts to write or to send, in seconds.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What `infer`, `watch`, `serve` and `mercure` all take."""

    upscale: Upscale = None
    model: ModelName = None
    backend: BackendName = "auto"
    tier: TierName = "exact"
    on_interpolated: HandleInterpolated = "warn"
    on_outside: HandleOutside = "warn"
    include_derived: IncludeDerived = False
    limit: LimitTexts = None
    keep_private: KeepPrivate = False
    compress: Compress = "none"
    trust_map: TrustMap = False
    durability: SyncPolicy = "batch"
    batch: Batch = 1
    threads: Threads = 0
    streams: Streams = 0
    workers: Workers = 0
    processes: Processes = -1
    verify_existing: VerifyExisting = False

    def to_infer_options(self, **own: Any) -> InferOptions:
        """Return what the library takes, with a command's own choices."""
        from kspacesr_rt.dicom.file_limits import parsed_limits
        from kspacesr_rt.pipeline import InferOptions

        return InferOptions(
            include_derived=self.include_derived,
            on_interpolated=self.on_interpolated,
            on_outside=self.on_outside,
            limits=parsed_limits(self.limit or ()),
            keep_private=self.keep_private,
            compress=self.compress,
            trust_map=self.trust_map,
            durability=self.durability,
            model=self.model,
            backend=self.backend,
            tier=self.tier,
            upscale=self.upscale,
            batch=self.batch or "auto",
            threads=self.threads,
            streams=self.streams,
            workers=self.workers,
            processes="auto" if self.processes < 0 else self.processes,
            verify_existing=self.verify_existing,
            **own,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOptions(RunOptions):
    """What `infer` and `watch` take, whose outputs stay in a folder of the user's."""

    uids: UidKind = "stable"
    plane: SlicePlane = "auto"
    format: FormatName = "same"
    name: NameText = None
    preview: Preview = False
    report: ReportFile = None
    strict: Strict = False
    stale: HandleStale = "refuse"
    show_paths: ShowPaths = False

    def to_infer_options(self, **own: Any) -> InferOptions:
        """Return what the library takes."""
        if self.name is not None:
            own["name"] = self.name
        return RunOptions.to_infer_options(
            self,
            random_uids=self.uids == "random",
            preview=self.preview,
            strict=self.strict,
            stale=self.stale,
            plane=self.plane,
            format=self.format,
            show_paths=self.show_paths,
            **own,
        )
