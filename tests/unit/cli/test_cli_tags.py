"""`shipline tags`, `version` and `changelog` as a person or a pipeline calls them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from commands import run_shipline
from commits import Work, with_remote
from shipline.values import replace


def shipline(work: Work, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return run_shipline(*arguments, cwd=work.path, environ={**work.environ, **environ})


def said(work: Work, *arguments: str, **environ: str) -> str:
    done = shipline(work, *arguments, **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work, _ = with_remote(tmp_path)
    work.commit("feat: two")
    return work


def test_a_person_sees_each_tag_with_its_reason(work: Work) -> None:
    head = work.git("rev-parse", "HEAD")[:12]
    assert said(work, "tags") == (
        f"{head} on main (the checked-out branch), rule 1\n"
        "version 1.1.0, to be made as git tag v1.1.0\n"
        f"  v1.1.0  fixed  1 commit since v1.0.0; {head} “feat: two” asks for a minor version\n"
    )


def test_uncommitted_files_are_noted_for_a_person(work: Work) -> None:
    before = said(work, "tags")
    (work.path / "new").touch()
    noted = said(work, "tags").removeprefix(before)
    assert noted.startswith("note: the work tree has changes that are not in the commit")
    assert noted.endswith(": new: `shipline ship` refuses them\n")
    assert "note" not in said(work, "tags", "--format", "names")


def test_no_rule_is_an_error_with_its_own_status(work: Work) -> None:
    work.git("checkout", "-q", "-b", "somewhere")
    done = shipline(work, "tags")
    assert (done.returncode, done.stdout) == (3, "")
    assert "no rule matches refs/heads/somewhere" in done.stderr
    assert "hint: rules are for push main" in done.stderr


def without_tags(work: Work, place: Path) -> Work:
    """A clone that has all commits of the remote and no tag."""
    work.git("push", "-q", "origin", "main")
    origin = work.git("remote", "get-url", "origin")
    work.git("clone", "-q", "--no-tags", origin, str(place))
    return replace(work, path=place)


def test_a_clone_without_tags_says_what_it_lacks_and_fetches_where_told(
    work: Work, tmp_path: Path
) -> None:
    clone = without_tags(work, tmp_path / "bare")
    for command in ("tags", "version"):
        done = shipline(clone, command)
        assert (done.returncode, done.stdout) == (12, "")
        assert "this clone lacks v1.0.0 of origin" in done.stderr
        assert "hint: git fetch --tags origin, or --fetch" in done.stderr
    assert clone.git("tag") == ""
    assert said(clone, "version", "--fetch") == "1.1.0\n"
    assert said(clone, "version") == "1.1.0\n"


def test_without_the_remote_a_version_is_a_guess_that_is_told_or_refused(
    work: Work, tmp_path: Path
) -> None:
    clone = without_tags(work, tmp_path / "bare")
    for one in (work, clone):
        one.git("remote", "set-url", "origin", f"file://{tmp_path}/nowhere")
    for arguments, why in (
        (("version",), "origin cannot be asked"),
        (("version", "--no-fetch"), "was not asked"),
    ):
        done = shipline(work, *arguments)
        assert (done.returncode, done.stdout) == (0, "1.1.0\n") and why in done.stderr
        alone = shipline(clone, *arguments)
        assert alone.returncode == 12 and "this clone has no version tag" in alone.stderr
    work.git("tag", "v1.1.0")
    assert shipline(work, "version").stderr == "", "the version of a tagged commit is not a guess"


def test_two_runs_are_equal(work: Work) -> None:
    for form in ("text", "json", "names", "github"):
        assert said(work, "tags", "--format", form) == said(work, "tags", "--format", form)


def test_forms(work: Work) -> None:
    document = json.loads(said(work, "tags", "--json", "-i", "registry.example/app"))
    assert document["references"] == ["registry.example/app:v1.1.0"]
    assert document["gitTag"] == {"name": "v1.1.0", "commit": document["commit"], "new": True}
    assert said(work, "tags", "--format", "names") == "v1.1.0\n"
    assert said(work, "tags", "--format", "{{.version}} {{.push}}") == "1.1.0 true\n"
    assert shipline(work, "tags", "--format", "xml").returncode == 2


def outputs(text: str) -> dict[str, str]:
    """As GitHub reads the file GITHUB_OUTPUT."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, mark, end = line.partition("<<")
        if not mark or "=" in name:
            name, _, found_value = line.partition("=")
            found[name] = found_value
            continue
        value = []
        while (inner := next(lines)) != end:
            value.append(inner)
        found[name] = "\n".join(value)
    return found


