"""Options: one meaning and one help text a name, and values from wherever a user keeps them."""

import dataclasses
import inspect
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import typer
from repository import ROOT
from typer.testing import CliRunner

from kspacesr_rt.cli import app, option_sources, options
from kspacesr_rt.cli.config_file import _bare, key_of
from kspacesr_rt.cli.option_groups import choices
from kspacesr_rt.cli.shell import COMMANDS
from kspacesr_rt.errors import InputError
from kspacesr_rt.pipeline import InferOptions
from kspacesr_rt.services.mercure import SETTINGS

PROGRAM = typer.main.get_command(app)
OWN_MEANING = {
    ("diagnose", "backend"),  # only those that can be looked into
    ("backends", "model"),
    ("evaluate", "on-interpolated"),  # of HR that is judged
    ("bench gate", "threads"),  # not 0: a baseline is of a number of threads
    *((command, "report") for command in ("adopt", "convert", "export")),  # of the parity gate
    *((command, "backend") for command in ("convert", "export")),  # of the gate, none by itself
    ("bench pipeline", "processes"),  # several numbers, to be compared
    ("bench pipeline", "backend"),  # null, too, which no other command has
    ("bench soak", "processes"),  # a number: what is seen is of that many
    ("verify", "verbose"),  # it leaves nothing out
    *((command, "batch") for command in ("bench", "build", "train", "seed-table")),
    *((command, "upscale") for command in ("adopt", "export", "train", "seed-table")),
    *((command, "name") for command in ("adopt", "convert", "export", "train")),  # of a model
}
"""Options that share a word with one that many commands take, but mean another thing."""


def commands(command=PROGRAM, path=()):
    """Every command by its words, `bench` and its own commands both."""
    if path and path != ("cache",):
        yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


EVERY = dict(commands())


def settings(command):
    return {key_of(one): one for one in option_sources.settings_of(command)}


def kind_of(command, parameter):
    return inspect.signature(command.callback, eval_str=True).parameters[parameter.name].annotation


OPTIONS = [(path, key) for path, command in EVERY.items() for key in settings(command)]


