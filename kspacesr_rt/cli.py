"""The command line: parse, call one library function, print what it returns."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kspacesr_rt._version import __version__
from kspacesr_rt.errors import BackendUnavailableError, KspaceSRError

EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 130, 143


OPTIONAL_PACKAGES = ("torch", "safetensors", "nibabel", "nrrd", "h5py")
"""What a command may need beyond the base install; the extra has the command's name, `bench` for
`evaluate`."""


class _Terminated(BaseException):
    """SIGTERM arrived; unwinds like Ctrl-C so that half-written files are removed."""


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    raise _Terminated


class _Group(TyperGroup):
    """Turn known errors into two lines and an exit code, in one place for every command."""

    # The base class takes any context; Typer hands its own commands a typer.Context.
    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run a command."""
        debug = bool(ctx.params.get("debug"))
        with suppress(ValueError):  # outside the main thread somebody else owns signals
            signal.signal(signal.SIGTERM, _on_sigterm)
        try:
            return super().invoke(ctx)
        except KspaceSRError as exc:
            typer.echo(f"error: {exc}", err=True)
            if exc.hint:
                typer.echo(f"hint: {exc.hint}", err=True)
            _trace(debug)
            raise typer.Exit(exc.exit_code) from exc
        except KeyboardInterrupt as exc:
            typer.echo("interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from exc
        except _Terminated as exc:
            typer.echo("terminated", err=True)
            raise typer.Exit(EXIT_TERMINATED) from exc
        except (typer.Exit, typer.Abort):
            raise
        except Exception as exc:
            if type(exc).__module__.startswith(("click", "typer")):
                raise  # usage errors: Typer prints them and exits 2
            if isinstance(exc, ModuleNotFoundError) and exc.name in OPTIONAL_PACKAGES:
                command = ctx.invoked_subcommand or ""
                extra = command if command in ("export", "train") else "bench"
                typer.echo(f"error: '{command}' needs the package '{exc.name}'", err=True)
                typer.echo(f"hint: pip install 'kspacesr-rt[{extra}]'", err=True)
                _trace(debug)
                raise typer.Exit(BackendUnavailableError.exit_code) from exc
            # The message may quote a patient's values, so only its type is shown unasked.
            typer.echo(f"error: internal error ({type(exc).__name__})", err=True)
            typer.echo("hint: kspacesr-rt --debug ... shows where; please report it", err=True)
            _trace(debug)
            raise typer.Exit(EXIT_INTERNAL) from exc


def _trace(debug: bool) -> None:
    if debug:
        traceback.print_exc()


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="MRI super-resolution in k-space. Research use only: detail is predicted, not measured.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes every core.")]
BackendName = Annotated[str, typer.Option("--backend", help="See: kspacesr-rt backends.")]
ModelArgument = Annotated[str, typer.Argument(help="Model file, or a shipped model's name.")]


class FFTLowering(StrEnum):
    """What stands in the bodies of the FFT layers."""

    auto = "auto"
    gemm = "gemm"
    conv = "conv"
    dft = "dft"
    dynamic = "dynamic"


