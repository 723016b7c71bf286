"""The step `build`: the image is built, merged from images that other machines built, or exists
already. In each case it is in the registry by digest, without a tag.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from shipline.build import (
    Annotation,
    BuildRequest,
    Level,
    Output,
    OutputFormat,
    check_request,
    parse_request,
)
from shipline.content import MemoryStore, Repository, fetch_all
from shipline.dockerfile import nearest
from shipline.errors import ConfigError, ContentError, UsageError
from shipline.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Part,
    Platform,
    Reference,
    combine,
    parse_manifest,
)
from shipline.ship.plan import (
    PipelineStep,
    PlanInput,
    ProjectConfig,
    StepContext,
    StepKind,
    StepOutcome,
)
from shipline.ship.record import RunRecord, StepResult, as_json
from shipline.ship.section import Build
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.events import Step as Span

_VERSION = "org.opencontainers.image.version"
_CONFIG_LIMIT = 8 << 20  # bytes
_METADATA_LIMIT = 1 << 20  # bytes
_DOCKERFILE_HINT = (
    "`shipline init --dockerfile` writes one for Node.js, Python and Go; build.file names another"
)
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
class LocalImage:
    """The digest of an image that was built but not pushed."""

    digest: Digest

    def to_json(self) -> dict[str, Any]:
        return {"built": str(self.digest)}


def _decode(results: Mapping[str, Any]) -> StepResult:
    if "built" in results:
        return LocalImage(Digest.parse(results["built"]))
    return PushedImage.from_json(results)


def _steps(inputs: PlanInput) -> Iterator[PipelineStep]:
    build, image = inputs.pipeline.build, inputs.pipeline.image
    built, reuse = [str(image) for image in inputs.selection.built], inputs.naming.reuse
    note = "" if inputs.naming.push else "not pushed"
    if built or reuse:
        note = "built elsewhere, merged here" if built else f"the image of this commit is {reuse}"
    yield PipelineStep(
        name="build",
        kind="build",
        title="build the image",
        command=f"merge {' '.join(built)}" if built else command_line(build, image),
        compared={"image": str(image), "build": as_json(replace(build, needs=())), "built": built},
        run=_run,
        needs=build.needs,
        skip="" if image else "shipline.yaml names no image",
        note=note,
    )


def _missing(project: ProjectConfig) -> Iterator[str]:
    build = project.pipeline.build
    for platform in build.platforms:
        for word, known in ((platform.os, _SYSTEMS), (platform.architecture, _ARCHITECTURES)):
            if word not in known:
                close = nearest(word, known)
                meant = f" (did you mean {close}?)" if close else ""
                yield f"build.platforms: {platform}: {word!r} is unknown{meant}"
    if project.pipeline.image is not None and not build.needs:
        yield from _missing_sources(build, project.root)


BUILD = StepKind(name="build", steps=_steps, decode=_decode, missing=_missing)


def _run(context: StepContext, span: Span) -> StepOutcome:
    decision, inputs = context.decision, context.inputs
    repository, note = context.repository, context.plan.step("build").step.note
    if inputs.naming.reuse is not None:
        target = repository.resolve(str(inputs.naming.reuse))
        image = replace(read_image(repository, target), reused=True)
        reports = _listed_packages(context, target)
        return StepOutcome(result=image, reports=reports, reason=note, cached=True)
    fixed = decision.git_tag is None or not decision.git_tag.new
    annotations = image_labels(decision.annotations, fixed=fixed)
    if inputs.selection.built:
        target = merge(repository, inputs.selection.built, annotations)
    else:
        request = build_request(
            context.project,
            context.environment.environ,
            labels=image_labels(decision.labels, fixed=fixed),
            annotations=annotations,
            push=decision.push,
        )
        target = context.build(request, span)
    if not decision.push:
        return StepOutcome(result=LocalImage(target.digest), reason=note)
    reports = _listed_packages(context, target)
    return StepOutcome(result=read_image(repository, target), reports=reports, reason=note)


def _listed_packages(context: StepContext, target: Descriptor) -> dict[str, str]:
    """Reports with the packages of the image for each platform, if the build is to list them."""
    reports = {}
    if context.project.pipeline.build.sbom:
        for part, raw in sboms(context.repository, target):
            report = context.recorder.report("build", f"{part.platform}.spdx.json")
            report.write_bytes(raw)
            reports[str(report)] = str(Digest.of(raw))
    return reports


def sboms(repository: Repository, target: Descriptor) -> Iterator[tuple[Descriptor, bytes]]:
    """The statements with the packages of the image for each platform, if the build made some."""
    from shipline.supply import SPDX, stored_statements  # slow to import

    document = parse_manifest(fetch_all(repository, target, MANIFEST_LIMIT), target.media_type)
    if isinstance(document, Index):
        for image in document.images:
            found = stored_statements(repository, document, image)
            first = next((raw for kind, raw in found if kind == SPDX), None)
            if first is not None:
                yield image, first


def pushed_image(run: RunRecord) -> PushedImage | None:
    """The image of a run; None before it is built, or if it was not pushed."""
    return run.result("build", PushedImage)


def require_image(run: RunRecord) -> Descriptor:
    """The image of a run. Raises UsageError if there is none."""
    image = pushed_image(run)
    if image is None:
        raise UsageError("there is no image yet: the build has not run")
    return image.descriptor


def digest_of(run: RunRecord) -> str:
    """The digest of the image of a run; empty if none was pushed."""
    image = pushed_image(run)
    return str(image.digest) if image else ""


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
    project: ProjectConfig,
    environ: Mapping[str, str],
    *,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    push: bool,
) -> BuildRequest:
    """The request of that command. Raises UsageError for invalid values."""
    build, root, image = project.pipeline.build, project.root, project.pipeline.image
    request = parse_request(
        _placed(build.context, root),
        environ,
        file=None if build.file is None else str(root / build.file),
        target=build.target,
        build_context=[f"{name}={_placed(at, root)}" for name, at in build.contexts.items()],
        pull=build.pull,
        secret=build.secrets,
        ssh=build.ssh,
        no_cache=build.no_cache,
        cache_from=build.cache_from,
        cache_to=build.cache_to,
        provenance=f"mode={build.provenance}" if build.provenance else None,
        sbom="true" if build.sbom else None,
    )
    return replace(
        request,
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
    """Why the image cannot be built, as far as that is known before any work."""
    build, place = project.pipeline.build, _dockerfile(project.pipeline.build)
    try:
        check_request(build_request(project, environ, labels={}, annotations={}, push=False))
    except UsageError as error:
        return ConfigError(f"{project.file}: build: {error.message}", hint=error.hint)
    if build.needs or "://" in build.context:  # the Dockerfile may come from there
        return None
    if (project.root / place).exists():
        return None
    return ConfigError(f"there is no Dockerfile at {place}", hint=_DOCKERFILE_HINT)


def _dockerfile(build: Build) -> Path:
    """The Dockerfile, relative to the project."""
    return Path(build.file) if build.file else Path(build.context, "Dockerfile")


def _missing_sources(build: Build, root: Path) -> Iterator[str]:
    if "://" not in build.context:
        if not (root / build.context).is_dir():
            yield f"build.context: there is no directory {build.context}"
        elif not (root / _dockerfile(build)).is_file():
            yield f"build.file: there is no Dockerfile at {_dockerfile(build)}"
    for name, place in build.contexts.items():
        if "://" not in place and not (root / place).is_dir():
            yield f"build.contexts.{name}: there is no directory {place}"
    for secret in build.secrets:
        fields = dict(part.partition("=")[::2] for part in secret.split(","))
        source = fields.get("src") or fields.get("source") or ""
        if source and not (root / source).is_file():
            yield f"build.secrets: there is no file {source}"


def read_built(paths: Iterable[Path], image: Reference) -> tuple[Digest, ...]:
    """The digests in metadata files of builds. Raises UsageError for other files, and for builds
    of another image.
    """
    return tuple(dict.fromkeys(_built(path, image) for path in paths))


def _built(path: Path, image: Reference) -> Digest:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_METADATA_LIMIT))
        digest = Digest.parse(document["containerimage.digest"])
        names = [
            Reference.parse(text) for text in document.get("image.name", "").split(",") if text
        ]
    except OSError as error:
        raise UsageError(f"--built: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ContentError, UsageError):
        raise UsageError(
            f"--built: {path} names no image",
            hint="pass a file written by `shipline build --metadata-file`",
        ) from None
    if names and image.name not in {name.name for name in names}:
        raise UsageError(f"--built: {path} is a build of {names[0].name}, not of {image.name}")
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
            raise UsageError(f"--built: two builds are for {platform}")
        seen.add(platform)
    repository.push(index.descriptor, MemoryStore(index.raw))
    return index.descriptor


def _part(repository: Repository, digest: Digest) -> Part:
    target = repository.resolve(str(digest))
    document = parse_manifest(fetch_all(repository, target, MANIFEST_LIMIT), target.media_type)
    if isinstance(document, Index):
        return Part(document)
    return Part(document, _platform(repository, document.config))


def _platform(repository: Repository, config: Descriptor) -> Platform:
    return ImageConfig.parse(fetch_all(repository, config, _CONFIG_LIMIT)).platform


def read_image(repository: Repository, target: Descriptor) -> PushedImage:
    """The image in the repository, with the manifest of each platform."""
    document = parse_manifest(fetch_all(repository, target, MANIFEST_LIMIT), target.media_type)
    if isinstance(document, Index):
        platforms = tuple((str(one.platform), one.digest) for one in document.images)
    else:
        platforms = ((str(_platform(repository, document.config)), target.digest),)
    return PushedImage(target.plain, platforms)
