"""Credentials that nobody stored: those of CI jobs, of clouds, of Kubernetes' pull secrets."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from shipline.errors import AuthError, ConfigError
from shipline.registry import Credentials, keychain_from
from shipline.registry.ambient import cloud_of, login_hint
from shipline.registry.keychain import _config_files

GITLAB = {
    "GITLAB_CI": "true",
    "CI_REGISTRY": "registry.gitlab.example.com",
    "CI_REGISTRY_USER": "gitlab-ci-token",
    "CI_REGISTRY_PASSWORD": "glcbt-1",
    "CI_DEPENDENCY_PROXY_SERVER": "gitlab.example.com:443",
    "CI_DEPENDENCY_PROXY_USER": "gitlab-ci-token",
    "CI_DEPENDENCY_PROXY_PASSWORD": "glcbt-2",
}
GITHUB = {"GITHUB_ACTIONS": "true", "GITHUB_ACTOR": "octocat", "GITHUB_TOKEN": "ghs_1"}
ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


def secret(environment: dict[str, str], host: str, repository: str = "team/app") -> str:
    found = keychain_from(environment).credentials(host, repository)
    return f"{found.username}:{found.password}" if found else ""


def entry(user: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:x".encode()).decode()}


def helper(place: Path, name: str, script: str) -> None:
    program = place / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("variables", "host", "expected"),
    [
        (GITLAB, "registry.gitlab.example.com", "gitlab-ci-token:glcbt-1"),
        (GITLAB, "gitlab.example.com:443", "gitlab-ci-token:glcbt-2"),
        (GITLAB, "gitlab.example.com", ""),
        (GITLAB, "registry.gitlab.example.com.evil", ""),
        (GITLAB, "evil-registry.gitlab.example.com", ""),
        ({**GITLAB, "GITLAB_CI": ""}, "registry.gitlab.example.com", ""),
        (
            {"GITLAB_CI": "true", "CI_REGISTRY": "r.example", "CI_JOB_TOKEN": "job"},
            "r.example",
            "gitlab-ci-token:job",
        ),
        (GITHUB, "ghcr.io", "octocat:ghs_1"),
        (GITHUB, "github.com", ""),
        (GITHUB, "docker.io", ""),
        ({**GITHUB, "GITHUB_TOKEN": ""}, "ghcr.io", ""),
        ({**GITHUB, "GITHUB_ACTIONS": ""}, "ghcr.io", ""),
        (
            {**GITHUB, "GITHUB_SERVER_URL": "https://gh.example"},
            "containers.gh.example",
            "octocat:ghs_1",
        ),
        ({**GITHUB, "GITHUB_SERVER_URL": "https://gh.example"}, "ghcr.io", ""),
    ],
)
def test_a_job_has_credentials_for_its_own_registries_alone(
    variables: dict[str, str], host: str, expected: str
) -> None:
    assert secret(variables, host) == expected


def test_what_was_stored_comes_first_and_an_explicit_file_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"ghcr.io": entry("stored")}}))
    environment = {**GITHUB, "DOCKER_CONFIG": str(tmp_path)}
    assert secret(environment, "ghcr.io") == "stored:x"
    nothing = {**GITHUB, "REGISTRY_AUTH_FILE": str(tmp_path / "none.json")}
    assert secret(nothing, "ghcr.io") == ""


def test_the_variable_of_docker_comes_before_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"auths": {"a.io": entry("file"), "b.io": entry("file")}})
    )
    given = {"auths": {"a.io": entry("variable")}, "credsStore": "nothing-of-this-name"}
    environment = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_AUTH_CONFIG": json.dumps(given)}
    assert secret(environment, "a.io") == "variable:x"
    assert secret(environment, "b.io") == "file:x"
    alone = {**environment, "REGISTRY_AUTH_FILE": str(tmp_path / "none.json")}
    assert secret(alone, "a.io") == ""


@pytest.mark.parametrize("given", [{}, {"auths": None}, {"credHelpers": {"a.io": "ecr-login"}}])
def test_a_variable_without_entries_leaves_it_to_the_file(tmp_path: Path, given: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"a.io": entry("file")}}))
    environment = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_AUTH_CONFIG": json.dumps(given)}
    assert secret(environment, "a.io") == "file:x"


@pytest.mark.parametrize("text", ["{", "[]", '"x"', " ", "[" * 100_000])
def test_a_variable_that_cannot_be_read_is_named_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="DOCKER_AUTH_CONFIG"):
        secret({"DOCKER_AUTH_CONFIG": text}, "a.io")


@pytest.mark.parametrize("name", [".dockerconfigjson", ".dockercfg"])
def test_a_mounted_pull_secret_is_read(tmp_path: Path, name: str) -> None:
    auths = {"a.io": entry("a"), "a.io/team": entry("team"), "https://b.io/v1/": entry("b")}
    (tmp_path / name).write_text(json.dumps(auths if "cfg" in name else {"auths": auths}))
    for environment in (
        {"DOCKER_CONFIG": str(tmp_path)},
        {"REGISTRY_AUTH_FILE": str(tmp_path / name)},
    ):
        assert secret(environment, "a.io") == "team:x"
        assert secret(environment, "a.io", "other") == "a:x"
        assert secret(environment, "b.io") == "b:x"


@pytest.mark.parametrize(
    ("pattern", "host", "repository", "matches"),
    [
        ("*.example.com", "reg.example.com", "a", True),
        ("*.example.com", "example.com", "a", False),
        ("*.example.com", "a.b.example.com", "a", False),
        ("*.example.com", "reg.example.com:5000", "a", False),
        ("*.example.com:5000", "reg.example.com:5000", "a", True),
        ("prefix.*.io", "prefix.reg.io", "a", True),
        ("*.dkr.ecr.*.amazonaws.com", ECR, "a", True),
        ("*.example.com/team", "reg.example.com", "team/app", True),
        ("*.example.com/team", "reg.example.com", "teamwork", False),
        ("https://*.example.com/v2", "reg.example.com", "a", False),
        ("*.docker.io", "docker.io", "library/a", True),
        ("*", "example.com", "a", False),
        ("*.com.evil", "reg.com", "a", False),
    ],
)
def test_keys_of_pull_secrets_may_have_wildcards(
    tmp_path: Path, pattern: str, host: str, repository: str, matches: bool
) -> None:
    """As in kubelet, https://kubernetes.io/docs/concepts/containers/images/#config-json."""
    (tmp_path / ".dockerconfigjson").write_text(json.dumps({"auths": {pattern: entry("k")}}))
    assert bool(secret({"DOCKER_CONFIG": str(tmp_path)}, host, repository)) is matches


