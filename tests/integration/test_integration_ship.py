"""The whole chain on a real repository: what fails has no name, what passes has all of them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import document, tags
from nodes import Node, node
from proxy import FaultProxy
from ships import Project, coverage, new_project

GATED = """\
image: {image}
steps:
  lint: "true"
  test: {run: mkdir -p out && cp coverage.xml out/, reports: {coverage: out/coverage.xml}}
  look: {needs: [build], run: echo "$SHIPLINE_IMAGE" > out/seen}
build: {platforms: {platforms}}
gates: {coverage: {min: 80}}
"""
FILES = {"coverage__xml": coverage(9), "__gitignore": "out\n"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("ship") / "data") as running:
        yield running


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path / "other") as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, registry: Node) -> Project:
    """An image of its own in the registry that all tests share."""
    return _fresh(tmp_path, registry, GATED, **FILES)


def _fresh(place: Path, registry: Node, configuration: str, **files: str) -> Project:
    configuration = configuration.replace("{image}", f"{{image}}-{place.name.replace('_', '-')}")
    return new_project(place, registry, configuration, **files)


def _repository(project: Project) -> str:
    return _image(project).partition("/")[2]


def _image(project: Project) -> str:
    line = (project.root / "shipline.yaml").read_text().splitlines()[0]
    return line.removeprefix("image: ")


def _git_tags(project: Project) -> str:
    return project.git("ls-remote", "--tags", "origin")


def test_passing_run_publishes_what_was_tested(project: Project) -> None:
    done = project.ship().ok()
    name, _, digest = done.out.strip().partition("@")
    assert name == f"{_image(project)}:v0.1.0"
    index = document(project.node, _repository(project), "v0.1.0")
    assert {one["platform"]["architecture"] for one in index["manifests"]} == {"amd64", "arm64"}
    revision = index["annotations"]["org.opencontainers.image.revision"]
    assert revision == project.git("rev-parse", "HEAD")
    assert (project.root / "out/seen").read_text() == f"{_image(project)}@{digest}\n"
    assert "refs/tags/v0.1.0" in _git_tags(project)


def test_refused_run_leaves_no_name_anywhere(project: Project) -> None:
    project.commit("fix: less tests", coverage__xml=coverage(7))
    said = project.ship().failed(9)
    assert tags(project.node, _repository(project)) == []
    assert _git_tags(project) == ""
    assert "the gate coverage refused: " in said
    assert f"shipline ship --resume {project.record()['id']}" in said
    digest = project.record()["steps"][2]["results"]["digest"]
    assert document(project.node, _repository(project), digest)  # it is there, without a name


def test_report_that_no_step_wrote_now_is_no_pass(project: Project) -> None:
    (project.root / "out").mkdir()
    (project.root / "out/coverage.xml").write_text(coverage(10))
    text = (project.root / "shipline.yaml").read_text()
    project.commit("fix: lazy", shipline__yaml=text.replace("mkdir -p out && cp", "true"))
    assert "did not write its report" in project.ship().failed(5)
    assert tags(project.node, _repository(project)) == []


def test_same_commit_is_never_built_again(project: Project) -> None:
    first = project.ship().ok().out
    again = project.ship(SHIPLINE_HOME=str(project.home / "elsewhere")).ok()
    assert again.out == first
    assert "load build definition" not in again.err


def test_dirty_tree_gets_no_version(project: Project) -> None:
    project.write("app", "changed\n")
    said = project.ship().failed(2)
    assert "app" in said and "list new files in .gitignore" in said
    project.ship("--allow-dirty").ok()
    assert [tag[:6] for tag in tags(project.node, _repository(project))] == ["dirty-"]
    assert _git_tags(project) == ""
    project.git("checkout", "--quiet", "app")
    project.ship().ok()
    assert "v0.1.0" in tags(project.node, _repository(project))


def test_plan_does_nothing(project: Project) -> None:
    shown = project.ship("--plan").ok().out
    assert "v0.1.0" in shown and "mkdir -p out" in shown
    plan = json.loads(project.ship("--plan", "--json").ok().out)
    assert [one["name"] for one in plan["steps"] if one["skip"]] == ["sign", "copy"]
    assert [one["name"] for one in plan["naming"]["tags"]] == ["v0.1.0"]
    assert not (project.root / "out").exists()
    assert not (project.home / "runs").exists()
    assert tags(project.node, _repository(project)) == []


def test_only_selected_steps_run(project: Project) -> None:
    project.ship("--only", "lint,test").ok()
    states = project.states()
    assert {name for name, state in states.items() if state == "passed"} == {"lint", "test"}
    assert tags(project.node, _repository(project)) == []


def test_nothing_is_named_when_the_gates_are_left_out(project: Project) -> None:
    project.ship("--skip", "gates").ok()
    assert tags(project.node, _repository(project)) == []
    assert _git_tags(project) == ""


def _clone(project: Project, place: Path) -> Project:
    second = Project(place / "second", project.remote, place / "home2", project.node)
    subprocess.run(("git", "clone", "--quiet", str(project.remote), str(second.root)), check=True)
    return second


def test_two_commits_at_once_get_two_versions(project: Project, tmp_path: Path) -> None:
    project.ship().ok()
    second = _clone(project, tmp_path)
    project.commit("fix: one", app="two\n")
    second.git("commit", "--quiet", "--allow-empty", "-m", "fix: another")
    running = [one.start("ship", "--progress", "plain") for one in (project, second)]
    ends = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], [err.decode() for _, err in ends]
    assert sorted(tags(project.node, _repository(project))) == ["v0.1.0", "v0.1.1", "v0.1.2"]


def test_commit_that_a_newer_one_overtakes_gets_no_version(tmp_path: Path, registry: Node) -> None:
    text = "image: {image}\nsteps: {newer: git -C ../second push -q origin HEAD:refs/tags/v0.1.0}\n"
    project = _fresh(tmp_path, registry, text)
    second = _clone(project, tmp_path)
    second.git("commit", "--quiet", "--allow-empty", "-m", "fix: newer")
    said = project.ship().ok()
    assert "v0.1.0 belongs to" in said.err and "which contains this commit" in said.err
    assert said.out.startswith(f"{_image(project)}@sha256:")  # built, and without a name
    assert tags(project.node, _repository(project)) == []


def test_builds_of_other_machines_are_merged(project: Project, tmp_path: Path) -> None:
    files = []
    for platform in ("linux/amd64", "linux/arm64"):
        files.append(str(tmp_path / f"{platform.replace('/', '-')}.json"))
        words = ("--only", "build", "--platform", platform, "--metadata-file", files[-1])
        project.ship(*words).ok()
    project.ship("--only", "test").ok()
    missing = project.ship("--built", files[0], "--skip", "lint,test").failed(2)
    assert "no file has a build for linux/arm64" in missing
    built = [word for file in files for word in ("--built", file)]
    project.ship(*built, "--skip", "lint,test").ok()
    index = document(project.node, _repository(project), "v0.1.0")
    assert len(index["manifests"]) == 2
    assert project.states()["test"] == "skipped"
    commit = project.git("rev-parse", "HEAD")
    project.git("commit", "--quiet", "--allow-empty", "-m", "feat: later")
    said = project.ship(*built, "--skip", "lint,test").failed(2)
    assert f"for linux/amd64 is of another commit: {commit}" in said
    assert "v0.2.0" not in tags(project.node, _repository(project))


def test_copies_carry_signatures_and_names(tmp_path: Path, registry: Node, other: Node) -> None:
    copies = f"sign: {{key: cosign.key}}\ncopies: [{other.address}/mirror/app]\n"
    project = _fresh(tmp_path, registry, GATED + copies, **FILES)
    made = project.run(
        "key", "generate", "--output-key-prefix", "cosign", SHIPLINE_KEY_PASSWORD="secret"
    ).ok()
    assert made
    project.commit("build: key")
    assert "password" in project.ship(SHIPLINE_KEY_PASSWORD="wrong").failed(3)
    done = project.ship(SHIPLINE_KEY_PASSWORD="secret").ok()
    names = [line.partition("@")[0] for line in done.out.splitlines()]
    assert names == [f"{_image(project)}:v0.1.0", f"{other.address}/mirror/app:v0.1.0"]
    project.ship(SHIPLINE_KEY_PASSWORD="secret").ok()  # once more changes nothing for verifiers
    for name in names:
        words = ("--insecure-ignore-tlog", "--allow-insecure-registry", "--allow-http-registry")
        for verb in (["verify"], ["verify-attestation", "--type", "slsaprovenance1"]):
            seen = subprocess.run(
                ("cosign", *verb, "--key", str(project.root / "cosign.pub"), *words, name),
                capture_output=True,
                text=True,
            )
            assert seen.returncode == 0, seen.stderr


def test_what_is_shipped_is_asked_of_no_mirror(tmp_path: Path, registry: Node) -> None:
    """Its tags and attachments there may be older than those that are written."""
    with FaultProxy(int(registry.address.rpartition(":")[2])) as mirror:
        own = f'registry-mirrors: ["{registry.address}=http://127.0.0.1:{mirror.port}"]\n'
        project = _fresh(tmp_path, registry, GATED + own + "sign: {key: cosign.key}\n", **FILES)
        password = {"SHIPLINE_KEY_PASSWORD": "secret"}
        project.run("key", "generate", "--output-key-prefix", "cosign", **password).ok()
        project.commit("build: key")
        for _ in range(2):
            project.ship(**password).ok()
        project.run("sign", "--key", "cosign.key", f"{_image(project)}:v0.1.0", **password).ok()
        assert mirror.requests == []


def test_verdicts_are_compared_with_those_of_the_version_before(
    tmp_path: Path, registry: Node
) -> None:
    text = GATED.replace("min: 80", "min: 10, max-drop: 5") + "sign: {key: cosign.key}\n"
    project = _fresh(tmp_path, registry, text, **FILES)
    password = {"SHIPLINE_KEY_PASSWORD": "secret"}
    project.run("key", "generate", "--output-key-prefix", "cosign", **password).ok()
    project.commit("build: key")
    assert "skipped  drop" in project.ship(**password).ok().err
    project.commit("fix: nearly as many tests", app="two\n")
    project.ship(**password).ok()
    project.commit("fix: fewer tests", coverage__xml=coverage(8))
    assert "the gate coverage refused: " in project.ship(**password).failed(9)
    assert sorted(tags(project.node, _repository(project)))[-2:] == ["v0.1.0", "v0.1.1"]


def test_latest_moves_only_forward(project: Project) -> None:
    project.git("checkout", "--quiet", "-b", "develop")
    older = project.commit("feat: old", app="old\n")
    newer = project.commit("feat: new", app="new\n")
    project.ship().ok()
    project.git("checkout", "--quiet", older)
    project.git("update-ref", "refs/remotes/origin/develop", older)
    said = project.ship("--ref", "develop").ok().err
    repository = _repository(project)
    assert {f"dev-{older[:12]}", f"dev-{newer[:12]}", "latest"} <= set(
        tags(project.node, repository)
    )
    latest = document(project.node, repository, "latest")
    assert latest["annotations"]["org.opencontainers.image.revision"] == newer
    assert "latest stays" in said


def test_a_branch_that_lacks_the_commit_is_no_ref_of_it(project: Project) -> None:
    branch = project.git("rev-parse", "--abbrev-ref", "HEAD")
    project.git("checkout", "--quiet", "-b", "aside")
    project.commit("feat: not merged", app="aside\n")
    said = project.ship("--ref", branch).failed(2)
    assert f"the branch {branch} does not have the commit" in " ".join(said.split())


def test_no_rule_is_an_error_and_never_latest(project: Project) -> None:
    project.git("checkout", "--quiet", "-b", "experiment")
    assert "no rule matches" in project.ship().failed(3)
    assert tags(project.node, _repository(project)) == []


def test_a_program_that_is_missing_is_told_from_one_that_fails(project: Project) -> None:
    project.write("shipline.yaml", f"image: {_image(project)}\nsteps: {{lint: no-such-linter .}}\n")
    project.commit("fix: lint")
    said = project.ship().failed(5)
    assert "no-such-linter" in said and "hint: a program was not found on the PATH" in said


def test_what_is_missing_is_reported_before_anything_runs(project: Project) -> None:
    project.git("remote", "remove", "origin")
    assert "git remote add origin" in project.ship().failed(12)
    assert "no shipline.yaml" in project.ship("-C", "/").failed(3)
    assert "there is no step 'tset'" in project.ship("--only", "tset").failed(2)
    project.write("shipline.yaml", "steps: {lint: 'true'}\n")
    assert "names no image" in project.ship().failed(3)
    project.ship("--only", "lint").ok()
    assert not (project.root / "out").exists()


def test_summary_and_outputs_of_a_ci_job(project: Project, tmp_path: Path) -> None:
    files = {
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
    }
    job = {"GITHUB_ACTIONS": "true", "GITHUB_REF": "refs/heads/main", "GITHUB_EVENT_NAME": "push"}
    done = project.run("ship", **job, **files).ok()
    outputs = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
    assert (outputs["tags"], outputs["version"]) == ("v0.1.0", "0.1.0")
    assert outputs["digest"] in done.out
    assert "coverage: pass" in (tmp_path / "summary").read_text()
    assert re.search(r"^gates +coverage: pass", done.err, re.MULTILINE)
    assert re.search(r"^version +0\.1\.0: ", done.err, re.MULTILINE)
    assert re.search(r"^time +[0-9.]+s: ", done.err, re.MULTILINE)
    groups = [line for line in done.err.splitlines() if line.startswith("::")]
    assert groups[::2] and all(line.startswith("::group::") for line in groups[::2])
    assert all(line == "::endgroup::" for line in groups[1::2])
    (tmp_path / "output").unlink()
    project.run("ship", **job, **files).ok()  # the job once more
    again = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
    assert {**again, "run": ""} == {**outputs, "run": ""}


def test_a_job_of_gitlab_folds_the_output_of_steps(project: Project) -> None:
    job = {"GITLAB_CI": "true", "CI_COMMIT_BRANCH": "main", "CI_PIPELINE_SOURCE": "push"}
    done = project.run("ship", **job).ok()
    starts = re.findall(r"^\x1b\[0Ksection_start:[0-9]+:(step_[0-9]+)", done.err, re.MULTILINE)
    ends = re.findall(r"^\x1b\[0Ksection_end:[0-9]+:(step_[0-9]+)", done.err, re.MULTILINE)
    assert starts == ends != []
    assert "::group::" not in done.err


def test_pull_request_pushes_nothing(project: Project) -> None:
    done = project.ship("--event", "pull-request", "--ref", "refs/pull/7/merge", "--pr", "7").ok()
    assert tags(project.node, _repository(project)) == []
    assert project.states()["publish"] == "skipped"
    assert project.states()["gates"] == "passed"
    assert done.out == ""
