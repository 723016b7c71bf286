"""Deploying an image: from the registry into the files of a GitOps repository."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from forge import forge
from nodes import Node, node
from shipline.deliver.gitops import Update
from shipline.oci import Reference
from ships import Project, new_project

CONFIGURATION = """\
image: {image}/{name}/app
build: {platforms: [linux/amd64]}
environments:
  staging:
    branches: [none]
    gitops:
      repository: ../deploy.git
      updates: [{kustomization: envs/staging}]
  production:
    branches: [none]
    gitops:
      repository: ../deploy.git
      branch: main
      updates:
        - {values: charts/app/values.yaml}
        - {manifests: jobs, container: migrate}
  proposed:
    branches: [none]
    gitops:
      repository: ../deploy.git
      pull-request: true
      updates: [{kustomization: envs/staging}]
"""
KUSTOMIZATION = """\
# staging, by hand
resources: [../../base]
images:
  - name: {image}   # ours
    newTag: none
"""
VALUES = """\
image:
    repository: old.example/app # moved
    tag: 'none'
other: [1,   2]
"""
JOB = """\
kind: Job\r
spec: {template: {spec: {containers: [{name: migrate, image: none}]}}}\r
"""


@dataclass(frozen=True)
class Deploy:
    """A project whose image is published, and the GitOps repository at `remote`."""

    project: Project
    remote: Path
    image: str

    @property
    def digest(self) -> str:
        words = (
            "imagetools",
            "inspect",
            f"{self.image}:v0.1.0",
            "--format",
            "{{.Manifest.Digest}}",
        )
        return self.project.run(*words).ok().out.strip()

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ("git", "-C", str(self.remote), *words), env=self.project.environ(), capture_output=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def show(self, path: str, branch: str = "main") -> str:
        return self.git("show", f"{branch}:{path}")

    def commits(self) -> int:
        return int(self.git("rev-list", "--count", "main"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("deploy") / "data") as started:
        yield started


@pytest.fixture
def deploy(tmp_path: Path, running: Node) -> Deploy:
    name = os.urandom(4).hex()
    project = new_project(tmp_path, running, CONFIGURATION.replace("{name}", name))
    project.ship().ok()
    remote = tmp_path / "deploy.git"
    subprocess.run(("git", "init", "--quiet", "--bare", "-b", "main", str(remote)), check=True)
    started = Deploy(project, remote, f"{project.image}/{name}/app")
    push(
        started,
        {
            "envs/staging/kustomization.yaml": KUSTOMIZATION.replace("{image}", started.image),
            "charts/app/values.yaml": VALUES,
            "jobs/migrate.yaml": JOB,
        },
    )
    return started


def push(deploy: Deploy, files: dict[str, str], message: str = "by hand") -> None:
    """A commit of somebody else."""
    clone = deploy.remote.parent / "others"
    git = ["git", "-C", str(clone), "-c", "core.autocrlf=false"]
    environ = deploy.project.environ()
    if not clone.exists():
        subprocess.run(("git", "clone", "-q", str(deploy.remote), str(clone)), check=True)
        subprocess.run([*git, "checkout", "-q", "-B", "main"], check=True)
    else:
        subprocess.run([*git, "pull", "-q", "--rebase", "origin", "main"], check=True, env=environ)
    for path, text in files.items():
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_bytes(text.encode())
    for words in (["add", "-A"], ["commit", "-q", "-m", message], ["push", "-q", "origin", "main"]):
        subprocess.run([*git, *words], check=True, env=environ)


def test_only_the_intended_lines_change(deploy: Deploy) -> None:
    done = deploy.project.run("deploy", "--env", "staging").ok()
    image, digest = deploy.image, deploy.digest
    wanted = KUSTOMIZATION.replace("{image}", image)
    wanted = wanted.replace("newTag: none", f"newTag: v0.1.0\n    digest: {digest}")
    assert deploy.show("envs/staging/kustomization.yaml") == wanted
    assert done.out.strip() == deploy.git("rev-parse", "main").strip()
    message = deploy.git("log", "-1", "--format=%B", "main").splitlines()
    assert message[0] == "deploy app v0.1.0 to staging"
    assert f"Shipline-Image: {image}:v0.1.0@{digest}" in message
    assert f"Shipline-Commit: {deploy.project.git('rev-parse', 'HEAD')}" in message
    assert any(line.startswith("Shipline-Run: ") for line in message)


def test_a_moved_image_is_replaced_on_purpose_and_deploying_again_changes_nothing(
    deploy: Deploy,
) -> None:
    refused = deploy.project.run("deploy", "--env", "production").failed(3)
    assert "values.yaml:2 has an image of old.example/app" in " ".join(refused.split())
    deploy.project.run("deploy", "--env", "production", "--replace-image").ok()
    assert f"tag: 'v0.1.0@{deploy.digest}'" in deploy.show("charts/app/values.yaml")
    assert f"image: {deploy.image}:v0.1.0@{deploy.digest}}}]" in deploy.show("jobs/migrate.yaml")
    assert deploy.show("jobs/migrate.yaml").count("\r\n") == 2
    count = deploy.commits()
    again = deploy.project.run("deploy", "--env", "production").ok()
    assert deploy.commits() == count
    assert "production has" in again.err and again.out == ""


def test_a_dry_run_shows_the_change_and_pushes_nothing(deploy: Deploy) -> None:
    count = deploy.commits()
    done = deploy.project.run("deploy", "--env", "staging", "--dry-run").ok()
    assert "-    newTag: none\n+    newTag: v0.1.0\n" in done.out
    assert deploy.commits() == count


def test_the_diff_of_a_dry_run_is_a_patch_for_git(deploy: Deploy) -> None:
    words = ("deploy", "--env", "production", "--replace-image")
    shown = deploy.project.run(*words, "--dry-run").ok().out
    clone = deploy.remote.parent / "patched"
    subprocess.run(("git", "clone", "-q", str(deploy.remote), str(clone)), check=True)
    apply = ["git", "-C", str(clone), "apply", "-"]
    subprocess.run(apply, input=shown.encode(), check=True)
    deploy.project.run(*words).ok()
    for path in ("charts/app/values.yaml", "jobs/migrate.yaml"):
        assert (clone / path).read_bytes().decode() == deploy.show(path)


def test_deployments_at_once_all_land(deploy: Deploy) -> None:
    """Each run has a home of its own, so that nothing but the remote orders them."""
    count, statuses = deploy.commits(), list[int]()

    def run(number: int) -> None:
        words = (
            "deploy",
            "--env",
            ("staging", "production")[number % 2],
            f"{deploy.image}:v0.1.0",
            "--replace-image",
        )
        home = str(deploy.project.home / str(number))
        statuses.append(deploy.project.run(*words, SHIPLINE_HOME=home).status)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(5):
        with suppress(subprocess.CalledProcessError):  # somebody else was first
            push(deploy, {f"others/{number}": "x"}, f"other {number}")
    for thread in threads:
        thread.join()
    assert statuses == [0, 0, 0, 0]
    assert f"newTag: v0.1.0\n    digest: {deploy.digest}" in deploy.show(
        "envs/staging/kustomization.yaml"
    )
    assert deploy.digest in deploy.show("charts/app/values.yaml")
    subjects = deploy.git("log", "--format=%s", "main").splitlines()
    assert subjects.count("deploy app v0.1.0 to staging") == 1
    assert subjects.count("deploy app v0.1.0 to production") == 1
    assert deploy.commits() >= count + 2


def test_an_older_commit_does_not_replace_a_newer_one(deploy: Deploy) -> None:
    project, first = deploy.project, deploy.digest
    project.commit("feat: more", app="two\n")
    project.ship().ok()
    project.run("deploy", "--env", "staging").ok()
    project.git("checkout", "--quiet", "HEAD~1")
    refused = project.run("deploy", "--env", "staging")
    assert refused.status == 9
    assert "staging has app v0.2.0 already" in refused.err and "--allow-older" in refused.err
    assert first not in deploy.show("envs/staging/kustomization.yaml")
    project.run("deploy", "--env", "staging", "--allow-older").ok()
    assert first in deploy.show("envs/staging/kustomization.yaml")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--env", "nowhere"), 2, "there is no environment 'nowhere': staging, production"),
        (("--env", "staging", "{image}:none"), 8, "none"),
        (("--env", "staging", "a=b"), 2, "write one IMAGE"),
    ],
)
def test_what_cannot_be_deployed_commits_nothing(
    deploy: Deploy, words: tuple[str, ...], status: int, message: str
) -> None:
    count = deploy.commits()
    filled = [word.replace("{image}", deploy.image) for word in words]
    done = deploy.project.run("deploy", *filled)
    assert (done.status, deploy.commits()) == (status, count)
    assert message in done.err and "Traceback" not in done.err


def test_an_update_without_an_image_is_an_error(deploy: Deploy) -> None:
    project = deploy.project
    text = (project.root / "shipline.yaml").read_text()
    project.write("shipline.yaml", text.replace("staging}]", "staging, target: web}]"))
    count = deploy.commits()
    done = project.run("deploy", "--env", "staging", f"{deploy.image}:v0.1.0")
    assert (done.status, deploy.commits()) == (3, count)
    assert "there is no image of the target 'web'" in done.err and "Traceback" not in done.err


def test_a_protected_branch_is_named_with_the_cure(deploy: Deploy) -> None:
    hook = deploy.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'GH006: Protected branch update failed' >&2\nexit 1\n")
    hook.chmod(0o755)
    done = deploy.project.run("deploy", "--env", "staging")
    assert done.status == 12
    assert "the push was refused: GH006: Protected branch update failed" in done.err
    assert "pull-request" in done.err


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_one_pull_request_is_kept_up_to_date(deploy: Deploy, kind: str) -> None:
    project = deploy.project
    # the repository is reached over its URL, which git rewrites to the path
    url = "https://git.example/team/deploy.git"
    configuration = (project.root / "shipline.yaml").read_text()
    with forge("secret") as server:
        api = f"{server.url}/api/v4" if kind == "gitlab" else f"{server.url}/api/v3"
        text = configuration.replace(
            "../deploy.git\n      pull-request", f"{url}\n      api: {api}\n      pull-request"
        )
        project.write("shipline.yaml", text)
        environ = {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{deploy.remote}.insteadOf",
            "GIT_CONFIG_VALUE_0": url,
            "GITLAB_TOKEN" if kind == "gitlab" else "GITHUB_TOKEN": "secret",
        }
        count = deploy.commits()
        image = f"{deploy.image}:v0.1.0"
        done = project.run("deploy", "--env", "proposed", image, **environ).ok()
        assert done.out.strip() == f"{server.url}/requests/1"
        again = project.run("deploy", "--env", "proposed", image, **environ).ok()
        assert again.out == done.out
        assert len(server.requests) == 1
        assert server.requests[0]["title"] == "deploy app v0.1.0 to proposed"
        assert deploy.digest in deploy.show(
            "envs/staging/kustomization.yaml", "shipline/proposed/app"
        )
        assert deploy.commits() == count
        assert "secret" not in done.err + again.err
        wrong = project.run(
            "deploy",
            "--env",
            "proposed",
            image,
            **environ | {"GITLAB_TOKEN": "bad", "GITHUB_TOKEN": "bad"},
        )
        assert wrong.status == 7 and "bad" not in wrong.err.lower().replace("bad credentials", "")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(
    "entry",
    [
        "- name: app\n  newName: registry.example/team/app",
        "- newTag: '1'\n  newName: old.example/app\n  name: app",
        "  - {name: app, newTag: 1.0}",
        "- name: app\n  digest: sha256:0",
        "-   name: app  # comment",
    ],
)
def test_kustomize_reads_what_was_written(
    tmp_path: Path, entry: str, newline: str, end: str
) -> None:
    text = f"resources: [pod.yaml]\nimages:\n{entry}{end}".replace("\n", newline)
    image = Reference.parse(f"registry.example/team/app:1.5.0@sha256:{'ab' * 32}")
    update = Update(kustomization=".", image="app")
    changes = update.apply({"kustomization.yaml": text.encode}, image)
    (tmp_path / "kustomization.yaml").write_bytes(changes["kustomization.yaml"])
    (tmp_path / "pod.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: app}\n"
        "spec: {containers: [{name: app, image: app}]}\n"
    )
    built = subprocess.run(
        ["kustomize", "build", tmp_path], capture_output=True, text=True, check=True
    )
    assert f"image: {image}\n" in built.stdout
    assert changes["kustomization.yaml"].count(b"\r\n") == (
        changes["kustomization.yaml"].count(b"\n") if newline == "\r\n" else 0
    )
