"""Real clients at a node with accounts and TLS: they log in, push, pull, and are refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from commands import run
from guarded import ADMIN, Guarded, guarded
from layouts import write_layout
from peers import Docker

pytestmark = pytest.mark.peers

# docker verifies no certificate of a loopback address; each process that runs tests has its own
ADDRESS = f"192.0.2.{1 + os.getpid() % 254}"
BIN = Path(sys.executable).parent


@dataclass
class Clients:
    """A node at an address of its own, and what every client of it is given."""

    node: Guarded
    certs: Path
    layout: Path
    login: str
    secret: str
    outputs: list[str] = field(default_factory=list)

    @property
    def image(self) -> str:
        return f"{self.node.address}/team/app"

    @property
    def ca(self) -> Path:
        return self.certs / "ca.crt"

    def run(self, *words: str | Path, stdin: str = "", **more: str) -> str:
        """Run it; its output, which must be of a success."""
        done = self.attempt(*words, stdin=stdin, **more)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def attempt(
        self, *words: str | Path, stdin: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **more}
        done = run(*words, environ=environ, stdin=stdin)
        done.stdout += done.stderr
        self.outputs.append(done.stdout)
        return done


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """An address of this machine that is not in 127.0.0.0/8."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and ip")
    change = ["ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo"]
    if subprocess.run(change, check=False).returncode:
        pytest.skip("addresses cannot be added here")
    yield ADDRESS
    subprocess.run(["ip", "address", "del", f"{ADDRESS}/32", "dev", "lo"], check=False)


