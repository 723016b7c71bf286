"""The step `build`: each image is built, merged from images that other machines built, or exists
already. In each case it is in its registry by digest, without a tag.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from shipline.build import (
    Annotation,
    BuildRequest,
    Context,
    ContextKind,
    Level,
    Output,
    OutputFormat,
    check_request,
    parse_request,
)
from shipline.content import MemoryStore, Repository, fetch_all, fetch_document
from shipline.dockerfile import nearest
from shipline.errors import ConfigError, ContentError, UsageError
from shipline.oci import (
    CONFIG_LIMIT,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Part,
    Platform,
    Reference,
    combine,
)
from shipline.ship.plan import (
    PipelineStep,
    PlanInput,
    ProjectConfig,
    StepContext,
    StepKind,
    StepOutcome,
)
from shipline.ship.record import RunRecord, StepResult, as_json, by_target
from shipline.ship.section import Build, Pipeline, TargetSection
from shipline.tags import built_from, revision
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.events import Step as Span

_VERSION = "org.opencontainers.image.version"
_METADATA_LIMIT = 1 << 20  # bytes
_DOCKERFILE_HINT = (
    "`shipline init --dockerfile` writes one for Node.js, Python and Go; build.file names another"
)
_BUILT_HINT = "pass a file written by `shipline build --metadata-file` or `shipline ship`"
_TARGET = "target:"
_ARCHITECTURES = (
    *("386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle"),
    *("ppc64", "ppc64le", "riscv64", "s390x", "wasm"),
)
_SYSTEMS = ("darwin", "freebsd", "linux", "wasip1", "windows")
"""The platforms of Go, which container tools support."""


@dataclass(frozen=True, slots=True)
class PushedImage:
    """An image in the registry: its index or only manifest, and the manifest of each platform.
    `reused`: the image of this commit existed before the run.
    """

    descriptor: Descriptor
    platforms: tuple[tuple[str, Digest], ...]
    reused: bool = False

    @property
    def digest(self) -> Digest:
        return self.descriptor.digest

    @property
    def digests(self) -> frozenset[Digest]:
        """Those of all its manifests."""
        return frozenset((self.digest, *(digest for _, digest in self.platforms)))

    def to_json(self) -> dict[str, Any]:
        return {
            "digest": str(self.digest),
            "descriptor": self.descriptor.to_json(),
            "platforms": {platform: str(digest) for platform, digest in self.platforms},
            **({"reused": True} if self.reused else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        platforms = value["platforms"].items()
        return cls(
            Descriptor.from_json(value["descriptor"]),
            tuple((platform, Digest.parse(digest)) for platform, digest in platforms),
            bool(value.get("reused")),
        )


@dataclass(frozen=True, slots=True)
class PushedImages:
    """The images of a run, by target."""

    images: Mapping[str, PushedImage]

    def to_json(self) -> dict[str, Any]:
        found = {name: image.to_json() for name, image in self.images.items()}
        return {"targets": found} if any(found) else found[""]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        targets = value.get("targets", {"": value})
        return cls({name: PushedImage.from_json(image) for name, image in targets.items()})


@dataclass(frozen=True, slots=True)
class LocalImages:
    """The digests of images that were built but not pushed, by target."""

    digests: Mapping[str, Digest]

    def to_json(self) -> dict[str, Any]:
        return {"built": by_target({name: str(one) for name, one in self.digests.items()})}


def _decode(results: Mapping[str, Any]) -> StepResult:
    if "built" in results:
        built = results["built"]
        found = {"": built} if isinstance(built, str) else built
        return LocalImages({name: Digest.parse(digest) for name, digest in found.items()})
    return PushedImages.from_json(results)


def _steps(inputs: PlanInput) -> Iterator[PipelineStep]:
    pipeline, naming = inputs.pipeline, inputs.naming
    built = {
        name: [str(digest) for digest in digests]
        for name, digests in inputs.selection.built.items()
    }
    note = "" if naming.push else "not pushed"
    if built:
        note = "built elsewhere, merged here"
    elif naming.reuse:
        note = "; ".join(_reused(name, digest) for name, digest in naming.reuse.items())
    several = len(pipeline.builds) > 1
    yield PipelineStep(
        name="build",
        kind="build",
        title=f"build {len(pipeline.builds)} targets" if several else "build the image",
        command="\n".join(
            f"merge {' '.join(built[name])}" if name in built else command_line(build, build.image)
            for name, build in pipeline.builds.items()
        ),
        compared=_compared(pipeline, built),
        run=_run,
        needs=pipeline.build_needs,
        skip="" if pipeline.images else "shipline.yaml names no image",
        note=note,
    )


def _reused(name: str, digest: Digest) -> str:
    return f"the image of this commit{f' for {name}' if name else ''} is {digest}"


def _compared(pipeline: Pipeline, built: Mapping[str, list[str]]) -> object:
    if not pipeline.targets:
        build = as_json(replace(pipeline.build, needs=()))
        return {"image": str(pipeline.image), "build": build, "built": built.get("", [])}
    targets = {name: as_json(replace(one, needs=())) for name, one in pipeline.builds.items()}
    return {"targets": targets, "built": built}


def _missing(project: ProjectConfig) -> Iterator[str]:
    for name, build in project.pipeline.builds.items():
        key = f"targets.{name}" if name else "build"
        for platform in build.platforms:
            for word, known in ((platform.os, _SYSTEMS), (platform.architecture, _ARCHITECTURES)):
                if word not in known:
                    close = nearest(word, known)
                    meant = f" (did you mean {close}?)" if close else ""
                    yield f"{key}.platforms: {platform}: {word!r} is unknown{meant}"
        if (name or build.image is not None) and not build.needs:
            yield from _missing_sources(build, project.root, key)


BUILD = StepKind(name="build", steps=_steps, decode=_decode, missing=_missing)


def _run(context: StepContext, span: Span) -> StepOutcome:
    decision, inputs, builds = context.decision, context.inputs, context.project.pipeline.builds
    fixed = decision.git_tag is None or not decision.git_tag.new
    labels = image_labels(decision.labels, fixed=fixed)
    annotations = image_labels(decision.annotations, fixed=fixed)
    made: dict[str, Descriptor] = {}
    for name, digest in inputs.naming.reuse.items():
        made[name] = context.repository(name).resolve(str(digest))
    for name, digests in inputs.selection.built.items():
        made[name] = merge(context.repository(name), digests, annotations)
    requests = {
        name: build_request(
            context.project.root,
            builds[name],
            context.environment.environ,
            labels=labels,
            annotations=annotations,
            push=decision.push and builds[name].image is not None and name not in made,
        )
        for name in _needed(builds, [name for name in context.images if name not in made])
    }
    built = dict(context.build(requests, span)) if requests else {}
    made = {**built, **made}
    note = context.plan.step("build").step.note
    if not decision.push:
        local = {name: made[name].digest for name in context.images if name in made}
        return StepOutcome(result=LocalImages(local), reason=note)
    images, reports = {}, dict[str, str]()
    for name in context.images:
        reused = name in inputs.naming.reuse
        image = read_image(context.repository(name), made[name])
        if name in inputs.selection.built:
            stated = (annotations, {**labels, **builds[name].labels})
            _check_built(context, name, image, [built_from(one) for one in stated])
        images[name] = replace(image, reused=reused)
        reports |= _listed_packages(context, name, made[name])
    cached = not requests and not inputs.selection.built
    return StepOutcome(result=PushedImages(images), reports=reports, reason=note, cached=cached)


def _check_built(
    context: StepContext, name: str, image: PushedImage, commits: Collection[str]
) -> None:
    """Raises UsageError if a platform is missing, or built from none of these commits."""
    of = f" of the target {name}" if name else ""
    wanted, found = context.project.pipeline.builds[name].platforms, dict(image.platforms)
    if missing := [str(one) for one in wanted if str(one) not in found]:
        hint = "pass the files of all builds; --platform names fewer platforms"
        raise InvalidBuildMetadata(
            f"--built: no file has a build{of} for {', '.join(missing)}", hint=hint
        )
    repository = context.repository(name)
    for platform, digest in image.platforms:
        commit = revision(repository, repository.resolve(str(digest)))
        if commit and commit not in commits:
            raise InvalidBuildMetadata(
                f"--built: the build{of} for {platform} is of another commit: {commit}",
                hint="build this one: shipline ship --only build --metadata-file FILE",
            )


def _needed(builds: Mapping[str, TargetSection], names: Iterable[str]) -> list[str]:
    """The targets, and those that they have as contexts."""
    found: dict[str, None] = {}
    left = list(names)
    while left:
        name = left.pop(0)
        found[name] = None
        left += [one for one in builds[name].targets if one not in found]
    return list(found)


def _listed_packages(context: StepContext, name: str, target: Descriptor) -> dict[str, str]:
    """Reports with the packages of the image for each platform, if the build is to list them."""
    reports = {}
    if context.project.pipeline.builds[name].sbom:
        for part, raw in sboms(context.repository(name), target):
            report = context.recorder.report("build", name, f"{part.platform}.spdx.json")
            report.write_bytes(raw)
            reports[str(report)] = str(Digest.of(raw))
    return reports


def sboms(repository: Repository, target: Descriptor) -> Iterator[tuple[Descriptor, bytes]]:
    """The statements with the packages of the image for each platform, if the build made some."""
    from shipline.supply import SPDX, stored_statements  # slow to import

    document = fetch_document(repository, target)
    if isinstance(document, Index):
        for image in document.images:
            found = stored_statements(repository, document, image)
            first = next((raw for kind, raw in found if kind == SPDX), None)
            if first is not None:
                yield image, first


def pushed_images(run: RunRecord) -> Mapping[str, PushedImage]:
    """The images of a run by target; none before they are built, or if they were not pushed."""
    found = run.result("build", PushedImages)
    return found.images if found is not None else {}


def require_images(run: RunRecord) -> Mapping[str, Descriptor]:
    """The images of a run by target. Raises UsageError if there are none."""
    images = pushed_images(run)
    if not images:
        raise UsageError("there is no image yet: the build has not run", code="build-not-run")
    return {name: image.descriptor for name, image in images.items()}


def shown_images(run: RunRecord) -> list[str]:
    """The images of a run, as `repository@digest`; empty if none was pushed."""
    images = pushed_images(run)
    return [f"{run.repositories[name]}@{image.digest}" for name, image in images.items()]


def digest_of(run: RunRecord) -> str:
    """The digests of the images of a run; empty if none was pushed."""
    return ", ".join(str(image.digest) for image in pushed_images(run).values())


def image_labels(labels: Mapping[str, str], *, fixed: bool) -> dict[str, str]:
    """The labels of the image. The version is left out unless it is `fixed`: until it is reserved,
    another run may take it, and the label would be wrong.
    """
    return {key: value for key, value in labels.items() if fixed or key != _VERSION}


def command_line(build: Build, image: Reference | None) -> str:
    """The equivalent `shipline build` command."""
    import shlex

    words = ["shipline", "build"]
    if build.platforms:
        words += ["--platform", ",".join(map(str, build.platforms))]
    if build.file:
        words += ["--file", build.file]
    if build.target:
        words += ["--target", build.target]
    words += [f"--build-arg={name}={value}" for name, value in build.args.items()]
    words += [f"--provenance=mode={build.provenance}"] if build.provenance else []
    words += ["--sbom=true"] if build.sbom else []
    words += ["--output", f"type=image,name={image},push=true,push-by-digest=true"]
    return shlex.join([*words, build.context])


def build_request(
    root: Path,
    build: TargetSection,
    environ: Mapping[str, str],
    *,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    push: bool,
) -> BuildRequest:
    """The request of that command. Raises UsageError for invalid values."""
    image = build.image
    request = parse_request(
        _placed(build.context, root),
        environ,
        file=None if build.file is None else str(root / build.file),
        target=build.target,
        build_context=[
            f"{name}={_placed(at, root)}"
            for name, at in build.contexts.items()
            if not at.startswith(_TARGET)
        ],
        pull=build.pull,
        secret=build.secrets,
        ssh=build.ssh,
        no_cache=build.no_cache,
        cache_from=build.cache_from,
        cache_to=build.cache_to,
        provenance=f"mode={build.provenance}" if build.provenance else None,
        sbom="true" if build.sbom else None,
    )
    targets = {
        name.lower(): Context(ContextKind.TARGET, at.removeprefix(_TARGET))
        for name, at in build.contexts.items()
        if at.startswith(_TARGET)
    }
    return replace(
        request,
        local_images=False,  # a release depends on nothing that this machine alone has
        build_contexts={**request.build_contexts, **targets},
        build_args=build.args,
        labels={**labels, **build.labels},
        annotations=tuple(_annotations(annotations, len(set(build.platforms)) > 1)),
        platforms=build.platforms,
        tags=(image.or_latest,) if push and image else (),
        outputs=(_output(build, push=push),),
    )


def _placed(where: str, root: Path) -> str:
    return where if "://" in where or where.startswith("git@") else str(root / where)


def _output(build: Build, *, push: bool) -> Output:
    if not push:
        return Output("cacheonly")
    format = OutputFormat(build.compression or "")
    return Output("image", format=format, push=True, push_by_digest=True)


def _annotations(values: Mapping[str, str], several: bool) -> Iterator[Annotation]:
    for level in (Level.INDEX, Level.MANIFEST) if several else (Level.MANIFEST,):
        for key, value in values.items():
            yield Annotation(level, key, value)


def build_problem(project: ProjectConfig, environ: Mapping[str, str]) -> ConfigError | None:
    """Why an image cannot be built, as far as that is known before any work."""
    for name, build in project.pipeline.builds.items():
        key, place = f"targets.{name}" if name else "build", _dockerfile(build)
        try:
            request = build_request(
                project.root, build, environ, labels={}, annotations={}, push=False
            )
            check_request(request)
        except UsageError as error:
            return ConfigError(f"{project.file}: {key}: {error.message}", hint=error.hint)
        if build.needs or "://" in build.context:  # the Dockerfile may come from there
            continue
        if not (project.root / place).exists():
            return ConfigError(
                f"there is no Dockerfile at {place}",
                code="dockerfile-unreadable",
                hint=_DOCKERFILE_HINT,
            )
    return None


def _dockerfile(build: Build) -> Path:
    """The Dockerfile, relative to the project."""
    return Path(build.file) if build.file else Path(build.context, "Dockerfile")


def _missing_sources(build: Build, root: Path, key: str) -> Iterator[str]:
    if "://" not in build.context:
        if not (root / build.context).is_dir():
            yield f"{key}.context: there is no directory {build.context}"
        elif not (root / _dockerfile(build)).is_file():
            yield f"{key}.file: there is no Dockerfile at {_dockerfile(build)}"
    for name, place in build.contexts.items():
        if "://" not in place and not place.startswith(_TARGET) and not (root / place).is_dir():
            yield f"{key}.contexts.{name}: there is no directory {place}"
    for secret in build.secrets:
        fields = dict(part.partition("=")[::2] for part in secret.split(","))
        source = fields.get("src") or fields.get("source") or ""
        if source and not (root / source).is_file():
            yield f"{key}.secrets: there is no file {source}"


class InvalidBuildMetadata(UsageError):
    """A file of --built is not the metadata of a build for this run."""

    code = "built-metadata"


def read_built(
    paths: Iterable[Path], images: Mapping[str, Reference]
) -> dict[str, tuple[Digest, ...]]:
    """The digests in metadata files of builds, by target. Raises UsageError for other files, for
    builds of other images, and if one of `images` is missing.
    """
    found: dict[str, dict[Digest, None]] = {}
    for path in paths:
        document = _metadata(path)
        for name, image in images.items():
            facts = document.get(name) if name else document
            if facts is not None:
                found.setdefault(name, {})[_built(path, facts, image)] = None
    if found and (missing := images.keys() - found.keys()):
        raise InvalidBuildMetadata(f"--built: no file has the image of the target {min(missing)}")
    if paths and not found:
        raise InvalidBuildMetadata(
            f"--built: no file has a target of {', '.join(images)}", hint=_BUILT_HINT
        )
    return {name: tuple(digests) for name, digests in found.items()}


def _metadata(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_METADATA_LIMIT))
    except OSError as error:
        raise InvalidBuildMetadata(f"--built: cannot read {path}: {error.strerror}") from error
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise InvalidBuildMetadata(f"--built: {path} names no image", hint=_BUILT_HINT)
    return document


def _built(path: Path, facts: Mapping[str, Any], image: Reference) -> Digest:
    try:
        digest = Digest.parse(facts["containerimage.digest"])
        names = [Reference.parse(text) for text in facts.get("image.name", "").split(",") if text]
    except (ValueError, KeyError, TypeError, AttributeError, ContentError, UsageError):
        raise InvalidBuildMetadata(f"--built: {path} names no image", hint=_BUILT_HINT) from None
    if names and image.name not in {name.name for name in names}:
        raise InvalidBuildMetadata(
            f"--built: {path} is a build of {names[0].name}, not of {image.name}"
        )
    return digest


def merge(
    repository: Repository, digests: Iterable[Digest], annotations: Mapping[str, str]
) -> Descriptor:
    """Merge images in the repository into one index, pushed by digest. Raises UsageError if two are
    for the same platform, NotFound.
    """
    parts = [_part(repository, digest) for digest in digests]
    index = combine(parts, annotations=annotations)
    seen: set[Platform] = set()
    for platform in (one.platform for one in index.images if one.platform):
        if platform in seen:
            raise InvalidBuildMetadata(f"--built: two builds are for {platform}")
        seen.add(platform)
    repository.push(index.descriptor, MemoryStore(index.raw))
    return index.descriptor


def _part(repository: Repository, digest: Digest) -> Part:
    target = repository.resolve(str(digest))
    document = fetch_document(repository, target)
    if isinstance(document, Index):
        return Part(document)
    return Part(document, _config(repository, document.config).platform)


def _config(repository: Repository, config: Descriptor) -> ImageConfig:
    return ImageConfig.parse(fetch_all(repository, config, CONFIG_LIMIT))


def read_image(repository: Repository, target: Descriptor) -> PushedImage:
    """The image in the repository, with the manifest of each platform."""
    document = fetch_document(repository, target)
    if isinstance(document, Index):
        platforms = tuple((str(one.platform), one.digest) for one in document.images)
    else:
        platforms = ((str(_config(repository, document.config).platform), target.digest),)
    return PushedImage(target.plain, platforms)
