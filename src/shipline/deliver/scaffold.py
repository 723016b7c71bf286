"""The first files of a project: shipline.yaml, Dockerfile, .dockerignore, .gitignore."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from shipline.deliver.ci.document import Comment, Inline, render
from shipline.deliver.project import DetectedProject, Language, ProjectCheck
from shipline.deliver.project.detect import legal
from shipline.deliver.project.python import MANAGERS

PLACEHOLDER = "registry.example/team"
PLATFORMS = ("linux/amd64", "linux/arm64")
_SHOWN = 5  # parts listed
KEY = "env://COSIGN_PRIVATE_KEY"


def initial_config(
    project: DetectedProject,
    *,
    image: str = "",
    platforms: tuple[str, ...] = PLATFORMS,
    docker: bool = False,
) -> str:
    """The text of shipline.yaml. Without `image` it has a placeholder and a TODO. `docker` tells
    that the Dockerfile is that of `initial_dockerfile`, which does not run as root.
    """
    document: dict[object, object] = {
        Comment(_HEADER): None,
        **_image(project, image),
        **_steps(project.language),
        **_build(project, platforms),
        **_gates(project.language, docker),
        Comment(_SIGNING): None,
    }
    return render(document)


_HEADER = """\
From a commit to a signed image. `shipline ship` runs this pipeline, `shipline ship --plan` shows
it, `shipline config check` checks this file, `shipline ci github` generates a CI workflow.
"""


def _image(project: DetectedProject, image: str) -> dict[object, object]:
    """What is pushed where: one image, or each Dockerfile's."""
    todo = "TODO: the repository to push to. Tags are derived from git (`shipline tags`)."
    head: dict[object, object] = {} if image else {Comment(todo): None}
    image = image or f"{PLACEHOLDER}/{project.name}"
    if len(project.dockerfiles) < 2:
        return {**head, "image": image}
    comment = "One run, one version, an image for each Dockerfile: remove what is not shipped."
    return {**head, Comment(comment): None, "targets": _targets(project, image)}


def _targets(project: DetectedProject, image: str) -> dict[object, object]:
    """A target for each Dockerfile, named for its directory or suffix."""
    words = {file: _words(file) for file in project.dockerfiles}
    last = [one[-1] for one in words.values() if one]
    between = "-" if image.startswith("docker.io/") else "/"  # names of Docker Hub have two parts
    targets: dict[object, object] = {}
    for file, context in zip(project.dockerfiles, project.contexts, strict=True):
        if not words[file]:
            targets[project.name] = {"image": image}
            continue
        (*_, own) = words[file]
        name = own if last.count(own) == 1 and own != project.name else "-".join(words[file])
        targets[name] = {"image": f"{image}{between}{name}", **_source(file, context)}
    return targets


def _words(dockerfile: str) -> tuple[str, ...]:
    """What tells a Dockerfile from others: directories, and a suffix."""
    path = Path(dockerfile)
    return tuple(filter(None, map(legal, (*path.parts[:-1], path.suffix))))


def _source(file: str, context: str) -> dict[str, str]:
    """The keys of a Dockerfile that is not the one at the top of the project."""
    keys = {} if context == "." else {"context": context}
    return keys if file == str(Path(context, "Dockerfile")) else {**keys, "file": file}


def _steps(language: Language | None) -> dict[object, object]:
    if language is None or not language.checks:
        return {
            Comment(
                "\nCommands of the project. They run concurrently; gates judge their reports.\n"
                "steps:\n  test:\n    run: make test\n    reports: {tests: reports/junit.xml}"
            ): None
        }
    steps: dict[object, object] = {}
    for check in language.checks:
        if check.note:
            steps[Comment(f"{check.note[0].upper()}{check.note[1:]}.")] = None
        steps[check.name] = _step(check)
    comment = "\nCommands of the project. They run concurrently; gates judge their reports."
    return {Comment(comment): None, "steps": steps}


def _step(check: ProjectCheck) -> object:
    if not check.reports:
        return check.run
    return {"run": check.run, "reports": dict(check.reports)}


def _build(project: DetectedProject, platforms: tuple[str, ...]) -> dict[object, object]:
    build: dict[object, object] = {}
    if len(project.dockerfiles) == 1:
        build.update(_source(project.dockerfiles[0], *project.contexts))
    build["platforms"] = Inline(platforms)
    return {Comment("\n" + "\n".join(_remarks(project))): None, "build": build}


def _remarks(project: DetectedProject) -> Iterator[str]:
    yield "All platforms are built at once and pushed as one image."
    if not project.dockerfiles and project.parts:
        yield "TODO: write a Dockerfile, or one for each part: `targets` names their images."
    elif not project.dockerfiles:
        yield "TODO: write a Dockerfile; the start command of the program is unknown."
    if project.parts:
        ellipsis = ", ..." if len(project.parts) > _SHOWN else ""
        yield f"Parts: {', '.join(project.parts[:_SHOWN])}{ellipsis}. A part with its own versions"
        yield "needs its own shipline.yaml with tags.paths and tags.tag-prefix."


