"""The driver `kubernetes`, against an API server that checks objects as Kubernetes does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from builds import Shipline
from commands import run_shipline
from peers import Docker, Registry, newest
from peers.buildkit_relay import copy
from peers.kubernetes import KubernetesApi, buildkit_commands, kubernetes_api
from peers.registry import certificate
from shipline.builders.driver import State
from shipline.builders.instances import BuilderStore, Node
from shipline.builders.kubernetes import KubernetesDriver
from shipline.errors import BuilderError
from shipline.events import silent
from shipline.oci import Platform

pytestmark = [pytest.mark.peers, pytest.mark.root]

IMAGES = {
    "moby/buildkit:buildx-stable-1",
    "moby/buildkit:buildx-stable-1-rootless",
    "tonistiigi/binfmt:latest",
}
NAMESPACE = "builders"
CREATE = ("create", "--name=kube", "--driver=kubernetes")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, Path]]:
    """Certificates with their keys, of the server and of a client."""
    place = tmp_path_factory.mktemp("certificates")
    return {name: certificate(place, name) for name in ("server", "client")}


@pytest.fixture
def api(certificates: Mapping[str, tuple[Path, Path]], docker: Docker) -> Iterator[KubernetesApi]:
    """A cluster whose pods have the BuildKit of the engine."""
    commands = buildkit_commands(docker.host.removeprefix("unix://"))
    with kubernetes_api(
        certificates["server"],
        certificates["client"][0],
        tokens={"t0ken"},
        images=set(IMAGES),
        commands=commands,
    ) as running:
        yield running


class Cluster:
    """The program, with a kubeconfig."""

    def __init__(self, api: KubernetesApi, shipline: Shipline, place: Path, user: Any) -> None:
        self.api = api
        config = api.kubeconfig(place / "kubeconfig", user, NAMESPACE)
        self.environ = shipline.environ() | {
            "BUILDX_CONFIG": str(place / "buildx"),
            "KUBECONFIG": str(config),
            "TOKEN": "hunter2",
        }
        self.shipline = Shipline(shipline.home, shipline.mirror, self.environ)

    def builder(self, *words: str, status: int = 0) -> str:
        """`shipline builder WORDS`: what it prints, or says if it fails as it should."""
        done = run_shipline("builder", *words, environ=self.environ, stdin=b"", timeout_s=90)
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    def driver(self, **options: str) -> KubernetesDriver:
        """The driver of the node that `shipline builder create` makes."""
        words = [f"--driver-opt={name}={value}" for name, value in options.items()]
        self.builder(*CREATE, *words)
        builder = BuilderStore.of(self.environ).find("kube")
        assert builder is not None
        return KubernetesDriver(builder.nodes[0], self.environ, 20)

    def workload(self, kind: str = "deployments") -> Any:
        (found,) = self.api.of(kind, NAMESPACE)
        return found


@pytest.fixture
def cluster(api: KubernetesApi, base_images: Registry, docker: Docker, tmp_path: Path) -> Cluster:
    shipline = Shipline(tmp_path / "home", base_images.address, {"DOCKER_HOST": docker.host})
    return Cluster(api, shipline, tmp_path, {"token": "t0ken"})


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    (place / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=secret,id=t wc -c < /run/secrets/t > /size\nCOPY f /f\n"
    )
    (place / "f").write_text("content")
    return place


BUILD = ("--builder=kube", "--network=none", "--secret=id=t,env=TOKEN")


def test_a_build_runs_in_a_pod_and_gives_the_same_files(
    cluster: Cluster, context: Path, tmp_path: Path
) -> None:
    with silent() as step:
        cluster.driver(replicas="2").boot(step)
    for builder in ("kube", "native"):
        out = tmp_path / builder
        cluster.shipline.build(*BUILD, f"--builder={builder}", "-o", out, context).ok()
        assert (out / "size").read_text() == "7\n" and (out / "f").read_text() == "content"
    pods = {pod for pod, command in cluster.api.executed if command == "buildctl dial-stdio"}
    assert len(pods) <= 2
    before = len(cluster.api.executed)
    for _ in range(4):
        cluster.shipline.build(*BUILD, context).ok()
    assert len({pod for pod, _ in cluster.api.executed[before:]}) == 1


OPTIONS: Mapping[str, Mapping[str, str]] = {
    "plain": {},
    "all": {
        "replicas": "2",
        "requests.cpu": "100m",
        "requests.memory": "1Gi",
        "requests.ephemeral-storage": "1Gi",
        "limits.cpu": "2",
        "limits.memory": "2G",
        "limits.ephemeral-storage": "3Gi",
        "buildkit-root-volume-memory": "1Gi",
        "serviceaccount": "sa",
        "schedulername": "sch",
        "nodeselector": "kubernetes.io/arch=amd64",
        "annotations": "a.example/x=1",
        "labels": "l=m",
        "tolerations": "key=a,operator=Exists;key=b,value=c,effect=NoSchedule,tolerationSeconds=60",
        "qemu.install": "true",
        "env.FOO": "bar",
    },
    "rootless": {"rootless": "true", "image": "moby/buildkit:buildx-stable-1-rootless"},
}


def buildx_objects(
    cluster: Cluster, docker: Docker, toml: Path, options: Mapping[str, str]
) -> tuple[Any, Any]:
    """The Deployment and the ConfigMap of buildx, which cannot connect: it speaks SPDY."""
    environ = {**docker.environment, **cluster.environ, **newest()}
    environ["DOCKER_CONFIG"] = str(docker.config)
    words = [f'--driver-opt="{name}={value}"' for name, value in options.items()]
    words += ["--driver=kubernetes", "--name=theirs", "--node=kube0", "--platform=linux/amd64"]
    words += [f"--buildkitd-config={toml}", "--buildkitd-flags=--debug"]
    subprocess.run(["docker", "buildx", "create", *words], env=environ, check=True)
    process = subprocess.Popen(
        ["docker", "buildx", "inspect", "--bootstrap", "theirs"],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while not cluster.api.of("deployments", NAMESPACE):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    (config,) = cluster.api.of("configmaps", NAMESPACE)
    found = cluster.workload(), config
    cluster.api.objects.clear()
    return found


def significant(one: Any) -> Any:
    """An object without fields that are empty, or the server's."""
    if isinstance(one, dict):
        found = {name: significant(value) for name, value in one.items()}
        ours = ("status", "uid", "namespace", "creationTimestamp", "strategy")
        return {key: value for key, value in found.items() if key not in ours and value}
    return [significant(part) for part in one] if isinstance(one, list) else one


