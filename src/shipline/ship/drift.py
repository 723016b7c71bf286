"""Drift: tags of regions that differ from those of the image's own registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from shipline.errors import AuthError, NotFound, RegistryError, ShiplineError
from shipline.oci import Digest, Reference, is_attached_tag
from shipline.registry import RemoteRepository
from shipline.ship.section import Pipeline
from shipline.tasks import TaskGroup

_AT_ONCE = 8


class RegionsDiffer(ShiplineError):
    """Regions do not have what the primary registry has."""

    code = "regions-differ"
    title = "regions differ"
    exit_code = 15


class Drift(Struct, frozen=True):
    """A tag that a region lacks, or has for another image. `wanted` is the digest in the image's
    own registry. Where the region could not be asked, `failure` says why.
    """

    region: str
    name: str
    wanted: Digest
    found: Digest | None = None
    failure: RegistryError | AuthError | None = None

    def __str__(self) -> str:
        seen = f"is {self.found}" if self.found else "does not exist"
        if self.failure is not None:
            seen = f"cannot be asked for ({self.failure.message})"
        return f"{self.region}: {self.name} {seen}; it is {self.wanted} in the primary registry"


def find_drift(
    pipeline: Pipeline,
    repositories: Callable[[Reference], RemoteRepository],
    tags: Sequence[str] = (),
    regions: Iterable[str] = (),
) -> tuple[Drift, ...]:
    """The tags of the images, all or these, that regions, all or these, do not have alike. Tags
    that only a region has are its own. Raises NotFound for a tag that the primary registry lacks.
    """
    chosen = frozenset(regions)
    with TaskGroup(_AT_ONCE) as group:
        tasks = []
        for target, image in pipeline.images.items():
            primary = repositories(image).unmirrored
            for tag in tags or _images(primary):
                wanted = primary.resolve(tag).digest
                tasks += [
                    group.start(_compare, region, places[target].tagged(tag), repositories, wanted)
                    for region, places in pipeline.in_regions.items()
                    if region in chosen or not chosen
                ]
    return tuple(drift for task in tasks if (drift := task.result()) is not None)


def _images(primary: RemoteRepository) -> Iterator[str]:
    return (tag for tag in primary.tags() if not is_attached_tag(tag))


def _compare(
    region: str,
    image: Reference,
    repositories: Callable[[Reference], RemoteRepository],
    wanted: Digest,
) -> Drift | None:
    try:
        found = repositories(image).unmirrored.resolve(image.tag).digest
    except NotFound:
        return Drift(region, str(image), wanted)
    except (RegistryError, AuthError) as error:
        return Drift(region, str(image), wanted, failure=error)
    return None if found == wanted else Drift(region, str(image), wanted, found)
