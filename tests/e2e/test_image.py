"""The steps of the Dockerfiles in `deploy/`, run one after the other where no container engine is.

A folder with this machine's programs bound into it stands for the base image. The steps run in it
by chroot, as they stand in the file, with the packages of this environment, so that pip asks
nobody; the image for GPUs has those of the folder KSPACESR_RT_STANDIN before them. What the image
then starts runs as its user, with a network of loopback alone, no rights, and nothing that can be
written but its volumes and /tmp.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from dockerfile import only, stages
from repository import ROOT

SECONDS = 500
BUILD, FINAL = stages((ROOT / "deploy" / "Dockerfile.cpu").read_text())
FOR_GPUS = stages((ROOT / "deploy" / "Dockerfile.gpu").read_text())
GPU_PACKAGES = os.environ.get("KSPACESR_RT_STANDIN", "")
NOT_LINKED = (
    "pip",
    "kspacesr",
    "__editable__",
    "__pycache__",
    "_virtualenv",
    "distutils-precedence",
)
LOOPBACK_UP = (
    "import fcntl,socket,struct;"
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x41))"  # SIOCSIFFLAGS
)


def missing():
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root of a Linux can run the steps of an image"
    if absent := [
        one for one in ("unshare", "setpriv", "useradd", "mount") if not shutil.which(one)
    ]:
        return f"{absent[0]} is not installed"
    if importlib.util.find_spec("pip") is None:
        return "this environment has no pip, with which the image's steps install"
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else None


class Image:
    """A root folder, and what runs in it."""

    def __init__(self, folder: Path, instead: Path | None = None) -> None:
        """Make the folder; with `instead`, an ONNX Runtime of there is the only one."""
        self.root, self.environment = folder / "root", {}
        packages = self.root / "packages"
        packages.mkdir(parents=True)
        left_out = NOT_LINKED if instead is None else (*NOT_LINKED, "onnxruntime")
        for one in sorted(Path(sysconfig.get_path("purelib")).iterdir()):
            if not one.name.lower().startswith(left_out) and one.suffix != ".pth":
                (packages / one.name).symlink_to(one.resolve())
        for one in () if instead is None else sorted(instead.glob("onnxruntime*")):
            (packages / one.name).symlink_to(one.resolve())
        self.programs = Path(sys.base_prefix, "bin")
        if not (self.programs / "python").exists():  # Debian's own: /usr/bin/python3.11, say
            self.programs = Path("/opt/python")
            (self.root / "opt/python").mkdir(parents=True)
            (self.root / "opt/python/python").symlink_to(Path(sys._base_executable).resolve())
            # Its pip is a package of its own, which may be missing: this environment's is taken.
            (packages / "pip").symlink_to(Path(sysconfig.get_path("purelib"), "pip").resolve())
        for name in (
            "etc",
            "opt",
            "var/lib",
            "var/cache",
            "src",
            "tmp",
            "proc",
            "dev",
            "usr/local",
        ):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in ("passwd", "group", "shadow", "gshadow", "login.defs", "ld.so.cache"):
            if Path("/etc", name).exists():
                shutil.copy(Path("/etc", name), self.root / "etc")
        (self.root / "tmp").chmod(0o1777)
        bound = {"/usr", "/bin", "/sbin", "/lib", "/lib64", sys.base_prefix, sys.prefix}
        bound |= {str(one.resolve().parent) for one in packages.iterdir()}
        # What lies in another one is there with it.
        self.bound = sorted(
            one
            for one in bound
            if Path(one).is_dir()
            and not any(one != other and Path(one).is_relative_to(other) for other in bound)
        )

    def run(self, script, *, user=None, read_only=False):
        """Run a shell script in the image; as a user also without rights and a way out."""
        lines = ["set -e"]
        for one in self.bound:
            place = shlex.quote(f"{self.root}{one}")
            lines += [f"mkdir -p {place}", f"mount --bind -o ro {one} {place}"]
            lines += [f"mount -o remount,bind,ro {place}"]
        root = shlex.quote(str(self.root))
        lines += [f"mount --rbind /dev {root}/dev", f"mount -t proc proc {root}/proc"]
        if user is not None:
            lines.append(f"{shlex.quote(sys.executable)} -c {shlex.quote(LOOPBACK_UP)}")
        if read_only:
            lines += [
                f"mount --bind {root} {root}",
                f"cd {root}",
                f"mount -t tmpfs -o size=256m,mode=1777,noexec,nosuid,nodev tmpfs {root}/tmp",
            ]
            # They are hidden behind the new mounts; an environment may lie in /tmp, too.
            for one in (*self.bound, "/dev", "/proc"):
                place = shlex.quote(f"{self.root}{one}")
                lines += [f"mkdir -p {place}", f"mount --rbind {one} {place}"]
            lines += [
                f"mount --bind {root}{one} {root}{one}" for one in only(FINAL, "VOLUME").arguments
            ]
            lines.append(f"mount -o remount,bind,ro {root}")
        rights = [] if user is None else ["setpriv", *self._no_rights(user)]
        values = [f"{name}={value}" for name, value in self._values().items()]
        inside = ["chroot", str(self.root), *rights, "env", "-i", *values, "sh", "-c", script]
        lines.append(f"exec {shlex.join(inside)}")
        return subprocess.run(
            ["unshare", "--mount", "--net", "sh", "-c", "\n".join(lines)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def _values(self):
        """Return the environment of a step: the image's, and what keeps pip from a network."""
        python = str(self.programs)
        defaults = {
            "PATH": f"{python}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": "/packages",
        }
        # pip takes the packages that are there, and builds with the setuptools that is there.
        # (Of the last, pip reads 0 as it reads --no-build-isolation.)
        defaults |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
        given = {
            key: value.replace("/usr/local", python) for key, value in self.environment.items()
        }
        return {**defaults, **given}

    @staticmethod
    def _no_rights(user):
        number, group = user.split(":")
        return [
            *("--reuid", number, "--regid", group, "--clear-groups"),
            *("--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs"),
        ]