@pytest.mark.parametrize("name", OPTIONS)
def test_the_objects_are_those_of_buildx(
    cluster: Cluster, docker: Docker, tmp_path: Path, name: str
) -> None:
    toml = tmp_path / "buildkitd.toml"
    toml.write_text("debug = true\n")
    theirs, their_config = map(significant, buildx_objects(cluster, docker, toml, OPTIONS[name]))
    node = Node(
        "kube0",
        "kubernetes:///kube",
        (Platform.parse("linux/amd64"),),
        OPTIONS[name],
        ("--allow-insecure-entitlement=network.host", "--debug"),
        {"buildkitd.toml": b"debug = true\n"},
    )
    with silent() as step:
        KubernetesDriver(node, cluster.environ, 20).boot(step)
    ours = significant(cluster.workload())
    (our_config,) = map(significant, cluster.api.of("configmaps", NAMESPACE))
    container = ours["spec"]["template"]["spec"]["containers"][0]
    assert container["readinessProbe"].pop("timeoutSeconds") == 30  # of 1, under load
    if name == "rootless":
        # the field of Kubernetes 1.30 beside the annotation before it, which is the pods' alone
        assert container["securityContext"].pop("appArmorProfile") == {"type": "Unconfined"}
        container["args"].remove("--config=/etc/buildkit/buildkitd.toml")  # or it is not read
        for one in (theirs, their_config):
            del one["metadata"]["annotations"][
                "container.apparmor.security.beta.kubernetes.io/buildkitd"
            ]
    theirs["spec"]["template"]["spec"]["containers"][0]["args"].sort()
    container["args"].sort()
    assert ours == theirs
    assert our_config == their_config


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"image": "example.com/missing:1"}, "ImagePullBackOff"),
        ({"nodeselector": "disk=none", "timeout": "1s"}, "Unschedulable"),
        ({"requests.cpu": "64", "timeout": "1s"}, "Insufficient cpu"),
        ({"replicas": "20"}, "exceeded quota"),
        (
            {"replicas": "20", "timeout": "1s", "persistent-volume-claim.requests.storage": "1Gi"},
            "exceeded quota",
        ),
        ({"serviceaccount": ""}, ""),
    ],
    ids=["image", "node", "cpu", "quota", "quota-claims", "none"],
)
def test_pods_that_do_not_start_say_why_and_leave_nothing(
    cluster: Cluster, options: Mapping[str, str], problem: str
) -> None:
    driver = cluster.driver(**options)
    if not problem:
        with silent() as step:
            driver.boot(step)
        driver.remove(keep_state=False, keep_daemon=False)
    else:
        with silent() as step, pytest.raises(BuilderError, match=problem):
            driver.boot(step)
    for kind in ("deployments", "statefulsets", "configmaps"):
        assert not cluster.api.of(kind, NAMESPACE)


