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

from kspacesr_rt.bench.quality.evaluation import (
    CONVENTION,
    HEADLINE,
    LR_OF,
    MEASURED,
    QualityRow,
    means,
)
from kspacesr_rt.bench.quality.hallucination import (
    LIMIT_MARGIN,
    ROUNDING,
    Hallucination,
    bounds_from,
    why_not_measured,
)
from kspacesr_rt.bench.quality.proofs.measure import PREFIX as PROOF
from kspacesr_rt.bench.quality.proofs.measure import table as proof_table
from kspacesr_rt.bench.quality.trust import as_text as trust_table
from kspacesr_rt.errors import InputError
from kspacesr_rt.model.contracts import contracts_of, taken_text
from kspacesr_rt.model.file import ModelFile, load_model, parity_figures
from kspacesr_rt.model.limits import ModelLimits
from kspacesr_rt.model.spec import BOUNDED, METADATA_KEY, ModelSpec
from kspacesr_rt.model.trust_calibration import TrustCalibration
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.quantities import agreement_text
from kspacesr_rt.train.degradation import degradation_for

LIMITS = """\
- Research use only. Detail outside the measured k-space is predicted from how other heads look;
  small lesions can be missing from it, sharpened, or made up. Not a medical device.
- Trained on the data named above, most of it adult brain MR (T2, FLAIR, T1). Other organs,
  contrasts, field strengths and pathologies were seen little or not at all; the evaluation series
  show how far two such steps go.
- Made for LR images whose k-space is full up to its edge. Scanner-interpolated or strongly
  filtered series have an empty rim, and the model then sharpens what the filter left.
- Works slice by slice, in plane only; slice thickness stays."""
OF_IMAGES = """\
- From a magnitude image, so the measured k-space is image-derived, without acquired phase."""
OF_KSPACE = """\
- Takes measured complex k-space of one coil, DC in its middle, in Python; files of images hold
  magnitudes without a phase. What it adds has the phase of the zero-filled image."""


FOREIGN_LIMITS = """\
- Research use only. Detail that the source does not hold is predicted; small lesions can be missing
  from it, sharpened, or made up. Not a medical device.
- What the network was trained on, and what it keeps of a measurement, is as its maker says; what is
  not declared above is not checked.
- Works slice by slice, in plane only; slice thickness stays."""
"""Of networks that are not ours."""
PREFIXES = {HEADLINE: "tissue_", CONVENTION: ""}
"""Conventions whose figures a model file keeps, the headline first, and how their names begin."""
ZERO_FILL = "zero_fill_"
"""How the names of zero-fill's figures go on."""
NOT_MEASURED = "not measured"
"""What a card says where its model file keeps no figure."""


def stamp(
    path: Path,
    rows: list[QualityRow] | None,
    hallucination: Hallucination | None = None,
    limits: ModelLimits | None = None,
    proofs: Mapping[str, float] | None = None,
    trust: TrustCalibration | None = None,
) -> ModelFile:
    """Store what was measured in a model file and return the file as it is now.

    Parameters
    ----------
    path
        A model file; replaced as a whole.
    rows
        Rows of `kspacesr_rt.bench.quality.evaluation.evaluate_models`; those of other models and
        upscales are ignored. None leaves the stored quality as it is.
    hallucination
        What `kspacesr_rt.bench.quality.hallucination.measure` found of this model; None
        leaves the stored bounds as they are.
    limits
        What `kspacesr_rt.bench.quality.limits.measure_limits` found of it; None leaves the stored
        limits as they are.
    proofs
        Figures of what `kspacesr_rt.bench.quality.proofs.measure.measure_proofs` found of it; None
        leaves the stored ones as they are.
    trust
        What `kspacesr_rt.bench.quality.trust.calibrate` found of it, with the coverage measured;
        None leaves the stored one as it is.

    Raises
    ------
    InputError
        If `hallucination` is of another model.
    """
    model = load_model(path)
    spec = model.spec
    if rows is not None:
        spec = dataclasses.replace(spec, quality=_quality(spec, rows))
    others = {name: value for name, value in spec.bounds.items() if not name.startswith(PROOF)}
    proven = {name: value for name, value in spec.bounds.items() if name.startswith(PROOF)}
    if hallucination is not None:
        if (hallucination.model, hallucination.upscale) != (spec.name, spec.upscale):
            raise InputError(
                f"{path.name} holds model '{spec.name}', the bounds were measured of "
                f"'{hallucination.model}'",
                hint="measure it: "
                "kspacesr_rt.bench.quality.hallucination.measure(load_model(path), data)",
            )
        others = bounds_from(hallucination)
    proven = proven if proofs is None else dict(proofs)
    spec = dataclasses.replace(spec, bounds=others | proven)
    if limits is not None:
        spec = dataclasses.replace(spec, limits=limits.to_dict())
    if trust is not None:
        spec = dataclasses.replace(spec, trust=trust.to_dict())
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for item in proto.metadata_props:
        if item.key == METADATA_KEY:
            item.value = spec.to_json()
    replace_file(path, proto.SerializeToString(deterministic=True))
    return load_model(path)