def copy_in(image, instruction):
    """Do a COPY from the clone, of files and folders alike, as `.dockerignore` lets it."""
    *sources, target = instruction.text.split()
    for source in sources:
        found, place = ROOT / source, image.root / "src" / target
        if found.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.pyc", "suites")
            shutil.copytree(found, place, symlinks=True, ignore=ignore)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, place / found.name)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Return the image, built."""
    if why := missing():
        pytest.skip(why)
    return built(Image(tmp_path_factory.mktemp("image")), BUILD, FINAL)


def built(made, build, final):
    """Do the steps of both stages."""
    for one in build:
        if one.word == "COPY":
            copy_in(made, one)
        elif one.word == "RUN":
            done = made.run(f"cd /src && {one.text}")
            assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(made.root / "src")
    user = None
    for one in final:
        if one.word == "ENV":
            made.environment |= dict(pair.split("=", 1) for pair in shlex.split(one.text))
        elif one.word == "USER":
            user = one.text
        elif one.word == "RUN":
            done = made.run(one.text, user=user)
            assert done.returncode == 0, done.stdout + done.stderr
    return made


def as_started(image, script):
    return image.run(script, user=only(FINAL, "USER").text, read_only=True)


def test_the_image_holds_the_tool_and_no_pip(image):
    site = next((image.root / "opt/kspacesr/lib").glob("python3.*")) / "site-packages"
    names = {one.name.split("-")[0] for one in site.iterdir()}
    assert "kspacesr_rt" in names
    assert not names & {"pip", "setuptools", "torch"}
    assert (site / "kspacesr_rt/model/shipped/x2-fast.onnx").is_file()
    assert not (site / "kspacesr_rt/bench/suites").exists()


def test_it_runs_a_series_with_nothing_else_writable(image):
    """The verification of the build is taken; the network is loopback alone."""
    script = """
sample=$(python -c 'from kspacesr_rt.sample import sample_folder; print(sample_folder())')
kspacesr-rt infer "$sample" /var/lib/kspacesr/out --backend openvino --on-interpolated warn --json
code=$?
id -u
(: > /written) 2>/dev/null && echo the root can be written
(: > /opt/kspacesr/written) 2>/dev/null && echo the program can be written
exit $code
"""
    verified = sorted((image.root / "var/cache/kspacesr").rglob("*.json"))
    assert verified
    stamps = [one.stat().st_mtime_ns for one in verified]
    done = as_started(image, script)
    assert done.returncode == 0, done.stdout + done.stderr
    report, user, *written = done.stdout.splitlines()
    assert json.loads(report)["exit_code"] == 0
    assert (user, written) == ("10001", [])
    assert [one.stat().st_mtime_ns for one in verified] == stamps
    assert "verif" not in done.stderr


def test_the_node_becomes_healthy_and_ends_with_0(image):
    """ENTRYPOINT, HEALTHCHECK and STOPSIGNAL, as an engine uses them."""
    start = shlex.join([*only(FINAL, "ENTRYPOINT").arguments, "serve"])
    check = shlex.join(only(FINAL, "HEALTHCHECK").arguments)
    signal = only(FINAL, "STOPSIGNAL").text.removeprefix("SIG")
    script = f"""
{check} && exit 90
{start} --forward PACS@127.0.0.1:1 --spool /var/lib/kspacesr/spool --http-port 8080 &
node=$!
for _ in $(seq 600); do {check} 2>/dev/null && break; sleep 0.2; done
{check} || exit 91
kill -{signal} $node
wait $node
"""
    done = as_started(image, script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "event=listening" in done.stderr
    assert "event=stopped cut_off=nothing" in done.stderr


def test_the_image_for_gpus_is_built_and_takes_no_cpu_instead(tmp_path):
    """Without a driver its steps run, and what is asked of a GPU ends with what is missing."""
    if why := missing():
        pytest.skip(why)
    if not Path(GPU_PACKAGES, "onnxruntime/capi").is_dir() or not GPU_PACKAGES:
        pytest.skip("KSPACESR_RT_STANDIN names no folder with onnxruntime-gpu")
    build, final = FOR_GPUS
    made = built(Image(tmp_path, Path(GPU_PACKAGES)), build, final)
    script = """
sample=$(python -c 'from kspacesr_rt.sample import sample_folder; print(sample_folder())')
exec kspacesr-rt infer "$sample" /var/lib/kspacesr/out --backend ort-cuda
"""
    done = made.run(script, user=only(final, "USER").text, read_only=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert "there is no NVIDIA driver here: libcuda.so.1 cannot be loaded" in done.stderr
    assert "hint: install the NVIDIA driver, version 580 or newer" in done.stderr
