"""What `deploy/` holds: each command is one of ours, and nothing may do more than it needs."""

from __future__ import annotations

import configparser
import fnmatch
import ipaddress
import json
import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from dockerfile import only, stages
from repository import ROOT
from typer.main import get_command

from kspacesr_rt.cli import app
from kspacesr_rt.services.node import parse_peer, parse_target

DEPLOY = ROOT / "deploy"
DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.gpu")
STATE, CACHE = "/var/lib/kspacesr", "/var/cache/kspacesr"


@pytest.fixture(params=DOCKERFILES)
def dockerfile(request):
    return stages((DEPLOY / request.param).read_text())


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def parsed(words):
    """Return what our command line makes of words; it runs nothing."""
    assert words[0].endswith("kspacesr-rt"), words
    name, *rest = words[1:]
    group = get_command(app)
    with (
        group.make_context("kspacesr-rt", list(words[1:])) as outer,
        group.commands[name].make_context(name, rest, parent=outer) as context,
    ):
        return name, context.params


def units():
    # systemd's format repeats keys, which configparser refuses: the last counts here.
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(DEPLOY / "kspacesr-rt.service")
    return parser


def test_the_base_is_pinned_and_the_same_in_both_stages(dockerfile):
    bases = [stage[0].text.split()[0] for stage in dockerfile]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", bases[0])


def test_the_image_holds_no_tools_to_build_with(dockerfile):
    """What the last stage copies comes from the first, where pip stays outside of it."""
    build, final = dockerfile
    assert [one.text for one in final if one.word == "COPY"] == [
        "--from=build /opt/kspacesr /opt/kspacesr"
    ]
    assert not any("apt-get" in one.text or "pip" in one.text for one in final)
    run = only(build, "RUN").text
    assert "python -m venv --without-pip /opt/kspacesr" in run
    assert "python -m pip --python /opt/kspacesr/bin/python install" in run
    assert not {"ADD", "MAINTAINER"} & {one.word for one in build + final}


def test_every_package_is_pinned_and_none_is_torch(dockerfile):
    run = only(dockerfile[0], "RUN").text
    [name] = re.findall(r"--constraint (\S+)", run)
    lines = (ROOT / name).read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert len(pinned) > 20
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.+]+", line) for line in pinned)
    assert not [line for line in pinned if line.startswith(("torch", "ray==", "pytest"))]
    runtime = "onnxruntime" if "cpu" in name else "onnxruntime-gpu"
    assert [line for line in pinned if line.startswith(f"{runtime}==")]
    assert "--no-cache-dir" in run


def test_it_runs_as_nobody_in_particular(dockerfile):
    """The user is a number, in which Kubernetes can see that it is not root."""
    final = dockerfile[1]
    words = [one.word for one in final]
    assert only(final, "USER").text == "10001:10001"
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert only(final, "VOLUME").arguments == [STATE, CACHE]
    made = next(one.text for one in final if one.word == "RUN")
    assert f"--mode=0700 {STATE} {CACHE}" in made
    assert f"KSPACESR_RT_CACHE={CACHE}" in only(final, "ENV").text


def test_its_health_check_and_its_steps_are_commands_of_ours(dockerfile):
    final = dockerfile[1]
    assert only(final, "ENTRYPOINT").arguments == ["kspacesr-rt"]
    check = only(final, "HEALTHCHECK")
    name, options = parsed(check.arguments)
    assert (name, options["http_port"]) == ("health", 8080)
    assert options["timeout"] < float(re.search(r"--timeout=(\d+)s", check.text)[1])
    after = final[[one.word for one in final].index("USER") :]
    steps = [step for one in after if one.word == "RUN" for step in one.text.split("&&")]
    assert steps
    for step in steps:
        parsed(shlex.split(step))


def test_only_what_is_copied_reaches_the_build(dockerfile):
    """`.dockerignore` lets nothing else in, and all of that."""
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    sources = []
    for one in dockerfile[0]:
        if one.word == "COPY":
            *given, _ = one.text.split()
            sources += given
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, rule) for rule in allowed), source
    other = {"deploy/constraints-cpu.txt", "deploy/constraints-gpu.txt"}
    assert set(allowed) - other == set(sources) - other
    for needed in re.findall(
        r'"kspacesr_rt\.?(\w*)" = "(\w+)"', (ROOT / "pyproject.toml").read_text()
    ):
        assert needed[1] in sources


