"""action.yml as a workflow runs it: each input reaches the build, and its outputs come back."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builds import statements
from openssh import CLIENT, client_context, make_key, ssh_agent
from peers import ActionsCache, GitRepository, Registry, git_server
from runner import Event, Ran, Runner

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.peers, pytest.mark.root]
DOCKERFILE = f"""
FROM busybox
ARG WHO
COPY page.html /
RUN {CLIENT} --mount=type=ssh --mount=type=secret,id=token \\
    /openssh/ssh-add -l && test "$(wc -c < /run/secrets/token)" = 9 && echo $WHO > /who
"""


@dataclass(frozen=True)
class Jobs:
    """Workflows of one job, each on a machine of its own."""

    work: Path
    repository: GitRepository
    server: str
    registry: Registry
    cache: ActionsCache
    agent: Path

    def run(self, name: str, *steps: dict[str, str]) -> Ran:
        """Run a job whose steps have these inputs; they are of this action unless they name
        another.
        """
        work = self.work / name
        program = work / "machine/temp/shipline/bin/shipline"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m shipline "$@"\n')
        program.chmod(0o755)
        token = self.cache.token(("refs/heads/main", 3))
        runner = Runner(
            work,
            self.repository.path,
            {
                "SHIPLINE_MIRRORS": f"docker.io=http://{self.registry.address}",
                "SSH_AUTH_SOCK": str(self.agent),
                "GITHUB_RUN_ID": "7",
            },
            actions={"shipline/shipline": ROOT},
            action_environment={
                "ACTIONS_RUNTIME_TOKEN": token,
                "ACTIONS_RESULTS_URL": self.cache.url,
            },
        )
        event = Event("push", "refs/heads/main", self.repository.head, server=self.server)
        workflow = {
            "steps": [
                {"name": f"step{number}", "uses": one.pop("uses", "shipline/shipline"), "with": one}
                for number, one in enumerate(map(dict, steps))
            ]
        }
        ran = runner.run(json.dumps({"jobs": {"image": workflow}}), event, {})
        assert token not in ran.log and ran.log.count("hush hush") == ran.log.count("add-mask")
        return ran


@pytest.fixture
def jobs(tmp_path: Path, base_images: Registry, github_cache: ActionsCache) -> Iterator[Jobs]:
    if shutil.which("node") is None:
        pytest.skip("needs node")
    with (
        git_server(tmp_path / "git") as server,
        ssh_agent(tmp_path / "agent", make_key(tmp_path)) as agent,
    ):
        repository = server.repository("team/links")
        repository.commit({"Dockerfile": DOCKERFILE, "page.html": "hello\n"})
        yield Jobs(tmp_path / "jobs", repository, server.url, base_images, github_cache, agent)


def test_a_job_builds_its_commit_with_caches_and_statements(jobs: Jobs, tmp_path: Path) -> None:
    client = client_context(tmp_path / "client")
    name = f"{jobs.registry.address}/action/links"
    inputs = {
        "tags": f"{name}:1",
        "push": "true",
        "platforms": "linux/amd64,linux/arm64",
        "build-args": "WHO=me",
        "build-contexts": f"openssh={client}",
        "cache-from": "type=gha",
        "cache-to": "type=gha,mode=max",
        "provenance": "mode=max",
        "sbom": "true",
        "ssh": "default",
        "secrets": "token=hush hush",
        "labels": "a=b",
    }
    ran = jobs.run("first", inputs)
    assert [step.rpartition("/")[2] for step in ran.steps] == [
        "step0",
        "Prepare the runner",
        "Open the cache of GitHub Actions",
        "Build",
    ]
    metadata = json.loads(ran.outputs["metadata"])
    assert ran.outputs["digest"] == metadata["containerimage.digest"]
    assert ran.outputs["imageid"].startswith("sha256:")
    found = statements(jobs.registry, "action/links", "1")
    provenance = [one for one in found if "provenance" in one["predicateType"]]
    assert len(found) == 2 and len(provenance) == 1, "a list of packages, and how it was built"
    builder = provenance[0]["predicate"]["runDetails"]["builder"]["id"]
    assert builder == f"{jobs.server}/team/links/actions/runs/7/attempts/1"
    assert jobs.repository.head in json.dumps(provenance[0])
    assert jobs.cache.keys()
    again = jobs.run("second", inputs)
    assert again.log.count("CACHED") >= 4, again.log


def test_a_directory_of_the_workspace_gives_files(jobs: Jobs) -> None:
    jobs.repository.commit(
        {"Dockerfile": "FROM scratch AS pages\nCOPY page.html /\nFROM busybox\n"}
    )
    ran = jobs.run(
        "files",
        {"call": "check"},
        {"uses": "actions/checkout", "persist-credentials": "false"},
        {"context": ".", "outputs": "type=local,dest=out", "target": "pages"},
    )
    assert (jobs.work / "files/machine/workspace/out/page.html").read_text() == "hello\n"
    assert "Open the cache" not in "".join(ran.steps)
