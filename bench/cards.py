"""Model cards: what a model is, what it was trained on, what it measures, what it is not for.

The measured quality and the bounds on what the model adds go into the model file's specification,
where `inspect` and `infer` find them; weights, graph and digest stay as they are. A card is written
from the file alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import onnx

from kspacesr_rt.bench.invention import BOUNDED, LIMIT_MARGIN, ROUNDING, Invention, bounds_from
from kspacesr_rt.bench.quality import CONVENTION, QualityRow, means
from kspacesr_rt.errors import InputError
from kspacesr_rt.files import replace_file
from kspacesr_rt.model_file import ModelFile, load_model, parity_figures
from kspacesr_rt.spec import METADATA_KEY, ModelSpec
from kspacesr_rt.train.degradation import degradation_for

LIMITS = """\
- Research use only. Detail outside the measured k-space is predicted from how other heads look;
  small lesions can be missing from it, sharpened, or made up. Not a medical device.
- Trained on adult brain MR (T2, FLAIR, T1) alone. Other organs, contrasts, field strengths and
  pathologies were not seen; the evaluation series show how far two such steps go.
- Made for LR images whose k-space is full up to its edge. Scanner-interpolated or strongly
  filtered series have an empty rim, and the model then sharpens what the filter left.
- Works slice by slice, in plane only; slice thickness stays.
- From a magnitude image, so the measured k-space is image-derived, without acquired phase."""


NOT_MEASURED = "not measured"
"""What a card says where its model file keeps no figure."""


def stamp(path: Path, rows: list[QualityRow], invention: Invention | None = None) -> ModelFile:
    """Store what was measured in a model file and return the file as it is now.

    Parameters
    ----------
    path
        A model file; replaced as a whole.
    rows
        Rows of `kspacesr_rt.bench.quality.judge`; those of other models and upscales are ignored.
    invention
        What `kspacesr_rt.bench.invention.measure` found of this model; None leaves the stored
        bounds as they are.

    Raises
    ------
    InputError
        If `invention` is of another model.
    """
    model = load_model(path)
    spec = dataclasses.replace(model.spec, quality=_quality(model.spec, rows))
    if invention is not None:
        if (invention.model, invention.upscale) != (spec.name, spec.upscale):
            raise InputError(
                f"{path.name} holds model '{spec.name}', the bounds were measured of "
                f"'{invention.model}'",
                hint="measure it: kspacesr_rt.bench.invention.measure(load_model(path), data)",
            )
        spec = dataclasses.replace(spec, bounds=bounds_from(invention))
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for item in proto.metadata_props:
        if item.key == METADATA_KEY:
            item.value = spec.to_json()
    replace_file(path, proto.SerializeToString(deterministic=True))
    return load_model(path)


def _quality(spec: ModelSpec, rows: list[QualityRow]) -> dict[str, dict[str, float]]:
    quality: dict[str, dict[str, float]] = {}
    made = degradation_for(spec.output_grid)
    for row in means([row for row in rows if row.convention == CONVENTION]):
        if (row.upscale, row.degradation) != (spec.upscale, made):
            continue
        values = quality.setdefault(row.data, {})
        if row.method == spec.name:
            values |= {"n_slices": row.n_slices, **dataclasses.asdict(row.quality)}
        elif row.method == "zero-fill":
            values |= {f"zero_fill_{k}": v for k, v in dataclasses.asdict(row.quality).items()}
    return quality


LR_IS = {
    "kspace": "LR is the magnitude of the inverse FFT of the k-space centre.",
    "pixel-centre": "LR is the image resized, and SR samples lie on pixel centres.",
}
"""How LR was made, by output grid."""


def card(model: ModelFile) -> str:
    """Return the model card in Markdown, every figure from the file itself."""
    spec, origin = model.spec, model.spec.provenance
    worst = min(parity_figures(spec))
    lines = [
        f"# {spec.name}",
        "",
        f"Upscales MR magnitude slices by {spec.upscale} per axis. {spec.intended_use}",
        "",
        "| | |",
        "| --- | --- |",
        f"| architecture | {spec.architecture}, {spec.width} channels, {spec.blocks} blocks, "
        f"data consistency '{spec.data_consistency}' |",
        f"| training data | {origin.training} |",
        f"| licence | {origin.licence} |",
        f"| attribution | {origin.attribution} |",
        f"| weights | sha256 `{origin.weights_sha256}` |",
        f"| checkpoint | sha256 `{origin.checkpoint_sha256}` |",
        f"| parity with PyTorch fp32 | at least {worst:.1f} dB over "
        f"{len(spec.parity['cases'])} cases on {spec.parity['backend']} |",
        f"| recipe | `train/recipes/{spec.name}.toml` |",
        "",
        "## Measured quality",
        "",
        f"Convention `{CONVENTION}`: HR scaled by its series' maximum, data range 1, mean over "
        f"slices with tissue, results clipped at 0. {LR_IS[spec.output_grid]} No series here was "
        "trained on; `validation` steered the choice of settings, `evaluation` did not.",
        "",
        "| data | slices | method | MAE | PSNR dB | SSIM |",
        "| --- | --: | --- | --: | --: | --: |",
    ]
    for data, values in sorted(spec.quality.items()):
        for prefix, method in (("zero_fill_", "zero-fill"), ("", spec.name)):
            lines.append(
                f"| {data} | {values['n_slices']:.0f} | {method} | {values[prefix + 'mae']:.5f} "
                f"| {values[prefix + 'psnr_db']:.2f} | {values[prefix + 'ssim']:.4f} |"
            )
    sections = ["", *_invention(spec), "", "## Limits", "", LIMITS, ""]
    return "\n".join([*lines, *sections])


def _invention(spec: ModelSpec) -> list[str]:
    """Return the section on what the model adds, from the stored bounds alone."""
    title = "## No invented structure"
    if not spec.bounds:
        return [title, "", f"{NOT_MEASURED.capitalize()}; {_command(spec)} does it."]
    opening = (
        f"Made by {_command(spec)}; `kspacesr_rt.bench.invention` defines every figure. The tables "
        "hold maxima, of results before clipping."
    )
    parts = (_on_phantoms(spec.bounds), _energy(spec.bounds), _limits(spec.bounds))
    return [title, "", opening, *(line for part in parts for line in ("", *part))]


def _on_phantoms(bounds: Mapping[str, float]) -> list[str]:
    columns = {
        "lesion_free_rms_ratio": ("RMS error / zero-fill's", ".2f"),
        "lesion_free_largest_ratio": ("largest error / zero-fill's", ".2f"),
        "added_speck": ("speck added", ".1%"),
        "added_blob": ("blob added", ".1%"),
    }
    levels = {match[1] for key in bounds if (match := _NOISE_LEVEL.search(key))}
    rows = [
        [
            f"{level} %",
            *(
                _figure(bounds, f"phantom_{name}_at_{level}_percent_noise", form)
                for name, (_, form) in columns.items()
            ),
        ]
        for level in sorted(levels, key=float)
    ]
    return [
        "A region of white matter without a lesion, in head phantoms of known k-space (three "
        "contrasts, matrices and turns). Errors are against the truth, over those of zero-fill: "
        "above 1 for the largest, a noise peak was sharpened into a point. What is added is over "
        "the region's intensity, as the mean of a window of one (speck) or two LR samples (blob).",
        "",
        *_table(["noise", *(words for words, _ in columns.values())], rows),
    ]


def _energy(bounds: Mapping[str, float]) -> list[str]:
    rows = [
        [
            words,
            _figure(bounds, f"{key}_added_energy_share{end}", ".1e"),
            _figure(bounds, f"{key}_added_energy_ratio{end}", ".3f"),
            _figure(bounds, f"{key}_gain", ".2f") if not end else "",
        ]
        for key, end, words in (
            ("noise", "", "noise alone"),
            ("constant", "", "noise on a constant"),
            ("data", "_max", f"{_figure(bounds, 'data_n_slices', '.0f')} real slices"),
        )
    ]
    phantom = _figure(bounds, "phantom_added_energy_ratio", ".3f")
    ours, truth = (
        [
            _figure(bounds, f"data_{whose}_energy_ratio_{which}", ".3f")
            for which in ("median", "p99")
        ]
        for whose in ("added", "true")
    )
    return [
        "Energy added outside the measured band of k-space: as a share of the slice, and over the "
        "energy of the measured ring beside it (the outer half of the band).",
        "",
        *_table(
            ["image", "share", "added / ring", "noise / zero-fill's"],
            [*rows, ["phantoms", "", phantom, ""]],
        ),
        "",
        f"Of the real slices the median is {ours[0]}, and 99 % are below {ours[1]}; the truth has "
        f"{truth[0]} and {truth[1]} there.",
    ]


def _limits(bounds: Mapping[str, float]) -> list[str]:
    words = ("added / ring", "change of the mean", "change of a measured sample")
    columns = zip(BOUNDED, words, (".3f", ".0e", ".0e"), strict=True)
    # A model that replaces measured samples has no limit on their change.
    given = [(text, format(bounds[name], form)) for name, text, form in columns if name in bounds]
    if not given:
        return [f"Limits: {NOT_MEASURED}; they come from real series."]
    return [
        "Limits, beyond which a slice is unlike the real ones measured "
        f"({LIMIT_MARGIN} times their largest; changes, which are rounding, at least "
        f"{ROUNDING:.0e}):",
        "",
        *_table([text for text, _ in given], [[cell for _, cell in given]]),
        "",
        "A limit on energy catches a network that went astray, or an input unlike any it knows. It "
        "cannot catch a small lesion made up: that is little energy.",
    ]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["--:"] * len(head), *rows)]


_NOISE_LEVEL = re.compile(r"_at_(.+)_percent_noise$")


def _command(spec: ModelSpec) -> str:
    return f"`kspacesr-rt evaluate VALIDATION EVALUATION --model {spec.name} --cards`"


def _figure(bounds: Mapping[str, float], name: str, form: str) -> str:
    return format(bounds[name], form) if name in bounds else NOT_MEASURED


def write_card(path: Path, rows: list[QualityRow], invention: Invention | None = None) -> Path:
    """Stamp a model file with what was measured and write its card beside it.

    Parameters
    ----------
    path, rows, invention
        As for `stamp`.

    Returns
    -------
        Path of the card.
    """
    model = stamp(path, rows, invention)
    target = path.with_suffix(".md")
    replace_file(target, card(model).encode())
    return target