def test_hadolint_has_nothing_to_say(dockerfile):
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [program, *(DEPLOY / name for name in DOCKERFILES)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_compose_starts_the_node_as_its_image_expects(compose):
    """Its command, its folders, its user and its health check are those of the Dockerfile."""
    node = compose["services"]["node"]
    final = stages((ROOT / node["build"]["dockerfile"]).read_text())[1]
    assert (DEPLOY / node["build"]["context"]).resolve() == ROOT
    name, options = parsed(["kspacesr-rt", *node["command"]])
    assert name == "serve"
    assert str(options["spool"]).startswith(f"{STATE}/")
    assert node["user"] == only(final, "USER").text
    mounted = dict(reversed(one.split(":")) for one in node["volumes"])
    assert set(mounted) == set(only(final, "VOLUME").arguments)
    assert set(mounted.values()) <= set(compose["volumes"])
    kind, *check = node["healthcheck"]["test"]
    assert kind == "CMD"
    _, asked = parsed(check)
    assert asked["http_port"] == options["http_port"]
    # The engine must wait for as long as the node takes to end.
    assert int(node["stop_grace_period"].removesuffix("s")) > options["grace"] + 3


def test_compose_gives_no_more_than_is_needed(compose):
    node = compose["services"]["node"]
    assert node["read_only"] is True
    assert all(one["cap_drop"] == ["ALL"] for one in compose["services"].values())
    for one in compose["services"].values():
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in one
        assert all(re.match(r"127\.0\.0\.1:", port) for port in one.get("ports", ()))
        assert set(one["networks"]) <= set(compose["networks"])
        assert one["healthcheck"]["test"][0] == "CMD"
    assert [one.split(":")[0] for one in node["tmpfs"]] == ["/tmp"]
    # The node is in networks alone from which there is no way out.
    assert all(compose["networks"][name]["internal"] for name in node["networks"])


def test_compose_lets_node_and_archive_know_each_other(compose):
    """Names, titles and ports on one side are those on the other."""
    node, orthanc = compose["services"]["node"], compose["services"]["orthanc"]
    _, options = parsed(["kspacesr-rt", *node["command"]])
    modalities = json.loads(orthanc["environment"]["ORTHANC__DICOM_MODALITIES"])
    assert list(modalities.values()) == [[options["ae"], "node", options["port"]]]
    [target] = map(parse_target, options["forward"])
    title = orthanc["environment"]["ORTHANC__DICOM_AET"]
    assert (target.ae_title, target.host, target.port) == (title, "orthanc", 4242)
    [peer] = map(parse_peer, options["accept"])
    assert peer.ae_title == title
    [net] = compose["networks"]["dicom"]["ipam"]["config"]
    assert f"{title}@{ipaddress.ip_network(net['subnet'])}" in options["accept"]


def test_compose_is_what_the_specification_has(compose):
    spec = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(spec.PyCompose.from_yaml(text).services) == set(compose["services"])
    for wrong in (("read_only: true", "read_only: perhaps"), ("cap_drop: [ALL]", "cap_drop: ALL")):
        with pytest.raises(ValueError, match=r"node|services|invalid|expected"):
            spec.PyCompose.from_yaml(text.replace(*wrong))


def test_the_unit_starts_the_node():
    service = units()["Service"]
    line = service["ExecStart"].replace("/etc/kspacesr-rt.toml", str(DEPLOY / "kspacesr-rt.toml"))
    name, options = parsed(shlex.split(line))
    assert name == "serve"
    assert parse_target(options["forward"][0]).host == "10.1.2.9"
    assert parse_peer(options["accept"][0]).ae_title == "MRI1"
    assert str(options["spool"]).startswith(f"/var/lib/{service['StateDirectory']}/")
    assert service["Environment"]
    assert f"/var/cache/{service['CacheDirectory']}" == CACHE
    assert int(service["TimeoutStopSec"]) > options["grace"] + 3
    assert service["SuccessExitStatus"] == "143"


def test_systemd_finds_the_unit_well_locked_up(tmp_path):
    """`systemd-analyze` counts what a service may do, from 0 to 10; the unlocked have 9.6."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    command = [program, "security", "--offline=true", "--threshold=15"]
    done = subprocess.run(
        [*command, DEPLOY / "kspacesr-rt.service"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout[-300:]
    open_unit = tmp_path / "open.service"
    open_unit.write_text("[Service]\nExecStart=/bin/true\n")
    done = subprocess.run([*command, open_unit], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    unit = tmp_path / "kspacesr-rt.service"
    text = (DEPLOY / "kspacesr-rt.service").read_text()
    unit.write_text(text.replace("/opt/kspacesr/bin/kspacesr-rt", "/bin/true"))
    done = subprocess.run([program, "verify", unit], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