def test_github_gets_the_outputs_of_metadata_action(work: Work, tmp_path: Path) -> None:
    bake = tmp_path / "bake.json"
    work.git("checkout", "-q", "-B", "develop")
    text = said(
        work, "tags", "--format", "github", "-i", "a.example/x", "-i", "b.example/y",
        "--bake-file", str(bake),
    )  # fmt: skip
    found = outputs(text)
    sha = work.git("rev-parse", "HEAD")
    tags = [
        f"{name}:{tag}"
        for name in ("a.example/x", "b.example/y")
        for tag in (f"dev-{sha[:12]}", "latest")
    ]
    assert found["tags"].splitlines() == tags
    assert f"org.opencontainers.image.revision={sha}" in found["labels"].splitlines()
    assert f"manifest:org.opencontainers.image.revision={sha}" in found["annotations"]
    assert json.loads(found["json"])["tags"] == tags
    assert json.loads(found["json"])["tag-names"] == found["tag-names"].splitlines()
    assert (found["push"], found["bake-file"]) == ("true", str(bake))
    target = json.loads(bake.read_text())["target"]["docker-metadata-action"]
    assert target["tags"] == tags
    assert target["args"]["DOCKER_META_VERSION"] == found["version"] == f"dev-{sha[:12]}"


def test_the_variables_of_metadata_action_are_read(work: Work, tmp_path: Path) -> None:
    (work.path / "shipline.yaml").write_text(
        "tags:\n  rules:\n    - tags: [type=sha, 'type=raw,value={{sha}}']\n"
    )
    bake, sha = tmp_path / "bake.json", work.git("rev-parse", "HEAD")
    command = ("tags", "--format", "github", "-i", "a.example/x", "--bake-file", str(bake))
    found = outputs(
        said(
            work,
            *command,
            DOCKER_METADATA_SHORT_SHA_LENGTH="10",
            DOCKER_METADATA_ANNOTATIONS_LEVELS="manifest,index",
        )
    )
    assert found["tag-names"].splitlines() == [sha[:10], f"sha-{sha[:10]}"]
    annotations = found["annotations"].splitlines()
    assert f"manifest:org.opencontainers.image.revision={sha}" in annotations
    assert f"index:org.opencontainers.image.revision={sha}" in annotations
    parts = json.loads((tmp_path / "bake-annotations.json").read_text())
    target = parts["target"]["docker-metadata-action"]
    assert target["annotations"] == json.loads(found["json"])["annotations"] == annotations
    assert f"sha-{sha[:7]}" in outputs(said(work, *command))["tag-names"]
    assert shipline(work, *command, DOCKER_METADATA_SHORT_SHA_LENGTH="x").returncode == 2
    assert shipline(work, *command, DOCKER_METADATA_ANNOTATIONS_LEVELS="all").returncode == 2


def test_bake_files_are_those_of_metadata_action(work: Work, tmp_path: Path) -> None:
    bake = tmp_path / "bake.json"
    command = ("tags", "--format", "github", "-i", "a.example/x", "--bake-file", str(bake))
    found = outputs(said(work, *command, "--bake-target", "meta"))
    keys = {
        "bake-file": ["args", "labels", "tags"],
        "bake-file-tags": ["args", "tags"],
        "bake-file-labels": ["labels"],
        "bake-file-annotations": ["annotations"],
    }
    read = {name: json.loads(Path(found[name]).read_text())["target"] for name in keys}
    assert {name: sorted(target["meta"]) for name, target in read.items()} == keys
    assert read["bake-file-tags"]["meta"]["tags"] == found["tags"].splitlines()


