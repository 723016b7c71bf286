"""The unit and the manifests of docs/registry hold together, and start this program."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from served import served
from shipline.cli.registry import serve
from shipline.config import loads
from shipline.errors import UsageError
from shipline.server import Storage
from shipline.server.http_server import open_listener

DOCS = Path(__file__).resolve().parents[3] / "docs" / "registry"
UNIT = DOCS / "shipline-registry.service"
_NOBODY = 65534


def manifests() -> dict[str, dict[str, Any]]:
    from ruamel.yaml import YAML

    documents = YAML(typ="safe").load_all((DOCS / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


def flags_of(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def known_flags() -> set[str]:
    return {name for option in serve.params for name in option.opts}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/shipline", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", copy],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_unit_starts_the_program_with_flags_it_has() -> None:
    (command,) = re.findall("^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert command.split()[1:3] == ["registry", "serve"]
    assert flags_of(command.split()) <= known_flags()


def test_systemd_is_notified_when_the_node_is_ready(tmp_path: Path) -> None:
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(str(place))
        service.settimeout(10)
        with served(tmp_path, NOTIFY_SOCKET=str(place)):
            assert service.recv(100) == b"READY=1"


def test_configuration_of_the_manifests_is_good() -> None:
    text = manifests()["ConfigMap"]["data"]["shipline.yaml"]
    registry = loads(text.encode(), "shipline.yaml", {}).registry
    assert registry is not None
    pod = manifests()["StatefulSet"]["spec"]["template"]["spec"]
    assert registry.drain_timeout.seconds < pod["terminationGracePeriodSeconds"]
    (container,) = pod["containers"]
    assert registry.listen.endswith(f":{container['ports'][0]['containerPort']}")
    assert registry.data in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert flags_of(container["args"]) <= known_flags()


def test_names_of_the_manifests_meet() -> None:
    found = manifests()
    stateful = found["StatefulSet"]["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    for selector in (
        stateful["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    pod = stateful["template"]["spec"]
    (container,) = pod["containers"]
    claims = {claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]}
    volumes = {volume["name"] for volume in pod["volumes"]} | claims
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} <= ports
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert stateful["serviceName"] == found["Service"]["metadata"]["name"]


def test_the_manifests_follow_the_schema_of_kubernetes() -> None:
    for manifest in manifests().values():
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.root
@pytest.mark.parametrize("foreign", ["metadata.db", "blobs/sha256", "uploads"])
def test_files_of_another_user_are_met_at_the_start(tmp_path: Path, foreign: str) -> None:
    data = tmp_path / "data"
    Storage(data).close()
    for path in (data, *data.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY)
    os.chown(data / foreign, 0, 0)
    reads = "-all,+dac_read_search"  # the sources, wherever they are
    only = [f"--{kind}={reads}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    serve = ["-m", "shipline", "registry", "serve", "--listen", "127.0.0.1:0", "--data", str(data)]
    done = subprocess.run(
        ["setpriv", f"--reuid={_NOBODY}", "--clear-groups", *only, sys.executable, *serve],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and f"{data / foreign} is not writable" in done.stderr
    assert "chown -R" in done.stderr


def test_an_address_that_cannot_be_bound_is_an_error_with_its_reason() -> None:
    with pytest.raises(UsageError) as refused:
        open_listener(("192.0.2.1", 0))
    assert "not an address of this machine" in str(refused.value.hint)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UsageError) as refused:
            open_listener(taken.getsockname())
        assert "the port is in use" in str(refused.value.hint)
