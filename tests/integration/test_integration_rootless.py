"""An ordinary user builds what root builds, and changes nothing on the machine."""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builds import PLATFORMS, Shipline, context
from nodes import Node, node
from peers import Account, Registry, docker_registry
from roots import busybox_root
from shipline.oci import Platform
from shipline.sandbox import register
from shipline.sandbox.emulation import exit_program, handlers
from users import User, ordinary_user

pytestmark = [pytest.mark.peers, pytest.mark.root]

OUTER = ("unshare", "--user", "--map-users=0:0:400000", "--map-groups=0:0:400000", "--mount")
OWN_BINFMT = (
    'mount -t binfmt_misc none /proc/sys/fs/binfmt_misc; {}; "$@"; ls /proc/sys/fs/binfmt_misc'
)
NO_NAMESPACES = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'

EVERYTHING = r"""
FROM alpine AS tools
RUN addgroup -S app && adduser -S -G app app && chown -R app:app /srv /opt \
    && rm -r /media /etc/motd && rm -r /home && mkdir /home && mv /usr/lib /usr/lib2 \
    && touch /setuid && chmod 4755 /setuid && ln /setuid /hard && mkfifo /fifo \
    && mv /usr/lib2 /usr/lib
USER app
RUN --mount=type=cache,target=/cache,uid=100,gid=101 echo mine >> /cache/x && id -u > /tmp/id
FROM alpine
COPY --from=tools --chown=33:34 /setuid /hard /files/
COPY --from=tools / /all/
COPY --chown=1000:65534 file a.tar /context/
ADD a.tar /unpacked/
RUN --mount=type=secret,id=s,uid=7,mode=0400 --mount=type=tmpfs,target=/t --network=none \
    stat -c '%u %a' /run/secrets/s > /secret && rm -r /all/etc && uname -m > /machine
WORKDIR /made/by/workdir
"""


