"""A first Dockerfile with its ignore files: stages, cache mounts, no root, every platform."""

from __future__ import annotations

import json

from shipline.deliver.project import Language, Project
from shipline.deliver.project.python import MANAGERS

_SYNTAX = "# syntax=docker/dockerfile:1\n\n"
NGINX = "nginxinc/nginx-unprivileged:1.29-alpine"  # listens on 8080, and is not root
_SITE = "/usr/share/nginx/html"


def initial_dockerfile(project: Project) -> str | None:
    """The text of a Dockerfile; None for a project that has nothing we know how to start."""
    language = project.language
    if language is not None and language.site:
        return _SYNTAX + _built_site(language)
    if language is not None and language.start:
        write = {"node": _node, "python": _python, "go": _go}[language.toolchain.kind]
        return _SYNTAX + write(language)
    return _SYNTAX + _plain_site(project.site) if project.site else None


def initial_dockerignore(project: Project) -> str:
    """Files that the build does not need: history, secrets, and build outputs."""
    language = project.language
    own = _IGNORED[language.toolchain.kind] if language else ()
    outputs = ("dist",) if language and language.toolchain.kind == "node" and language.build else ()
    lines = ["# What does not belong into an image, or would change a layer for nothing.", *_ALWAYS]
    return "\n".join([*lines, *own, *outputs]) + "\n"


def initial_gitignore(project: Project) -> str:
    """Files that tools leave in the tree and that are not committed."""
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
# Plain JavaScript is the same everywhere: installed once, on the machine that builds. Where a
# dependency has native code, take `--platform=$BUILDPLATFORM` away.
FROM --platform=$BUILDPLATFORM {base} AS dependencies
WORKDIR /app
{_installed(language, _RUNTIME[language.manager])}

""" + _last(
        language,
        base,
        "COPY --link --from=dependencies /app/node_modules ./node_modules\nCOPY --link . .\n",
    )


def _installed(language: Language, flags: str) -> str:
    """The instructions that install the dependencies, before the source is there."""
    manager = language.manager
    setup = language.toolchain.setup[-1:]  # what installs, behind what gets the manager
    files, install = _FILES[manager], " && ".join((*filter(None, (language.getting,)), *setup))
    if manager == "npm":
        files = files if language.locked else "package.json"
        install = f"npm {'ci' if language.locked else 'install'} --no-audit --no-fund"
    mount = f"--mount=type=cache,target={_CACHES[manager]}"
    return f"COPY {files} ./\nRUN {mount} {install}{flags} && mkdir -p node_modules"


def _built(language: Language, base: str, build: str) -> str:
    return f"""\
# Built once, on the machine that builds: JavaScript is the same everywhere. Where a dependency has
# native code, take `--platform=$BUILDPLATFORM` away.
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
}
_VERSION = """\
# No git here: the version is given, as with --build-arg VERSION=1.2.3.
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
# A user without a name, which owns nothing.
USER 10001
CMD {json.dumps(language.start)}
"""


def _python_stage(language: Language, base: str) -> str:
    """The dependencies, and the project where it is a package."""
    requirements = language.manager == "pip" and not language.installs
    manager = "requirements" if requirements else language.manager
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
# The compiler runs on the machine that builds and writes programs for every platform.
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