def named(path_and_key):
    return f"{' '.join(path_and_key[0])} --{path_and_key[1]}"


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch):
    import os

    for name in [one for one in os.environ if one.startswith(option_sources.PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(monkeypatch):
    return lambda *words, **kwargs: CliRunner().invoke(app, [str(one) for one in words], **kwargs)


# What help says --------------------------------------------------------------------------------


def test_an_option_that_commands_share_has_one_help_text():
    """Two texts under one name are two options, or one that has drifted."""
    shared = option_sources.shared_helps()
    texts = defaultdict(set)
    for path, key in OPTIONS:
        if (" ".join(path), key) not in OWN_MEANING:
            texts[key].add(settings(EVERY[path])[key].help)
    names = {key for key, told in texts.items() if told & shared}
    assert {"backend", "threads", "batch", "json", "quiet", "strict", "stale"} <= names
    several = {key: told for key, told in texts.items() if len(told) > 1}
    assert not names & several.keys() - {"model"}, several
    assert texts["model"] <= shared  # of one model, and of several


def test_own_meanings_are_real():
    """The list of exceptions does not outlive them."""
    known = {(" ".join(path), key): settings(EVERY[path])[key].help for path, key in OPTIONS}
    shared = option_sources.shared_helps()
    for one in OWN_MEANING:
        assert known[one] not in shared, one


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_closed_sets_show_their_choices_and_a_wrong_word_names_them(run, path):
    """Nobody has to guess a word, nor look it up elsewhere."""
    command = EVERY[path]
    helped = run(*path, "--help", terminal_width=80)
    assert helped.exit_code == 0
    text = " ".join(helped.stdout.replace("│", " ").split())
    for key, one in settings(command).items():
        words = choices(kind_of(command, one))
        if not words:
            continue
        assert one.metavar == " | ".join(words)
        assert all(word in text for word in words), key
        wrong = run(*path, f"--{key}", "lucky")
        assert wrong.exit_code == 2
        told = " ".join(wrong.stderr.replace("│", " ").split())
        assert f"--{key}" in told
        assert all(f"'{word}'" in told for word in words), told


@pytest.mark.parametrize("path", [(), *EVERY], ids=" ".join)
def test_help_fits_80_columns_and_cuts_nothing(run, path):
    """Half a name is no name; a terminal of a server is no wider."""
    lines = run(*path, "--help", terminal_width=80).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line or "\x1b" in line]


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_values_are_called_alike(path):
    """A type is one word in the help of all: N, X, TEXT or PATH, where no better one stands."""
    for key, one in settings(EVERY[path]).items():
        assert one.metavar, key
        assert "<" not in one.metavar, key


def test_help_names_the_shipped_models():
    """They are spelled there, since help does not read model files; they cannot differ."""
    from kspacesr_rt.model.file import shipped_models

    text = settings(EVERY[("infer",)])["model"].help
    assert set(re.findall(r"\bx\d-\w+", text)) == set(shipped_models())


def test_a_paragraph_of_help_is_wrapped_as_one(run):
    """Not broken where the source breaks its lines."""
    text = " ".join(run("bench", "gate", "--help").stdout.split())
    assert "What a restless machine leaves undecided is named, and fails nothing." in text
    lines = [line.strip() for line in run("bench", "gate", "--help").stdout.splitlines()]
    assert "leaves undecided is" not in lines


def test_second_names_still_work_and_stand_in_the_help_text(tmp_path):
    """The seed's spelling; help shows one name a line."""
    for path, key in OPTIONS:
        one = settings(EVERY[path])[key]
        long = [name for name in one.opts if name.startswith("--")]
        for name in long[1:]:
            assert f"(or {name})" in one.help
            if one.name == "calibration":
                given = parsed(path, [name, str(tmp_path)], tmp_path).params[one.name]
                assert list(map(str, given)) == [str(tmp_path)]
            else:
                assert parsed(path, [name, "5"], tmp_path).params[one.name] == 5


def test_closed_sets_are_those_of_the_library():
    """They are spelled twice, since help does not wait for NumPy; they cannot differ."""
    from kspacesr_rt.conversion.lowering_choice import GEMM_REASONS
    from kspacesr_rt.diagnosis import LOOKS_INSIDE
    from kspacesr_rt.dicom.compress import SYNTAXES
    from kspacesr_rt.dicom.scanner_interpolation import OnInterpolated
    from kspacesr_rt.model.limits import OnOutside
    from kspacesr_rt.model.spec import ModelSpec
    from kspacesr_rt.pipeline.options import OnStale
    from kspacesr_rt.runtime.backends import BACKENDS
    from kspacesr_rt.services.node import Keep
    from kspacesr_rt.system.durability import Durability
    from kspacesr_rt.train.degradation import DEGRADATIONS
    from kspacesr_rt.train.losses import LOSSES
    from kspacesr_rt.train.options import Precision
    from kspacesr_rt.train.pairs import Rim

    def words(path, key):
        command = EVERY[tuple(path.split())]
        return set(choices(kind_of(command, settings(command)[key])))

    assert words("infer", "backend") == {"auto", *BACKENDS}
    assert words("infer", "compress") == set(SYNTAXES)
    assert words("infer", "on-interpolated") == set(get_args(OnInterpolated))
    assert words("infer", "on-outside") == set(get_args(OnOutside))
    assert words("infer", "stale") == set(get_args(OnStale))
    assert words("infer", "durability") == set(get_args(Durability))
    assert words("serve", "quarantine") == set(Keep)
    assert words("diagnose", "backend") == words("diagnose", "against") == set(LOOKS_INSIDE)
    assert words("export", "runtime") == set(GEMM_REASONS)
    assert words("train", "loss") == set(LOSSES)
    assert words("train", "degradation") == set(DEGRADATIONS)
    assert words("train", "rim") == set(get_args(Rim))
    assert words("train", "precision") == set(get_args(Precision))
    for key in ("architecture", "data_consistency"):
        stated = inspect.signature(ModelSpec).parameters[key].annotation
        assert stated  # checked below by what the specification takes
        for word in words("train", key.replace("_", "-")):
            ModelSpec(
                name="a", upscale=2, matrix=(8, 8), **{"architecture": "dc-residual", key: word}
            )


def test_panels_come_in_the_order_of_use(run):
    """Who reads from the top meets first what is needed first."""
    assert [name for names in COMMANDS.values() for name in names] == PROGRAM.list_commands(None)
    text = run("--help", terminal_width=80).stdout
    titles = re.findall(r"╭─ ([\w ]+?) ─", text)
    assert titles == ["Options", *COMMANDS]
    listed = re.findall(r"^│ ([a-z][\w-]*) ", text.split("─ Run ─")[1], re.MULTILINE)
    assert listed == [name for names in COMMANDS.values() for name in names]


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_long_commands_have_panels_for_every_option(run, path):
    """More than a screen of options is read only in parts."""
    of_panels = [one.rich_help_panel for one in settings(EVERY[path]).values()]
    if len(of_panels) > 9:
        assert all(of_panels), [
            key for key, one in settings(EVERY[path]).items() if not one.rich_help_panel
        ]
    order = [options.PANELS.index(panel) for panel in of_panels if panel]
    assert order == sorted(order)


def test_infer_has_its_options_in_panels(run):
    """First what a user chooses, then what is read, what is written and what is told."""
    titles = re.findall(r"╭─ ([\w ]+?) ─", run("infer", "--help", terminal_width=80).stdout)
    assert titles == [
        *("Arguments", "Options", "Model and backend", "Input", "Output", "Speed", "Checks"),
        "Messages",
    ]


def test_commands_that_process_series_take_the_same_options():
    """What one of them learns, all of them know; what is left out has its reason beside it."""
    infer, watch, serve, mercure = (
        set(settings(EVERY[(name,)])) for name in ("infer", "watch", "serve", "mercure")
    )
    cluster = {"engine", "address", "actors"}
    assert infer - watch == cluster  # a watch is one process
    folder = {"uids", "name", "preview", "report", "strict", "stale", "show-paths", "json"}
    volumes = {"plane", "format"}  # a node and a router receive DICOM alone
    assert infer - serve == cluster | volumes | folder  # the spool is the node's own
    assert infer - mercure == cluster | volumes | folder - {
        *("strict", "stale", "json", "show-paths")
    } | {
        "quiet",
        "verbose",
    }


def test_mercure_knows_every_setting_or_why_not():
    """A fifth list of the same options: what `infer` learns is decided here, too."""
    left_out = {"random_uids", "show_paths", "preview", "name", "sources", "plane", "format"}
    fields = {one.name: one for one in dataclasses.fields(InferOptions)}
    assert set(SETTINGS) == fields.keys() - left_out
    for name, kind in SETTINGS.items():
        usual = getattr(InferOptions(), name)
        assert usual is None or name == "limits" or isinstance(usual, kind)


# Where values come from ------------------------------------------------------------------------


def three_values(kind, parameter, folder):
    """Three values, each as on a command line, in the environment and in TOML."""
    kind, inner = _bare(kind), get_args(_bare(kind))
    origin = get_origin(kind)
    if origin is list:
        return [
            ([word], env, f"[{toml}]", [value])
            for [word], env, toml, value in three_values(inner[0], parameter, folder)
        ]
    if origin is tuple:
        return [
            (
                [str(n)] * len(inner),
                " ".join([str(n)] * len(inner)),
                str([n] * len(inner)),
                (n,) * len(inner),
            )
            for n in (3, 4, 5)
        ]
    if origin is Literal:
        return [([word], word, f'"{word}"', word) for word in (inner * 3)[:3]]
    if kind in (int, float):
        low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
        first = kind(low if low is not None else 0)
        numbers = [kind(min(first + n, high if high is not None else 1e9)) for n in (1, 2, 3)]
        return [([str(one)], str(one), str(one), one) for one in numbers]
    paths = [folder / f"{name}.file" for name in "abc"]
    for path in paths:
        path.write_bytes(b"")
    return [([str(one)], str(one), f"'{one}'", kind(one)) for one in paths]


def parsed(path, words, folder, but=()):
    """Return the context that a command would be called in."""
    context = typer.Context(PROGRAM, info_name="kspacesr-rt")
    command = PROGRAM
    for name, *inner in (path[depth:] for depth in range(len(path))):
        command = command.commands[name]
        given = inner or [*words, *needed(command, folder, but)]
        context = command.make_context(name, given, parent=context)
    return context


def needed(command, folder, but):
    """Give what a command cannot do without, except the options in `but`."""
    file = folder / "needed.file"
    file.write_bytes(b"")
    for one in command.params:
        if one.required and one.param_type_name == "argument":
            yield str(file)
        elif one.required and key_of(one) not in but:
            yield from (one.opts[-1], str(file))


@pytest.mark.parametrize("option", OPTIONS, ids=named)
def test_the_command_line_comes_before_the_environment_before_a_file(option, tmp_path, monkeypatch):
    """The nearer to the user the value stands, the more it counts; the report tells which did."""
    path, key = option
    command = EVERY[path]
    parameter = settings(command)[key]
    kind = kind_of(command, parameter)
    config = tmp_path / "run.toml"
    words = ["--config", str(config)]
    variable = parameter.envvar[0]

    def value(*more):
        context = parsed(path, [*words, *more], tmp_path, but=(key,))
        found = context.params[parameter.name]
        return found, option_sources.option_sources(context)[key]

    if _bare(kind) is bool:
        usual, names = (
            bool(parameter.default),
            {True: parameter.opts, False: parameter.secondary_opts},
        )
        config.write_text(f"# of this test\n[{'.'.join(path)}]\n{key} = {str(not usual).lower()}\n")
        assert value() == (not usual, "run.toml, line 3")
        monkeypatch.setenv(variable, str(int(usual)))
        assert value() == (usual, variable)
        monkeypatch.setenv(variable, str(not usual))
        assert value() == (not usual, variable)
        for wanted in (one for one in (True, False) if names[one]):
            assert value(names[wanted][-1]) == (wanted, "command line")
        return
    line, environment, file = three_values(kind, parameter, tmp_path)
    config.write_text(f"# of this test\n[{'.'.join(path)}]\n{key} = {file[2]}\n")
    assert value() == (file[3], "run.toml, line 3")
    monkeypatch.setenv(variable, environment[1])
    assert value() == (environment[3], variable)
    assert value(parameter.opts[-1], *line[0]) == (line[3], "command line")


@pytest.mark.parametrize("option", OPTIONS, ids=named)
def test_a_file_with_a_value_of_another_type_is_refused(option, tmp_path):
    """A date, or a table, where a word or a number belongs is a mistake that is to be seen."""
    path, key = option
    config = tmp_path / "run.toml"

    def refusal(value):
        config.write_text(f"\n[{'.'.join(path)}]\n{key} = {value}\n")
        with pytest.raises(InputError) as caught:
            parsed(path, ["--config", str(config)], tmp_path, but=(key,))
        assert caught.value.exit_code == 2
        return str(caught.value)

    assert refusal("1979-05-27").startswith(f"run.toml, line 3: '{key}' takes ")
    assert key in refusal("{ a = 1 }")


def test_every_option_has_a_variable_of_its_own_and_shared_ones_one_for_all():
    """KSPACESR_RT_BATCH would be slices, images and three numbers, if it were everyone's."""
    seen = defaultdict(set)
    for path, key in OPTIONS:
        parameter = settings(EVERY[path])[key]
        own, *everywhere = parameter.envvar
        assert own == option_sources.PREFIX + "_".join((*path, key)).replace("-", "_").upper()
        assert own not in seen
        for name in parameter.envvar:
            seen[name].add(parameter.help)
        assert len(everywhere) == (
            parameter.help in option_sources.shared_helps() and key != "force"
        )
    assert "KSPACESR_RT_BACKEND" in seen
    assert "KSPACESR_RT_PRECISION" not in seen
    assert {name for name, told in seen.items() if len(told) > 1} <= {"KSPACESR_RT_MODEL"}
    assert not seen.keys() & option_sources.OTHER_VARIABLES


def test_variables_that_are_no_options_keep_their_meaning():
    """Every one that the sources read is known, so that none is called unknown or taken twice."""
    read = set()
    for folder in ("kspacesr_rt", "train", "export", "bench", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.resolve() in (
                Path(__file__),
                ROOT / "kspacesr_rt" / "cli" / "option_sources.py",
            ):
                continue
            read |= set(re.findall(r"\"(KSPACESR_RT_[A-Z_]+)\"", file.read_text()))
    of_options = set(option_sources.variables_of(PROGRAM))
    assert read - of_options == option_sources.OTHER_VARIABLES
    assert read >= {"KSPACESR_RT_TELEMETRY", "KSPACESR_RT_STALL_S", "KSPACESR_RT_CACHE"}


def test_what_the_environment_or_a_file_changes_is_told_before_it_is_done(
    run, monkeypatch, tmp_path
):
    """A variable that was forgotten must not choose another provider, unseen."""
    config = tmp_path / "run.toml"
    config.write_text("threads = 1\n[verify]\nbackend = 'openvino'\n[infer]\nbatch = 3\n")
    monkeypatch.setenv("KSPACESR_RT_BACKEND", "ort-cpu")
    done = run("verify", "x2-fast", "--config", config)
    assert done.exit_code == 0
    assert done.stderr.splitlines()[0] == (
        "options: --backend ort-cpu (KSPACESR_RT_BACKEND), --threads 1 (run.toml, line 1)"
    )
    monkeypatch.delenv("KSPACESR_RT_BACKEND")
    assert run("verify", "x2-fast", "--threads", 1).stderr == ""


def test_verbose_tells_of_the_command_line_too_and_no_folder_is_told(run, monkeypatch, tmp_path):
    """Folders hold names of patients; where a value came from does not need them."""
    (tmp_path / "Meier").mkdir()
    monkeypatch.setenv("KSPACESR_RT_INFER_REPORT", str(tmp_path / "Meier" / "r.json"))
    words = ("infer", tmp_path / "none", tmp_path / "out", "--backend", "zero-fill")
    first = run(*words, "-v", "--batch", "auto", "--processes", "auto").stderr.splitlines()[0]
    assert "--batch auto (command line)" in first
    assert "--processes auto (command line)" in first
    assert "--backend zero-fill (command line)" in first
    assert "--report r.json (KSPACESR_RT_INFER_REPORT)" in first
    assert "Meier" not in first
    assert run(*words, "-q").stderr.startswith("error: ")


def test_a_wrong_value_is_told_with_the_place_it_came_from(run, monkeypatch, tmp_path):
    """It stands nowhere on the command line, so the message has to say where to look."""
    config = tmp_path / "run.toml"
    config.write_text("\n[infer]\nbatch = 0\n")
    done = run("infer", tmp_path, tmp_path / "o", "--config", config)
    assert done.exit_code == 2
    assert "run.toml, line 3" in " ".join(done.stderr.replace("│", " ").split())
    monkeypatch.setenv("KSPACESR_RT_BACKEND", "lucky")
    done = run("verify", "x2-fast")
    assert done.exit_code == 2
    told = " ".join(done.stderr.replace("│", " ").split())
    assert "KSPACESR_RT_BACKEND" in told
    assert "'openvino'" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bach = 3", "run.toml, line 1: 'infer' has no option 'bach'"),
        ("[infer]\n\nbach = 3", "run.toml, line 3: 'infer' has no option 'bach'"),
        ("settle = 3", "run.toml, line 1: 'infer' has no option 'settle'"),
        ("[wach]\nsettle = 3", "run.toml, line 1: no command is called 'wach'"),
        ("[watch]\nsettel = 3", "run.toml, line 2: 'watch' has no option 'settel'"),
        ("[bench.gate]\nbach = 3", "run.toml, line 2: 'gate' has no option 'bach'"),
        ("[cache]\nmax-mb = 3", "run.toml, line 2: 'cache' has no option 'max-mb'"),
        ("batch = '3'", 'run.toml, line 1: \'batch\' takes a whole number or "auto", not "3"'),
        ("batch = true", "run.toml, line 1: 'batch' takes a whole number or \"auto\", not true"),
        ("batch = 1.5", "run.toml, line 1: 'batch' takes a whole number or \"auto\", not 1.5"),
        ("strict = 1", "run.toml, line 1: 'strict' takes true or false, not 1"),
        ("[watch]\nsettle = '9'", "run.toml, line 2: 'settle' takes a number, not \"9\""),
        ("stale = 1", '\'stale\' takes "refuse" or "keep" or "replace", not 1'),
        ("limit = 'items=3'", "'limit' takes a list, each of it a text in quotes"),
        ("[build]\nbatch = [1, 2]", "'batch' takes a list of 3, each of it a whole number"),
        ("keep-private = true\nkeep_private = true", "line 1: 'keep_private' is there twice"),
        ("[train]\nbatch = 3\nbatch-size = 4", "run.toml, line 3: 'batch-size' is there twice"),
        ("config = 'other.toml'", "run.toml, line 1: 'infer' has no option 'config'"),
        ("batch = no", "run.toml is not TOML: Invalid value (at line 1, column 9)"),
        ("batch = 1\nbatch = 2", "run.toml is not TOML: Cannot overwrite a value"),
    ],
)
def test_a_file_that_is_not_right_is_refused_with_its_line(run, tmp_path, text, told):
    """Before anything is read or written; what is misspelt would else change nothing, unseen."""
    config = tmp_path / "run.toml"
    config.write_text(text)
    done = run("infer", tmp_path, tmp_path / "o", "--config", config)
    assert done.exit_code == 2, done.output
    assert told in done.stderr