@pytest.fixture(scope="module")
def clients(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    work = tmp_path_factory.mktemp("clients")
    with guarded(work / "data", listen=f"{address}:0") as node:
        certs = work / "certs.d"
        certs.mkdir()
        shutil.copy(node.data / "tls" / "ca.crt", certs / "ca.crt")
        node.project("team")
        robot = node.robot_login("ci", "team", "pull", "push")
        layout = write_layout(work / "layout")
        clients = Clients(node, certs, layout, *robot)
        skopeo(clients, "login", "--password-stdin", stdin=robot[1])
        source = f"oci:{layout}:latest"
        skopeo(clients, "copy", "--dest-cert-dir", source, f"docker://{clients.image}:v1")
        yield clients


def skopeo(clients: Clients, verb: str, option: str, *words: str | Path, stdin: str = "") -> str:
    """skopeo with the CA and its own file of logins."""
    auth = clients.certs / "auth.json"
    common: list[str | Path] = ["skopeo", verb, "--authfile", auth]
    if verb == "login":
        name = ("--cert-dir", clients.certs, "-u", clients.login, option, clients.node.address)
        return clients.run(*common, *name, stdin=stdin)
    return clients.run(*common, option, clients.certs, *words)


def test_skopeo_reads_what_it_pushed(clients: Clients) -> None:
    assert '"v1"' in skopeo(clients, "list-tags", "--cert-dir", f"docker://{clients.image}")
    inspected = skopeo(clients, "inspect", "--cert-dir", f"docker://{clients.image}:v1")
    assert "sha256:" in inspected


def test_skopeo_without_a_login_is_refused(clients: Clients) -> None:
    image = f"docker://{clients.image}:v1"
    done = clients.attempt("skopeo", "inspect", "--no-creds", "--cert-dir", clients.certs, image)
    assert done.returncode and "denied" in done.stdout


def test_a_client_without_the_ca_is_refused(clients: Clients) -> None:
    done = clients.attempt("skopeo", "inspect", "--no-creds", f"docker://{clients.image}:v1")
    assert done.returncode and "certificate" in done.stdout


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_podman_and_buildah_log_in_and_out(clients: Clients, program: str, tmp_path: Path) -> None:
    if not shutil.which(program):
        pytest.skip(f"needs {program}")
    common = ("--authfile", tmp_path / "auth.json", "--cert-dir", clients.certs)
    words = (program, "login", *common, "-u", clients.login, "--password-stdin")
    assert "Succeeded" in clients.run(*words, clients.node.address, stdin=clients.secret)
    assert clients.attempt(*words, clients.node.address, stdin="wrong").returncode
    logout = (program, "logout", "--authfile", tmp_path / "auth.json", clients.node.address)
    clients.run(*logout)


def test_oras_pushes_and_discovers(clients: Clients, tmp_path: Path) -> None:
    if not shutil.which("oras"):
        pytest.skip("needs oras")
    (tmp_path / "note.txt").write_text("a note")
    common = ("--ca-file", clients.ca, "--registry-config", tmp_path / "config.json")
    words = ("oras", "login", *common, "-u", clients.login, "--password-stdin")
    clients.run(*words, clients.node.address, stdin=clients.secret)
    image = f"{clients.image}:v1"
    note = "note.txt:text/plain"
    attach = ("oras", "attach", *common, "--artifact-type", "text/note", image, note)
    done = subprocess.run([str(word) for word in attach], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "text/note" in clients.run("oras", "discover", *common, image)


def test_docker_logs_in_pulls_and_pushes(clients: Clients, classic: Docker) -> None:
    place = Path("/etc/docker/certs.d") / clients.node.address
    login = ("login", "-u", clients.login, "--password-stdin", clients.node.address)
    refused = classic.run(*login, input=clients.secret.encode())
    assert refused.returncode and "certificate" in refused.stdout
    place.mkdir(parents=True)
    try:
        shutil.copy(clients.ca, place / "ca.crt")
        wrong = classic.run(*login, input=b"wrong")
        assert wrong.returncode and "unauthorized" in wrong.stdout.lower()
        done = classic.run(*login, input=clients.secret.encode())
        assert done.returncode == 0, done.stdout
        for words in (
            ("pull", f"{clients.image}:v1"),
            ("tag", f"{clients.image}:v1", f"{clients.image}:docker"),
            ("push", f"{clients.image}:docker"),
        ):
            done = classic.run(*words)
            assert done.returncode == 0, done.stdout
        elsewhere = f"{clients.node.address}/other/app:v1"
        classic.run("tag", f"{clients.image}:v1", elsewhere)
        refused = classic.run("push", elsewhere)
        assert refused.returncode and "denied" in refused.stdout.lower()
        assert classic.run("logout", clients.node.address).returncode == 0
        assert classic.run("pull", f"{clients.image}:v1").returncode
    finally:
        shutil.rmtree(place)


def test_docker_with_the_store_of_containerd_takes_a_basic_challenge(
    clients: Clients, docker: Docker, address: str, tmp_path: Path
) -> None:
    """It asks the token service without the CA of certs.d (moby issue 52361), so do not send it."""
    configuration = tmp_path / "shipline.yaml"
    configuration.write_text("registry:\n  access:\n    challenge: basic\n")
    options = ("--config", str(configuration), "--public-project", "open")
    with guarded(tmp_path / "data", *options, listen=f"{address}:0") as node:
        place = Path("/etc/docker/certs.d") / node.address
        place.mkdir(parents=True)
        try:
            shutil.copy(node.data / "tls" / "ca.crt", place / "ca.crt")
            source, image = f"oci:{clients.layout}:latest", f"{node.address}/open/app:v1"
            words = ("skopeo", "copy", "--dest-cert-dir", place, "--dest-creds")
            clients.run(*words, f"{ADMIN}:{node.password}", source, f"docker://{image}")
            assert docker.run("pull", image).returncode == 0
            login = ("login", "-u", ADMIN, "--password-stdin", node.address)
            assert docker.run(*login, input=node.password.encode()).returncode == 0
            mine = f"{node.address}/mine/app:v1"
            for step in (("tag", image, mine), ("push", mine), ("pull", mine)):
                done = docker.run(*step)
                assert done.returncode == 0, done.stdout
            docker.run("logout", node.address)
        finally:
            shutil.rmtree(place)


def test_docker_keeps_a_persons_refresh_token(clients: Clients, classic: Docker) -> None:
    """A person's password is not written to config.json: the refresh token is, and it works."""
    place = Path("/etc/docker/certs.d") / clients.node.address
    place.mkdir(parents=True)
    try:
        shutil.copy(clients.ca, place / "ca.crt")
        login = ("login", "-u", ADMIN, "--password-stdin", clients.node.address)
        done = classic.run(*login, input=clients.node.password.encode())
        assert done.returncode == 0, done.stdout
        kept = (classic.config / "config.json").read_text()
        assert "identitytoken" in kept and clients.node.password not in kept
        assert classic.run("pull", f"{clients.image}:v1").returncode == 0
        with clients.node.accounts() as accounts:
            assert accounts.revoke(ADMIN) >= 1
        assert classic.run("pull", f"{clients.image}:v1").returncode
        classic.run("logout", clients.node.address)
    finally:
        shutil.rmtree(place)


def test_our_own_client_logs_in_and_copies(clients: Clients, tmp_path: Path) -> None:
    trust = {"SSL_CERT_FILE": str(clients.ca), "DOCKER_CONFIG": str(tmp_path)}
    words = ("shipline", "login", "-u", clients.login, "--password-stdin", "--store", "plain")
    clients.run(*words, clients.node.address, stdin=clients.secret, **trust)
    create = ("shipline", "imagetools", "create", "-t", f"{clients.image}:again")
    clients.run(*create, f"{clients.image}:v1", **trust)
    shown = clients.run("shipline", "imagetools", "inspect", f"{clients.image}:again", **trust)
    assert "sha256:" in shown


def test_curl_speaks_harbors_api(clients: Clients) -> None:
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    url = f"{clients.node.url}/api/v2.0/projects"
    words = ("curl", "-sS", "--cacert", clients.ca, "-K", "-", url)
    out = clients.run(*words, stdin=f'user = "{ADMIN}:{clients.node.password}"\n')
    assert '"team"' in out


def test_old_versions_of_tls_are_refused(clients: Clients) -> None:
    host = clients.node.address
    for version, good in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
        done = clients.attempt("openssl", "s_client", "-connect", host, version)
        assert ("Verification" in done.stdout and "Cipher is" in done.stdout) is good or (
            not good and "Cipher is (NONE)" in done.stdout
        ), done.stdout


def test_no_secret_is_in_anything_that_was_written(clients: Clients) -> None:
    """Logs, audit log, records: what the node wrote after it told the first password, once."""
    secrets = {*clients.node.secrets, clients.secret}
    assert len(secrets) >= 2
    log = clients.node.log.read_text()
    assert log.count(clients.node.password) == 1
    written = [log.replace(clients.node.password, "", 1).encode()]
    written += [file.read_bytes() for file in clients.node.data.rglob("*") if file.is_file()]
    for secret in secrets:
        assert not any(secret.encode() in content for content in written), secret[:4]
