"""Objects for Argo CD, Flux and Kubernetes."""

from __future__ import annotations

import base64
import json

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from shipline.deliver.gitops import GitOpsSection, Update
from shipline.deliver.objects import (
    argocd_application,
    as_yaml,
    flux_objects,
    gitops_path,
    pull_secret,
    require_url,
)
from shipline.errors import AuthError, ConfigError
from shipline.registry import StaticKeychain
from shipline.registry.credentials import Credentials
from shipline.units import Duration

KEYCHAIN = StaticKeychain(
    {
        "registry.example": Credentials("robot", "pass: #1"),
        "docker.io": Credentials("me", "secret"),
        "token.example": Credentials(identity_token="t"),
    }
)


def test_the_objects_of_a_pull_secret_are_valid_and_least() -> None:
    objects = pull_secret(
        "regcred", ["registry.example", "docker.io"], KEYCHAIN, namespace="prod", account="app"
    )
    read = list(YAML(typ="safe", pure=True).load_all(as_yaml(objects)))
    assert read == [dict(one) for one in objects]
    for one in read:
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    secret, account, role, binding = read
    auths = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))["auths"]
    assert auths["registry.example"]["password"] == "pass: #1"
    assert set(auths) == {"registry.example", "https://index.docker.io/v1/"}
    assert account["imagePullSecrets"] == [{"name": "regcred"}]
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["regcred"],
            "verbs": ["get"],
        }
    ]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "app", "namespace": "prod"}]


@pytest.mark.parametrize("host", ["token.example", "unknown.example"])
def test_a_registry_without_a_usable_login_is_an_error(host: str) -> None:
    with pytest.raises(AuthError, match="login"):
        pull_secret("a", [host], KEYCHAIN, namespace="b", account="c")


def test_an_application_prunes_heals_and_retries() -> None:
    made = argocd_application(
        "app-staging",
        url="https://git.example/deploy.git",
        revision="main",
        path="envs/staging",
        namespace="staging",
    )
    policy = made["spec"]["syncPolicy"]
    assert policy["automated"] == {"prune": True, "selfHeal": True}
    assert policy["retry"]["limit"] == 5


@pytest.mark.parametrize(
    ("update", "path"),
    [
        (Update(kustomization="envs/staging"), "envs/staging"),
        (Update(kustomization="envs/staging/kustomization.yaml"), "envs/staging"),
        (Update(values="./charts/app/values.yaml"), "charts/app"),
        (Update(manifests="."), "."),
    ],
)
def test_the_path_is_that_of_the_first_update(update: Update, path: str) -> None:
    assert gitops_path(GitOpsSection("u", (update,))) == path


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("git@git.example:team/deploy.git", "ssh://git@git.example/team/deploy.git"),
        ("git.example:team/deploy.git", "ssh://git.example/team/deploy.git"),
        ("https://git.example:8443/deploy.git", "https://git.example:8443/deploy.git"),
    ],
)
def test_what_git_takes_for_an_address_is_a_url_for_flux(address: str, url: str) -> None:
    gitops = GitOpsSection(address, (Update(manifests="."),))
    assert require_url(gitops) == address
    _, source, _ = flux_objects(
        "app", url=address, branch="", path=".", namespace="a", interval=Duration.parse("1m")
    )
    assert source["spec"]["url"] == url


def test_flux_reads_scp_addresses_as_urls_and_paths_from_the_root() -> None:
    namespace, source, kustomization = flux_objects(
        "app",
        url="git@git.example:team/deploy.git",
        branch="",
        path=".",
        namespace="staging",
        interval=Duration.parse("1m"),
    )
    assert namespace["metadata"] == {"name": "staging"}
    assert source["spec"] == {"interval": "1m", "url": "ssh://git@git.example/team/deploy.git"}
    assert kustomization["spec"]["path"] == "./"


def test_a_path_is_no_repository_for_a_cluster() -> None:
    with pytest.raises(ConfigError, match="is a path"):
        require_url(GitOpsSection("../deploy.git", (Update(manifests="."),)))