def test_a_file_that_cannot_be_read_is_refused(run, tmp_path):
    """A missing file is no empty one."""
    infer = ("infer", tmp_path, tmp_path / "o", "--config")
    assert "none.toml is no file of options" in run(*infer, tmp_path / "none.toml").stderr
    assert run(*infer, tmp_path).exit_code == 2
    (tmp_path / "latin.toml").write_bytes(b"model = '\xe4'")
    assert "latin.toml is not TOML: it is not UTF-8" in run(*infer, tmp_path / "latin.toml").stderr
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfbatch = 0")
    assert "bom.toml, line 1" in run(*infer, tmp_path / "bom.toml").stderr.replace("\n", " ")


def test_names_may_be_spelt_with_underscores(tmp_path):
    """As in the settings of mercure and in the report."""
    config = tmp_path / "run.toml"
    config.write_text("keep_private = true\n[infer]\non_interpolated = 'crop'\n")
    found = parsed(("infer",), ["--config", str(config)], tmp_path)
    assert (found.params["keep_private"], found.params["on_interpolated"]) == (True, "crop")
    assert option_sources.option_sources(found) == {
        "keep-private": "run.toml, line 1",
        "on-interpolated": "run.toml, line 3",
    }


def test_the_file_may_be_named_by_the_environment(tmp_path, monkeypatch):
    """A service's unit sets one variable."""
    config = tmp_path / "box.toml"
    config.write_text("[infer]\nbatch = 7\n[bench.gate]\nbudget = 9\n")
    monkeypatch.setenv("KSPACESR_RT_CONFIG", str(config))
    assert parsed(("infer",), [], tmp_path).params["batch"] == 7
    assert parsed(("bench", "gate"), [], tmp_path).params["budget"] == 9.0
    assert parsed(("watch",), [], tmp_path).params["batch"] == 1