def _gates(language: Language | None, docker: bool) -> dict[object, object]:
    """Gates for the reports of the steps, and for the image of our own Dockerfile."""
    written = (
        {gate for check in language.checks for gate, _ in check.reports} if language else set()
    )
    written |= {"image"} if docker else set()
    gates = {name: dict(limits) for name, limits in _LIMITS.items() if name in written}
    if not gates:
        return {}
    comment = "\nWhat must hold before the image is tagged. A missing report never passes."
    return {Comment(comment): None, "gates": gates}


_LIMITS: dict[str, dict[str, object]] = {
    "coverage": {"min": 80},
    "tests": {},
    "analysis": {},
    "vulnerabilities": {},
    "image": {"non-root": True},
}


_SIGNING = f"""
Sign with your own key: `shipline key generate` creates one. Keep the private key
out of git, as a secret of CI.
sign:
  key: {KEY}"""
_SYNTAX = "# syntax=docker/dockerfile:1\n\n"
NGINX = "nginxinc/nginx-unprivileged:1.29-alpine"  # listens on 8080, and is not root
_SITE = "/usr/share/nginx/html"


def initial_dockerfile(project: DetectedProject) -> str | None:
    """The text of a Dockerfile; None if the start command of the project is unknown."""
    language = project.language
    if language is not None and language.site:
        return _SYNTAX + _built_site(language)
    if language is not None and language.start:
        write = {"node": _node, "python": _python, "go": _go}[language.toolchain.kind]
        return _SYNTAX + write(language)
    return _SYNTAX + _plain_site(project.site) if project.site else None


def initial_dockerignore(project: DetectedProject) -> str:
    """The text of .dockerignore: history, secrets and build outputs."""
    language = project.language
    own = _IGNORED[language.toolchain.kind] if language else ()
    outputs = ("dist",) if language and language.toolchain.kind == "node" and language.build else ()
    lines = ["# What does not belong in the image, or would change layers needlessly.", *_ALWAYS]
    return "\n".join([*lines, *own, *outputs]) + "\n"


def initial_gitignore(project: DetectedProject) -> str:
    """The text of .gitignore: files that tools write and that are not committed."""
    language = project.language
    own = _LEFT[language.toolchain.kind] if language else ()
    return "\n".join([*own, "reports/", "*.key", ".env"]) + "\n"


_ALWAYS = (
    *(".git", ".github", ".gitlab-ci.yml", ".gitignore", ".env", ".env.*", "*.key", "*.pem"),
    *("Dockerfile*", ".dockerignore", "shipline.yaml", "reports", "coverage"),
)
_IGNORED = {
    "node": ("node_modules", "npm-debug.log*", "*.md"),
    "python": (".venv", "venv", "**/__pycache__", "*.egg-info", ".mypy_cache", ".pytest_cache"),
    "go": ("bin", "*.test", "*.out", "*.md"),
}
_LEFT = {
    "node": ("node_modules/", "coverage/", "npm-debug.log*"),
    "python": (
        *(".venv/", "__pycache__/", "*.egg-info/", "build/", "dist/"),
        *(".coverage", ".mypy_cache/", ".pytest_cache/", ".ruff_cache/"),
    ),
    "go": ("bin/", "*.test", "*.out"),
}

_FILES = {
    "npm": "package.json package-lock.json",
    "pnpm": "package.json pnpm-lock.yaml",
    "yarn": "package.json yarn.lock",
    "bun": "package.json bun.lock*",
}
_CACHES = {
    "npm": "/root/.npm",
    "pnpm": "/root/.local/share/pnpm/store",
    "yarn": "/root/.yarn",
    "bun": "/root/.bun/install/cache",
}
_RUNTIME = {"npm": " --omit=dev", "pnpm": " --prod", "yarn": "", "bun": " --production"}
_PRUNE = {"npm": " && npm prune --omit=dev", "pnpm": " && pnpm prune --prod"}


def _node(language: Language) -> str:
    base = f"node:{language.toolchain.version}-slim"
    if language.build:
        return _built(language, base, f"{language.build}{_PRUNE.get(language.manager, '')}") + (
            _last(language, base, "COPY --link --from=build /app ./\n")
        )
    if not language.needs:
        return _last(language, base, "COPY --link . .\n")
    return f"""\
# Plain JavaScript is the same on every platform: install it once, on the build machine. If a
# dependency has native code, remove `--platform=$BUILDPLATFORM`.
FROM --platform=$BUILDPLATFORM {base} AS dependencies
WORKDIR /app
{_installed(language, _RUNTIME[language.manager])}

""" + _last(
        language,
        base,
        "COPY --link --from=dependencies /app/node_modules ./node_modules\nCOPY --link . .\n",
    )


def _installed(language: Language, flags: str) -> str:
    """The instructions that install the dependencies before the source is copied."""
    manager = language.manager
    setup = language.toolchain.setup[
        -1:
    ]  # the command that installs, after the one that installs the manager
    files, install = _FILES[manager], " && ".join((*filter(None, (language.getting,)), *setup))
    if manager == "npm":
        files = files if language.locked else "package.json"
        install = f"npm {'ci' if language.locked else 'install'} --no-audit --no-fund"
    mount = f"--mount=type=cache,target={_CACHES[manager]}"
    return f"COPY {files} ./\nRUN {mount} {install}{flags} && mkdir -p node_modules"