class NumberFormat(StrEnum):
    """What the CNN computes in; FFT, scaling and data consistency stay in fp32."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class EngineRuntime(StrEnum):
    """Which TensorRT builds an engine."""

    rtx = "tensorrt-rtx"
    full = "tensorrt"


class Consistency(StrEnum):
    """What a k-space network does with the measured centre."""

    none = "none"
    additive = "additive"
    hard = "hard"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kspacesr-rt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option(help="Show tracebacks (may hold patient data).")] = False,
) -> None:
    pass


@contextmanager
def _progress_bar(label: str, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Yield ``update(done, total, text)``; draws on stderr, and only on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, note="")
        yield lambda done, total, text: bar.update(task, completed=done, total=total, note=text)


def _echo_json(value: Any) -> None:
    typer.echo(json.dumps(value, sort_keys=True, allow_nan=False))


@app.command()
def infer(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Folder (or file) of DICOM.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the derived series.")],
    model: Annotated[
        str | None, typer.Option(help="Model file or shipped name; default: shipped, by upscale.")
    ] = None,
    backend: BackendName = "ort-cpu",
    upscale: Annotated[
        int | None, typer.Option(min=1, help="SR / LR; default: the model's, or 2.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Slices given to the backend at once.")] = 1,
    threads: Threads = 0,
    report: Annotated[
        Path | None, typer.Option(help="Where the report goes; default OUT/report.json.")
    ] = None,
    preview: Annotated[bool, typer.Option(help="Write a PNG contact sheet a series.")] = False,
    include_derived: Annotated[bool, typer.Option(help="Process maps and MIPs too.")] = False,
    uids: Annotated[str, typer.Option(help="stable: same input, same UIDs; or random.")] = "stable",
    keep_private: Annotated[bool, typer.Option(help="Keep private elements.")] = False,
    show_paths: Annotated[bool, typer.Option(help="Name input paths in the report.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Name each file that was left out.")
    ] = False,
) -> None:
    """Super-resolve a folder of MR DICOM into derived series."""
    from kspacesr_rt.errors import InputError
    from kspacesr_rt.pipeline import InferOptions
    from kspacesr_rt.pipeline import infer as run_infer

    if uids not in ("stable", "random"):
        raise InputError(f"--uids is stable or random, not '{uids}'")
    options = InferOptions(
        backend=backend,
        model=model,
        upscale=upscale,
        batch=batch,
        threads=threads,
        preview=preview,
        include_derived=include_derived,
        random_uids=uids == "random",
        keep_private=keep_private,
        show_paths=show_paths,
    )
    with _progress_bar("slices", quiet) as update:
        result = run_infer(
            source,
            output,
            options,
            report_file=report,
            on_progress=lambda state: update(state.done, state.total, ""),
        )
    if as_json:
        _echo_json(result.summary())
    elif not quiet:
        typer.echo(result.as_text(verbose=verbose))
    raise typer.Exit(result.exit_code)


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Trained weights.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Model file to write.")],
    fft: Annotated[FFTLowering, typer.Option(help="How the FFT layers are lowered.")] = (
        FFTLowering.auto
    ),
    runtime: Annotated[str, typer.Option(help="What it is made for; decides `--fft auto`.")] = (
        "ort-cpu"
    ),
    gpu: Annotated[
        str | None, typer.Option(help="Target GPU, such as sm75; decides `--fft auto`.")
    ] = None,
    inline: Annotated[
        bool, typer.Option(help="Also write MODEL.flat.onnx: one matrix, standard ops only.")
    ] = False,
    precision: Annotated[NumberFormat, typer.Option(help="Of the CNN alone.")] = NumberFormat.fp32,
    data_consistency: Annotated[
        Consistency | None, typer.Option(help="Override what a k-space network does.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    backend: BackendName = "ort-cpu",
    report: Annotated[Path | None, typer.Option(help="Keep what the gate measured.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Lower a trained generator to ONNX and prove that it still computes the same thing."""
    from kspacesr_rt.export.choice import choose_lowering
    from kspacesr_rt.export.exporter import export_model
    from kspacesr_rt.export.flatten import flatten_model
    from kspacesr_rt.model_file import load_model

    choice = choose_lowering(fft.value, runtime, gpu)
    exported = export_model(
        checkpoint,
        output,
        lowering=choice.lowering,
        precision=precision.value,
        backend=backend,
        name=name,
        data_consistency=data_consistency.value if data_consistency else None,
        force=force,
        report_file=report,
    )
    for note in exported.notes:
        typer.echo(f"warning: {note}", err=True)
    if inline:
        flat = output.with_suffix(".flat.onnx")
        flatten_model(load_model(exported.path), flat, backend=backend, force=force)
    if as_json:
        _echo_json({"path": str(exported.path), "parity": exported.report.to_dict()})
    elif not quiet:
        typer.echo(f"FFT layers lowered as {choice.lowering} ({choice.reason})")
        typer.echo(exported.report.as_text())
        typer.echo(f"{exported.path}: {exported.size_bytes / 1e6:.1f} MB")


