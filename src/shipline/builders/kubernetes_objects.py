"""The objects of a builder in a cluster: a Deployment, or a StatefulSet where the cache outlives
pods, and ConfigMaps with the files of buildkitd. Objects and options are those of buildx.

Source: docker/buildx, driver/kubernetes; its page "Kubernetes driver".
"""

from __future__ import annotations

import base64
import csv
import io
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from shipline.builders.configuration import CONFIGURATION, PLACE
from shipline.builders.driver import InvalidDriverOption
from shipline.builders.instances import Node
from shipline.errors import UsageError
from shipline.units import Duration, parse_boolean

Object = dict[str, Any]

IMAGE = "moby/buildkit:buildx-stable-1"
ROOTLESS_IMAGE = f"{IMAGE}-rootless"
QEMU_IMAGE = "tonistiigi/binfmt:latest"
CONTAINER = "buildkitd"
TIMEOUT_S = 120.0

_PLATFORM = "buildx.docker.com/platform"
_APPARMOR = f"container.apparmor.security.beta.kubernetes.io/{CONTAINER}"
_STATE = "/var/lib/buildkit"
_ROOTLESS_STATE = "/home/user/.local/share/buildkit"
_PROBE = {"exec": {"command": ["buildctl", "debug", "workers"]}, "timeoutSeconds": 30}
"""A builder at work answers late; Kubernetes would wait for one second."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([eE][0-9]+|m|k|[KMGTPE]i?)?")
_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_CLAIM = "persistent-volume-claim.requests.storage"
_MEMORY = "buildkit-root-volume-memory"


class KubernetesOptions(Struct, frozen=True):
    """The options of the driver, as `--driver-opt` gives them; sizes are quantities of Kubernetes,
    empty for none.
    """

    image: str = IMAGE
    namespace: str = ""
    replicas: int = 1
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    claim: str = ""
    memory: str = ""
    rootless: bool = False
    scheduler: str = ""
    service_account: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    random: bool = False
    qemu: str = ""
    timeout_s: float = TIMEOUT_S
    environment: Mapping[str, str] = field(default_factory=dict)


class BuilderObjects(Struct, frozen=True):
    """What a node is in a cluster: a workload of a kind (`deployments` or `statefulsets`), and the
    files that it mounts.
    """

    kind: str
    workload: Object
    config_maps: Sequence[Object] = ()

    @property
    def name(self) -> str:
        return str(self.workload["metadata"]["name"])

    @property
    def selector(self) -> str:
        """Chooses its pods and claims, and no others."""
        return f"app={self.name}"


def parse_options(given: Mapping[str, str]) -> KubernetesOptions:
    """Raises UsageError for an option that is not known, or a value that it does not take."""
    found: dict[str, Any] = {"requests": {}, "limits": {}, "environment": {}}
    for name, value in given.items():
        group, _, part = name.partition(".")
        if group == "env" and part:
            found["environment"][part] = value
        elif group in ("requests", "limits") and part in _RESOURCES:
            found[group][part] = _quantity(name, value)
        elif name in _READERS:
            key, read = _READERS[name]
            found[key] = read(name, value)
        elif name not in ("qemu.install", "qemu.image", "default-load"):
            known = [*_READERS, "qemu.install", "qemu.image", "env.NAME"]
            known += [f"{group}.{one}" for group in ("requests", "limits") for one in _RESOURCES]
            raise InvalidDriverOption(
                f"--driver-opt: the driver kubernetes has no option {name!r}",
                hint=f"its options are {', '.join(sorted(known))}",
            )
    if found.get("claim") and found.get("memory"):
        raise InvalidDriverOption(
            f"--driver-opt: {_CLAIM} and {_MEMORY} are two places for the same cache",
            hint="leave one of them out",
        )
    if _boolean("qemu.install", given.get("qemu.install", "false")):
        found["qemu"] = given.get("qemu.image") or QEMU_IMAGE
    if found.get("rootless") and not found.get("image"):
        found["image"] = ROOTLESS_IMAGE
    return KubernetesOptions(
        **{key: value for key, value in found.items() if value not in ("", None)}
    )


def builder_objects(node: Node, options: KubernetesOptions) -> BuilderObjects:
    """The objects of a node. Raises UsageError for what cannot be in any cluster."""
    name = node.name.replace("_", "-")
    if not _LABEL.fullmatch(name):
        raise UsageError(
            f"the node {node.name!r} cannot be the name of a Deployment",
            code="builder-name",
            hint="name it in lower-case letters, digits and `-`: --node NAME",
        )
    labels = {"app": name, **options.labels}
    own = {_PLATFORM: ",".join(map(str, node.platforms))} if node.platforms else {}
    annotations = {**own, **options.annotations}
    maps, mounts, volumes = _files(name, node.files, annotations)
    template: Object = {
        "metadata": {"labels": labels, "annotations": dict(annotations)},
        "spec": _pod(node, options, mounts, volumes),
    }
    if options.rootless:
        template["metadata"]["annotations"].setdefault(_APPARMOR, "unconfined")
    spec: Object = {
        "replicas": options.replicas,
        "selector": {"matchLabels": labels},
        "template": template,
    }
    if options.claim:
        spec |= {"serviceName": CONTAINER, "podManagementPolicy": "Parallel"}
        spec["volumeClaimTemplates"] = [_claim(options.claim)]
    kind = "StatefulSet" if options.claim else "Deployment"
    metadata = {"name": name, "labels": labels, "annotations": annotations}
    workload = {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec}
    return BuilderObjects(f"{kind.lower()}s", workload, maps)


def _pod(
    node: Node, options: KubernetesOptions, mounts: list[Object], volumes: list[Object]
) -> Object:
    """The specification of a pod; fields that are empty are left out."""
    place = _ROOTLESS_STATE if options.rootless else _STATE
    if options.claim:
        mounts.append({"name": CONTAINER, "mountPath": place})
    elif options.memory:
        volume = {"medium": "Memory", "sizeLimit": options.memory}
        mounts.append({"name": "buildkit-memory", "mountPath": place})
        volumes.append({"name": "buildkit-memory", "emptyDir": volume})
    elif options.rootless:
        mounts.append({"name": CONTAINER, "mountPath": place})
        volumes.append({"name": CONTAINER, "emptyDir": {}})
    arguments = [*node.flags]
    if options.rootless:
        arguments.append("--oci-worker-no-process-sandbox")
        if CONFIGURATION in node.files:  # else it looks into its home
            arguments.append(f"--config={PLACE}/{CONFIGURATION}")
    environment = [{"name": key, "value": one} for key, one in options.environment.items()]
    unconfined = {"type": "Unconfined"}
    container = {
        "name": CONTAINER,
        "image": options.image,
        "args": arguments,
        "env": environment,
        "securityContext": (
            {"seccompProfile": unconfined, "appArmorProfile": unconfined}
            if options.rootless
            else {"privileged": True}
        ),
        "readinessProbe": _PROBE,
        "resources": _filled({"requests": options.requests, "limits": options.limits}),
        "volumeMounts": mounts,
    }
    emulators = {
        "name": "qemu",
        "image": options.qemu,
        "args": ["--install", "all"],
        "securityContext": {"privileged": True},
    }
    return _filled(
        {
            "serviceAccountName": options.service_account,
            "schedulerName": options.scheduler,
            "initContainers": [emulators] if options.qemu else [],
            "containers": [_filled(container)],
            "nodeSelector": options.node_selector,
            "tolerations": options.tolerations,
            "volumes": volumes,
        }
    )


def _filled(fields: Object) -> Object:
    return {name: value for name, value in fields.items() if value}


def _claim(size: str) -> Object:
    return {
        "metadata": {"name": CONTAINER},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }


def _files(
    name: str, files: Mapping[str, bytes], annotations: Mapping[str, str]
) -> tuple[list[Object], list[Object], list[Object]]:
    """The files of buildkitd: a ConfigMap for each directory, mounts, volumes."""
    directories: dict[str, dict[str, bytes]] = {}
    for path in sorted(files):
        directory, _, file = path.rpartition("/")
        directories.setdefault(directory, {})[file] = files[path]
    maps, mounts, volumes = [], [], []
    for number, (directory, content) in enumerate(sorted(directories.items())):
        volume = f"config-{number}" if directory else "config"
        metadata = {"name": f"{name}-{volume}", "annotations": annotations}
        document: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        for file, data in content.items():
            try:
                document.setdefault("data", {})[file] = data.decode()
            except UnicodeDecodeError:
                document.setdefault("binaryData", {})[file] = base64.b64encode(data).decode()
        maps.append(document)
        mounts.append({"name": volume, "mountPath": posixpath.join(PLACE, directory)})
        volumes.append({"name": volume, "configMap": {"name": metadata["name"]}})
    for mount in mounts:
        mount["mountPath"] = str(mount["mountPath"]).rstrip("/")
    return maps, mounts, volumes


def _text(name: str, value: str) -> str:
    return value


def _name(name: str, value: str) -> str:
    """A label of RFC 1123, as namespaces are named."""
    if not _LABEL.fullmatch(value):
        raise InvalidDriverOption(
            f"--driver-opt {name}: {value!r} is not the name of a {name}",
            hint="write lower-case letters, digits and -",
        )
    return value


def _quantity(name: str, value: str) -> str:
    if not _QUANTITY.fullmatch(value):
        raise InvalidDriverOption(
            f"--driver-opt {name}: {value!r} is not a quantity", hint="write 500m, 2, 4Gi or 20G"
        )
    return value


def _count(name: str, value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) <= 1000:
        raise InvalidDriverOption(f"--driver-opt {name}: {value!r} is not a number from 1 to 1000")
    return int(value)


def _boolean(name: str, value: str) -> bool:
    if (found := parse_boolean(value)) is None:
        raise InvalidDriverOption(f"--driver-opt {name}: {value!r} is neither true nor false")
    return found


def _span(name: str, value: str) -> float:
    try:
        return Duration.parse(value).seconds
    except ValueError as error:
        raise InvalidDriverOption(f"--driver-opt {name}: {error}") from None


def _pairs(name: str, value: str) -> dict[str, str]:
    pairs = [one.partition("=") for one in _fields(value.strip('"'))]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise InvalidDriverOption(f"--driver-opt {name}: {key!r} is not KEY=VALUE")
        if key in ("app", _PLATFORM):
            raise InvalidDriverOption(f"--driver-opt {name}: {key} is the driver's own")
    return {key: one for key, _, one in pairs}


def _tolerations(name: str, value: str) -> list[dict[str, Any]]:
    """`key=A,value=B,effect=C`, separated by semicolons."""
    found = []
    for text in value.strip('"').split(";"):
        one: dict[str, Any] = dict(_pairs(name, text))
        fields = ("key", "operator", "value", "effect", "tolerationSeconds")
        if unknown := [key for key in one if key not in fields]:
            raise InvalidDriverOption(
                f"--driver-opt {name}: a toleration has no {unknown[0]!r}",
                hint=f"it has {', '.join(fields)}; several are separated by `;`",
            )
        if "tolerationSeconds" in one:
            one["tolerationSeconds"] = _count(name, one["tolerationSeconds"])
        found.append(one)
    return found


def _fields(text: str) -> list[str]:
    return next(csv.reader(io.StringIO(text), strict=False), [])


def _balance(name: str, value: str) -> bool:
    if value not in ("sticky", "random"):
        raise InvalidDriverOption(f"--driver-opt {name}: {value!r} is neither sticky nor random")
    return value == "random"


_READERS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    "image": ("image", _text),
    "namespace": ("namespace", _name),
    "replicas": ("replicas", _count),
    _CLAIM: ("claim", _quantity),
    _MEMORY: ("memory", _quantity),
    "rootless": ("rootless", _boolean),
    "schedulername": ("scheduler", _text),
    "serviceaccount": ("service_account", _text),
    "nodeselector": ("node_selector", _pairs),
    "annotations": ("annotations", _pairs),
    "labels": ("labels", _pairs),
    "tolerations": ("tolerations", _tolerations),
    "loadbalance": ("random", _balance),
    "timeout": ("timeout_s", _span),
}
"""Options by name: the field that they fill, and how they are read."""