def test_a_variable_of_one_command_comes_before_that_for_all(tmp_path, monkeypatch):
    """The narrower one was meant."""
    monkeypatch.setenv("KSPACESR_RT_BATCH", "3")
    monkeypatch.setenv("KSPACESR_RT_WATCH_BATCH", "5")
    assert parsed(("watch",), [], tmp_path).params["batch"] == 5
    assert parsed(("infer",), [], tmp_path).params["batch"] == 3
    assert parsed(("train",), [], tmp_path).params["batch"] is None


def test_a_variable_that_names_nothing_is_told(run, monkeypatch):
    """A misspelt one would change nothing, unseen."""
    monkeypatch.setenv("KSPACESR_RT_BACKENT", "ort-cpu")
    monkeypatch.setenv("KSPACESR_RT_CACHE", "/somewhere")
    told = run("inspect", "x2-fast").stderr
    assert told == ("warning: KSPACESR_RT_BACKENT names no option; is it KSPACESR_RT_BACKEND?\n")
    monkeypatch.delenv("KSPACESR_RT_BACKENT")
    monkeypatch.setenv("KSPACESR_RT_BANANA", "1")  # like nothing but for how all of them begin
    assert run("inspect", "x2-fast").stderr == "warning: KSPACESR_RT_BANANA names no option\n"


