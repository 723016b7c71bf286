"""Beside the newest cosign and skopeo: the same images, keys and policies, the same verdicts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from attached import Repository, add_index
from commands import run
from nodes import Node, node
from peers.docker import newest
from shipline.content import MemoryStore, copy_graph
from shipline.oci import Index, Reference
from shipline.registry import Client

pytestmark = pytest.mark.peers
LOCAL = ("--use-signing-config=false", "--tlog-upload=false", "--allow-http-registry", "-y")
OLD = "--new-bundle-format=false"
_NUMBERS = count()


@dataclass(frozen=True)
class Peers:
    """The newest programs, in a directory with two pairs of keys, and a node."""

    directory: Path
    node: Node
    environment: Mapping[str, str]

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "COSIGN_PASSWORD": "x", **self.environment}
        return run(*map(str, words), cwd=self.directory, environ=environ)

    def image(self) -> tuple[Reference, Index]:
        """A fresh index of two images, named v1."""
        name = Reference.parse(f"{self.node.address}/team{next(_NUMBERS)}/app:v1")
        store = Repository()
        index = add_index(store, env=f"A={name}")
        with Client() as client:
            repository = client.repository(name)
            copy_graph(store, repository, index.descriptor)
            repository.tag(index.descriptor, MemoryStore(index.raw), "v1")
        return name, index

    def cosign(self, image: object, *words: str, key: str = "ours") -> None:
        done = self.run("cosign", "sign", "--key", f"{key}.key", *LOCAL, *words, image)
        assert done.returncode == 0, done.stderr

    def verified_by_cosign(self, image: object, key: str) -> bool:
        words = ("--insecure-ignore-tlog=true", "--allow-http-registry")
        return self.run("cosign", "verify", "--key", f"{key}.pub", *words, image).returncode == 0

    def shipline(self, *words: object) -> subprocess.CompletedProcess[str]:
        return self.run("shipline", *words)

    def policy(self, said: Mapping[str, Any] | None, *, key: str = "ours") -> Path:
        rule: dict[str, Any] = {
            "type": "sigstoreSigned",
            "keyPath": str(self.directory / f"{key}.pub"),
        }
        if said is not None:
            rule["signedIdentity"] = dict(said)
        path = self.directory / f"policy-{next(_NUMBERS)}.json"
        path.write_text(json.dumps({"default": [rule]}))
        return path

    def copied_by_skopeo(self, image: object, policy: Path) -> bool:
        """Whether it lets the image through on every platform that it is for."""
        done = [
            self.run(
                *("skopeo", "--override-arch", architecture, "--policy", policy),
                *("--registries.d", "registries.d", "copy", "--src-tls-verify=false"),
                *("--remove-signatures", f"docker://{image}", f"dir:{self.directory}/copy"),
            )
            for architecture in ("amd64", "arm64")
        ]
        assert all(one.returncode == 0 or "rejected" in one.stderr for one in done), done
        return all(one.returncode == 0 for one in done)

    def accepted_by_us(self, image: object, policy: Path) -> bool:
        done = self.shipline("verify", "--policy", policy, image)
        assert done.returncode in (0, 9), done.stderr
        return done.returncode == 0


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    directory = tmp_path_factory.mktemp("newest")
    registries = directory / "registries.d"
    registries.mkdir()
    (registries / "a.yaml").write_text("default-docker:\n  use-sigstore-attachments: true\n")
    with node(directory / "data") as running:
        made = Peers(directory, running, {**newest(), "HOME": str(directory)})
        for name in ("ours", "other"):
            done = made.run("cosign", "generate-key-pair", "--output-key-prefix", name)
            assert done.returncode == 0, done.stderr
        yield made


def signed(peers: Peers, how: str) -> tuple[Reference, Index]:
    """An image that was signed in one of the ways that people sign."""
    name, index = peers.image()
    pinned = f"{name.name}@{index.descriptor.digest}"
    named = f"{name}@{index.descriptor.digest}"
    child = f"{name.name}@{index.manifests[0].digest}"
    ours = ("sign", "--key", "ours.key", "--allow-http-registry")
    match how:
        case "cosign 3":
            peers.cosign(pinned, "--recursive")
        case "cosign 2":
            peers.cosign(pinned, "--recursive", OLD)
        case "cosign 2, by its tag":
            peers.cosign(name, "--recursive", OLD)
        case "the index alone":
            peers.cosign(name, OLD)
        case "one image alone":
            peers.cosign(child, OLD, "--sign-container-identity", str(name))
        case "another key":
            peers.cosign(name, "--recursive", OLD, key="other")
        case "another name":
            identity = "--sign-container-identity=registry.example/other/app:v1"
            peers.cosign(pinned, "--recursive", OLD, identity)
        case "another tag":
            identity = f"--sign-container-identity={name.name}:v2"
            peers.cosign(pinned, "--recursive", OLD, identity)
        case "shipline":
            assert peers.shipline(*ours, named).returncode == 0
        case "shipline, the index alone":
            assert peers.shipline(*ours, "--no-recursive", named).returncode == 0
    return name, index


WAYS = (
    *("nothing", "cosign 3", "cosign 2", "cosign 2, by its tag", "the index alone"),
    *("one image alone", "another key", "another name", "another tag"),
    *("shipline", "shipline, the index alone"),
)
IDENTITIES: tuple[Mapping[str, Any] | None, ...] = (
    None,
    {"type": "matchRepoDigestOrExact"},
    {"type": "matchRepository"},
    {"type": "matchExact"},
    {"type": "exactRepository", "dockerRepository": "registry.example/other/app"},
)


@pytest.mark.parametrize("how", WAYS)
def test_a_policy_of_podman_lets_through_what_skopeo_does(peers: Peers, how: str) -> None:
    name, index = signed(peers, how)
    for image in (str(name), f"{name.name}@{index.descriptor.digest}"):
        for said in IDENTITIES:
            policy = peers.policy(said)
            theirs = peers.copied_by_skopeo(image, policy)
            assert peers.accepted_by_us(image, policy) == theirs, (image, said)


@pytest.mark.parametrize("how", [one for one in WAYS if "one image" not in one])
def test_a_key_alone_verifies_what_it_verifies_for_cosign(peers: Peers, how: str) -> None:
    """But for names, which cosign does not look at: ours must be this repository's, or none."""
    name, _ = signed(peers, how)
    for key in ("ours", "other"):
        words = ("verify", "--allow-http-registry", "--key", f"{key}.pub", name)
        plain, any_name = peers.shipline(*words), peers.shipline(*words, "--identity", "any")
        theirs = peers.verified_by_cosign(name, key)
        assert (any_name.returncode == 0) == theirs, (key, any_name.stderr)
        assert (plain.returncode == 0) == (theirs and how != "another name"), plain.stderr


