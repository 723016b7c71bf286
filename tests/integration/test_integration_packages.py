"""The packages in clean environments: a wheel, an sdist, and one file that needs a Python alone."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from commands import run_shipline
from peers import Registry, push_base_images
from peers.docker import newest
from shipline import __version__
from toolboxes import made_once

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]


def _runs(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


FOUND = [one for one in ("3.11", "3.12", "3.13", "3.14") if _runs(f"python{one}")]
PYTHONS = sorted({FOUND[0], FOUND[-1]})
"""The oldest and the newest of this machine."""
DOCKERFILE = (
    "FROM scratch AS first\nCOPY Dockerfile /one\nFROM scratch\nCOPY --from=first /one /two\n"
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all packages in `dist`, and release.pub, whose private key signed them."""
    return made_once(tmp_path_factory, "release", _release)


def _release(place: Path) -> None:
    key = place / "release.key"
    words = ("key", "generate", "-o", str(place / "release"))
    done = run_shipline(*words, environ={"COSIGN_PASSWORD": "x"})
    assert done.returncode == 0, done.stderr
    environ = {
        **os.environ,
        "PYTHON": sys.executable,
        "VERSIONS": " ".join(PYTHONS),
        "SIGNING_KEY": str(key),
        "COSIGN_PASSWORD": "x",
    }
    command = ["sh", str(ROOT / "scripts" / "dist.sh"), str(place / "dist")]
    built = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


@pytest.fixture(scope="module")
def packages(release: Path) -> Path:
    """The directory with all packages."""
    return release / "dist"


@pytest.fixture
def clean(tmp_path: Path) -> dict[str, str]:
    """The variables of a user for whom nothing is installed, with a Dockerfile at home."""
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(tmp_path),
        "SHIPLINE_HOME": str(tmp_path / "state"),
    }


