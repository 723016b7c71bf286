"""Objects of Kubernetes as Go's clients send them, in Protocol Buffers: the fields of a builder.

Source: kubernetes/api, generated.proto of core/v1 and apps/v1; k8s.io/apimachinery, "Protobuf
encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_MAGIC = b"k8s\0"

# name of a message -> number of a field -> (its name, its type); `*` repeats, `:` is a map
_FIELDS: dict[str, dict[int, tuple[str, str]]] = {
    "Unknown": {
        1: ("typeMeta", "TypeMeta"),
        2: ("raw", "bytes"),
        3: ("contentEncoding", ""),
        4: ("contentType", ""),
    },
    "TypeMeta": {1: ("apiVersion", "str"), 2: ("kind", "str")},
    "Deployment": {1: ("metadata", "ObjectMeta"), 2: ("spec", "DeploymentSpec"), 3: ("status", "")},
    "ConfigMap": {1: ("metadata", "ObjectMeta"), 2: ("data", ":str")},
    "ObjectMeta": {
        1: ("name", "str"),
        2: ("generateName", ""),
        3: ("namespace", "str"),
        4: ("selfLink", ""),
        5: ("uid", ""),
        6: ("resourceVersion", ""),
        7: ("generation", ""),
        8: ("creationTimestamp", ""),
        11: ("labels", ":str"),
        12: ("annotations", ":str"),
    },
    "DeploymentSpec": {
        1: ("replicas", "int"),
        2: ("selector", "LabelSelector"),
        3: ("template", "PodTemplateSpec"),
        4: ("strategy", ""),
        5: ("minReadySeconds", ""),
        7: ("paused", ""),
    },
    "LabelSelector": {1: ("matchLabels", ":str")},
    "PodTemplateSpec": {1: ("metadata", "ObjectMeta"), 2: ("spec", "PodSpec")},
    "PodSpec": {
        1: ("volumes", "*Volume"),
        2: ("containers", "*Container"),
        3: ("restartPolicy", ""),
        6: ("dnsPolicy", ""),
        7: ("nodeSelector", ":str"),
        8: ("serviceAccountName", "str"),
        9: ("serviceAccount", ""),
        10: ("nodeName", ""),
        11: ("hostNetwork", ""),
        12: ("hostPID", ""),
        13: ("hostIPC", ""),
        16: ("hostname", ""),
        17: ("subdomain", ""),
        19: ("schedulerName", "str"),
        20: ("initContainers", "*Container"),
        22: ("tolerations", "*Toleration"),
        24: ("priorityClassName", ""),
    },
    "Volume": {1: ("name", "str"), 2: ("", "VolumeSource")},
    "VolumeSource": {2: ("emptyDir", "EmptyDir"), 19: ("configMap", "ConfigMapVolume")},
    "EmptyDir": {1: ("medium", "str"), 2: ("sizeLimit", "Quantity")},
    "ConfigMapVolume": {1: ("", "LocalObjectReference")},
    "LocalObjectReference": {1: ("name", "str")},
    "Container": {
        1: ("name", "str"),
        2: ("image", "str"),
        4: ("args", "*str"),
        5: ("workingDir", ""),
        7: ("env", "*EnvVar"),
        8: ("resources", "Resources"),
        9: ("volumeMounts", "*VolumeMount"),
        10: ("livenessProbe", "Probe"),
        11: ("readinessProbe", "Probe"),
        13: ("terminationMessagePath", ""),
        14: ("imagePullPolicy", ""),
        15: ("securityContext", "SecurityContext"),
        16: ("stdin", ""),
        17: ("stdinOnce", ""),
        18: ("tty", ""),
        20: ("terminationMessagePolicy", ""),
        22: ("startupProbe", "Probe"),
    },
    "EnvVar": {1: ("name", "str"), 2: ("value", "str")},
    "Resources": {1: ("limits", ":Quantity"), 2: ("requests", ":Quantity")},
    "Quantity": {1: ("string", "str")},
    "VolumeMount": {
        1: ("name", "str"),
        2: ("readOnly", ""),
        3: ("mountPath", "str"),
        4: ("subPath", ""),
        6: ("subPathExpr", ""),
    },
    "Probe": {
        1: ("", "ProbeHandler"),
        2: ("initialDelaySeconds", "int"),
        3: ("timeoutSeconds", "int"),
        4: ("periodSeconds", "int"),
        5: ("successThreshold", "int"),
        6: ("failureThreshold", "int"),
    },
    "ProbeHandler": {1: ("exec", "ExecAction")},
    "ExecAction": {1: ("command", "*str")},
    "SecurityContext": {
        2: ("privileged", "bool"),
        11: ("seccompProfile", "Profile"),
        12: ("appArmorProfile", "Profile"),
    },
    "Profile": {1: ("type", "str")},
    "Toleration": {
        1: ("key", "str"),
        2: ("operator", "str"),
        3: ("value", "str"),
        4: ("effect", "str"),
        5: ("tolerationSeconds", "int"),
    },
}


def read_object(data: bytes) -> dict[str, Any]:
    """The object as JSON has it, without fields that are empty."""
    assert data.startswith(_MAGIC), data[:40]
    envelope = _message("Unknown", data[len(_MAGIC) :])
    found = _message(envelope["typeMeta"]["kind"], envelope["raw"])
    return {**envelope["typeMeta"], **found}


def _message(kind: str, data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, value in _raw_fields(data):
        name, type_ = _FIELDS[kind][number]
        if not type_:
            continue
        if type_[0] == ":":
            pair = dict(_raw_fields(value))
            element = _value(type_[1:], pair.get(2, b""))
            found.setdefault(name, {})[pair.get(1, b"").decode()] = element
        elif type_[0] == "*":
            found.setdefault(name, []).append(_value(type_[1:], value))
        elif not name:
            found |= _value(type_, value)
        elif (one := _value(type_, value)) not in ("", 0, False):
            found[name] = one
    return found


def _value(type_: str, value: Any) -> Any:
    match type_:
        case "str":
            return value.decode()
        case "bytes" | "int":
            return value
        case "bool":
            return bool(value)
        case "Quantity":
            return _message(type_, value).get("string", "")
    return _message(type_, value)


def _raw_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            assert tag & 7 == 2, f"wire type {tag & 7}"
            size = varint()
            yield tag >> 3, data[at : at + size]
            at += size