def test_a_bundle_without_a_name_counts_and_is_told(peers: Peers) -> None:
    name, _ = signed(peers, "cosign 3")
    words = ("verify", "--key", "ours.pub", "--allow-http-registry", name)
    found = peers.shipline(*words)
    assert ", without a name" in found.stdout and "--identity repository" in found.stdout
    demanded = peers.shipline(*words, "--identity", "repository")
    assert demanded.returncode == 9
    assert "it has no image name" in demanded.stderr and "signed without a name" in demanded.stderr


def test_a_rule_of_a_project_takes_a_bundle_without_a_name_unless_it_demands_one(
    peers: Peers,
) -> None:
    name, _ = signed(peers, "cosign 3")
    for demand, status, said in (
        ("", 0, "without an image name"),
        (", identity: optional", 0, "without an image name"),
        (", identity: repository", 9, "has no image name"),
    ):
        path = peers.directory / "trust.yaml"
        path.write_text(f"trust: {{rules: [{{images: ['**'], keys: [ours.pub]{demand}}}]}}\n")
        done = peers.shipline("verify", "--policy", path, name)
        assert done.returncode == status and said in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize(
    ("how", "hint"),
    [
        ("nothing", "hint: sign it"),
        ("another key", "signed with another key"),
        ("another name", "signed under another name"),
    ],
)
def test_a_refusal_says_what_to_do_about_what_is_wrong(peers: Peers, how: str, hint: str) -> None:
    name, _ = signed(peers, how)
    done = peers.shipline("verify", "--key", "ours.pub", name)
    assert done.returncode == 9 and hint in done.stderr
    path = peers.directory / "trust.yaml"
    path.write_text("trust: {rules: [{images: ['**'], keys: [ours.pub]}]}\n")
    done = peers.shipline("verify", "--policy", path, name)
    assert done.returncode == 9 and hint in done.stderr


KINDS = {
    "ECDSA P-256": ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "ECDSA P-384": ("EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "RSA": ("RSA", "-pkeyopt", "rsa_keygen_bits:3072"),
    "Ed25519": ("ED25519",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_one_signs_the_other_verifies(peers: Peers, kind: str) -> None:
    name = f"blob-{kind.replace(' ', '-')}"
    (peers.directory / name).write_text(kind)
    pem, pair = f"{name}.pem", ("--key", f"{name}.key")
    made = peers.run("openssl", "genpkey", "-algorithm", *KINDS[kind], "-out", pem)
    assert made.returncode == 0, made.stderr
    assert peers.shipline("key", "import", "--key", pem, "-o", name).returncode == 0
    theirs = ("cosign", "verify-blob", "--insecure-ignore-tlog=true", "--key", f"{name}.pub")
    signing = ("cosign", "sign-blob", "--use-signing-config=false", "--tlog-upload=false", "-y")
    ours = ("shipline", "verify-blob", "--key", f"{name}.pub")
    # cosign cannot verify its own bundles of some kinds of keys
    for sign, verifiers in ((("shipline", "sign-blob"), (ours, theirs)), (signing, (ours,))):
        bundle = ("--bundle", f"{name}.{sign[0]}.json")
        done = peers.run(*sign, *pair, *bundle, name)
        assert done.returncode == 0, done.stderr
        for verify in verifiers:
            done = peers.run(*verify, *bundle, name)
            assert done.returncode == 0, (sign, verify, done.stderr)
            assert peers.run(*verify, *bundle, pem).returncode != 0