def test_outputs_become_variables_for_github(work: Work) -> None:
    command = ("tags", "-i", "a.example/x", "--format")
    found = outputs(said(work, *command, "github"))
    variables = outputs(said(work, *command, "github-env"))
    assert {
        f"DOCKER_METADATA_OUTPUT_{name.upper().replace('-', '_')}": value
        for name, value in found.items()
    } == variables
    assert json.loads(variables["DOCKER_METADATA_OUTPUT_JSON"])["tags"] == ["a.example/x:v1.1.0"]


def test_images_of_docker_hub_are_named_as_metadata_action_names_them(work: Work) -> None:
    found = outputs(
        said(work, "tags", "--ref", "feature/x", "--format", "github", "-i", "name/app")
    )
    assert found["tags"] == f"name/app:{found['tag-names']}"


def test_images_are_in_lower_case_and_can_be_left_out(work: Work) -> None:
    images = ("-i", "GHCR.io/Name/App", "-i", "name=other/app,enable=false")
    assert said(work, "tags", "--format", "names", *images) == "ghcr.io/name/app:v1.1.0\n"
    assert shipline(work, "tags", "-i", "name=a/b,enable=maybe").returncode == 2


def test_names_that_are_no_text_are_shown_somehow(work: Work) -> None:
    name = os.fsdecode(b"feature/caf\xe9")
    work.git("checkout", "-q", "-b", name)
    for form in ("text", "names", "github", "json"):
        assert "feature-caf-" in said(work, "tags", "--format", form)
    found = json.loads(said(work, "tags", "--json"))
    assert found["event"]["ref"] == "refs/heads/feature/caf\ufffd"
    work.git("checkout", "-q", "-b", os.fsdecode(b"caf\xe9"))
    done = shipline(work, "tags")
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)


def test_the_environment_of_ci_is_read(work: Work, tmp_path: Path) -> None:
    payload = tmp_path / "event.json"
    head = work.git("rev-parse", "HEAD")
    pull = {"number": 7, "head": {"sha": head}, "base": {"ref": "main"}}
    payload.write_text(json.dumps({"pull_request": pull}))
    environ = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": "pull_request",
        "GITHUB_REF": "refs/pull/7/merge",
        "GITHUB_EVENT_PATH": str(payload),
    }
    text = said(work, "tags", **environ)
    assert f"pr-7-{head[:12]}" in text
    assert text.endswith("not pushed\n")
    payload.write_text("{")
    done = shipline(work, "tags", **environ)
    assert (done.returncode, "is not JSON" in done.stderr) == (3, True)
    assert "v1.1.0" in said(work, "tags", "--ref", "main", CI_COMMIT_BRANCH="x", GITLAB_CI="true")


def test_a_shallow_clone_is_completed_in_ci_and_on_demand_only(work: Work, tmp_path: Path) -> None:
    work.git("push", "-q", "origin", "main")
    clone = Work.clone(tmp_path / "remote.git", tmp_path / "shallow", "--depth=1")
    refused = shipline(clone, "tags")
    assert refused.returncode == 12
    assert "hint: git fetch --tags --unshallow origin" in refused.stderr
    ci = {"GITLAB_CI": "true", "CI_COMMIT_BRANCH": "main"}
    assert shipline(clone, "tags", "--no-fetch", **ci).returncode == 12
    assert "v1.1.0" in said(clone, "tags", **ci)
    assert "v1.1.0" in said(clone, "tags")


