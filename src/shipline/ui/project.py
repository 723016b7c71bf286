"""The project of the pages: its configuration, and the way of its images to environments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shipline.config import Config, load
from shipline.config.project import project_delivery
from shipline.git import Git
from shipline.oci import Digest, Reference
from shipline.registry import Client
from shipline.trust import TrustPolicy, load_trust

if TYPE_CHECKING:
    from shipline.deliver.delivery import Delivery
    from shipline.ui.app import Workspace


@dataclass(frozen=True, slots=True)
class OpenProject:
    """A project while its pages are made. `client` asks its registries."""

    config: Config
    client: Client
    delivery: Delivery

    def places_of(self, image: Reference) -> dict[str, Reference]:
        """Where an image may be: its own registry, then each region, by name."""
        places = {"registry": image}
        for target, own in self.delivery.targets.items():
            if own.name == image.name:
                regions = self.config.pipeline.in_regions
                places |= {name: one[target].at(image.digest) for name, one in regions.items()}
        return places


@contextmanager
def open_project(workspace: Workspace) -> Iterator[OpenProject]:
    """The project as its configuration is now. Raises ConfigError without a shipline.yaml."""
    environ = workspace.environ
    config = load(None, workspace.root, environ)
    with Client.of(environ) as client:
        delivery = project_delivery(
            config,
            Git(workspace.root, environ),
            client,
            home=workspace.home,
            environ=environ,
            fetch=False,
        )
        yield OpenProject(config, client, delivery)


def new_policy(project: OpenProject) -> TrustPolicy:
    """The trust policy without what it remembers of images."""
    return TrustPolicy(load_trust(project.config.trust, project.delivery.root))


def digests_word(digests: frozenset[Digest]) -> str:
    """Digests in addresses, forms and the arguments of commands."""
    return ",".join(sorted(map(str, digests)))


def digests_of(word: str) -> frozenset[Digest]:
    """The digests that make a word. Raises InvalidDigest."""
    return frozenset(Digest.parse(one) for one in word.split(",") if one)