def test_json_is_printed_for_errors_wherever_it_was_asked_for(run, monkeypatch, tmp_path):
    """A script finds it, however it set the option; paths do not stand there."""
    monkeypatch.setenv("KSPACESR_RT_JSON", "1")
    monkeypatch.setenv("KSPACESR_RT_MODEL", "Meier.onnx")
    done = run("infer", tmp_path, tmp_path / "out")
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("{"))
    error = json.loads(line)["error"]
    assert error["message"] == "no model file '<path>'"


@pytest.mark.parametrize("path", sorted(EVERY), ids=" ".join)
def test_help_is_in_words_of_a_command_line(path):
    """`<list[Path]>` behind an option and `{checkpoint}` are Python's, not a user's."""
    text = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).output
    assert "Usage:" in text
    assert not re.search(r"^│[ *]*--.*list\[", text, re.MULTILINE)
    assert not re.search(r"[{[][a-z_]+[}\]]\.*\s*$", text.split("Usage:")[1].splitlines()[0])


@pytest.mark.parametrize(
    ("text", "batch"), [("auto", "auto"), ("3", 3), ("0", None), ("-1", None), ("many", None)]
)
def test_a_batch_is_a_number_or_auto(run, tmp_path, monkeypatch, text, batch):
    """On the command line, in the environment and in a file."""
    seen = []
    monkeypatch.setattr(
        "kspacesr_rt.pipeline.infer",
        lambda source, out, options, **more: seen.append(options) or 1 / 0,
    )
    config = tmp_path / "run.toml"
    config.write_text(f"batch = {text if text.lstrip('-').isdigit() else repr(text)}\n")
    words = ("infer", tmp_path, tmp_path / "o")
    codes = [run(*words, "--batch", text).exit_code, run(*words, "--config", config).exit_code]
    monkeypatch.setenv("KSPACESR_RT_BATCH", text)
    codes.append(run(*words).exit_code)
    if batch is None:
        assert (codes, seen) == ([2] * 3, [])
    else:
        assert [one.batch for one in seen] == [batch] * 3