def _quality(spec: ModelSpec, rows: list[QualityRow]) -> dict[str, dict[str, float]]:
    quality: dict[str, dict[str, float]] = {}
    made = MEASURED if spec.input == "kspace" else degradation_for(spec.output_grid)
    for row in means([row for row in rows if row.convention in PREFIXES]):
        if (row.upscale, row.degradation) != (spec.upscale, made):
            continue
        own = {spec.name: "", "zero-fill": ZERO_FILL}.get(row.method)
        if own is None:
            continue
        values = quality.setdefault(row.data, {})
        prefix = PREFIXES[row.convention] + own
        values |= {f"{prefix}{k}": v for k, v in dataclasses.asdict(row.quality).items()}
        values["n_slices"] = row.n_slices
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
    against = spec.parity.get("reference", "PyTorch fp32")
    lines = [
        f"# {spec.name}",
        "",
        f"Upscales {_given(spec)} by {spec.upscale} per axis. {spec.intended_use}",
        "",
        "| | |",
        "| --- | --- |",
        *_network(spec),
        f"| training data | {origin.training or 'not recorded'} |",
        f"| licence | {origin.licence or 'not recorded'} |",
        f"| attribution | {origin.attribution or 'not recorded'} |",
        f"| weights | sha256 `{origin.weights_sha256}` |",
        f"| checkpoint | sha256 `{origin.checkpoint_sha256}` |",
        f"| parity with {against} | at least {agreement_text(worst)} over "
        f"{len(spec.parity['cases'])} cases on {spec.parity['backend']} |",
        *([f"| recipe | `train/recipes/{spec.name}.toml` |"] if spec.is_own else []),
        *(["", "## From its maker", "", spec.description] if spec.description else []),
        "",
        "## Measured quality",
        "",
        f"{_CAPTION} {_lr_is(spec)} "
        + (
            "No series here was trained on; `validation` steered the choice of settings, "
            "`evaluation` did not."
            if spec.is_own
            else "Whether its maker trained on these series is not known here."
        ),
        "",
        *_measured_quality(spec),
    ]
    own = f"{LIMITS}\n{OF_KSPACE if spec.input == 'kspace' else OF_IMAGES}"
    limits = own if spec.is_own else FOREIGN_LIMITS
    sections = [
        "",
        *_hallucination(spec),
        *_proofs(spec),
        *_trust(spec),
        "",
        "## Limits",
        "",
        limits,
        _stated_limits(spec),
        "",
    ]
    return "\n".join([*lines, *sections])


def _given(spec: ModelSpec) -> str:
    return "complex k-space of MR slices" if spec.input == "kspace" else "MR magnitude slices"


def _lr_is(spec: ModelSpec) -> str:
    return f"{LR_OF[MEASURED]}." if spec.input == "kspace" else LR_IS[spec.output_grid]


_CAPTION = (
    f"Inside tissue (convention `{HEADLINE}`), which is what is read, and of the whole slice "
    f"(`{CONVENTION}`), half of which is air: HR scaled by its series' maximum, data range 1, mean "
    "over slices with tissue, results clipped at 0."
)


def _measured_quality(spec: ModelSpec) -> list[str]:
    """Return the table of quality; a figure that an older file does not keep says so."""
    heads = ["MAE", "PSNR dB", "SSIM", "gain dB", "gain SSIM"]
    rows = [
        [data, f"{values['n_slices']:.0f}", where, method, *_qualities(values, prefix, own)]
        for data, values in sorted(spec.quality.items())
        for where, prefix in (("tissue", PREFIXES[HEADLINE]), ("slice", PREFIXES[CONVENTION]))
        for method, own in (("zero-fill", ZERO_FILL), (spec.name, ""))
    ]
    head = ["data", "slices", "where", "method", *heads]
    rules = ["---", "--:", "---", "---", *["--:"] * len(heads)]
    return [f"| {' | '.join(cells)} |" for cells in (head, rules, *rows)]


