"""Kubeconfig files, and the account of a pod."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from shipline.errors import BuilderError
from shipline.kubernetes import load_access


def config(path: Path, **parts: Any) -> Path:
    """A file with the cluster, user and context `a`, and what else is given."""
    document = {
        "clusters": [{"name": "a", "cluster": {"server": "https://a.example:6443/base/"}}],
        "users": [{"name": "a", "user": {"token": "secret-a"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    }
    path.write_text(json.dumps(document | parts))
    return path


def test_the_current_context_counts_unless_another_is_named(tmp_path: Path) -> None:
    contexts = [
        {"name": "a", "context": {"cluster": "a", "user": "a"}},
        {"name": "b", "context": {"cluster": "a", "namespace": "n"}},
    ]
    path = config(tmp_path / "c", contexts=contexts)
    found = load_access({"KUBECONFIG": str(path)})
    assert (found.server, found.namespace) == ("https://a.example:6443/base", "default")
    assert found.credential.authorization == "Bearer secret-a"
    other = load_access({}, kubeconfig=str(path), context="b")
    assert (other.namespace, other.credential.authorization) == ("n", "")


def test_of_several_files_the_first_with_an_entry_counts(tmp_path: Path) -> None:
    first = config(tmp_path / "1", clusters=[], users=[{"name": "a", "user": {"token": "1"}}])
    config(tmp_path / "2", **{"current-context": "other"})
    missing = tmp_path / "missing"
    found = load_access({"KUBECONFIG": f"{missing}:{first}:{tmp_path}/2"})
    assert (found.server[:17], found.credential.token) == ("https://a.example", "1")


def test_files_that_are_named_lie_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"authority")
    (tmp_path / "cert.pem").write_bytes(b"certificate")
    cluster = {"server": "https://a", "certificate-authority": "ca.pem"}
    user = {"client-certificate": "cert.pem", "client-key-data": base64.b64encode(b"key").decode()}
    path = config(
        tmp_path / "c",
        clusters=[{"name": "a", "cluster": cluster}],
        users=[{"name": "a", "user": user}],
    )
    found = load_access({"KUBECONFIG": str(path)})
    assert found.ca == b"authority"
    assert (found.credential.certificate, found.credential.key) == (b"certificate", b"key")


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    assert "secret-a" not in repr(load_access({}, kubeconfig=str(config(tmp_path / "c"))))


def test_a_pod_uses_its_account_where_no_context_is_chosen(tmp_path: Path) -> None:
    for name, text in {"token": "t1\n", "ca.crt": "authority", "namespace": "here\n"}.items():
        (tmp_path / name).write_text(text)
    environment = {
        "HOME": str(tmp_path),
        "KUBERNETES_SERVICE_HOST": "fd00::1",
        "KUBERNETES_SERVICE_PORT": "443",
    }
    found = load_access(environment, service_account=tmp_path)
    assert (found.server, found.namespace, found.ca) == (
        "https://[fd00::1]:443",
        "here",
        b"authority",
    )
    assert found.fresh_credential()[0].token == "t1"
    (tmp_path / "token").write_text("t2\n")  # the kubelet renews it
    assert found.fresh_credential()[0].token == "t2"


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"current-context": "b"}, "no context 'b'"),
        ({"clusters": []}, "no cluster 'a'"),
        ({"users": []}, "no user 'a'"),
        ({"clusters": [{"name": "a", "cluster": {"server": "a.example"}}]}, "the server"),
        ({"clusters": [{"name": "a", "cluster": {"server": "https://a:b"}}]}, "the server"),
        ({"clusters": [{"name": "a", "cluster": {"server": "https://"}}]}, "the server"),
        ({"clusters": [{"cluster": {}}]}, "has no name"),
        ({"users": [{"name": "a", "user": {"client-key-data": "?"}}]}, "not base64"),
        ({"users": [{"name": "a", "user": {"exec": {"command": "x"}}}]}, "lacks apiVersion"),
        ({"users": [{"name": "a", "user": {"exec": {"apiVersion": "v0", "command": "x"}}}]}, "v0"),
        ({"users": [{"name": "a", "user": {"auth-provider": {"name": "gcp"}}}]}, "plugin"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, parts: Any, problem: str) -> None:
    path = config(tmp_path / "c", **parts)
    with pytest.raises(BuilderError, match=problem):
        load_access({"KUBECONFIG": str(path)})


@pytest.mark.parametrize("content", [b"- a", b"a: [", b"\xff\xfe\x00", b"a: &a [*a]", b"x"])
def test_files_that_are_no_kubeconfig_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(BuilderError):
        load_access({"KUBECONFIG": str(tmp_path / "c")})


def test_without_a_cluster_the_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match=r"\.kube/config has no current context"):
        load_access({"HOME": str(tmp_path)}, service_account=tmp_path)
    with pytest.raises(BuilderError, match="there is no kubeconfig"):
        load_access({}, kubeconfig=str(tmp_path / "missing"))