def _built(language: Language, base: str, build: str) -> str:
    return f"""\
# Built once, on the build machine: JavaScript is the same on every platform. If a dependency has
# native code, remove `--platform=$BUILDPLATFORM`.
FROM --platform=$BUILDPLATFORM {base} AS build
WORKDIR /app
{_installed(language, "")}
COPY . .
RUN {build}

"""


def _last(language: Language, base: str, copies: str) -> str:
    return f"""\
FROM {base}
ENV NODE_ENV=production
WORKDIR /app
{copies}EXPOSE 8080
USER node
CMD {json.dumps(language.start)}
"""


def _built_site(language: Language) -> str:
    base = f"node:{language.toolchain.version}-slim"
    return _built(language, base, language.build) + _served(
        f"COPY --link --from=build /app/{language.site} {_SITE}"
    )


def _plain_site(directory: str) -> str:
    return _served(f"COPY --link {directory} {_SITE}")


def _served(copy: str) -> str:
    return f"""\
FROM {NGINX}
{copy}
EXPOSE 8080
"""


_PYTHON_DEPENDENCIES = {
    "uv": f"""\
ENV UV_PROJECT_ENVIRONMENT=/venv VIRTUAL_ENV=/venv UV_COMPILE_BYTECODE=1
RUN --mount=type=cache,target=/root/.cache/pip pip install {MANAGERS["uv"]}
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv uv sync --frozen --no-dev --no-install-project
""",
    "poetry": f"""\
ENV VIRTUAL_ENV=/venv PATH=/venv/bin:$PATH
RUN --mount=type=cache,target=/root/.cache/pip \\
    python -m venv /venv && pip install {MANAGERS["poetry"]}
COPY pyproject.toml poetry.lock ./
RUN --mount=type=cache,target=/root/.cache/pypoetry poetry install --only main --no-root
""",
    "pdm": f"""\
ENV VIRTUAL_ENV=/venv PATH=/venv/bin:$PATH
RUN --mount=type=cache,target=/root/.cache/pip \\
    python -m venv /venv && pip install {MANAGERS["pdm"]}
COPY pyproject.toml pdm.lock ./
RUN --mount=type=cache,target=/root/.cache/pdm pdm sync --prod --no-self
""",
    "requirements": """\
COPY requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \\
    python -m venv /venv && /venv/bin/pip install -r requirements.txt
""",
    "pip": "RUN python -m venv /venv\n",
    "listed": """\
# The dependencies before the source: a change of it does not install them again.
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip python -m venv /venv \\
 && python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \\
        print(*project['dependencies'], sep='\\n')" > /requirements.txt \\
 && /venv/bin/pip install -r /requirements.txt
""",
}
_VERSION = """\
# The build has no git: pass the version, as --build-arg VERSION=1.2.3.
ARG VERSION=0.0.0
ENV SETUPTOOLS_SCM_PRETEND_VERSION=$VERSION
"""


def _python(language: Language) -> str:
    base = f"python:{language.toolchain.version}-slim"
    copy = "COPY --link --from=dependencies /venv /venv\n" if language.needs else ""
    path = "PATH=/venv/bin:$PATH " if language.needs else ""
    return f"""\
{_python_stage(language, base) if language.needs else ""}\
FROM {base}
ENV {path}PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
{copy}COPY --link . .
EXPOSE 8080
# A user id that owns no files.
USER 10001
CMD {json.dumps(language.start)}
"""


def _python_stage(language: Language, base: str) -> str:
    """The stage with the dependencies, and the project itself if it is a package."""
    manager = language.manager
    if manager == "pip" and not language.installs:
        manager = "requirements"
    elif manager == "pip" and language.listed:
        manager = "listed"
    install = {
        "uv": "--mount=type=cache,target=/root/.cache/uv uv pip install --no-deps .",
        "pip": "--mount=type=cache,target=/root/.cache/pip /venv/bin/pip install .",
    }
    other = "--mount=type=cache,target=/root/.cache/pip /venv/bin/pip install --no-deps ."
    version = _VERSION if language.versioned else ""
    own = f"COPY . .\n{version}RUN {install.get(manager, other)}\n" if language.installs else ""
    return f"FROM {base} AS dependencies\nWORKDIR /app\n{_PYTHON_DEPENDENCIES[manager]}{own}\n"


def _go(language: Language) -> str:
    return f"""\
# The compiler runs on the build machine and cross-compiles for every platform.
FROM --platform=$BUILDPLATFORM golang:{language.toolchain.version} AS build
WORKDIR /src
COPY go.mod go.sum* ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \\
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \\
    go build -trimpath -ldflags="-s -w" -o /out/app {language.start[0]}

FROM gcr.io/distroless/static-debian12:nonroot
COPY --link --from=build /out/app /app
EXPOSE 8080
ENTRYPOINT ["/app"]
"""