def _qualities(values: Mapping[str, float], prefix: str, own: str) -> list[str]:
    shown = [
        _figure(values, f"{prefix}{own}{name}", form)
        for name, form in (("mae", ".5f"), ("psnr_db", ".2f"), ("ssim", ".4f"))
    ]
    for name, form in (("psnr_db", "+.2f"), ("ssim", "+.4f")):
        ours, base = (values.get(f"{prefix}{one}{name}") for one in (own, ZERO_FILL))
        shown.append("" if own or ours is None or base is None else format(ours - base, form))
    return shown


def _network(spec: ModelSpec) -> list[str]:
    """Return the rows on what the network is: of one that is not ours, what is declared of it."""
    if spec.is_own:
        return [
            f"| architecture | {spec.architecture}, {spec.width} channels, {spec.blocks} blocks, "
            f"data consistency '{spec.data_consistency}' |"
        ]
    rows = [f"| architecture | {spec.architecture}: not one of this project |"]
    rows.append(f"| takes | {taken_text(spec)} |")
    return rows + [f"| {name} | {text} |" for name, text in contracts_of(spec).items()]


def _hallucination(spec: ModelSpec) -> list[str]:
    """Return the section on what the model adds, from the stored bounds alone."""
    title = "## No invented structure"
    if why := "" if spec.is_own and spec.input == "image" else why_not_measured(spec):
        return [title, "", f"{NOT_MEASURED.capitalize()}: it {why}."]
    if not spec.bounds:
        return [title, "", f"{NOT_MEASURED.capitalize()}; {_command(spec)} does it."]
    opening = (
        f"Made by {_command(spec)}; `kspacesr_rt.bench.quality.hallucination` defines "
        "every figure. The tables hold maxima, of results before clipping."
    )
    parts = (_on_phantoms(spec.bounds), _energy(spec.bounds), _limits(spec.bounds))
    return [title, "", opening, *(line for part in parts for line in ("", *part))]


def _proofs(spec: ModelSpec) -> list[str]:
    """Return the section on proofs, if they were measured."""
    lines = proof_table(spec.bounds)
    if not lines:
        return []
    opening = (
        "Made by `kspacesr-rt evaluate VALIDATION EVALUATION --proofs --acr PHANTOM --cards`; "
        "`kspacesr_rt.bench.quality.proofs` defines every figure."
    )
    return ["", "## Proof that detail is real", "", opening, "", *lines]


def _trust(spec: ModelSpec) -> list[str]:
    """Return the section on intervals, if the file has coefficients of any."""
    if not spec.trust:
        return []
    return [
        "",
        "## How far a result may be off",
        "",
        "Made by `kspacesr-rt trust JUDGED --calibrate-on DATA`; "
        "`kspacesr_rt.bench.quality.trust` defines every figure.",
        "",
        trust_table({spec.name: TrustCalibration.of(spec)}),
    ]


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


def _stated_limits(spec: ModelSpec) -> str:
    """Return the line on the limits that `infer` compares series with."""
    stated = ModelLimits.of(spec).as_text()
    if not stated:
        return "- No measured limit on noise, filled k-space or body part is in the file."
    return f"- Helps, as measured, within: {stated}. `infer --on-outside` handles the rest."


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["--:"] * len(head), *rows)]


_NOISE_LEVEL = re.compile(r"_at_(.+)_percent_noise$")


def _command(spec: ModelSpec) -> str:
    return f"`kspacesr-rt evaluate VALIDATION EVALUATION --model {spec.name} --cards`"


def _figure(bounds: Mapping[str, float], name: str, form: str) -> str:
    return format(bounds[name], form) if name in bounds else NOT_MEASURED


def write_card(
    path: Path,
    rows: list[QualityRow] | None,
    hallucination: Hallucination | None = None,
    limits: ModelLimits | None = None,
    proofs: Mapping[str, float] | None = None,
    trust: TrustCalibration | None = None,
) -> Path:
    """Stamp a model file with what was measured and write its card beside it.

    Parameters
    ----------
    path, rows, hallucination, limits, proofs, trust
        As for `stamp`.

    Returns
    -------
        Path of the card.
    """
    model = stamp(path, rows, hallucination, limits, proofs, trust)
    target = path.with_suffix(".md")
    replace_file(target, card(model).encode())
    return target
