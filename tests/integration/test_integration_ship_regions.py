"""`shipline ship` to regions: two registries of Docker and a node, one of them down, and drift."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from builds import Done
from layouts import write_layout
from nodes import Node, node
from peers import docker_registry
from proxy import Answer, Delay, FaultProxy
from shipline.oci import media
from ships import Project, new_project

pytestmark = pytest.mark.peers
PASSWORD = {"SHIPLINE_KEY_PASSWORD": "secret"}
TAG = "v0.1.0"


@dataclass
class Regions:
    """A primary node, and three regions: `eu` is a node, `us` and `ap` are of Docker. Behind a
    proxy each, so that one can be down.
    """

    project: Project
    proxies: dict[str, FaultProxy]

    def ship(self, wait: str, *words: str) -> Done:
        """A run whose tags wait for all, a quorum, or none."""
        text = (self.project.root / "shipline.yaml").read_text()
        if "wait: WAIT" in text:
            self.project.commit("build: wait", shipline__yaml=text.replace("WAIT", wait))
        return self.project.ship(*words, **PASSWORD)

    def place(self, region: str) -> str:
        """The repository in a region; that of the primary has no name."""
        image = (self.project.root / "shipline.yaml").read_text().splitlines()[0].split()[1]
        _, _, path = image.partition("/")
        return f"127.0.0.1:{self.proxies[region].port}/mirror/{path}" if region else image

    def fail(self, *regions: str) -> None:
        for region in regions:
            self.proxies[region].break_next(Answer(507), times=10_000)

    def tags(self) -> dict[str, str]:
        """What the primary and each region have under the tag; only those that have something."""
        found = {region: self.digest(region) for region in ("", *self.proxies)}
        return {region: digest for region, digest in found.items() if digest}

    def complete(self) -> bool:
        """Whether everyone has the same, and its signature."""
        found = self.tags()
        same = len(found) == 4 and len({*found.values()}) == 1
        return same and all(map(self.verified, self.proxies))

    def digest(self, region: str, tag: str = TAG) -> str:
        """What a region has under a tag; empty for nothing."""
        try:
            return self._ask("HEAD", region, tag)
        except HTTPError as error:
            assert error.code == 404
            return ""

    def delete(self, region: str, reference: str) -> None:
        self._ask("DELETE", region, reference)

    def _ask(self, method: str, region: str, reference: str) -> str:
        """The digest in the response; regions are asked behind their proxies."""
        host, _, path = self.place(region).partition("/")
        if region:
            host = f"127.0.0.1:{self.proxies[region]._upstream}"
        accept = ", ".join((media.OCI_INDEX, media.OCI_MANIFEST))
        url = f"http://{host}/v2/{path}/manifests/{reference}"
        with urlopen(Request(url, headers={"Accept": accept}, method=method)) as response:
            return str(response.headers["Docker-Content-Digest"])

    def verified(self, region: str) -> bool:
        """Whether cosign finds the signature there."""
        words = ("--insecure-ignore-tlog", "--allow-insecure-registry", "--allow-http-registry")
        key = str(self.project.root / "cosign.pub")
        done = subprocess.run(
            ("cosign", "verify", "--key", key, *words, f"{self.place(region)}:{TAG}"),
            capture_output=True,
        )
        return done.returncode == 0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, dict[str, int]]]:
    if missing := [one for one in ("docker-registry", "cosign") if not shutil.which(one)]:
        pytest.skip(f"needs {', '.join(missing)}")
    work = tmp_path_factory.mktemp("regions")
    with (
        node(work / "primary") as primary,
        node(work / "eu") as eu,
        docker_registry(work, name="us") as us,
        docker_registry(work, name="ap") as ap,
    ):
        yield primary, {"eu": int(eu.address.rpartition(":")[2]), "us": us.port, "ap": ap.port}


@pytest.fixture
def regions(servers: tuple[Node, dict[str, int]], tmp_path: Path) -> Iterator[Regions]:
    """Each test has an image of its own."""
    primary, ports = servers
    with (
        FaultProxy(ports["eu"]) as eu,
        FaultProxy(ports["us"]) as us,
        FaultProxy(ports["ap"]) as ap,
    ):
        proxies = {"eu": eu, "us": us, "ap": ap}
        registries = ", ".join(
            f'{name}: "127.0.0.1:{one.port}/mirror"' for name, one in proxies.items()
        )
        text = (
            "image: {image}-" + tmp_path.name.replace("_", "-") + "\n"
            "sign: {key: cosign.key}\n"
            f"regions: {{wait: WAIT, registries: {{{registries}}}}}\n"
        )
        project = new_project(tmp_path, primary, text)
        project.run("key", "generate", "--output-key-prefix", "cosign", **PASSWORD).ok()
        yield Regions(project, proxies)


def test_all_regions_get_the_image_its_signatures_and_then_its_tag(regions: Regions) -> None:
    done = regions.ship("all").ok()
    assert regions.complete()
    printed = [line.partition("@")[0] for line in done.out.splitlines()]
    assert printed == [f"{regions.place(region)}:{TAG}" for region in ("", "eu", "us", "ap")]
    for proxy in regions.proxies.values():
        written = [one.target for one in proxy.seen("PUT") if "/manifests/" in one.target]
        assert written[-1].endswith(f"/manifests/{TAG}")
        assert sum(one.endswith(f"/manifests/{TAG}") for one in written) == 1
    assert "no difference" in regions.project.run("regions", "check").ok().out


def test_with_all_one_region_that_is_down_stops_every_tag(regions: Regions) -> None:
    regions.fail("us")
    said = regions.ship("all").failed(6)
    assert "copy-us: " in said and f"127.0.0.1:{regions.proxies['us'].port}" in said
    assert "shipline ship --resume" in said
    assert regions.tags() == {}
    regions.proxies["us"].forget()
    regions.ship("all", "--resume").ok()
    assert regions.complete()


def test_with_a_quorum_one_region_that_is_down_is_pending(regions: Regions) -> None:
    regions.fail("us")
    done = regions.ship("quorum").ok()
    assert "warning: pending: copy-us; shipline ship --resume" in done.err
    assert regions.tags().keys() == {"", "eu", "ap"}
    states = regions.project.states()
    assert (states["copy-us"], states["publish-us"]) == ("pending", "waiting")
    assert "us" in regions.project.run("regions", "check").failed(6)  # it cannot be asked
    regions.proxies["us"].forget()
    said = regions.project.run("regions", "check").failed(15)
    assert f"us: {regions.place('us')}:{TAG} does not exist" in said
    before = len(regions.proxies["eu"].requests)
    regions.ship("quorum", "--resume").ok()
    assert regions.complete()
    states = regions.project.states()
    assert {states["copy-us"], states["publish-us"]} == {"passed"}
    assert len(regions.proxies["eu"].seen("PUT")) and before
    regions.project.run("regions", "check").ok()


def test_without_a_quorum_nothing_is_tagged(regions: Regions) -> None:
    regions.fail("us", "ap")
    said = regions.ship("quorum").failed(6)
    assert "publish: it waits for 2 of copy-eu, copy-us, copy-ap" in said
    assert "copy-us: 127.0.0.1" in said and "copy-ap: 127.0.0.1" in said
    assert regions.tags() == {}


def test_with_none_the_tags_wait_for_no_region(regions: Regions) -> None:
    regions.fail(*regions.proxies)
    done = regions.ship("none").ok()
    assert "pending: copy-eu, copy-us, copy-ap" in done.err
    assert regions.tags().keys() == {""}
    for proxy in regions.proxies.values():
        proxy.forget()
    regions.ship("none", "--resume").ok()
    assert regions.complete()


def test_a_region_without_the_signature_gets_no_tag(regions: Regions) -> None:
    """The registry says that it has stored it, and has not."""
    proxy, nothing = regions.proxies["eu"], {"schemaVersion": 2, "manifests": []}
    proxy.break_next(Answer(201, after=1 << 30), method="PUT", target=r"/sha256-\w+\.sig", times=99)
    index = Answer(200, (("Content-Type", media.OCI_INDEX),), json.dumps(nothing).encode())
    proxy.break_next(index, target="/referrers/", times=99)
    done = regions.ship("quorum").ok()
    assert "copy-eu is pending" in done.err
    assert regions.tags().keys() == {"", "us", "ap"}


def test_a_tag_that_was_moved_in_a_region_is_drift(regions: Regions) -> None:
    regions.ship("all").ok()
    wanted = regions.digest("")
    source = f"oci:{write_layout(regions.project.root.parent / 'other')}:latest"
    target = f"docker://{regions.place('ap')}:{TAG}"
    words = ("skopeo", "copy", "--dest-tls-verify=false", source, target)
    subprocess.run(words, check=True, capture_output=True)
    done = regions.project.run("regions", "check", "--json")
    assert "not as in the primary registry: 1 tag in ap" in done.failed(15)
    assert "shipline ship --resume RUN" in done.err
    assert json.loads(done.out) == [
        {
            "region": "ap",
            "name": f"{regions.place('ap')}:{TAG}",
            "wanted": wanted,
            "found": regions.digest("ap"),
            "error": "",
        }
    ]
    regions.project.run("regions", "check", "--region", "eu", TAG).ok()


def test_a_resumed_run_sets_the_tags_that_were_moved_or_lost_meanwhile(regions: Regions) -> None:
    """With the image, where that is gone, too."""
    text = (regions.project.root / "shipline.yaml").read_text()
    rules = "tags: {rules: [{tags: [stable]}]}\n"
    regions.project.commit("build: tags", shipline__yaml=text + rules)
    regions.ship("all").ok()
    moved = f"{regions.place('ap')}:stable"
    source = f"oci:{write_layout(regions.project.root.parent / 'other')}:latest"
    words = ("skopeo", "copy", "--dest-tls-verify=false", source, f"docker://{moved}")
    subprocess.run(words, check=True, capture_output=True)
    wanted = regions.digest("eu", "stable")
    for reference in ("stable", wanted):
        regions.delete("eu", reference)
    regions.fail("us")
    said = regions.project.run("regions", "check").failed(15)  # also if one cannot be asked
    assert "1 tag in eu, 1 tag in ap" in said and "us: " in said
    regions.proxies["us"].forget()
    done = regions.ship("all", "--resume").ok()
    assert moved in done.out
    assert {regions.digest(one, "stable") for one in ("", *regions.proxies)} == {wanted}
    regions.project.run("regions", "check").ok()


@pytest.mark.parametrize("wait", ["all", "quorum"])
def test_a_resumed_run_names_an_immutable_tag_that_was_moved(wait: str, regions: Regions) -> None:
    """And does not say that the region has the image."""
    regions.ship(wait).ok()
    moved = f"{regions.place('eu')}:{TAG}"
    source = f"oci:{write_layout(regions.project.root.parent / 'other')}:latest"
    words = ("skopeo", "copy", "--dest-tls-verify=false", source, f"docker://{moved}")
    subprocess.run(words, check=True, capture_output=True)
    done = regions.ship(wait, "--resume")
    assert done.status == (9 if wait == "all" else 0)
    assert f"the tag {TAG} of {regions.place('eu')} belongs to another image" in done.err
    assert "delete it in that registry" in done.err
    assert moved not in done.out
    regions.delete("eu", TAG)
    assert moved in regions.ship(wait, "--resume").ok().out
    assert regions.complete()


def test_without_a_run_the_check_does_not_speak_of_resuming(regions: Regions) -> None:
    regions.ship("all", "--skip", "copy-us").ok()
    shutil.rmtree(regions.project.home / "runs")
    said = regions.project.run("regions", "check").failed(15)
    assert "`shipline ship` publishes" in said and "--resume" not in said


@pytest.mark.parametrize(
    ("method", "target"),
    [("PATCH|PUT", "/blobs/"), ("PUT", "/manifests/sha256:"), ("PUT", f"/manifests/{TAG}$")],
    ids=["while a blob is copied", "before the manifest", "before the tag"],
)
def test_a_run_that_is_killed_is_continued(regions: Regions, method: str, target: str) -> None:
    proxy = regions.proxies["us"]
    for one in method.split("|"):
        proxy.break_next(Delay(600), method=one, target=target, times=99)
    text = (regions.project.root / "shipline.yaml").read_text()
    regions.project.commit("build: wait", shipline__yaml=text.replace("WAIT", "quorum"))
    with regions.project.start("ship", "--progress", "plain", **PASSWORD) as process:
        end = time.monotonic() + 120
        while not any(proxy.seen(one, target) for one in method.split("|")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert "us" not in regions.tags()
    proxy.forget()
    regions.ship("quorum", "--resume").ok()
    assert regions.complete()
