"""Options of the driver `kubernetes`, and the objects that they make."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.builders.instances import Node
from shipline.builders.kubernetes_objects import builder_objects, parse_options
from shipline.errors import UsageError
from shipline.oci import Platform

VALUES = {
    "image": ["moby/buildkit:v0.25.0"],
    "replicas": ["1", "3"],
    "requests.cpu": ["100m", "1.5"],
    "limits.memory": ["4Gi", "5e9"],
    "limits.ephemeral-storage": ["1T"],
    "rootless": ["true", "false"],
    "persistent-volume-claim.requests.storage": ["20Gi"],
    "nodeselector": ["a=b,c=d"],
    "annotations": ["x.example/y=z"],
    "labels": ["l=m"],
    "tolerations": ["key=a,operator=Exists", "key=b,value=c;key=d,tolerationSeconds=5"],
    "qemu.install": ["true"],
    "serviceaccount": ["sa"],
    "env.NAME": ["value"],
}
OPTIONS = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(values) for name, values in VALUES.items()}
)
FILES = st.dictionaries(
    st.sampled_from(["buildkitd.toml", "certs/a/ca.crt", "certs/a/key.pem", "certs/b/ca.crt"]),
    st.sampled_from([b"text\n", b"\xff\0"]),
)


@settings(max_examples=settings().max_examples // 4)
@given(OPTIONS, FILES, st.sampled_from([(), ("linux/amd64", "linux/arm/v7")]))
def test_objects_are_valid_for_kubernetes(
    options: dict[str, str], files: dict[str, bytes], platforms: tuple[str, ...]
) -> None:
    node = Node("a_b0", "", tuple(map(Platform.parse, platforms)), options, ("--debug",), files)
    found = builder_objects(node, parse_options(options))
    for document in (found.workload, *found.config_maps):
        kubernetes_validate.validate(document, "1.33", strict=True)
    spec = found.workload["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    mounted = {one["name"]: one["mountPath"] for one in container.get("volumeMounts", ())}
    claims = [
        one["metadata"]["name"] for one in found.workload["spec"].get("volumeClaimTemplates", ())
    ]
    assert mounted.keys() == {one["name"] for one in spec.get("volumes", ())} | {*claims}
    assert len({*mounted.values()}) == len(mounted)
    kept = {}
    for one in found.config_maps:
        (volume,) = (
            volume["name"]
            for volume in spec["volumes"]
            if volume.get("configMap", {}).get("name") == one["metadata"]["name"]
        )
        for file in (*one.get("data", ()), *one.get("binaryData", ())):
            kept[f"{mounted[volume]}/{file}".removeprefix("/etc/buildkit/")] = one
    assert kept.keys() == files.keys()


def test_a_claim_makes_a_stateful_set_that_keeps_the_cache() -> None:
    for rootless, place in (
        ("false", "/var/lib/buildkit"),
        ("true", "/home/user/.local/share/buildkit"),
    ):
        options = {"persistent-volume-claim.requests.storage": "1Gi", "rootless": rootless}
        found = builder_objects(Node("n", ""), parse_options(options))
        assert found.kind == "statefulsets" and found.workload["kind"] == "StatefulSet"
        container: Any = found.workload["spec"]["template"]["spec"]["containers"][0]
        assert container["volumeMounts"] == [{"name": "buildkitd", "mountPath": place}]


def test_a_rootless_builder_has_the_image_and_no_privileges() -> None:
    found = builder_objects(Node("n", ""), parse_options({"rootless": "true"}))
    container: Any = found.workload["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "moby/buildkit:buildx-stable-1-rootless"
    assert "privileged" not in container["securityContext"]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("replica", "1", "no option 'replica'"),
        ("requests.gpu", "1", "no option"),
        ("replicas", "none", "not a number"),
        ("replicas", "0", "not a number"),
        ("limits.memory", "4 GB", "not a quantity"),
        ("rootless", "maybe", "neither true nor false"),
        ("qemu.install", "maybe", "neither true nor false"),
        ("loadbalance", "best", "neither sticky nor random"),
        ("timeout", "soon", "not a duration"),
        ("nodeselector", "a", "not KEY=VALUE"),
        ("labels", "app=x", "driver's own"),
        ("annotations", "buildx.docker.com/platform=x", "driver's own"),
        ("tolerations", "effects=x", "no 'effects'"),
    ],
)
def test_options_that_cannot_be_used_are_named(name: str, value: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parse_options({name: value})


def test_a_node_needs_a_name_that_kubernetes_takes() -> None:
    for name in ("Upper", "a.b", "-a", "a" * 64):
        with pytest.raises(UsageError, match="cannot be the name of a Deployment"):
            builder_objects(Node(name, ""), parse_options({}))
