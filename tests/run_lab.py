"""Real runs of one project for tests of pages: pipelines that passed and that a gate refused, and a
build that failed.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from selenium.webdriver import Chrome

from browser import navigation, until
from nodes import Node
from peers import Registry, push_base_images
from ships import Project, coverage, new_project

CONFIGURATION = """\
image: {image}
steps:
  lint: sleep 0.4
  test:
    run: "sleep 0.8; mkdir -p out && cp coverage.xml out/"
    reports: {coverage: out/coverage.xml}
build: {platforms: {platforms}}
gates: {coverage: {min: 80}}
"""
DOCKERFILE = """FROM --platform=$BUILDPLATFORM busybox AS dependencies
COPY lock .
RUN for package in alpha beta gamma delta; do echo "fetch $package"; done; sleep 0.6; mkdir /modules

FROM busybox
WORKDIR /srv
RUN dd if=/dev/urandom of=/srv/data bs=1M count=4 2>/dev/null; echo "installed 4 MB"
COPY --from=dependencies /modules /srv/modules
COPY app /srv/app
RUN sh /srv/app
"""
BROKEN = """echo "checking modules"
echo "alpha 1.4.0 has no binary for this machine" >&2
echo "error: no compiler in \\$PATH" >&2
[ "$(uname -m)" = x86_64 ] && sleep 0.5
[ "$(uname -m)" = x86_64 ] || exit 7
"""


def runs_of_a_project(place: Path, node: Node) -> Project:
    """A project with three runs, the newest a build that failed on linux/arm64."""
    host, _, port = node.address.partition(":")
    push_base_images(Registry(host, int(port), node.log, node.data), "busybox")
    project = new_project(
        place,
        node,
        CONFIGURATION,
        Dockerfile=DOCKERFILE,
        app="echo started\n",
        lock="alpha 1.3.0\n",
        coverage__xml=coverage(9),
        __gitignore="out\n",
    )
    base = {"SHIPLINE_MIRRORS": f"docker.io=http://{node.address}"}
    project = Project(project.root, project.remote, project.home, node, base)
    project.ship().ok()
    project.commit("fix: round after the discount", coverage__xml=coverage(7), lock="alpha 1.4.0\n")
    project.ship().failed(9)
    project.commit("feat: check the modules", app=BROKEN)
    platforms = "linux/amd64,linux/arm64"
    project.run("build", "--platform", platforms, "--progress", "plain", ".").failed(5)
    return project


def enter(page: Chrome, url: str) -> str:
    """Open the printed address; the origin, at which the browser may see everything now."""
    with navigation(page):
        page.get(url)
    until(page, lambda: "token=" not in page.current_url)
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
