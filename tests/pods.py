"""The manifests of docs/kubernetes.md, for containers that an engine runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

MANIFESTS = Path(__file__).resolve().parents[1] / "docs/kubernetes"


def settings_of(name: str) -> Iterator[str]:
    """The settings of a manifest's container, as `docker run` has them."""
    pod: dict[str, Any] = YAML(typ="safe").load(MANIFESTS / name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security = pod["securityContext"] | container["securityContext"]
    assert security["runAsNonRoot"] and "privileged" not in security
    yield f"--user={security['runAsUser']}:{security['runAsGroup']}"
    yield from (f"--cap-drop={one}" for one in security.get("capabilities", {}).get("drop", ()))
    if not security["allowPrivilegeEscalation"]:
        yield "--security-opt=no-new-privileges"
    if security["seccompProfile"]["type"] == "Unconfined":
        yield "--security-opt=seccomp=unconfined"
    if security.get("procMount") == "Unmasked":
        yield "--security-opt=systempaths=unconfined"