@dataclass(frozen=True)
class Place:
    """Where images go to, and where base images come from."""

    node: Node
    mirror: str

    def build(
        self, user: User, dockerfile: str, *words: str, name: str = "user", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        directory = user.home / name
        make_context(directory, dockerfile)
        user.give(directory)
        tag = ("-t", f"{self.node.address}/{name}")
        mirrors = f"docker.io=http://{self.mirror}"
        command = ("build", "--progress=plain", *tag, *words, str(directory))
        return user.run(*command, SHIPLINE_MIRRORS=mirrors, **environment)


def make_context(directory: Path, dockerfile: str) -> None:
    context(directory, dockerfile, file="content\n", secret="secret")
    os.utime(directory / "file", (0, 0))
    shutil.make_archive(
        str(directory / "a"), "tar", directory, "file", owner="daemon", group="root"
    )
    shutil.copy2(busybox_root() / "bin" / "busybox", directory / "busybox")


@pytest.fixture
def place(tmp_path: Path, base_images: Registry) -> Iterator[Place]:
    with node(tmp_path / "node") as running:
        yield Place(running, base_images.address)


@pytest.fixture
def user() -> Iterator[User]:
    with ordinary_user(subids=True) as somebody:
        yield somebody


@pytest.fixture
def lone_user() -> Iterator[User]:
    """Without subordinate ids."""
    with ordinary_user(subids=False) as somebody:
        yield somebody


def reproducible(directory: Path) -> list[str]:
    flags = ["--platform", PLATFORMS, "--build-arg", "SOURCE_DATE_EPOCH=0", "--secret"]
    output = "type=registry,rewrite-timestamp=true"
    return [*flags, f"id=s,src={directory}/secret", "--output", output]


def test_the_image_is_the_one_that_root_builds(place: Place, user: User, tmp_path: Path) -> None:
    make_context(tmp_path / "root", EVERYTHING)
    root = Shipline(tmp_path / "home", place.mirror)
    by_root = tmp_path / "root.json"
    tag = ("-t", f"{place.node.address}/root", "--metadata-file", by_root)
    root.build(*tag, *reproducible(tmp_path / "root"), tmp_path / "root").ok()
    metadata = user.home / "metadata.json"
    words = (*reproducible(user.home / "user"), "--metadata-file", str(metadata))
    registered, mounts = handlers(), Path("/proc/self/mounts").read_text()
    for _ in range(2):  # the second build removes and replaces what the first one left
        done = place.build(user, EVERYTHING, *words, "--no-cache")
        assert done.returncode == 0, done.stdout
        assert digest(metadata) == digest(by_root)
    assert user.processes() == []
    assert str(user.place) not in mounts + Path("/proc/self/mounts").read_text()
    assert handlers() == registered
    assert list((user.state / "tmp").iterdir()) == []


def test_the_image_of_a_scanner_runs_without_root(place: Place, user: User, tmp_path: Path) -> None:
    scan = (
        """{\\"predicateType\\": \\"https://spdx.dev/Document\\", \\"predicate\\": {\\"id\\": 7}}"""
    )
    text = (
        f'FROM busybox\nCMD test -d $BUILDKIT_SCAN_SOURCE && echo "{scan}" > /run/out/sbom.json\n'
    )
    name = f"{place.node.address}/scanner"
    root = Shipline(tmp_path / "home", place.mirror)
    root.build("--push", "-t", name, context(tmp_path / "scanner", text)).ok()
    out = user.home / "out"
    words = (f"--sbom=generator={name}", "-o", str(out))
    for dockerfile in ("FROM scratch\nCOPY file /\n", "FROM scratch\nLABEL a=b\n"):
        done = place.build(user, dockerfile, *words)
        assert done.returncode == 0, done.stdout
        assert json.loads((out / "sbom.json").read_text())["predicate"] == {"id": 7}
        shutil.rmtree(out)


def digest(metadata: Path) -> str:
    return str(json.loads(metadata.read_text())["containerimage.digest"])


@pytest.mark.parametrize("known", ["", "arm64"])
def test_emulators_are_registered_for_the_build_alone(place: Place, known: str) -> None:
    """A host that knows one emulator keeps it, and learns of no other."""
    outer = (*OUTER, "sh", "-ec", OWN_BINFMT.format(register_one(known)), "sh")
    with ordinary_user(subids=True, outer=outer) as user:
        for architecture in ("amd64", "arm64", "riscv64"):
            program = user.home / f"exit-{architecture}"
            program.write_bytes(exit_program(Platform.normal("linux", architecture)))
            program.chmod(0o755)
        shutil.copytree(user.home, user.home / "user")
        platforms = ("--platform", "linux/arm64,linux/riscv64,linux/amd64")
        done = place.build(user, FOREIGN, *platforms, "--push")
    assert "exporting to image" in done.stdout and "RUN" in done.stdout, done.stdout
    listed = [word for word in done.stdout.split()[-4:] if word.startswith("qemu-")]
    assert listed == (["qemu-aarch64"] if known else [])


def register_one(architecture: str) -> str:
    """A shell command for it."""
    if not architecture:
        return ":"
    register(Platform("linux", "arm64"))
    (handler,) = (one for one in handlers() if one.name == "qemu-aarch64")
    return f"printf %s {shlex.quote(handler.definition())} > /proc/sys/fs/binfmt_misc/register"


def test_packages_are_listed_without_root(place: Place, user: User) -> None:
    package = '{\\"name\\":\\"a\\",\\"version\\":\\"1\\"}'
    made = f'mkdir -p /node_modules/a && echo "{package}" > /node_modules/a/package.json'
    out = user.home / "out"
    words = ("--sbom=true", "--provenance=true", "-o", str(out))
    done = place.build(user, f"FROM alpine\nRUN {made}\n", *words)
    assert done.returncode == 0, done.stdout
    assert "pkg:npm/a@1" in (out / "sbom.spdx.json").read_text()
    assert (out / "provenance.json").stat().st_uid == user.home.stat().st_uid


def test_the_cache_goes_with_one_command(place: Place, user: User) -> None:
    done = place.build(user, "FROM alpine\nRUN mkdir -m 0 /x && chown 7:7 /x\n", "--push")
    assert done.returncode == 0, done.stdout
    assert (user.state / "cache.db").stat().st_uid == user.home.stat().st_uid
    done = user.command("unshare", "--map-root-user", "--map-auto", "rm", "-r", str(user.state))
    assert done.returncode == 0 and not user.state.exists(), done.stdout


def test_without_home_it_is_that_of_the_user(place: Place, user: User) -> None:
    dockerfile = 'FROM scratch\nCOPY busybox /\nRUN ["/busybox", "true"]\n'
    make_context(user.home / "user", dockerfile)
    user.give(user.home / "user")
    command = (user.python, "-m", "shipline", "build", "-o", "out", str(user.home / "user"))
    done = user.command("env", "-u", "HOME", *command)
    assert done.returncode == 0 and user.state.is_dir(), done.stdout
    assert (user.home / "out" / "busybox").stat().st_uid == user.home.stat().st_uid


@pytest.mark.parametrize("kept", ["in the file", "by a helper"])
def test_credentials_are_those_of_the_user(user: User, tmp_path: Path, kept: str) -> None:
    secret = base64.b64encode(b"ann:secret").decode()
    helper = user.home / "docker-credential-mine"
    helper.write_text("""#!/bin/sh\necho '{"Username": "ann", "Secret": "secret"}'\n""")
    helper.chmod(0o755)
    make_context(user.home / "user", "FROM scratch\nCOPY file /\n")
    with docker_registry(tmp_path, account=Account("ann", "secret")) as registry:
        auths = {"auths": {registry.address: {"auth": secret}}}
        config = auths if kept == "in the file" else {"credsStore": "mine"}
        (user.home / ".docker").mkdir(mode=0o700)
        (user.home / ".docker" / "config.json").write_text(json.dumps(config))
        user.give(user.home)
        path = f"{user.home}:/usr/bin:/usr/sbin"
        tag = f"{registry.address}/team/app"
        done = user.run("build", "--push", "-t", tag, str(user.home / "user"), PATH=path)
    assert done.returncode == 0, done.stdout


def test_killed_it_leaves_no_process(place: Place, user: User) -> None:
    make_context(user.home / "user", "FROM busybox\nRUN echo begun && sleep 1000\n")
    user.give(user.home / "user")
    command = (user.python, "-m", "shipline", "build", "--progress=plain", "-o", "type=cacheonly")
    mirrors = f"docker.io=http://{place.mirror}"
    with user.start(*command, str(user.home / "user"), SHIPLINE_MIRRORS=mirrors) as process:
        assert process.stdout is not None
        assert any(line.endswith(" begun\n") for line in process.stdout)
        assert any("sleep" in line for line in user.processes())
        process.kill()
    deadline = time.monotonic() + 60
    while user.processes() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert user.processes() == []


def test_one_id_is_enough_for_files_of_root(place: Place, lone_user: User) -> None:
    dockerfile = 'FROM scratch\nCOPY busybox /\nRUN ["/busybox", "mkdir", "/made"]\n'
    done = place.build(lone_user, dockerfile, "--push")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "steps",
    [
        "FROM alpine\nRUN true\n",
        'FROM scratch\nCOPY --chown=5:6 busybox /\nRUN ["/busybox"]\n',
        'FROM scratch\nCOPY busybox /\nUSER 33\nRUN ["/busybox", "true"]\n',
        'FROM scratch\nCOPY busybox /\nRUN --mount=type=cache,target=/c,uid=3 ["/busybox"]\n',
    ],
    ids=["base", "chown", "user", "cache"],
)
def test_ids_out_of_reach_name_the_cure(place: Place, lone_user: User, steps: str) -> None:
    done = place.build(lone_user, steps, "--push")
    assert done.returncode == 10, done.stdout
    assert "this user cannot use" in done.stdout and "usermod --add-subuids" in done.stdout
    assert "Traceback" not in done.stdout and lone_user.processes() == []


