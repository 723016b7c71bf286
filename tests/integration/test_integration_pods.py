"""What builds in the pods of docs/kubernetes.md, with their settings given to runc by Docker: its
seccomp profile, masked paths and capabilities are those of Kubernetes' container runtimes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import shipline
from builds import context
from peers import Docker, Podman, Registry, git_server, podman
from pods import settings_of
from shipline.values import replace

pytestmark = [pytest.mark.peers, pytest.mark.root]
UID = 1000
ACCOUNTS = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nbuilder:x:{UID}:{UID}::/state:/bin/sh\n",
    "group": f"root:x:0:\nbuilder:x:{UID}:\n",
    "subuid": "builder:100000:65536\n",
    "subgid": "builder:100000:65536\n",
}
CAPABILITIES = {"newuidmap": "cap_setuid", "newgidmap": "cap_setgid"}
COPY = "FROM busybox\nLABEL a=b\nCOPY a /\n"
STAGES = "FROM busybox AS x\nFROM scratch\nCOPY --from=x /bin/busybox /\n"
RUN = "FROM busybox\nRUN --network=none echo a > /a\n"
OWNERS = """
FROM busybox AS x
FROM busybox
COPY --from=x /bin/busybox /other
COPY --chown=33:33 a /
USER 33
RUN --network=none id -u > /tmp/a
"""


@dataclass(frozen=True)
class Node:
    """A machine that runs pods: containers with the program and a directory for its state."""

    engine: Docker | Podman
    registry: Registry
    place: Path
    command: tuple[str, ...] = ("run",)

    def build(
        self, dockerfile: str, *settings: str, setuid: bool = False, source: str = "/context"
    ) -> tuple[int, str]:
        """The status and the output of a build that pushes; newuidmap has file capabilities, or is
        `setuid` as Debian installs it.
        """
        state, files = self.place / "state", self.place / "context"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        state.chmod(0o777)
        context(files, dockerfile, a="a\n")
        shown = {
            "/usr": "/usr",
            sys.base_prefix: "/python",
            str(Path(shipline.__file__).parents[1]): "/source",
            sysconfig.get_paths()["platlib"]: "/packages",
            str(files): "/context",
            **{str(self.place / name): f"/etc/{name}" for name in ACCOUNTS},
        }
        if not setuid:
            shown |= {str(self.place / name): f"/usr/bin/{name}" for name in CAPABILITIES}
        variables = {
            "HOME": "/state",
            "LD_LIBRARY_PATH": "/python/lib",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": "/source:/packages",
            "SHIPLINE_HOME": "/state/shipline",
            "SHIPLINE_MIRRORS": f"docker.io={self.registry.url}",
        }
        words = [*self.command, "--rm", "--network=host", *settings, f"--volume={state}:/state"]
        words += [f"--volume={source}:{target}:ro" for source, target in shown.items()]
        words += [f"--env={name}={value}" for name, value in variables.items()]
        words += [f"{self.registry.address}/library/usrmerge"]
        words += [f"/python/bin/{Path(sys.executable).resolve().name}", "-m"]
        words += ["shipline", "build", "--push", "-t", f"{self.registry.address}/pods:1"]
        done = self.engine.run(*words, source)
        return done.returncode, done.stdout


@pytest.fixture
def node(docker: Docker, base_images: Registry, tmp_path: Path) -> Iterator[Node]:
    for name, text in ACCOUNTS.items():
        (tmp_path / name).write_text(text)
    for name, capability in CAPABILITIES.items():  # as the image of docs/kubernetes.md has them
        tool = Path(shutil.copy(f"/usr/bin/{name}", tmp_path / name))
        tool.chmod(0o755)
        subprocess.run(["setcap", f"{capability}=ep", tool], check=True)
    yield Node(docker, base_images, tmp_path)


def test_a_restricted_pod_builds_what_runs_nothing(node: Node) -> None:
    settings = [*settings_of("build-pod-restricted.yaml")]
    assert {"--cap-drop=ALL", "--security-opt=no-new-privileges"} < set(settings)
    with git_server(node.place / "git") as server:
        repository = server.repository("app")
        repository.commit({"Dockerfile": COPY, "a": "a\n"})
        for source in ("/context", f"{server.url}/app.git#main"):
            status, said = node.build(COPY, *settings, source=source)
            assert status == 0, said
    for dockerfile in (STAGES, RUN):
        status, said = node.build(dockerfile, *settings)
        assert (status, "Traceback" in said) == (10, False), said
        assert "this user cannot use uid 0" in said and "seccomp profile must allow" in said


def test_root_in_a_baseline_pod_also_copies_from_one_layer(node: Node) -> None:
    copied = OWNERS.partition("USER")[0]
    status, said = node.build(copied, "--user=0")
    assert status == 0, said
    layers = copied.replace("AS x\n", "AS x\nCOPY a /\n")
    for dockerfile in (RUN, layers):
        status, said = node.build(dockerfile, "--user=0")
        assert (status, "Traceback" in said) == (10, False), said
        assert "cannot mount" in said and "overlay" in said


def test_a_pod_with_user_namespaces_builds_everything(node: Node) -> None:
    settings = [*settings_of("build-pod.yaml")]
    status, said = node.build(OWNERS, *settings)
    assert status == 0, said
    status, said = node.build(OWNERS, *settings, setuid=True)
    assert status == 10 and "setcap cap_setuid=ep /usr/bin/newuidmap" in said, said
    masked = [one for one in settings if "systempaths" not in one]
    status, said = node.build(RUN, *masked)
    assert status == 10 and "mount /proc failed: Operation not permitted" in said, said


def test_podman_has_a_name_of_its_own_for_the_same(node: Node) -> None:
    """Its profile lets an ordinary user create namespaces, but not name the host."""
    user, unmasked, unfiltered = (
        f"--user={UID}:{UID}",
        "--security-opt=unmask=ALL",
        "--security-opt=seccomp=unconfined",
    )
    with podman(node.place) as engine:
        command = ("--runtime=runc", "run", "--tls-verify=false")  # crun wants one kind of cgroups
        node = replace(node, engine=engine, command=command)
        status, said = node.build(OWNERS, user, unfiltered, unmasked)
        assert status == 0, said
        status, said = node.build(RUN, user, unfiltered)
        assert status == 10 and "for podman run --security-opt unmask=ALL" in said, said
        status, said = node.build(RUN, user, unmasked)
        assert status == 10 and "with --security-opt seccomp=unconfined" in said, said