def test_a_crash_shows_the_log_of_the_pod(cluster: Cluster) -> None:
    node = Node("kube0", "", flags=("--no-such-flag",))
    with silent() as step, pytest.raises(BuilderError, match=r"not defined: --no-such-flag"):
        KubernetesDriver(node, cluster.environ, 20).boot(step)


def test_stopped_pods_come_back_and_a_removed_builder_keeps_its_cache_if_told(
    cluster: Cluster,
) -> None:
    driver = cluster.driver(**{"persistent-volume-claim.requests.storage": "1Gi", "replicas": "2"})
    assert driver.state() is State.INACTIVE
    for _ in range(2):
        with silent() as step:
            driver.boot(step)
        assert driver.state() is State.RUNNING
        assert len(cluster.api.of("pods", NAMESPACE)) == 2
        driver.stop()
        assert driver.state() is State.STOPPED and not cluster.api.of("pods", NAMESPACE)
    driver.remove(keep_state=True, keep_daemon=False)
    assert len(cluster.api.of("persistentvolumeclaims", NAMESPACE)) == 2
    driver.remove(keep_state=False, keep_daemon=False)
    assert not cluster.api.of("persistentvolumeclaims", NAMESPACE)
    assert not cluster.api.of("statefulsets", NAMESPACE)


def test_a_builder_is_made_stopped_started_and_removed(
    cluster: Cluster, context: Path, docker: Docker
) -> None:
    options = '--driver-opt=replicas=2,"labels=team=a,tier=b"'
    cluster.builder(*CREATE, options, "--bootstrap", "--buildkitd-flags=--debug")
    assert cluster.workload()["metadata"]["labels"] == {"app": "kube0", "team": "a", "tier": "b"}
    assert "running" in cluster.builder("ls")
    cluster.builder("stop", "kube")
    assert not cluster.api.of("pods", NAMESPACE) and "stopped" in cluster.builder("ls")
    cluster.shipline.build(*BUILD, context).ok()
    assert len(cluster.api.of("pods", NAMESPACE)) == 2
    environ = {**docker.environment, **cluster.environ, **newest()}
    environ["DOCKER_CONFIG"] = str(docker.config)
    words = ["docker", "buildx", "rm", "kube", "--keep-daemon"]  # it is theirs as well
    assert subprocess.run(words, env=environ, capture_output=True).returncode == 0
    cluster.builder(*CREATE, options)
    cluster.builder("rm", "kube")
    assert not cluster.api.of("deployments", NAMESPACE) and "kube" not in cluster.builder("ls")


def test_an_interruption_while_pods_start_leaves_nothing(cluster: Cluster) -> None:
    words = [*CREATE, "--bootstrap", "--driver-opt=nodeselector=disk=none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "shipline", "builder", *words],
        env=cluster.environ,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not cluster.api.of("pods", NAMESPACE):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said.decode()
    assert not cluster.api.of("deployments", NAMESPACE) and "kube" not in cluster.builder("ls")


def version_of(cluster: Cluster, driver: KubernetesDriver | None = None) -> str:
    """Boot and ask."""
    found = driver or KubernetesDriver(Node("kube0", ""), cluster.environ, 20)
    with silent() as step:
        found.boot(step)
    with found.open() as control:
        return control.version()


def test_an_older_api_server_is_spoken_to_as_well(cluster: Cluster) -> None:
    cluster.api.protocols = ("v4.channel.k8s.io",)
    assert version_of(cluster)


def test_users_are_those_of_the_kubeconfig(
    cluster: Cluster,
    api: KubernetesApi,
    certificates: Mapping[str, tuple[Path, Path]],
    tmp_path: Path,
) -> None:
    certificate_, key = certificates["client"]
    plugin = tmp_path / "plugin"
    plugin.write_text(
        f"#!{sys.executable}\nimport json, os\n"
        "asked = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "assert asked['kind'] == 'ExecCredential' and os.environ['WORD'] == 'x'\n"
        "print(json.dumps({**asked, 'status': {'token': os.environ['T']}}))\n"
    )
    plugin.chmod(0o755)
    executed = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "./plugin",
        "env": [{"name": "WORD", "value": "x"}, {"name": "T", "value": "t0ken"}],
        "interactiveMode": "Never",
    }
    (tmp_path / "token").write_text("t0ken\n")
    users: list[dict[str, Any]] = [
        {"client-certificate": str(certificate_), "client-key": str(key)},
        {"exec": executed},
        {"tokenFile": "token"},
    ]
    for user in users:
        api.kubeconfig(tmp_path / "kubeconfig", user, NAMESPACE)
        assert version_of(cluster)
    for user, problem in (
        ({"token": "other"}, "Unauthorized"),
        ({"exec": {**executed, "command": "./missing"}}, "cannot be run"),
    ):
        api.kubeconfig(tmp_path / "kubeconfig", user, NAMESPACE)
        with pytest.raises(BuilderError, match=problem) as caught:
            version_of(cluster)
        assert "other" not in caught.value.message


