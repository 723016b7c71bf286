"""The packages of an image, a stage or a context: what its files say, taken together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from shipline.layer import LayeredToc, SymlinkLoop, Toc
from shipline.sbom.licenses import expression, joined
from shipline.sbom.packages import FileFacts, OsRelease, Package
from shipline.values import replace

PACKAGES = 50_000
"""The most that a list has; more is a gap."""

_DISTRIBUTIONS = {"deb": "debian", "apk": "alpine", "rpm": "redhat"}
_OF_SYSTEM = ("lib/dpkg/", "lib/apk/", "lib/rpm/", "share/rpm/", "lib/sysimage/")


@dataclass(frozen=True, slots=True)
class Evidence:
    """A file that lists packages, and the digest of the layer that it is in, empty for none."""

    path: str
    sha1: str
    sha256: str
    layer: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """A package with its URL, empty where it has none, its licence as an SPDX expression, empty for
    none, and the files that it was found in.
    """

    package: Package
    purl: str
    license: str
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """Packages in order of their names; `gaps` says what could not be read."""

    packages: tuple[Listed, ...] = ()
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What the files of a layer say; `digest` is that of its blob."""

    toc: Toc
    facts: Sequence[FileFacts]
    digest: str


def of_layers(layers: Sequence[LayerFacts]) -> Inventory:
    """The packages of the files that are visible in a stack of layers, lowest first."""
    table = LayeredToc([layer.toc for layer in layers])
    seen = [
        (facts, layer.digest)
        for number, layer in enumerate(layers)
        for facts in layer.facts
        if table.layer_of(facts.path) == number
    ]

    def resolved(path: str) -> str:
        try:
            return table.resolve(path)
        except SymlinkLoop:
            return path

    return take_inventory(seen, resolved)


@dataclass(slots=True)
class _Known:
    """What is known besides packages, by path."""

    releases: dict[str, OsRelease] = field(default_factory=dict)
    licenses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)


def take_inventory(
    seen: Iterable[tuple[FileFacts, str]], resolved: Callable[[str], str] = lambda path: path
) -> Inventory:
    """The packages that files list, each with the digest of its layer; `resolved` follows links."""
    seen = sorted(seen, key=lambda one: one[0].path)
    known = _Known()
    gaps = []
    for facts, _ in seen:
        if facts.problem:
            gaps.append(f"{facts.path}: {facts.problem}")
        if facts.release.id and facts.path not in known.releases:
            known.releases[facts.path] = facts.release
        if facts.licenses:
            known.licenses[facts.path] = facts.licenses
        known.checksums.update(facts.checksums)
    found: dict[tuple[str, str, str], Listed] = {}
    for facts, layer in seen:
        evidence = Evidence(facts.path, facts.sha1, facts.sha256, layer)
        for one in _listed(facts, known, evidence, resolved):
            key = (
                one.purl or f"{one.package.type}/{facts.path}",
                one.package.name,
                one.package.version,
            )
            before = found.get(key)
            found[key] = one if before is None else _merged(before, one)
    packages = sorted(found.values(), key=lambda one: (one.package.name, one.purl))
    if len(packages) > PACKAGES:
        gaps.append(f"only the first {PACKAGES:,} of {len(packages):,} packages are listed")
    return Inventory(tuple(packages[:PACKAGES]), tuple(gaps))


def _merged(first: Listed, second: Listed) -> Listed:
    evidence = dict.fromkeys((*first.evidence, *second.evidence))
    return replace(first, evidence=tuple(evidence), license=first.license or second.license)


def _listed(
    facts: FileFacts, known: _Known, evidence: Evidence, resolved: Callable[[str], str]
) -> Iterator[Listed]:
    root = _root_of(facts.path)
    release = known.releases.get(f"{root}etc/os-release") or known.releases.get(
        f"{root}usr/lib/os-release", OsRelease()
    )
    for package in facts.packages:
        license = expression(package.license)
        if package.type == "deb":
            path = resolved(f"{root}usr/share/doc/{package.name}/copyright")
            license = joined(known.licenses.get(path, ()))
        directory = facts.path.rpartition("/")[0]
        if package.type == "npm" and not package.checksum:
            package = replace(package, checksum=known.checksums.get(directory, ""))
        yield Listed(package, _purl(package, release), license, (evidence,))


def _root_of(path: str) -> str:
    """The root, with a slash unless it is empty, of the system that a package database is of."""
    for part in _OF_SYSTEM:
        head, found, _ = path.partition(part)
        if found:
            return head.removesuffix("var/").removesuffix("usr/")
    return ""


def _purl(package: Package, release: OsRelease) -> str:
    """The package URL (purl-spec); empty for an archive of Java without a group."""
    from packageurl import PackageURL

    namespace, version = package.namespace, package.version
    qualifiers: dict[str, str] = {}
    if package.type in _DISTRIBUTIONS:
        namespace = release.id or _DISTRIBUTIONS[package.type]
        qualifiers = {
            "arch": package.architecture,
            "epoch": package.epoch if package.epoch != "0" else "",
            "upstream": package.source,
            "distro": "-".join(filter(None, (release.id, release.version))),
        }
    elif package.type == "maven" and not namespace:
        return ""
    elif package.type == "golang" and version == "(devel)":
        version = ""
    kept = {key: value for key, value in qualifiers.items() if value}
    try:
        return PackageURL(package.type, namespace, package.name, version, kept).to_string()
    except ValueError:
        return ""
