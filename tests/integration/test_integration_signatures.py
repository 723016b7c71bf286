"""cosign, skopeo and podman accept our signatures, we accept cosign's, and nobody others."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import commands
from nodes import node
from peers import Registry, docker_registry
from shipline.content import MemoryStore, copy_graph
from shipline.oci import (
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    Part,
    Platform,
    Reference,
    combine,
    media,
)
from shipline.registry import Client, HostSettings, RemoteRepository
from shipline.supply import (
    Form,
    PublicKey,
    SignatureRefused,
    attest,
    examine_attestations,
    generate_key,
    predicate_type,
    read_private_key,
    sign,
    statement_about,
    verify,
    verify_attestations,
)

pytestmark = pytest.mark.peers
PASSWORD = "a password with spaces"
TLOG = ("--insecure-ignore-tlog=true", "--allow-http-registry")
UPLOAD = ("--tlog-upload=false", "--allow-http-registry", "-y")
KEYS = ("ours", "other")
SIGN_TYPE = "https://sigstore.dev/cosign/sign/v1"


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")


@dataclass(frozen=True)
class Site:
    """One index of two images in a registry, and two pairs of keys that cosign made."""

    name: Reference
    index: Index
    repository: RemoteRepository
    keys: Path

    @property
    def pinned(self) -> str:
        return f"{self.name.name}@{self.index.descriptor.digest}"

    @property
    def target(self) -> Descriptor:
        return self.index.descriptor

    def public(self, name: str = "ours") -> PublicKey:
        return PublicKey.parse((self.keys / f"{name}.pub").read_bytes(), name)

    def sign(self, name: str = "ours", **options: object) -> None:
        key = read_private_key(self.keys / f"{name}.key", PASSWORD.encode)
        sign(self.repository, self.target, self.name, [key], **options)  # type: ignore[arg-type]


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return commands.run(*words, environ={**os.environ, "COSIGN_PASSWORD": PASSWORD, **environment})


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("cosign")
    directory = tmp_path_factory.mktemp("keys")
    for name in KEYS:
        good(run("cosign", "generate-key-pair", "--output-key-prefix", directory / name))
    return directory


@pytest.fixture(scope="module")
def own_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with node(tmp_path_factory.mktemp("node") / "data") as running:
        yield running.address


@pytest.fixture(params=["node", "docker-registry"])
def site(
    request: pytest.FixtureRequest, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A fresh repository: our node has the referrers API, Debian's registry has not."""
    if request.param == "node":
        address = str(request.getfixturevalue("own_node"))
    else:
        registry: Registry = request.getfixturevalue("registry")
        address = registry.address
    team = f"team{Digest.of(request.node.nodeid.encode()).short}"
    name = Reference.parse(f"{address}/{team}/app:v1")
    with Client() as client:
        repository = client.repository(name)
        yield Site(name, push_index(repository, team), repository, keys)


