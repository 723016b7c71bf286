"""`shipline config check`: what the file says, and what it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from shipline.cli.config import group
from shipline.errors import ConfigError

GITOPS = "gitops: {repository: ../b, updates: [{kustomization: .}]}"
GOOD = "image: registry.example/app\n"


def problems(root: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the check tells of a file in `root`, which has a Dockerfile."""
    (root / "Dockerfile").write_text("FROM scratch\n")
    (root / "shipline.yaml").write_text(text)
    monkeypatch.chdir(root)
    done = CliRunner().invoke(group, ["check"])
    if done.exception is None:
        assert "no errors" in done.stderr
        return []
    assert isinstance(done.exception, ConfigError), done.exception
    return list(done.exception.__notes__)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("build: {platforms: [linux/amd46]}", "'amd46' is unknown (did you mean amd64?)"),
        ("build: {platforms: [linus/amd64]}", "'linus' is unknown (did you mean linux?)"),
        ("build: {context: app}", "build.context: there is no directory app"),
        ("build: {file: docker/Dockerfile}", "build.file: there is no Dockerfile at docker/"),
        ("build: {contexts: {lib: ../lib}}", "build.contexts.lib: there is no directory ../lib"),
        ("build: {secrets: ['id=a,src=token']}", "build.secrets: there is no file token"),
        ("sign: {key: release.key}", "sign.key: there is no file release.key"),
        ("steps: {a: {run: x, working-directory: web}}", "there is no directory web"),
        ("gates: {waiver-files: [w.yaml]}", "gates.waiver-files: there is no file w.yaml"),
        (
            f"environments: {{a: {{{GITOPS}, checks: {{b: {{run: x, gate: c}}}}}}}}",
            "environments.a.checks.b.gate: there is no gate 'c'",
        ),
        (
            f"environments: {{a: {{{GITOPS}, health: {{url: {{address: 'https://a', ca: b}}}}}}}}",
            "environments.a.health: there is no file b",
        ),
        ("trust: {rules: [{images: ['**'], keys: [k.pub]}]}", "trust.rules[0].keys: cannot read"),
    ],
)
def test_what_is_named_and_not_there_is_told(
    more: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = problems(tmp_path, f"{GOOD}{more}\n", monkeypatch)
    assert problem in found


@pytest.mark.parametrize(
    "more",
    [
        "build: {platforms: [linux/amd64, linux/arm/v7, linux/s390x]}",
        "build: {contexts: {base: 'docker-image://alpine', docs: 'https://example/a.git'}}",
        "build: {secrets: ['id=a,env=TOKEN']}",
        "sign: {key: 'env://KEY'}",
        "steps: {a: make out}\nbuild: {context: out, needs: [a]}",
        "steps: {a: make out, b: {run: x, working-directory: out, needs: [a]}}",
    ],
)
def test_what_is_there_or_still_to_be_made_is_no_error(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert problems(tmp_path, f"{GOOD}{more}\n", monkeypatch) == []


def test_all_errors_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{GOOD}build: {{platforms: [linux/arm46], context: app}}\nsign: {{key: k}}\n"
    assert len(problems(tmp_path, text, monkeypatch)) == 3