def test_the_file_has_the_rules_and_its_errors_have_places(work: Work) -> None:
    path = work.path / "shipline.yaml"
    path.write_text(
        "image: registry.example/app\n"
        "tags:\n"
        "  rules:\n"
        "    - on: {push: [main, 'release/**']}\n"
        "      version: conventional\n"
        "      tags: ['{version}', '{major}.{minor}', 'type=sha']\n"
    )
    found = json.loads(said(work, "tags", "--json"))
    assert [tag["name"] for tag in found["tags"]][:2] == ["1.1.0", "1.1"]
    assert found["references"][0] == "registry.example/app:1.1.0"
    path.write_text(path.read_text().replace("{major}", "{mayor}"))
    done = shipline(work, "tags")
    assert done.returncode == 3
    assert "shipline.yaml:6:" in done.stderr
    assert "did you mean {major}?" in done.stderr


def test_version_is_that_of_the_commit(work: Work) -> None:
    assert said(work, "version") == "1.1.0\n"
    assert "asks for a minor version" in said(work, "version", "--why")
    assert json.loads(said(work, "version", "--json"))["gitTag"]["name"] == "v1.1.0"
    work.git("checkout", "-q", "-B", "develop")
    done = shipline(work, "version")
    assert done.returncode == 3
    assert "this commit has no version" in done.stderr
    work.git("checkout", "-q", "--detach")
    assert said(work, "version", "--next") == "1.1.0\n"


def test_version_can_make_the_git_tag(work: Work, tmp_path: Path) -> None:
    assert said(work, "version", "--tag") == "1.1.0\n"
    assert said(work, "version", "--tag") == "1.1.0\n"
    there = Work(tmp_path / "remote.git", environ=work.environ)
    assert there.git("rev-parse", "v1.1.0^{commit}") == work.git("rev-parse", "HEAD")


def test_a_commit_after_version_tag_needs_no_fetch(work: Work) -> None:
    assert said(work, "version", "--tag") == "1.1.0\n"
    work.git("commit", "-q", "--allow-empty", "-m", "fix: one more")
    assert said(work, "version") == "1.1.1\n"


def test_version_of_the_program_is_there_too(work: Work, tmp_path: Path) -> None:
    parts = [line.split()[0] for line in said(work, "version", "--parts").splitlines()]
    assert parts[0] == "shipline" and {"aiohttp", "packaging", "urllib3"} < set(parts)
    assert not {"pytest", "rocksdict"} & set(parts)
    (tmp_path / "nowhere").mkdir()
    ceiling = {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    assert "shipline " in said(work, "version", "-C", str(tmp_path / "nowhere"), **ceiling)
    assert shipline(work, "tags", "-C", str(tmp_path / "nowhere"), **ceiling).returncode == 12


def test_a_changelog_is_printed_or_written(work: Work, tmp_path: Path) -> None:
    text = said(work, "changelog")
    assert text.startswith("## v1.1.0 (")
    assert "### Features\n\n- two (" in text
    assert said(work, "changelog", "-o", str(tmp_path / "NOTES.md")) == ""
    assert (tmp_path / "NOTES.md").read_text() == text
    document = json.loads(said(work, "changelog", "--json", "--from", "v1.0.0"))
    assert [change["description"] for change in document["changes"]] == ["two"]


def test_troubles_are_one_message_each(work: Work) -> None:
    for arguments, environ, words in [
        (("tags", "--event", "x"), {}, "not an event"),
        (("tags", "-C", "nothing"), {}, "not a directory"),
        (("tags",), {"PATH": "/nonexistent"}, "git is not installed"),
        (("tags",), {"SOURCE_DATE_EPOCH": "soon"}, "SOURCE_DATE_EPOCH"),
        (("changelog", "--to", "nothing"), {}, "no commit 'nothing'"),
    ]:
        done = shipline(work, *arguments, **environ)
        assert done.returncode not in (0, 1), arguments
        assert words in done.stderr
        assert "Traceback" not in done.stderr
