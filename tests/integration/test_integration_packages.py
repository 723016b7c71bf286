"""The packages in clean environments: a wheel, an sdist, and one file that needs a Python alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shipline import __version__

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


@pytest.fixture
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with all packages."""
    place = tmp_path_factory.mktemp("dist")
    environ = {**os.environ, "PYTHON": sys.executable, "VERSIONS": " ".join(PYTHONS)}
    command = ["sh", str(ROOT / "scripts" / "dist.sh"), str(place)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


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
        subprocess.run([*pip, "--quiet", "--disable-pip-version-check", str(package)], check=True)
        works([str(place / "bin" / "shipline")], clean)
    for python in PYTHONS:
        interpreter = shutil.which(f"python{python}")
        assert interpreter is not None
        works([interpreter, "-I", str(packages / "shipline.pyz")], clean)
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=packages)
    assert done.returncode == 0
    named = {line.split()[1] for line in (packages / "SHA256SUMS").read_text().splitlines()}
    assert named == {path.name for path in packages.iterdir()} - {"SHA256SUMS"}
