"""`shipline doctor` on this machine, on real registries and in a real project."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import run
from guarded import guarded
from nodes import node
from ships import Project, new_project
from users import ordinary_user

pytestmark = pytest.mark.peers

CONFIGURATION = """version: 1
image: {image}
sign: {key: keys/cosign.key}
environments:
  staging:
    gitops:
      repository: ../gitops.git
      updates: [{manifests: app.yaml}]
"""


def found(project: Project, *words: str, status: int = 0, **environment: str) -> dict[str, Any]:
    """The diagnoses by area and name."""
    done = project.run("doctor", "--json", *words, **environment)
    assert done.status == status, done.out + done.err
    return {f"{one['area']}: {one['name']}": one for one in json.loads(done.out)}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with node(tmp_path / "data") as running:
        yield new_project(tmp_path, running, CONFIGURATION)


def test_a_machine_that_builds_has_what_a_build_needs(project: Project) -> None:
    project.write("shipline.yaml", "version: 1\n")
    machine = found(project, "127.0.0.1:1", status=6)
    assert machine["127.0.0.1:1: login"]["condition"] == "failed"
    for name in ("state directory", "user", "runtime", "file systems", "git"):
        assert machine[f"This machine: {name}"]["condition"] == "ok"
    built = project.run("build", "-o", "type=cacheonly", str(project.root))
    assert built.status == 0


def test_a_state_directory_that_cannot_be_written_is_found(project: Project) -> None:
    place = project.root / "file"
    place.write_text("")
    one = found(project, status=8, SHIPLINE_HOME=str(place))["This machine: state directory"]
    assert (one["condition"], one["exit_code"]) == ("failed", 8)
    assert "SHIPLINE_HOME" in one["cure"]


def test_without_a_runtime_the_cure_is_its_package(project: Project, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to("/usr/bin/git")
    one = found(project, status=10, PATH=str(tmp_path / "bin"))["This machine: runtime"]
    assert one["condition"] == "failed"
    assert "apt-get install crun" in one["cure"]


def test_what_may_be_pushed_is_tried_and_nothing_is_left(project: Project) -> None:
    project.git("init", "--quiet", "--bare", str(project.root.parent / "gitops.git"))
    host = project.node.address
    diagnoses = found(project)
    assert diagnoses[f"{host}: push team/app"]["detail"] == "allowed"
    assert "does not exist yet" in diagnoses[f"{host}: pull team/app"]["detail"]
    assert not [*project.node.data.rglob("uploads/*")]
    assert project.run("ls", host).out == ""
    assert diagnoses["This project: git remote"]["detail"] == "reached; 1 branch"
    assert diagnoses["This project: repository of staging"]["detail"] == "reached; 0 branches"


def test_a_key_that_is_not_here_or_opens_with_no_password_is_found(project: Project) -> None:
    project.git("init", "--quiet", "--bare", str(project.root.parent / "gitops.git"))
    name = "This project: signing key"
    assert "is not here" in found(project)[name]["detail"]
    keys = project.root / "keys"
    keys.mkdir()
    words = ("key", "generate", "--output-key-prefix", str(keys / "cosign"))
    project.run(*words, SHIPLINE_KEY_PASSWORD="right").ok()
    assert found(project, SHIPLINE_KEY_PASSWORD="right")[name]["condition"] == "ok"
    wrong = found(project, status=3, SHIPLINE_KEY_PASSWORD="wrong")[name]
    assert wrong["condition"] == "failed"
    assert "SHIPLINE_KEY_PASSWORD" in found(project)[name]["detail"]
    (keys / "cosign.key").chmod(0o644)
    assert "chmod 600" in found(project, SHIPLINE_KEY_PASSWORD="right")[name]["cure"]


def test_a_gitops_repository_that_is_not_there_fails_as_deploy_does(project: Project) -> None:
    one = found(project, status=12)["This project: repository of staging"]
    assert one["condition"] == "failed"


def test_a_wrong_configuration_is_one_failure(project: Project) -> None:
    project.write("shipline.yaml", "version: 1\nimge: x\n")
    diagnoses = found(project, status=3)
    assert [one["name"] for one in diagnoses.values() if one["condition"] == "failed"] == [
        "shipline.yaml"
    ]


def test_rights_are_those_of_the_account(tmp_path: Path) -> None:
    """A reader is told that pushing is refused, with the exit code that a push would have."""
    with guarded(tmp_path / "data", "--accounts") as registry:
        registry.project("team")
        name, secret = registry.robot_login("reader", "team", "pull")
        own = {"DOCKER_CONFIG": str(tmp_path), "SHIPLINE_HOME": str(tmp_path / "home")}
        environ = {**os.environ, **own}
        login = ("shipline", "login", "--store", "plain", "-u", name, "--password-stdin")
        done = run(*login, registry.address, environ=environ, stdin=secret)
        assert done.returncode == 0, done.stderr
        words = ("shipline", "doctor", f"{registry.address}/team/app")
        done = run(*words, cwd=tmp_path, environ=environ)
        assert done.returncode == 7, done.stdout
        assert f"reached as {name}" in done.stdout
        assert "FAILED push team/app" in done.stdout
        assert secret not in done.stdout + done.stderr


@pytest.mark.root
@pytest.mark.parametrize("subids", [True, False])
def test_an_ordinary_user_is_told_what_the_ids_of_images_need(subids: bool) -> None:
    with ordinary_user(subids=subids) as user:
        done = user.run("doctor", "--json", "127.0.0.1:1")
        diagnoses = {one["name"]: one for one in json.loads(done.stdout)}
        one = diagnoses["user"]
        assert one["condition"] == ("ok" if subids else "failed")
        assert ("usermod --add-subuids" in one["cure"]) is not subids
        assert diagnoses["runtime"]["condition"] == "ok"