def works(command: list[str], environ: dict[str, str]) -> None:
    """A build, the data files of the program, and its checks of the machine work."""

    def output(*words: str) -> str:
        done = subprocess.run(
            [*command, *words], env=environ, cwd=environ["HOME"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert output("--version").strip() == f"shipline {__version__}"
    output("build", "--output", "out", ".")
    assert (Path(environ["HOME"]) / "out" / "two").read_text() == DOCKERFILE
    assert json.loads(output("config", "schema"))["$schema"]
    failed = [one for one in json.loads(output("doctor", "--json")) if one["exit_code"]]
    assert failed == []


def test_each_package_works_where_nothing_is(
    packages: Path, clean: dict[str, str], tmp_path: Path
) -> None:
    """The wheel on the oldest Python, the sdist on the newest, the single file on both."""
    for python, kind in ((PYTHONS[0], "whl"), (PYTHONS[-1], "tar.gz")):
        place = tmp_path / f"venv-{kind}"
        subprocess.run([f"python{python}", "-m", "venv", "--without-pip", str(place)], check=True)
        (package,) = packages.glob(f"shipline-*.{kind}")
        pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install"]
        quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
        subprocess.run([*pip, *quiet, str(package)], check=True)
        works([str(place / "bin" / "shipline")], clean)
    for python in PYTHONS:
        interpreter = shutil.which(f"python{python}")
        assert interpreter is not None
        works([interpreter, "-I", str(packages / "shipline.pyz")], clean)


def test_each_package_lists_what_is_in_it_and_is_signed(packages: Path, release: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=packages)
    assert done.returncode == 0
    files = {path.name for path in packages.iterdir()}
    named = {line.split()[1] for line in (packages / "SHA256SUMS").read_text().splitlines()}
    signed = {name for name in named if not name.endswith(".spdx.json")}
    described = signed - {"constraints.txt"}
    assert len(described) == len(signed) - 1 == 4
    bundles = {f"{name}.sigstore.json" for name in (*signed, "SHA256SUMS")}
    assert files == {"SHA256SUMS"} | named | bundles
    assert named == signed | {f"{name}.spdx.json" for name in described}
    for name in described:
        document = json.loads((packages / f"{name}.spdx.json").read_bytes())
        listed = {package["name"] for package in document["packages"]}
        assert {name, "shipline", "aiohttp", "cryptography"} <= listed
        (package,) = (one for one in document["packages"] if one["name"] == name)
        digest = hashlib.sha256((packages / name).read_bytes()).hexdigest()
        assert package["checksums"] == [{"algorithm": "SHA256", "checksumValue": digest}]
    verify = ("cosign", "verify-blob", "--insecure-ignore-tlog=true", "--key")
    for name in (*signed, "SHA256SUMS"):
        words = [*verify, str(release / "release.pub"), "--bundle", f"{name}.sigstore.json", name]
        done = subprocess.run(words, cwd=packages, env={**os.environ, **newest()})
        assert done.returncode == 0, name


def test_packages_have_nothing_of_the_machine_that_built_them(packages: Path) -> None:
    """Times are that of the commit, modes and owners those of every machine, and no file names a
    directory of the build.
    """
    log = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    committed = int(subprocess.run(log, check=True, capture_output=True).stdout)
    (sdist,) = packages.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert {(one.mtime, one.uid, one.gid, one.uname) for one in members} == {(committed, 0, 0, "")}
    assert {one.mode for one in members} <= {0o644, 0o755}
    with zipfile.ZipFile(packages / "shipline.pyz") as single:
        assert len({one.date_time for one in single.infolist()}) == 1
        files = {name: single.read(name) for name in single.namelist()}
    assert not [name for name in files if name.endswith(".dist-info/direct_url.json")]
    listed = [path for path in files if path.endswith(".dist-info/RECORD")]
    assert "site-packages/shipline-" in " ".join(listed)
    for path in listed:
        names = [line.partition(b",")[0].decode() for line in files[path].splitlines()]
        assert {f"site-packages/{name}" for name in names} <= files.keys(), path
    constraints = (packages / "constraints.txt").read_text().splitlines()
    assert {"aiohttp", "setuptools"} <= {line.partition("==")[0] for line in constraints}


@pytest.mark.root
def test_the_debian_package_comes_and_goes(
    packages: Path, base_images: Registry, tmp_path: Path
) -> None:
    """In a Debian with Python and no more, where dpkg itself is that of this machine."""
    push_base_images(base_images, "python")
    root = tmp_path / "root"
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM python:3.13-slim\n")
    environ = {
        "SHIPLINE_HOME": str(tmp_path / "state"),
        "SHIPLINE_MIRRORS": f"docker.io={base_images.url}",
    }
    done = run_shipline("build", "-o", str(root), str(context), environ={**os.environ, **environ})
    assert done.returncode == 0, done.stderr
    before = {path for path in root.rglob("*") if not path.is_dir()}
    (root / "var/lib/dpkg/updates").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg/info").mkdir(exist_ok=True)
    (root / "var/lib/dpkg/status").touch()
    (root / "home" / "Dockerfile").write_text(DOCKERFILE)

    def succeeds(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (package,) = packages.glob("*.deb")
    dpkg = ("dpkg", f"--root={root}", "--force-depends")
    succeeds(*dpkg, "--install", str(package))
    enter = (
        'mount --bind "$0" "$0"; cd "$0"; mkdir -p proc; mount --rbind /dev dev;'
        ' mount -t proc proc proc; exec chroot . "$@"'
    )
    inside = ("unshare", "--mount", "--pid", "--fork", "sh", "-ec", enter, str(root))
    assert succeeds(*inside, "shipline", "--version") == f"shipline {__version__}\n"
    build = ("env", "SHIPLINE_HOME=/state", "shipline", "build", "-o", "/out")
    succeeds(*inside, *build, "/home")
    assert (root / "out" / "two").read_text() == DOCKERFILE
    plugin = "/usr/libexec/docker/cli-plugins/docker-shipline"
    asked = succeeds(*inside, plugin, "docker-cli-plugin-metadata")
    assert json.loads(asked)["Version"] == __version__
    completion = root / "usr/share/bash-completion/completions/shipline"
    assert "_SHIPLINE_COMPLETE" in completion.read_text()
    page = gzip.decompress((root / "usr/share/man/man1/shipline.1.gz").read_bytes()).decode()
    assert ".B shipline build\n" in page

    succeeds(*dpkg, "--purge", "shipline")
    left = {path for path in root.rglob("*") if not path.is_dir()} - before
    theirs = {path for path in left if "shipline" in str(path.relative_to(root))}
    assert {path.relative_to(root).parts[0] for path in theirs} <= {"state", "var"}
    assert not (root / "usr/lib/shipline").exists()
