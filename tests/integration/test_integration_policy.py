"""A node with rules in its shipline.yaml, as real clients meet them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

from browser import browser, navigation
from commands import run
from guarded import basic
from layouts import write_layout
from nodes import Node
from served import served
from shipline.oci import Descriptor, Manifest, media
from shipline.supply import generate_key, write_key_pair
from spec_client import OCTETS, Target, sha256

pytestmark = [pytest.mark.peers]

BIN = Path(sys.executable).parent
SECTION = """
access:
  mode: accounts
  public-projects: [team]
policy:
  immutable:
    - tags: [v*]
  quotas:
    - project: small
      size: 100B
  signatures:
    keys:
      release: release.pub
    rules:
      - images: [team/*]
    default: accept
"""


@dataclass
class World:
    """The node, the key that it trusts, and where docker's configuration of each person is."""

    node: Node
    root: Path
    password: str
    layout: Path

    def run(self, *words: str | Path, who: str = "nobody") -> subprocess.CompletedProcess[str]:
        home = self.root / who
        home.mkdir(exist_ok=True)
        environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "DOCKER_CONFIG": str(home)}
        environ |= {"REGISTRY_AUTH_FILE": str(home / "config.json"), "SHIPLINE_KEY_PASSWORD": "x"}
        return run(*words, environ=environ, stdin=self.password)

    def copy_in(self, name: str, *, who: str = "admin") -> subprocess.CompletedProcess[str]:
        goal = f"docker://{self.node.address}/{name}"
        source = f"oci:{self.layout}:latest"
        return self.run("skopeo", "copy", "--dest-tls-verify=false", source, goal, who=who)

    def inspect(self, name: str) -> subprocess.CompletedProcess[str]:
        """As nobody: a pull of the manifest and the configuration."""
        place = f"docker://{self.node.address}/{name}"
        return self.run("skopeo", "inspect", "--tls-verify=false", place)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("policy")
    write_key_pair(generate_key("release"), root / "release", b"x")
    layout = write_layout(root / "layout")
    with served(root, SECTION) as node:
        found = re.search(r"password[^\n]*?[:=] *(\S+)", node.log.read_text())
        assert found is not None, node.log.read_text()
        world = World(node, root, found[1], layout)
        for empty in ("nobody", "admin"):
            (root / empty).mkdir()
            (root / empty / "config.json").write_text("{}")
        words = ("-u", "admin", "--password-stdin", "--store", "plain", node.address)
        assert world.run("shipline", "login", *words, who="admin").returncode == 0
        yield world


def test_an_unsigned_image_is_kept_until_it_is_signed(world: World) -> None:
    image = f"{world.node.address}/team/app:v1"
    assert world.copy_in("team/app:v1").returncode == 0
    refused = world.inspect("team/app:v1")
    assert refused.returncode and "denied" in refused.stderr
    assert "not trusted" in refused.stderr and "shipline sign" in refused.stderr
    own = world.run("shipline", "imagetools", "inspect", image, who="admin")
    assert own.returncode == 0, "who may push may look at what is not signed yet"
    key = world.root / "release.key"
    signed = world.run("shipline", "sign", "--key", key, image, who="admin")
    assert signed.returncode == 0, signed.stderr
    allowed = world.inspect("team/app:v1")
    assert allowed.returncode == 0, allowed.stderr
    digest = json.loads(allowed.stdout)["Digest"]
    assert world.inspect(f"team/app@{digest}").returncode == 0


def test_what_podman_unpacks_is_no_statement(world: World) -> None:
    """An archive that is text, under the type of a document: for podman it is an image."""
    script = "#!/bin/sh\necho mine\n"
    head = f"{'ls':/<100}0000755 0000000 0000000 {len(script):011o} 00000000000 "
    total = sum(f"{head}        0{' ' * 355}".encode())
    archive = f"{head}{total:07o} 0{' ' * 355}{script:\n<512}".encode()
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%s"]}}'
    config = config.replace(b"%s", sha256(archive).encode())
    target = Target(world.node.url, "team/fake")
    admin = {**basic("admin", world.password), **OCTETS}
    for content in (config, archive):
        path = f"/v2/team/fake/blobs/uploads/?digest={sha256(content)}"
        assert target.call("POST", path, content, admin).status == 201
    manifest = Manifest.make(
        Descriptor.of(config, media.OCI_CONFIG), [Descriptor.of(archive, "text/spdx")]
    )
    kind = {**admin, "Content-Type": manifest.media_type}
    assert target.call("PUT", "/v2/team/fake/manifests/v2", manifest.raw, kind).status == 201
    name = f"{world.node.address}/team/fake:v2"
    place = world.root / "podman"
    words = ("--root", place / "root", "--runroot", place / "run", "--storage-driver", "vfs")
    pull = ("podman", *words, "pull", "-q", "--tls-verify=false", name)
    unpacked = world.run(*pull, who="admin")
    assert unpacked.returncode == 0, unpacked.stderr
    assert [one.read_text() for one in place.glob("root/vfs/dir/*/ls")] == [script]
    world.run("podman", *words, "rmi", "-af", who="admin")
    refused = world.run(*pull)
    assert refused.returncode and "not trusted" in refused.stderr


def test_our_client_says_what_the_node_said(world: World) -> None:
    assert world.copy_in("team/other:v1").returncode == 0
    name = f"{world.node.address}/team/other:v1"
    done = world.run("shipline", "imagetools", "inspect", name)
    assert done.returncode in (6, 7)
    assert "not trusted" in done.stderr and "Traceback" not in done.stderr


def test_an_immutable_tag_stays(world: World) -> None:
    assert world.copy_in("team/fixed:v1").returncode == 0
    assert world.copy_in("team/fixed:v1").returncode == 0, "the same image again"
    name = f"{world.node.address}/team/fixed"
    done = world.run(
        *("skopeo", "copy", "--dest-tls-verify=false", "--format=v2s2"),
        *(f"oci:{world.layout}:latest", f"docker://{name}:v1"),
        who="admin",
    )
    assert done.returncode and "immutable" in done.stderr


def test_a_full_project_says_so(world: World) -> None:
    done = world.copy_in("small/app:1")
    assert done.returncode and "quota of project small" in done.stderr


def test_refusals_are_counted(world: World) -> None:
    assert world.copy_in("small/app:1").returncode
    curl = ("curl", "-s", "-u", f"admin:{world.password}", f"{world.node.url}/metrics")
    text = world.run(*curl).stdout
    found = re.search(r'policy_refusals_total\{rule="quota"\} (\d+)', text)
    assert found is not None and int(found[1]) > 0


def test_the_page_asks_for_the_same_rights(world: World) -> None:
    assert world.copy_in("private/app:1").returncode == 0
    with browser() as page:
        page.get(world.node.url)
        assert "private/app" not in page.page_source
        with navigation(page):
            page.find_element(By.LINK_TEXT, "Log in").click()
        page.find_element(By.CSS_SELECTOR, "input:focus").send_keys("admin", Keys.TAB)
        with navigation(page):
            page.switch_to.active_element.send_keys("wrong", Keys.ENTER)
        assert page.find_element(By.CSS_SELECTOR, "[role=alert]").text
        with navigation(page):
            page.find_element(By.ID, "password").send_keys(world.password, Keys.ENTER)
        assert "private/app" in page.page_source
        page.get(f"{world.node.url}/r/private/app:1")
        assert "docker pull" in page.page_source and "by admin" in page.page_source
        with navigation(page):
            page.find_element(By.XPATH, "//button[text()='Log out']").click()
        page.find_element(By.LINK_TEXT, "Log in")
        page.get(f"{world.node.url}/r/private/app:1")
        assert page.find_element(By.TAG_NAME, "h1").text == "Not found"


def test_an_open_node_doubts_that_signatures_were_meant(tmp_path: Path) -> None:
    write_key_pair(generate_key("release"), tmp_path / "release", b"x")
    section = """
    policy:
      signatures:
        keys: {release: release.pub}
        rules: [{images: ["**"]}]
    """
    with served(tmp_path, section) as node:
        assert "without accounts nobody can pull" in node.log.read_text()
