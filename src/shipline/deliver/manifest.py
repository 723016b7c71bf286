"""The Deployment and the Service of an image, from what its configuration says of it. Its pods pass
the Pod Security Standard `restricted`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shipline.content import Fetcher, fetch_all, fetch_document
from shipline.deliver.objects import Object
from shipline.errors import ConfigError, ContentError
from shipline.oci import CONFIG_LIMIT, Descriptor, ImageConfig, Index, Reference

_NANOSECONDS = 1_000_000_000
_CHECK_S, _CHECK_TRIES = 30, 3  # of HEALTHCHECK, by default


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOptions:
    """What the image does not say. `port` and `user` are by default those of the image; `probe` is
    a path to ask over HTTP instead of running its HEALTHCHECK.
    """

    name: str
    namespace: str = ""
    replicas: int = 2
    port: int = 0
    user: int | None = None
    probe: str = ""
    account: str = ""
    pull_secret: str = ""
    cpu: str = "100m"
    memory: str = "128Mi"


def read_config(source: Fetcher, target: Descriptor) -> ImageConfig:
    """The configuration of an image, of an index that of its first image for Linux. Raises
    ContentError for anything else.
    """
    document = fetch_document(source, target)
    if isinstance(document, Index):
        for child in document.manifests:
            if child.platform and child.platform.os == "linux":
                return read_config(source, child)
        raise ContentError(f"{target.digest} has no image for Linux", code="platform-missing")
    return ImageConfig.parse(fetch_all(source, document.config, CONFIG_LIMIT))


def workload(image: str, config: ImageConfig, options: WorkloadOptions) -> tuple[Object, ...]:
    """A Deployment of `image`, and a Service if there is a port to reach (kubernetes.io, "Pod
    Security Standards"; Dockerfile reference, EXPOSE, USER, HEALTHCHECK).

    Raises ConfigError for an image that runs as root, or as a user without a number.
    """
    labels = {"app.kubernetes.io/name": options.name}
    metadata: dict[str, Any] = {"name": options.name}
    if options.namespace:
        metadata["namespace"] = options.namespace
    metadata["labels"] = labels
    port = options.port or exposed_port(config)
    container: dict[str, Any] = {"name": options.name, "image": image}
    if port:
        container["ports"] = [{"name": "http", "containerPort": port}]
    container |= _probes(config, options.probe, port)
    container["resources"] = {
        "requests": {"cpu": options.cpu, "memory": options.memory},
        "limits": {"memory": options.memory},
    }
    container["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    pod: dict[str, Any] = {"automountServiceAccountToken": False}
    if options.account:
        pod["serviceAccountName"] = options.account
    if options.pull_secret:
        pod["imagePullSecrets"] = [{"name": options.pull_secret}]
    pod["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": _user(config, options.user),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod["containers"] = [container]
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": options.replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }
    return (deployment, service) if port else (deployment,)


def kustomization(image: Reference, files: tuple[str, ...]) -> Object:
    """The file in which `shipline deploy` sets the image (update `kustomization`)."""
    entry: dict[str, str] = {"name": image.name}
    if image.tag:
        entry["newTag"] = image.tag
    if image.digest:
        entry["digest"] = str(image.digest)
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
        "images": [entry],
    }


def exposed_port(config: ImageConfig) -> int:
    """The lowest TCP port of EXPOSE; 0 without one."""
    ports = (re.fullmatch(r"(\d+)(?:/tcp)?", name) for name in config.run.get("ExposedPorts") or ())
    return min((int(port[1]) for port in ports if port), default=0)


def _user(config: ImageConfig, given: int | None) -> int:
    name = str(config.run.get("User") or "").partition(":")[0]
    if given is not None or (name.isdecimal() and int(name)):
        return int(name) if given is None else given
    if name in ("", "root") or name.isdecimal():
        raise ConfigError(
            "the image runs as root, which the Pod Security Standard `restricted` refuses",
            code="image-user",
            hint="write USER with a number in its Dockerfile, or pass --user NUMBER",
        )
    raise ConfigError(
        f"the image runs as the user {name}, whose number Kubernetes does not know",
        code="image-user",
        hint="pass its number as --user, or write USER with a number in the Dockerfile",
    )


def _probes(config: ImageConfig, path: str, port: int) -> Mapping[str, Any]:
    """The HEALTHCHECK as probes, which Kubernetes does not read itself; else whether the port is
    open.
    """
    check = config.run.get("Healthcheck") or {}
    kind, *words = check.get("Test") or ["NONE"]
    action: dict[str, Any] = {}
    if path and port:
        action = {"httpGet": {"path": path, "port": "http"}}
    elif kind == "CMD" and words:
        action = {"exec": {"command": words}}
    elif kind == "CMD-SHELL" and words:
        action = {"exec": {"command": ["/bin/sh", "-c", *words]}}
    elif port:
        return {"readinessProbe": {"tcpSocket": {"port": "http"}}}
    if not action:
        return {}
    period = _seconds(check, "Interval")
    tries = int(check.get("Retries") or 0) or _CHECK_TRIES
    timing = {"periodSeconds": period, "timeoutSeconds": _seconds(check, "Timeout")}
    probe = {**action, **timing, "failureThreshold": tries}
    probes = {"readinessProbe": probe, "livenessProbe": probe}
    if start := int(check.get("StartPeriod") or 0):
        waits = math.ceil(start / _NANOSECONDS / period) + tries
        return {"startupProbe": {**probe, "failureThreshold": waits}, **probes}
    return probes


def _seconds(check: Mapping[str, Any], name: str) -> int:
    """A time of HEALTHCHECK, whose unit is the nanosecond, in whole seconds."""
    value = int(check.get(name) or 0)
    return math.ceil(value / _NANOSECONDS) if value > 0 else _CHECK_S