# Like the seed's command line, `train` takes underscores wherever it has a hyphen.
@app.command(context_settings={"token_normalize_func": lambda token: token.replace("_", "-")})
def train(
    data: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="Folders of HR images.")
    ] = None,
    path_to_data: Annotated[
        list[Path] | None, typer.Option(exists=True, help="The same, as the seed spells it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Checkpoint; default NAME.pt.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="TOML with every option, or the name of a shipped one.")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(exists=True, help="Folders that are only judged on.")
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Share of patients to judge on, without --validation.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="dc-residual, seed-kspace or seed-image.")
    ] = None,
    upscale: Annotated[
        int | None,
        typer.Option("--upscale", "--upscale-factor", min=2, help="SR / LR (or --upscale-factor)."),
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", "--channels", min=1, help="Channels of the CNN.")
    ] = None,
    blocks: Annotated[int | None, typer.Option(min=1, help="Residual blocks.")] = None,
    cascades: Annotated[
        int | None, typer.Option(min=1, help="How often data consistency is applied.")
    ] = None,
    bias: Annotated[
        int | None, typer.Option(min=0, max=1, help="1: convolutions have a bias.")
    ] = None,
    data_consistency: Annotated[
        Consistency | None, typer.Option(help="What is done with measured samples.")
    ] = None,
    skip_connection: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="1: --data-consistency additive; 0: none."),
    ] = None,
    degradation: Annotated[
        str | None, typer.Option(help="How LR is made: kspace-crop, or seed-resize.")
    ] = None,
    rim: Annotated[
        str | None, typer.Option(help="k-space never measured: crop, keep or mix.")
    ] = None,
    matrix: Annotated[int | None, typer.Option(min=0, help="Nominal LR samples per axis.")] = None,
    loss: Annotated[str | None, typer.Option(help="l1, mse, psnr, charbonnier or l1-ssim.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes, instead of steps.")] = None,
    random_subset: Annotated[int | None, typer.Option(min=1, help="Slices per epoch.")] = None,
    val_size: Annotated[int | None, typer.Option(min=1, help="Slices to judge on, in all.")] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", "--batch-size", min=1, help="Slices a step (or --batch-size)."),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the CNN: fp32 or bf16.")] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.")
    ] = None,
    validate_every: Annotated[int | None, typer.Option(min=1, help="Steps between.")] = None,
    random_state: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
    images: Annotated[bool, typer.Option(help="Draw HR, SR, difference at validations.")] = False,
    vgg_weights: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="VGG16, for its loss term.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Keeps decoded series here.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint.")] = False,
    force: Annotated[bool, typer.Option(help="Replace an existing checkpoint.")] = False,
    threads: Threads = 0,
    quiet: Quiet = False,
) -> None:
    """Train a generator on folders of DICOM, NIfTI, NRRD, .npy or fastMRI .h5 images.

    Several GPUs or machines: torchrun --nproc-per-node N -m kspacesr_rt train ...
    """
    from kspacesr_rt.train.recipe import find_recipe, read_recipe
    from kspacesr_rt.train.run import RunSettings, train_from_folders

    folders = [*(data or []), *(path_to_data or [])]
    if not folders:
        raise typer.BadParameter("name at least one folder of HR images", param_hint="DATA")
    if data_consistency is None and skip_connection is not None:
        data_consistency = Consistency.additive if skip_connection else Consistency.none
    options = read_recipe(
        find_recipe(recipe) if recipe else None,
        {
            "name": name,
            "architecture": architecture,
            "upscale": upscale,
            "width": width,
            "blocks": blocks,
            "cascades": cascades,
            "bias": None if bias is None else bool(bias),
            "data_consistency": data_consistency.value if data_consistency else None,
            "degradation": degradation,
            "rim": rim,
            "matrix": matrix,
            "loss": loss,
            "steps": steps,
            "epochs": epochs,
            "random_subset": random_subset,
            "val_size": val_size,
            "held_out": held_out,
            "batch": batch,
            "lr": lr,
            "precision": precision,
            "compile": compiled,
            "validate_every": validate_every,
            "random_state": random_state,
        },
    )
    checkpoint = output or Path(f"{options.name}.pt")
    with _progress_bar("steps", quiet) as update:
        spec = train_from_folders(
            folders,
            checkpoint,
            options,
            validation=validation,
            settings=RunSettings(
                resume=resume,
                force=force,
                device=device,
                threads=threads,
                cache=cache,
                images=images,
                vgg_weights=vgg_weights,
            ),
            on_progress=lambda state: update(state.step, state.steps, state.as_text()),
            on_note=None if quiet else lambda sentence: typer.echo(sentence, err=True),
        )
    if not quiet:
        typer.echo(f"{checkpoint}: {spec.name}, {spec.architecture}, x{spec.upscale}")


