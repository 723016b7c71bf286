"""Objects for a cluster: with which Argo CD or Flux follow a GitOps repository, and with which pods
pull from a private registry. They are values as in JSON, in the order that people write them.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from shipline.deliver.ci.document import render
from shipline.deliver.gitops import GitOpsSection
from shipline.errors import AuthError, ConfigError, UsageError
from shipline.registry.credentials import Credentials, Keychain
from shipline.units import Duration

Object = Mapping[str, Any]
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_HUB = "https://index.docker.io/v1/"
_CLUSTER = "https://kubernetes.default.svc"


def as_yaml(objects: Sequence[Object]) -> str:
    """The objects as one file, for `kubectl apply -f`."""
    return "---\n".join(map(render, objects))


def check_name(name: str, what: str) -> str:
    """The name of an object. Raises UsageError if Kubernetes would refuse it (RFC 1123, label)."""
    if not _NAME.match(name):
        raise UsageError(
            f"{what}: {name!r} is not a name in Kubernetes",
            code="kubernetes-name",
            hint="lower case letters, digits and -, at most 63",
        )
    return name


def gitops_path(gitops: GitOpsSection) -> str:
    """The directory of the first update; `.` for the root of the repository."""
    update = gitops.updates[0]
    path = update.place
    if path.endswith((".yaml", ".yml")) or path.rpartition("/")[2] == "Kustomization":
        path = path.rpartition("/")[0]
    return path or "."


def require_url(gitops: GitOpsSection) -> str:
    """The URL of the repository, as the cluster reaches it. Raises ConfigError for a path."""
    url = gitops.repository
    if gitops.is_path:
        raise ConfigError(
            f"the GitOps repository {url} is a path: a cluster needs a URL",
            hint="set gitops.repository to the URL, or pass --repo-url",
        )
    return url


def argocd_application(
    name: str,
    *,
    url: str,
    revision: str,
    path: str,
    namespace: str,
    values: str = "",
    server: str = _CLUSTER,
    project: str = "default",
    argocd_namespace: str = "argocd",
) -> Object:
    """An Application that is kept as git has it: what is gone from git is removed, what was changed
    in the cluster is restored, and a failed sync is tried again (Argo CD, automated sync policy).
    `values` is the file of values of a chart at `path`, which reads its own values.yaml anyway.
    """
    relative = posixpath.relpath(values, path) if values else ""
    helm = {"helm": {"valueFiles": [relative]}} if relative not in ("", "values.yaml") else {}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {
            "name": name,
            "namespace": argocd_namespace,
            "finalizers": ["resources-finalizer.argocd.argoproj.io"],
        },
        "spec": {
            "project": project,
            "source": {"repoURL": url, "targetRevision": revision or "HEAD", "path": path, **helm},
            "destination": {"server": server, "namespace": namespace},
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": True},
                "syncOptions": ["CreateNamespace=true"],
                "retry": {
                    "limit": 5,
                    "backoff": {"duration": "5s", "factor": 2, "maxDuration": "3m"},
                },
            },
        },
    }


def flux_objects(
    name: str,
    *,
    url: str,
    branch: str,
    path: str,
    namespace: str,
    interval: Duration,
    values: str = "",
    secret: str = "",
    flux_namespace: str = "flux-system",
) -> tuple[Object, ...]:
    """The namespace, a GitRepository, and a Kustomization with pruning and retries; for the chart
    at `path` with its file of `values`, a HelmRelease instead. `secret` names the credentials for
    the repository (Flux, kustomize.toolkit.fluxcd.io/v1 and helm.toolkit.fluxcd.io/v2).
    """
    metadata = {"name": name, "namespace": flux_namespace}
    reference = {"kind": "GitRepository", "name": name}
    source = {
        "interval": str(interval),
        "url": re.sub(r"\A([^/:]+):(?!//)", r"ssh://\1/", url),
        **({"ref": {"branch": branch}} if branch else {}),
        **({"secretRef": {"name": secret}} if secret else {}),
    }
    place = "./" if path == "." else f"./{path}"
    chart = {
        "chart": place,
        "reconcileStrategy": "Revision",  # each commit counts, not only a new version of the chart
        "sourceRef": reference,
        "valuesFiles": [values],
    }
    release = {
        "interval": "10m",
        "chart": {"spec": chart},
        "targetNamespace": namespace,
        "install": {"createNamespace": True, "remediation": {"retries": 5}},
        "upgrade": {"remediation": {"retries": 5}},
        "driftDetection": {"mode": "enabled"},
    }
    kustomization = {
        "interval": "10m",
        "retryInterval": "1m",
        "timeout": "5m",
        "sourceRef": reference,
        "path": place,
        "targetNamespace": namespace,
        "prune": True,
        "wait": True,
    }
    return (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "GitRepository",
            "metadata": metadata,
            "spec": source,
        },
        {
            "apiVersion": f"{'helm' if values else 'kustomize'}.toolkit.fluxcd.io/"
            f"{'v2' if values else 'v1'}",
            "kind": "HelmRelease" if values else "Kustomization",
            "metadata": metadata,
            "spec": release if values else kustomization,
        },
    )


def pull_secret(
    name: str, hosts: Sequence[str], keychain: Keychain, *, namespace: str, account: str
) -> tuple[Object, ...]:
    """A Secret with the logins for the registries, a ServiceAccount whose pods pull with it, and a
    Role and its binding that let that account read this one secret and no other (Kubernetes, "Pull
    an Image from a Private Registry").

    Raises AuthError for a registry without a login that pods can use.
    """
    logins = {_key(host): _login(host, keychain) for host in hosts}
    content = json.dumps({"auths": logins}, separators=(",", ":")).encode()
    metadata = {"name": name, "namespace": namespace}
    reader = {"name": f"{name}-reader", "namespace": namespace}
    return (
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64.b64encode(content).decode()},
        },
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": namespace},
            "imagePullSecrets": [{"name": name}],
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": reader,
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["secrets"],
                    "resourceNames": [name],
                    "verbs": ["get"],
                }
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": reader,
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": reader["name"],
            },
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        },
    )


def _key(host: str) -> str:
    """The key that the kubelet looks for."""
    return _HUB if host in ("docker.io", "index.docker.io") else host


def _login(host: str, keychain: Keychain) -> Mapping[str, str]:
    found = keychain.credentials(host, "")
    if found is None or found == Credentials():
        raise AuthError(
            f"there is no login for {host}",
            code="pull-secret",
            host=host,
            hint=f"shipline login {host}",
        )
    if not found.password:
        raise AuthError(
            f"the login for {host} is a token that pods cannot use",
            code="pull-secret",
            host=host,
            hint="log in with a robot account or an access token as the password",
        )
    auth = base64.b64encode(f"{found.username}:{found.password}".encode()).decode()
    return {"username": found.username, "password": found.password, "auth": auth}