def test_a_name_comes_before_wildcards_and_longer_ones_first(tmp_path: Path) -> None:
    auths = {"*.b.io": entry("any"), "*.b.io/team": entry("team"), "a.b.io": entry("named")}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    environment = {"DOCKER_CONFIG": str(tmp_path)}
    assert secret(environment, "a.b.io") == "named:x"
    assert secret(environment, "c.b.io") == "team:x"
    assert secret(environment, "c.b.io", "other") == "any:x"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (ECR, "ecr-login"),
        ("123456789012.dkr-ecr.eu-central-1.on.aws", "ecr-login"),
        ("public.ecr.aws", "ecr-login"),
        ("eu.gcr.io", "gcloud"),
        ("europe-west1-docker.pkg.dev", "gcr"),
        ("team.azurecr.io", "acr-env"),
    ],
)
def test_the_usual_helper_of_a_cloud_is_asked_for_its_registries(
    tmp_path: Path, host: str, name: str
) -> None:
    helper(
        tmp_path,
        name,
        """read server; echo "{\\"Username\\":\\"u\\",\\"Secret\\":\\"$server\\"}" """,
    )
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert secret(environment, host) == f"u:{host}"
    for other in (f"{host}.evil.example", f"evil-{host}.example", "docker.io"):
        assert secret(environment, other) == ""


def test_a_helper_that_is_not_logged_in_leaves_what_is_public(tmp_path: Path) -> None:
    helper(tmp_path, "gcloud", "echo not logged in; exit 1")
    helper(tmp_path, "gcr", """cat > /dev/null; echo '{"Username":"u","Secret":"second"}'""")
    assert secret({"PATH": f"{tmp_path}:/usr/bin:/bin"}, "gcr.io") == "u:second"
    (tmp_path / "docker-credential-gcr").unlink()
    assert secret({"PATH": f"{tmp_path}:/usr/bin:/bin"}, "gcr.io") == ""


def test_a_missing_helper_says_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {ECR: "ecr-login"}}))
    environment = {"DOCKER_CONFIG": str(tmp_path), "PATH": str(tmp_path)}
    with pytest.raises(AuthError) as error:
        keychain_from(environment).credentials(ECR, "a")
    assert "docker-credential-ecr-login is not installed" in error.value.message
    assert "amazon-ecr-credential-helper" in error.value.hint


def test_the_hint_for_a_cloud_is_its_own_login() -> None:
    assert "aws ecr get-login-password" in login_hint(ECR) and ECR in login_hint(ECR)
    assert login_hint("reg.example.com") == "log in with `shipline login reg.example.com`"
    assert cloud_of(f"{ECR}.evil.example") is None


def test_the_file_of_podman_without_a_runtime_directory_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 1234)
    files = list(_config_files({"HOME": "/home/me"}))
    assert Path("/run/containers/1234/auth.json") in files
    assert files[0] == Path("/home/me/.docker/config.json")


def test_nothing_of_them_is_shown() -> None:
    found = keychain_from(GITHUB).credentials("ghcr.io", "a")
    assert found == Credentials("octocat", "ghs_1")
    assert "ghs_1" not in repr(found)