@app.command()
def inspect(model: ModelArgument, as_json: AsJson = False) -> None:
    """Show what a model file is, where it comes from and how far it was proved."""
    from kspacesr_rt.model_file import load_model, resolve_model

    found = load_model(resolve_model(model, upscale=None))
    if as_json:
        typer.echo(found.spec.to_json())
        return
    typer.echo(found.as_text())


@app.command()
def build(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Engine file to write.")],
    matrix: Annotated[
        tuple[int, int] | None, typer.Option(help="LR rows and columns; default: as stored.")
    ] = None,
    runtime: Annotated[EngineRuntime, typer.Option(help="Which TensorRT.")] = EngineRuntime.rtx,
    gpu: Annotated[str, typer.Option(help="current, or sm75, sm86, sm89, sm120.")] = "current",
    batch: Annotated[
        tuple[int, int, int], typer.Option(help="Smallest, usual and largest batch.")
    ] = (1, 1, 8),
    tf32: Annotated[bool, typer.Option(help="Allow TF32 (for 16-bit models).")] = False,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="Limit of the builder's workspace in MiB.")
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Builder's optimisation level.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing engine.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Build a TensorRT engine; TensorRT-RTX needs no GPU for that."""
    from kspacesr_rt.engines.build import build_engine
    from kspacesr_rt.model_file import load_model, resolve_model

    with _progress_bar("build", quiet) as update:
        built = build_engine(
            load_model(resolve_model(model, upscale=None)),
            output,
            matrix=matrix,
            runtime=runtime.value,
            gpu=gpu,
            batch=batch,
            tf32=tf32,
            workspace_bytes=None if workspace is None else workspace * 2**20,
            optimisation_level=level,
            force=force,
            on_progress=lambda state: update(state.done, state.total, state.stage),
        )
    for note in built.notes:
        typer.echo(f"warning: {note}", err=True)
    if as_json:
        _echo_json(built.to_dict())
    elif not quiet:
        typer.echo(built.as_text())


cache_app = typer.Typer(help="Engines that were built on this machine.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")


@cache_app.command("ls")
def list_cache(as_json: AsJson = False) -> None:
    """List cached engines, damaged ones too."""
    from kspacesr_rt.engines.cache import EngineCache

    cache = EngineCache()
    if as_json:
        _echo_json([entry.to_dict() for entry in cache.listing()])
    else:
        typer.echo(cache.as_text())


@cache_app.command("add")
def add_to_cache(
    engine: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Engine file.")],
) -> None:
    """Add an engine that was built elsewhere, with the sidecar beside it."""
    from kspacesr_rt.engines.cache import EngineCache

    typer.echo(EngineCache().add(engine))


@cache_app.command("prune")
def prune_cache(
    max_mb: Annotated[int | None, typer.Option(min=0, help="Keep the latest, up to this.")] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0.0, help="Remove what was not used for so many days.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all engines.")] = False,
) -> None:
    """Remove cached engines, and say which."""
    from kspacesr_rt.engines.cache import EngineCache

    removed = EngineCache().prune(
        max_bytes=None if max_mb is None else max_mb * 10**6,
        older_than_days=older_than,
        everything=everything,
    )
    for entry in removed:
        typer.echo(entry.as_text())