def push_index(repository: RemoteRepository, content: str) -> Index:
    parts = []
    for architecture in ("amd64", "arm64"):
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            entry = tarfile.TarInfo("hello")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
        layer = Descriptor.of(tar.getvalue(), media.OCI_LAYER)
        platform = Platform("linux", architecture)
        base = json.loads(ImageConfig(platform).to_bytes())
        base["rootfs"] = {"type": "layers", "diff_ids": [str(layer.digest)]}
        config = json.dumps(base).encode()
        manifest = Manifest.make(Descriptor.of(config, media.OCI_CONFIG), [layer])
        store = MemoryStore(tar.getvalue(), config, manifest.raw)
        copy_graph(store, repository, manifest.descriptor)
        parts.append(Part(manifest, platform))
    index = combine(parts)
    repository.tag(index.descriptor, MemoryStore(index.raw), "v1")
    return index


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trusted root without anything: cosign asks the network for one otherwise."""
    path = tmp_path_factory.mktemp("root") / "root.json"
    kind = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
    path.write_text(json.dumps({"mediaType": kind}))
    return path


def test_cosign_verifies_ours(site: Site) -> None:
    site.sign(annotations={"env": "prod"})
    images = [site.pinned, str(site.name)]
    images += [f"{site.name.name}@{one.digest}" for one in site.index.manifests]
    for image in images:
        key = ("--key", site.keys / "ours.pub")
        said = json.loads(good(run("cosign", "verify", *TLOG, *key, "-a", "env=prod", image)))
        assert said[0]["critical"]["identity"]["docker-reference"] == str(site.name)
        assert said[0]["optional"]["env"] == "prod"
        assert run("cosign", "verify", *TLOG, *key, "-a", "env=dev", image).returncode != 0
        other = ("--key", site.keys / "other.pub")
        assert run("cosign", "verify", *TLOG, *other, image).returncode != 0


def test_cosign_verifies_our_bundle(site: Site, root: Path) -> None:
    site.sign(forms=[Form.BUNDLE])
    options = ("--new-bundle-format", "--trusted-root", root, "--type", SIGN_TYPE)
    command = ("cosign", "verify-attestation", *TLOG, *options)
    good(run(*command, "--key", site.keys / "ours.pub", site.pinned))
    assert run(*command, "--key", site.keys / "other.pub", site.pinned).returncode != 0


@pytest.mark.parametrize("form", [(), ("--registry-referrers-mode", "oci-1-1")])
def test_we_verify_cosigns(site: Site, form: tuple[str, ...]) -> None:
    key = ("--key", site.keys / "ours.key")
    good(
        run(
            "cosign",
            "sign",
            *UPLOAD,
            *key,
            "-a",
            "a=b",
            *form,
            site.pinned,
            COSIGN_EXPERIMENTAL="1",
        )
    )
    found = verify(site.repository, site.target, site.name, [site.public()])
    (one,) = found.signatures
    assert one.form == ("referrer" if form else "tag")
    assert one.annotations == {"a": "b"} and one.signed_at is None
    with pytest.raises(SignatureRefused):
        verify(site.repository, site.target, site.name, [site.public("other")])


def test_each_keeps_the_signatures_of_the_other(site: Site) -> None:
    theirs = ("cosign", "sign", *UPLOAD, "--key", site.keys / "other.key", site.pinned)
    good(run(*theirs))
    site.sign(recursive=False)
    good(run(*theirs, "-a", "again=yes"))
    both = [site.public(), site.public("other")]
    found = verify(site.repository, site.target, site.name, both, threshold=2)
    assert len(found.signatures) == 4  # ours twice: tag and bundle
    for name in ("ours", "other"):
        good(run("cosign", "verify", *TLOG, "--key", site.keys / f"{name}.pub", site.pinned))


PREDICATES = {
    "custom": {"hello": "world"},
    "openvex": {"@context": "https://openvex.dev/ns", "statements": []},
    "cyclonedx": {"bomFormat": "CycloneDX", "specVersion": "1.6"},
    "spdxjson": {"spdxVersion": "SPDX-2.3"},
    "vuln": {"scanner": {"uri": "x"}, "metadata": {"scanFinishedOn": "2026-11-24T00:00:00Z"}},
    "slsaprovenance1": {
        "buildDefinition": {"buildType": "t", "externalParameters": {"a": 1}},
        "runDetails": {"builder": {"id": "b"}},
    },
    "https://in-toto.io/attestation/test-result/v0.1": {"result": "PASSED"},
}


def test_cosign_verifies_our_attestations(site: Site, root: Path) -> None:
    key = read_private_key(site.keys / "ours.key", PASSWORD.encode)
    for kind, predicate in PREDICATES.items():
        statement = statement_about(site.target, site.name, predicate_type(kind), predicate)
        attest(site.repository, site.target, statement, [key])
    bundle = ("--new-bundle-format", "--trusted-root", root)
    for form in ((), bundle):
        for kind in PREDICATES:
            command = ("cosign", "verify-attestation", *TLOG, *form, "--type", kind)
            good(run(*command, "--key", site.keys / "ours.pub", site.pinned))
        other = ("--key", site.keys / "other.pub")
        assert run(*command, *other, site.pinned).returncode != 0


@pytest.mark.parametrize("form", [(), ("--new-bundle-format",)])
def test_we_verify_cosigns_attestations(site: Site, tmp_path: Path, form: tuple[str, ...]) -> None:
    predicate = tmp_path / "predicate.json"
    predicate.write_text('{"a": 1}')
    for kind in ("openvex", "https://own.example/t/v1"):
        words = ("--key", site.keys / "ours.key", "--type", kind, "--predicate", predicate)
        good(run("cosign", "attest", *UPLOAD, *words, *form, site.pinned))
        uri, name = predicate_type(kind), site.name
        found = verify_attestations(site.repository, site.target, name, [site.public()], uri)
        (one,) = found.proven
        assert one.form == ("bundle" if form else "tag")
        assert one.statement.predicate == {"a": 1}
        stranger = [site.public("other")]
        assert not examine_attestations(site.repository, site.target, stranger, uri).proven


def test_our_command_line_and_cosigns_share_keys(site: Site, tmp_path: Path) -> None:
    good(run("shipline", "key", "generate", "-o", tmp_path / "new"))
    made = good(run("cosign", "public-key", "--key", tmp_path / "new.key"))
    assert made == (tmp_path / "new.pub").read_text()
    assert (tmp_path / "new.key").stat().st_mode & 0o777 == 0o600
    good(run("cosign", "sign", *UPLOAD, "--key", tmp_path / "new.key", site.pinned))
    good(run("shipline", "verify", "--key", tmp_path / "new.pub", site.pinned))


@pytest.mark.parametrize("site", ["docker-registry"], indirect=True)
@pytest.mark.parametrize("kind", ["EC -pkeyopt ec_paramgen_curve:P-384", "RSA", "ED25519"])
def test_every_kind_of_key_is_cosigns_too(site: Site, tmp_path: Path, kind: str) -> None:
    plain, made = tmp_path / "plain.pem", tmp_path / "made"
    good(run("openssl", "genpkey", "-out", plain, "-algorithm", *kind.split()))
    good(run("shipline", "key", "import", "--key", plain, "-o", made))
    good(run("shipline", "sign", "--key", f"{made}.key", "--no-recursive", site.pinned))
    good(run("cosign", "verify", *TLOG, "--key", f"{made}.pub", site.pinned))
    good(run("cosign", "sign", *UPLOAD, "--key", f"{made}.key", "-a", "by=cosign", site.pinned))
    good(run("shipline", "verify", "--key", f"{made}.pub", "-a", "by=cosign", site.pinned))


def test_a_stale_mirror_takes_no_signature_away(
    registry: Registry, keys: Path, tmp_path: Path
) -> None:
    name = Reference.parse(f"{registry.address}/mirrored/app:v1")
    ours, other = (read_private_key(keys / f"{one}.key", PASSWORD.encode) for one in KEYS)
    with docker_registry(tmp_path, name="mirror") as mirror, Client() as client:
        repository = client.repository(name)
        target = push_index(repository, "mirrored").descriptor
        sign(repository, target, name, [ours], forms=[Form.TAG], recursive=False)
        stale = repository.resolve(f"sha256-{target.digest.hex}.sig")
        goal = client.repository(Reference.parse(f"{mirror.address}/mirrored/app"))
        copy_graph(repository, goal, stale)
        goal.tag(stale, repository, f"sha256-{target.digest.hex}.sig")
        sign(repository, target, name, [other], forms=[Form.TAG], recursive=False)
        settings = HostSettings(mirrors={name.host: (mirror.url,)})
        with Client(settings) as mirrored:
            place, third = mirrored.repository(name), generate_key("third")
            sign(place, target, name, [third], forms=[Form.TAG], recursive=False)
        trusted = [ours.public, other.public, third.public]
        verify(client.repository(name), target, name, trusted, threshold=3)


def policy(directory: Path, site: Site, key: str, identity: str) -> tuple[Path, Path]:
    """A policy that demands our signature, and the setting that looks for such signatures."""
    rule = {"type": "sigstoreSigned", "keyPath": str(site.keys / f"{key}.pub")}
    path = directory / f"{key}-{identity}.json"
    path.write_text(
        json.dumps(
            {
                "default": [{"type": "reject"}],
                "transports": {
                    "docker": {site.name.host: [{**rule, "signedIdentity": {"type": identity}}]}
                },
            }
        )
    )
    registries = directory / "registries.d"
    registries.mkdir(exist_ok=True)
    (registries / "a.yaml").write_text("default-docker:\n  use-sigstore-attachments: true\n")
    return path, registries


@pytest.mark.parametrize("identity", ["matchRepoDigestOrExact", "matchRepository"])
def test_skopeo_demands_our_signature(site: Site, tmp_path: Path, identity: str) -> None:
    need("skopeo")
    rules, registries = policy(tmp_path, site, "ours", identity)
    strangers, _ = policy(tmp_path, site, "other", identity)

    def copy(rule: Path, place: str) -> subprocess.CompletedProcess[str]:
        words = ("--policy", rule, "--registries.d", registries, "copy", "--src-tls-verify=false")
        goal = f"dir:{tmp_path / place}"
        return run("skopeo", *words, "--remove-signatures", f"docker://{site.name}", goal)

    assert "no signature exists" in copy(rules, "before").stderr
    site.sign()
    good(copy(rules, "after"))
    assert copy(strangers, "stranger").returncode != 0


@pytest.mark.root
def test_podman_pulls_what_we_signed(site: Site, tmp_path: Path) -> None:
    need("podman")
    if os.geteuid():
        pytest.skip("needs root")
    rules, registries = policy(tmp_path, site, "ours", "matchRepoDigestOrExact")
    home = tmp_path / "home"
    (home / ".config" / "containers").mkdir(parents=True)
    registries.rename(home / ".config" / "containers" / "registries.d")
    places = ("--root", tmp_path / "root", "--runroot", tmp_path / "run", "--storage-driver", "vfs")
    pull = ("pull", "--tls-verify=false", "--signature-policy", rules)

    def podman() -> subprocess.CompletedProcess[str]:
        return run("podman", *places, *pull, str(site.name), HOME=str(home))

    assert "no signature exists" in podman().stderr
    site.sign()
    good(podman())


def test_the_command_line_signs_attests_and_verifies(site: Site, tmp_path: Path) -> None:
    key = ("--key", site.keys / "ours.key")
    for word in ("signed", "already signed"):
        done = run("shipline", "sign", *key, str(site.name))
        assert good(done).strip() == f"{site.name}@{site.target.digest}"
        assert len([line for line in done.stderr.splitlines() if line.endswith(word)]) == 3
        assert PASSWORD not in done.stderr + done.stdout
    public = ("--key", site.keys / "ours.pub")
    said = good(run("shipline", "verify", *public, "-o", "json", str(site.name)))
    assert {one["form"] for one in json.loads(said)} == {"tag", "bundle"}
    refused = run("shipline", "verify", "--key", site.keys / "other.pub", str(site.name))
    assert refused.returncode == 9 and "no trusted key signed it" in refused.stderr
    report = tmp_path / "report.json"
    report.write_text('{"result": "PASSED"}')
    words = ("--type", "test-result", str(site.name))
    good(run("shipline", "attest", *key, "--predicate", report, *words))
    good(run("shipline", "verify-attestation", *public, *words))
    assert run("shipline", "verify", *public, "--type", "vuln", str(site.name)).returncode == 9
    (tmp_path / "shipline.yaml").write_text(
        f"version: 1\ntrust:\n  keys: {{release: {site.keys / 'ours.pub'}}}\n"
        "  rules: [{images: ['**'], predicates: [test-result]}]\n"
    )
    judged = run("shipline", "verify", "--policy", tmp_path / "shipline.yaml", str(site.name))
    assert "signed by release" in good(judged)


def test_a_script_for_cosign_signs_and_verifies(site: Site, tmp_path: Path) -> None:
    """Only the name of the program changes."""
    key, public = ("--key", site.keys / "ours.key"), ("--key", site.keys / "ours.pub")
    good(run("shipline", "sign", *key, "-y", "--tlog-upload=false", str(site.name)))
    ignored = ("--insecure-ignore-tlog=true", "--private-infrastructure")
    done = run("shipline", "verify", *public, *ignored, str(site.name), COSIGN_REPOSITORY="r.io/x")
    assert good(done) and "COSIGN_REPOSITORY is not used" in done.stderr
    refused = run("shipline", "sign", *key, "--tlog-upload=true", str(site.name))
    assert refused.returncode == 2 and "without a transparency log" in refused.stderr
    file = tmp_path / "file"
    file.write_text("content")
    programs = ("shipline", "cosign")
    for program in programs:
        signature = tmp_path / f"{program}.sig"
        sign = (program, "sign-blob", *key, "--tlog-upload=false", "-y")
        good(run(*sign, "--output-signature", signature, file))
        for given in (signature, signature.read_text().strip()):
            for other in programs:
                verified = (other, "verify-blob", *public, "--insecure-ignore-tlog=true")
                good(run(*verified, "--signature", given, file))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cosign.sig",
        "file",
        "shipline.sig",
    ]


def test_a_wrong_password_signs_nothing(site: Site) -> None:
    key = ("--key", site.keys / "ours.key")
    done = run("shipline", "sign", *key, str(site.name), COSIGN_PASSWORD="guess")
    assert done.returncode == 3 and "wrong password" in done.stderr
    with pytest.raises(SignatureRefused):
        verify(site.repository, site.target, site.name, [site.public()])