def test_what_the_user_may_not_do_is_named(cluster: Cluster) -> None:
    cluster.api.refused = {"create pods/exec"}
    with pytest.raises(BuilderError, match='cannot create resource "pods/exec"') as caught:
        version_of(cluster)
    assert "docs/builders.md" in caught.value.hint
    cluster.api.refused = {"create deployments"}
    cluster.api.objects.clear()
    with pytest.raises(BuilderError, match='cannot create resource "deployments"'):
        version_of(cluster)


def test_a_busy_api_server_is_asked_again(cluster: Cluster) -> None:
    cluster.api.busy = 2
    assert version_of(cluster)


def test_a_certificate_that_is_not_known_is_refused(
    cluster: Cluster, api: KubernetesApi, tmp_path: Path
) -> None:
    api.ca = certificate(tmp_path, "stranger")[0]
    api.kubeconfig(tmp_path / "kubeconfig", {"token": "t0ken"}, NAMESPACE)
    with pytest.raises(BuilderError, match="cannot be trusted"):
        version_of(cluster)


def test_a_pod_that_is_lost_ends_the_build_with_its_name(cluster: Cluster, context: Path) -> None:
    version_of(cluster, cluster.driver())
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 60\n")
    process = cluster.shipline.start(*BUILD, "--progress=plain", context)
    said = b""
    assert process.stderr is not None
    while b"begun\n" not in said:
        line = process.stderr.readline()
        assert line, said.decode()
        said += line
    cluster.api.end_commands()
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 14, rest.decode()
    assert b"builders/kube0-" in rest and b"exit code -9" in rest


def test_a_container_without_buildkit_says_so(cluster: Cluster) -> None:
    cluster.api.commands.clear()
    with pytest.raises(BuilderError, match="executable file not found"):
        version_of(cluster)


def test_a_pod_is_reached_by_its_name(cluster: Cluster, context: Path, tmp_path: Path) -> None:
    version_of(cluster)
    (pod,) = cluster.api.of("pods", NAMESPACE)
    name = pod["metadata"]["name"]
    endpoint = f"kube-pod://{name}?namespace={NAMESPACE}"
    cluster.builder("create", "--name=kube", endpoint, "--bootstrap")
    cluster.shipline.build(*BUILD, "-o", tmp_path / "out", context).ok()
    assert (tmp_path / "out/size").read_text() == "7\n"
    cluster.builder("create", "--name=gone", "kube-pod://gone")
    said = cluster.builder("inspect", "gone", "--bootstrap", status=14)
    assert "there is no pod builders/gone" in said


def test_kubectl_finds_the_api_server_in_order(cluster: Cluster) -> None:
    """The peer itself, seen by another client."""
    cluster.api.commands["cat"] = ["cat"]
    version_of(cluster)
    (pod,) = cluster.api.of("pods", NAMESPACE)
    done = subprocess.run(
        ["kubectl", "exec", "-i", pod["metadata"]["name"], "--", "cat"],
        env={**os.environ, **newest(), "KUBECONFIG": cluster.environ["KUBECONFIG"]},
        input=b"x" * 100_000,
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == b"x" * 100_000, done.stderr


@contextmanager
def http_proxy() -> Iterator[tuple[int, list[str]]]:
    """The port of a proxy for tunnels, and the heads of the requests that it has had."""
    heads: list[str] = []

    def serve(client: socket.socket) -> None:
        with client:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            heads.append(head.decode())
            host, _, port = heads[-1].split()[1].rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=copy, args=(server.recv, client.sendall))
                back.start()
                copy(client.recv, server.sendall)
                with suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)
                back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1], heads
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_cluster_behind_a_proxy_is_reached_through_it(
    cluster: Cluster, api: KubernetesApi, tmp_path: Path
) -> None:
    path = tmp_path / "kubeconfig"
    with http_proxy() as (port, heads):
        document = json.loads(path.read_text())
        document["clusters"][0]["cluster"]["proxy-url"] = f"http://me:word@127.0.0.1:{port}"
        path.write_text(json.dumps(document))
        assert version_of(cluster)
    target = api.url.removeprefix("https://")
    assert heads and all(head.startswith(f"CONNECT {target} HTTP/1.") for head in heads)
    assert all("Proxy-Authorization: Basic bWU6d29yZA==" in head for head in heads)