FOREIGN = """
FROM scratch
ARG TARGETARCH
COPY exit-$TARGETARCH /exit
RUN ["/exit"]
"""
COPIES = "FROM alpine\nCOPY --chown=5:6 file /etc/new/\nWORKDIR /x\nUSER 33\n"


def test_what_needs_no_mount_needs_no_namespace(place: Place) -> None:
    outer = (*OUTER, "sh", "-ec", NO_NAMESPACES, "sh")
    with ordinary_user(subids=True, outer=outer) as user:
        done = place.build(user, COPIES, "--platform", PLATFORMS, "--push")
        assert done.returncode == 0, done.stdout
        done = place.build(user, "FROM alpine\nRUN true\n", "--push")
    assert done.returncode == 10 and "Traceback" not in done.stdout, done.stdout
    assert "sysctl -w user.max_user_namespaces=" in done.stdout


def test_root_of_a_container_needs_mounts_for_steps_alone(place: Place, tmp_path: Path) -> None:
    """Where CAP_SYS_ADMIN is missing, as it is in most containers."""
    command = ("setpriv", "--bounding-set=-sys_admin", sys.executable, "-m", "shipline", "build")
    environment = Shipline(tmp_path / "home", place.mirror).environ()
    said = []
    for step in ("COPY --from=busybox --chown=5:6 /bin /bin\nADD a.tar /", "RUN true"):
        make_context(tmp_path / "context", f"FROM alpine\n{step}\n")
        words = ("--push", "-t", f"{place.node.address}/x", str(tmp_path / "context"))
        done = subprocess.run((*command, *words), env=environment, capture_output=True, text=True)
        said.append((done.returncode, "another user than root" in done.stderr))
    assert said == [(0, False), (10, True)]


