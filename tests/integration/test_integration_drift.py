"""`shipline drift`: a GitOps repository against the registry, a region and Argo CD."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builds import Done
from nodes import Node, node
from peers.argocd import ArgoCd, application, argocd
from shipline.deliver.gitops import Action, Deployment
from shipline.oci import Digest, Reference
from ships import Project, new_project

SECRET = {"SHIPLINE_KEY_PASSWORD": "secret"}
TOKEN = "argo-token-1"
TAG = "v0.1.0"
CONFIGURATION = """\
image: {image}/NAME/app
build: {platforms: [linux/amd64]}
sign: {key: cosign.key}
trust:
  keys: {ours: cosign.pub}
  rules: [{images: ["**"]}]
regions: {registries: {eu: EU/mirror}}
environments:
  staging:
    gitops: {repository: ../deploy.git, updates: [{kustomization: staging}]}
    health: {argocd: {server: ARGO, application: app}}
  production:
    gitops: {repository: ../deploy.git, updates: [{manifests: production, container: app}]}
"""
POD = "kind: Pod\nspec: {containers: [{name: app, image: none}]}\n"


@dataclass
class Delivered:
    """A project whose image is in its registry, in a region, and in two environments."""

    project: Project
    remote: Path
    argo: ArgoCd
    image: str
    region: str
    digest: str = field(default="")

    def drift(self, *words: str) -> Done:
        return self.project.run("drift", *words, ARGOCD_TOKEN=TOKEN)

    def states(self, *words: str, status: int) -> dict[str, str]:
        """The states by environment and place."""
        done = self.drift("--json", *words)
        assert done.status == status, done.err
        return {
            f"{one['environment']} {one['place']}": one["state"] for one in json.loads(done.out)
        }

    def runs(self, *images: str) -> None:
        """What Argo CD says that runs."""
        self.argo.applications["app"] = application("app", revision="r1", images=images)

    def commit(self, message: str = "by hand", **files: str) -> None:
        """A change of the GitOps repository by hand; `__` in names is a slash."""
        clone = self.remote.parent / "others"
        words = [["pull", "-q", "origin", "main"]]
        if not clone.exists():
            subprocess.run(["git", "clone", "-q", str(self.remote), str(clone)], check=True)
            words = [["checkout", "-q", "-B", "main"]]
        words += [["add", "-A"], ["commit", "--allow-empty", "-qm", message]]
        words += [["push", "-q", "origin", "main"]]
        for number, one in enumerate(words):
            subprocess.run(["git", *one], cwd=clone, check=True, env=self.project.environ())
            for name, text in files.items() if number == 0 else ():
                path = clone / f"{name.replace('__', '/')}.yaml"
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)

    def resolved(self, image: str) -> str:
        words = ("imagetools", "inspect", image, "--format", "{{.Manifest.Digest}}")
        return self.project.run(*words).ok().out.strip()

    def show(self, path: str) -> str:
        words = ["git", "-C", str(self.remote), "show", f"main:{path}"]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    work = tmp_path_factory.mktemp("drift")
    with node(work / "primary") as primary, node(work / "eu") as eu:
        yield primary, eu


@pytest.fixture
def delivered(tmp_path: Path, nodes: tuple[Node, Node]) -> Iterator[Delivered]:
    primary, eu = nodes
    name = os.urandom(4).hex()
    with argocd(TOKEN) as argo:
        text = CONFIGURATION.replace("NAME", name).replace("ARGO", argo.url)
        project = new_project(tmp_path, primary, text.replace("EU", eu.address))
        project.run("key", "generate", "--output-key-prefix", "cosign", **SECRET).ok()
        project.commit("build: the key")
        project.ship("--until", "publish", **SECRET).ok()
        image = f"{project.image}/{name}/app"
        remote = tmp_path / "deploy.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(remote)], check=True)
        started = Delivered(
            project, remote, argo, image, image.replace(primary.address, f"{eu.address}/mirror")
        )
        entry = f"images:\n- {{name: {image}, newTag: none}}\n"
        started.commit(production__pod=POD, staging__kustomization=entry)
        for environment in ("staging", "production"):
            project.run("deploy", "--env", environment).ok()
        done = project.run(
            "imagetools", "inspect", f"{image}:{TAG}", "--format", "{{.Manifest.Digest}}"
        )
        started.digest = done.ok().out.strip()
        started.runs(f"{image}:{TAG}@{started.digest}")
        yield started


ALL = {"staging registry", "staging eu", "staging cluster", "production registry", "production eu"}


def test_what_is_as_in_git_is_in_sync_and_each_difference_has_its_state(
    delivered: Delivered,
) -> None:
    assert delivered.states(status=0) == dict.fromkeys(ALL, "in_sync")
    only = delivered.states("--env", "production", status=0)
    assert set(only) == {"production registry", "production eu"}
    shown = delivered.drift().ok().out.splitlines()
    assert shown[0].split() == ["ENVIRONMENT", "IMAGE", "PLACE", "STATE", "DETAIL"]
    assert f"{delivered.image}:{TAG}@{delivered.digest}" in shown[1]

    project, image, region = delivered.project, delivered.image, delivered.region
    other = "sha256:" + "b" * 64
    delivered.runs(f"{image}:{TAG}@{other}")
    drifted = {"staging cluster": "image_drift"}
    assert delivered.states(status=15) == {**dict.fromkeys(ALL, "in_sync"), **drifted}
    assert f"{other} runs" in delivered.drift().out

    # during a canary two run
    reference = Reference.parse(f"{image}:{TAG}").at(Digest.parse(delivered.digest))
    delivered.runs(str(reference), f"{image}:next@{other}")
    assert delivered.states(status=15)["staging cluster"] == "image_drift"
    assert "runs, too" in delivered.drift().out
    candidate = reference.tagged("next").at(Digest.parse(other))
    canary = Deployment("staging", "app", (candidate,), action=Action.WEIGHT, weight=5)
    delivered.commit(canary.message)
    assert delivered.states(status=0) == dict.fromkeys(ALL, "in_sync")

    # another image under the tag, in the region alone, whose old one is there by its digest
    (project.root / "app").write_text("two\n")
    project.run("build", "--push", "-t", f"{region}:{TAG}", ".").ok()
    changed = {"staging eu": "tag_moved", "production eu": "tag_moved"}
    assert delivered.states(status=15) == {**dict.fromkeys(ALL, "in_sync"), **changed}

    # git names, by hand, what the registry has unsigned and the region does not have
    project.run("build", "--push", "-t", f"{image}:unsigned", "--label", "a=b", ".").ok()
    done = project.run(
        "imagetools", "inspect", f"{image}:unsigned", "--format", "{{.Manifest.Digest}}"
    )
    unsigned = done.ok().out.strip()
    pod = delivered.show("production/pod.yaml").replace(delivered.digest, unsigned)
    delivered.commit(production__pod=pod)
    states = delivered.states("-e", "production", status=15)
    assert states == {"production registry": "unsigned", "production eu": "missing_in_region"}

    # what the primary has signed, the region must have signed, too
    project.run("imagetools", "create", "-t", f"{region}:unsigned", f"{image}:unsigned").ok()
    project.run("sign", "--key", "cosign.key", f"{image}:unsigned", **SECRET).ok()
    states = delivered.states("-e", "production", status=15)
    assert states == {"production registry": "in_sync", "production eu": "unsigned"}


def test_what_cannot_be_seen_is_unknown_and_no_success(delivered: Delivered) -> None:
    delivered.argo.applications.clear()
    states = delivered.states("-e", "staging", status=delivered.drift("-e", "staging").status)
    assert states["staging cluster"] == "unknown"
    done = delivered.drift("-e", "staging")
    assert done.status not in (0, 15) and "Traceback" not in done.err

    delivered.commit(production__pod=POD.replace("none", f"{delivered.image}:{TAG}"))
    done = delivered.drift("-e", "production")
    assert done.status not in (0, 15) and "git names no digest" in done.err
    assert "shipline deploy --env production" in done.err
    done = delivered.drift("-e", "nowhere")
    assert "there is no environment 'nowhere'" in done.err