@app.command()
def backends(as_json: AsJson = False) -> None:
    """List what can run a model here, and why the others cannot."""
    from kspacesr_rt.backends import BACKENDS

    if as_json:
        rows = {
            name: {"usable": info.why_not() is None, "why_not": info.why_not(), "hint": info.hint()}
            for name, info in BACKENDS.items()
        }
        _echo_json(rows)
        return
    for name, info in BACKENDS.items():
        reason = info.why_not()
        typer.echo(f"{name:<12} {'yes' if reason is None else 'no ':<4} {info.summary}")
        if reason is not None:
            typer.echo(f"{'':<17} {reason}; {info.hint()}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show what this machine has, what clashes, and what to install."""
    from kspacesr_rt.doctor import diagnose_machine

    found = diagnose_machine()
    if as_json:
        _echo_json(found.to_dict())
    else:
        typer.echo(found.as_text())


@app.command()
def verify(
    model: ModelArgument,
    backend: BackendName = "ort-cpu",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Run a model's stored self-test on a backend of this machine."""
    from kspacesr_rt.backends import BackendOptions
    from kspacesr_rt.model_file import load_model, resolve_model
    from kspacesr_rt.verify import require_verified, verify_model

    result = verify_model(
        load_model(resolve_model(model, upscale=None)), backend, BackendOptions(threads=threads)
    )
    if as_json:
        _echo_json(result.to_dict())
    else:
        typer.echo(
            f"{result.model} on {result.backend}: {result.psnr_between_db:.1f} dB against the "
            f"stored answer ({result.required_db:.0f} required), "
            f"largest error {result.max_error:.1e}"
        )
    require_verified(result)


@app.command()
def evaluate(
    data: Annotated[list[Path], typer.Argument(exists=True, help="Folders of HR images.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Model files or names; default: all shipped.")
    ] = None,
    backend: BackendName = "ort-cpu",
    threads: Threads = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the first model's middle slice as PNG.")
    ] = None,
    cards: Annotated[
        bool, typer.Option("--cards", help="Store the result in each model file and its card.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Judge models beside zero-fill and bicubic on HR images they never saw."""
    from kspacesr_rt.bench.cards import write_card
    from kspacesr_rt.bench.environment import environment
    from kspacesr_rt.bench.invention import as_text as invention_text
    from kspacesr_rt.bench.invention import measure
    from kspacesr_rt.bench.picture import comparison
    from kspacesr_rt.bench.quality import as_text, judge
    from kspacesr_rt.files import replace_file
    from kspacesr_rt.model_file import load_model, resolve_model, shipped_models

    paths = [resolve_model(name, upscale=None) for name in model or list(shipped_models())]
    models = [load_model(path) for path in paths]
    rows = judge(data, models, backend=backend, threads=threads)
    found = [measure(one, data, backend=backend, threads=threads) for one in models if cards]
    for path, invention in zip(paths, found, strict=False):
        write_card(path, rows, invention)
    if picture is not None:
        replace_file(picture, comparison(data[0], models[0], backend=backend, threads=threads))
    if as_json:
        _echo_json(
            {
                "environment": environment(),
                "rows": [dataclasses.asdict(row) for row in rows],
                "invention": [one.to_dict() for one in found],
            }
        )
    else:
        typer.echo(as_text(rows))
        if found:
            typer.echo(f"\n{invention_text(found)}")


@app.command("seed-table")
def seed_table(
    data: Annotated[list[Path], typer.Argument(exists=True, help="Folders to train on.")],
    judge_on: Annotated[list[Path], typer.Option(exists=True, help="Folders to judge on.")],
    work: Annotated[
        Path, typer.Option(help="Keeps checkpoints and models; an interrupted table goes on.")
    ] = Path("seed-table"),
    upscale: Annotated[list[int] | None, typer.Option(min=2, help="Default: 2 and 4.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each row.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Slices a step.")] = 4,
    width: Annotated[int, typer.Option(min=1, help="Channels of each generator.")] = 64,
    lr: Annotated[float, typer.Option(help="Peak learning rate of each row.")] = 1e-3,
    precision: Annotated[str, typer.Option(help="Of training: fp32 or bf16.")] = "fp32",
    degradation: Annotated[str, typer.Option(help="kspace-crop or seed-resize.")] = "kspace-crop",
    rim: Annotated[str, typer.Option(help="k-space never measured: crop, keep or mix.")] = "crop",
    random_state: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    per_series: Annotated[bool, typer.Option(help="Also a row for each series.")] = False,
    vgg_weights: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="VGG16, for its loss term.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Keeps decoded series here.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Threads = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train SR_kspace's methods and ours with one budget and print its comparison table."""
    from kspacesr_rt.bench.environment import environment
    from kspacesr_rt.bench.seed_table import Budget, table, train_and_judge, verdict
    from kspacesr_rt.train.run import RunSettings

    budget = Budget(
        steps=steps,
        batch=batch,
        lr=lr,
        width=width,
        precision=precision,
        degradation=degradation,
        random_state=random_state,
        rim=rim,
    )
    rows = train_and_judge(
        data,
        judge_on,
        work,
        upscales=tuple(upscale or (2, 4)),
        budget=budget,
        settings=RunSettings(device=device, threads=threads, cache=cache, vgg_weights=vgg_weights),
        on_note=None if quiet else lambda sentence: typer.echo(sentence, err=True),
    )
    if as_json:
        _echo_json(
            {
                "environment": environment(),
                "budget": dataclasses.asdict(budget),
                "rows": [dataclasses.asdict(row) for row in rows],
                "verdict": verdict(rows),
            }
        )
    else:
        typer.echo(table(rows, series=per_series))


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