PROGRAM = """
import sys, threading
from shipline import api
from shipline.errors import SandboxError

if sys.argv[2] == "late":
    wait = threading.Event()
    threading.Thread(target=wait.wait).start()
    try:
        api.enter_user_namespace()
    except SandboxError as error:
        print(error, error.hint)
    wait.set()
    sys.exit()
api.enter_user_namespace()
context = api.Context(api.ContextKind.LOCAL, sys.argv[1])
for _ in range(2):
    result = api.build(api.BuildRequest(context, outputs=(api.Output("oci", "image"),)))
print(result.root.digest)
"""


@pytest.mark.parametrize(("when", "said"), [("early", "sha256:"), ("late", "several threads")])
def test_a_python_program_enters_first(user: User, when: str, said: str) -> None:
    dockerfile = 'FROM scratch\nCOPY busybox /\nRUN ["/busybox", "true"]\n'
    make_context(user.home / "user", dockerfile)
    user.give(user.home / "user")
    done = user.command(user.python, "-c", PROGRAM, str(user.home / "user"), when)
    assert done.returncode == 0 and said in done.stdout, done.stdout


def test_what_root_left_in_the_cache_is_replaced(place: Place, user: User) -> None:
    """As after a build with sudo that kept HOME."""
    dockerfile = "FROM alpine\nRUN --mount=type=cache,target=/c touch /c/x && echo 1 > /x\n"
    assert place.build(user, dockerfile, "--push").returncode == 0
    parts = sorted(one for one in user.state.iterdir() if not one.name.startswith("cache.db-"))
    assert {"cache.db", "content", "toc", "use.lock"} <= {one.name for one in parts}
    for number, part in enumerate(parts):
        for inside in (part, *part.rglob("*")):
            os.chown(inside, 0, 0, follow_symlinks=False)
            if not inside.is_symlink():
                inside.chmod(0o700 if inside.is_dir() else 0o600)
        done = place.build(user, f"{dockerfile}RUN echo {number}\n", "--push")
        assert done.returncode == 0, (part, done.stdout)
        assert done.stdout.count("was damaged") <= 1
    os.chown(user.state, 0, 0)
    user.state.chmod(0o755)
    done = place.build(user, dockerfile, "--push")
    assert done.returncode == 10 and "chown -R" in done.stdout, done.stdout
