"""Deployments and Services from the configuration of an image."""

from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from shipline.content import MemoryStore
from shipline.deliver.gitops import Update
from shipline.deliver.manifest import WorkloadOptions, kustomization, read_config, workload
from shipline.deliver.objects import as_yaml
from shipline.errors import ConfigError
from shipline.oci import Descriptor, Digest, ImageConfig, Reference, media

SECOND = 1_000_000_000
IMAGE = "registry.example/team/app:1@sha256:" + "a" * 64


def config_of(**run: Any) -> ImageConfig:
    document = {"architecture": "amd64", "os": "linux", "config": {"User": "1000", **run}}
    return ImageConfig.parse(json.dumps(document).encode())


def written(config: ImageConfig, **options: Any) -> dict[str, Any]:
    """The objects by kind, as the YAML has them, after Kubernetes' own schema."""
    objects = workload(IMAGE, config, WorkloadOptions(**{"name": "app", **options}))
    read = list(YAML(typ="safe", pure=True).load_all(as_yaml(objects)))
    for one in read:
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    return {one["kind"]: one for one in read}


def container_of(config: ImageConfig, **options: Any) -> dict[str, Any]:
    pod = written(config, **options)["Deployment"]["spec"]["template"]["spec"]
    return dict(pod["containers"][0])


def test_pods_pass_the_standard_restricted() -> None:
    """kubernetes.io, "Pod Security Standards", the fields that `restricted` demands."""
    pod = written(config_of())["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "volumes"}


def test_a_service_reaches_the_pods_at_the_lowest_exposed_tcp_port() -> None:
    objects = written(config_of(ExposedPorts={"9090/tcp": {}, "53/udp": {}, "8080": {}}))
    deployment, service = objects["Deployment"]["spec"], objects["Service"]["spec"]
    (port,) = deployment["template"]["spec"]["containers"][0]["ports"]
    assert port == {"name": "http", "containerPort": 8080}
    assert service["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]
    assert service["selector"] == deployment["selector"]["matchLabels"]
    assert service["selector"].items() <= deployment["template"]["metadata"]["labels"].items()
    assert "Service" not in written(config_of())


def test_a_healthcheck_becomes_probes() -> None:
    check = {
        "Test": ["CMD", "/healthy"],
        "Interval": 10 * SECOND,
        "Timeout": SECOND // 2,
        "StartPeriod": 25 * SECOND,
        "Retries": 4,
    }
    container = container_of(config_of(Healthcheck=check, ExposedPorts={"80/tcp": {}}))
    probe = {
        "exec": {"command": ["/healthy"]},
        "periodSeconds": 10,
        "timeoutSeconds": 1,
        "failureThreshold": 4,
    }
    assert container["readinessProbe"] == container["livenessProbe"] == probe
    assert container["startupProbe"] == {**probe, "failureThreshold": 7}


@pytest.mark.parametrize(
    ("check", "options", "action"),
    [
        ({"Test": ["CMD-SHELL", "ok || exit 1"]}, {}, ("exec", ["/bin/sh", "-c", "ok || exit 1"])),
        ({"Test": ["CMD", "ok"]}, {"probe": "/ready"}, ("httpGet", "/ready")),
        (None, {"probe": "/ready"}, ("httpGet", "/ready")),
        ({"Test": ["NONE"]}, {}, ("tcpSocket", "http")),
        (None, {}, ("tcpSocket", "http")),
    ],
)
def test_readiness_is_asked_for_by_what_is_there(check: Any, options: Any, action: Any) -> None:
    container = container_of(config_of(Healthcheck=check, ExposedPorts={"8080/tcp": {}}), **options)
    kind, value = action
    probe = container["readinessProbe"][kind]
    assert value in (probe.get("command"), probe.get("path"), probe.get("port"))
    assert ("livenessProbe" in container) == (kind != "tcpSocket")


def test_without_a_port_or_a_check_there_are_no_probes() -> None:
    assert not any("Probe" in key for key in container_of(config_of()))


@pytest.mark.parametrize(
    ("user", "problem"), [("", "runs as root"), ("0:0", "runs as root"), ("node", "user node")]
)
def test_a_user_who_may_be_root_is_an_error_that_a_number_ends(user: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        written(config_of(User=user))
    pod = written(config_of(User=user), user=1001)["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 1001


def test_what_is_asked_for_is_in_the_pod() -> None:
    objects = written(
        config_of(), account="puller", pull_secret="registry", namespace="prod", replicas=3
    )
    spec = objects["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    assert (pod["serviceAccountName"], pod["imagePullSecrets"]) == (
        "puller",
        [{"name": "registry"}],
    )
    assert objects["Deployment"]["metadata"]["namespace"] == "prod"
    assert spec["replicas"] == 3
    assert pod["containers"][0]["image"] == IMAGE


def test_deploy_sets_the_image_in_the_kustomization() -> None:
    image = Reference.parse(IMAGE)
    text = as_yaml([kustomization(image, ("deployment.yaml",))])
    tree = {"app/kustomization.yaml": lambda: text.encode()}
    update = Update(kustomization="app")
    assert update.apply(tree, image) == {}
    changed = update.apply(tree, image.tagged("2").at(Digest.parse("sha256:" + "b" * 64)))
    entry = YAML(typ="safe", pure=True).load(changed["app/kustomization.yaml"])["images"][0]
    assert (entry["newTag"], entry["digest"][-1]) == ("2", "b")


def test_of_an_index_the_first_image_for_linux_counts() -> None:
    documents: list[bytes] = []

    def put(document: dict[str, Any], media_type: str, **fields: Any) -> dict[str, Any]:
        documents.append(json.dumps(document).encode())
        return {**Descriptor.of(documents[-1], media_type).to_json(), **fields}

    children = []
    for os, user in (("windows", "1"), ("linux", "2"), ("linux", "3")):
        config = put(
            {"os": os, "architecture": "amd64", "config": {"User": user}}, media.OCI_CONFIG
        )
        manifest = {"schemaVersion": 2, "config": config, "layers": []}
        platform = {"os": os, "architecture": "amd64"}
        children.append(put(manifest, media.OCI_MANIFEST, platform=platform))
    index = put({"schemaVersion": 2, "manifests": children}, media.OCI_INDEX)
    store = MemoryStore(*documents)
    assert read_config(store, Descriptor.from_json(index)).run["User"] == "2"
