"""A first Dockerfile and .dockerignore: stages, cache mounts, no root, every platform."""

from __future__ import annotations

import json

from shipline.deliver.project import Language, Project

_SYNTAX = "# syntax=docker/dockerfile:1\n\n"


def dockerfile(project: Project) -> str | None:
    """The text of a Dockerfile; None for a project of a language that we do not know."""
    if project.language is None:
        return None
    write = {"node": _node, "python": _python, "go": _go}[project.language.toolchain.kind]
    return _SYNTAX + write(project.language)


def dockerignore(project: Project) -> str:
    """What the build has no use for: history, secrets, and what it makes itself."""
    language = project.language
    own = _IGNORED[language.toolchain.kind] if language else ()
    lines = ["# What does not belong into an image, or would change a layer for nothing.", *_ALWAYS]
    return "\n".join([*lines, *own]) + "\n"


_ALWAYS = (
    *(".git", ".github", ".gitlab-ci.yml", ".env", ".env.*", "*.key", "*.pem"),
    *("Dockerfile*", ".dockerignore", "shipline.yaml", "reports", "coverage"),
)
_IGNORED = {
    "node": ("node_modules", "dist", "npm-debug.log*", "*.md"),
    "python": (".venv", "venv", "**/__pycache__", "*.egg-info", ".mypy_cache", ".pytest_cache"),
    "go": ("bin", "*.test", "*.out", "*.md"),
}

_UNLOCKED = ("package.json", "/root/.npm", "npm install --omit=dev --no-audit --no-fund")
_INSTALL = {
    "npm": (
        "package.json package-lock.json",
        "/root/.npm",
        "npm ci --omit=dev --no-audit --no-fund",
    ),
    "pnpm": (
        "package.json pnpm-lock.yaml",
        "/root/.local/share/pnpm/store",
        "corepack enable && pnpm install --frozen-lockfile --prod",
    ),
    "yarn": (
        "package.json yarn.lock",
        "/root/.yarn",
        "corepack enable && yarn install --immutable",
    ),
    "bun": (
        "package.json bun.lock*",
        "/root/.bun/install/cache",
        "npm install --global bun && bun install --frozen-lockfile --production",
    ),
}


def _node(language: Language) -> str:
    files, cache, install = _INSTALL[language.manager] if language.locked else _UNLOCKED
    base = f"node:{language.toolchain.version}-slim"
    return f"""\
# Plain JavaScript is the same everywhere: installed once, on the machine that builds. Where a
# dependency has native code, take `--platform=$BUILDPLATFORM` away.
FROM --platform=$BUILDPLATFORM {base} AS dependencies
WORKDIR /app
COPY {files} ./
RUN --mount=type=cache,target={cache} {install} && mkdir -p node_modules

FROM {base}
ENV NODE_ENV=production
WORKDIR /app
COPY --link --from=dependencies /app/node_modules ./node_modules
COPY --link . .
EXPOSE 8080
USER node
CMD {json.dumps(language.start)}
"""


_PYTHON_DEPENDENCIES = {
    "uv": """\
ENV UV_PROJECT_ENVIRONMENT=/venv VIRTUAL_ENV=/venv UV_COMPILE_BYTECODE=1
RUN --mount=type=cache,target=/root/.cache/pip pip install uv
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv uv sync --frozen --no-dev --no-install-project
""",
    "poetry": """\
ENV VIRTUAL_ENV=/venv PATH=/venv/bin:$PATH
RUN --mount=type=cache,target=/root/.cache/pip python -m venv /venv && pip install poetry
COPY pyproject.toml poetry.lock ./
RUN --mount=type=cache,target=/root/.cache/pypoetry poetry install --only main --no-root
""",
    "pdm": """\
ENV VIRTUAL_ENV=/venv PATH=/venv/bin:$PATH
RUN --mount=type=cache,target=/root/.cache/pip python -m venv /venv && pip install pdm
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
_PROGRAM = {
    "uv": "RUN --mount=type=cache,target=/root/.cache/uv uv pip install --no-deps .",
    "pip": "RUN --mount=type=cache,target=/root/.cache/pip /venv/bin/pip install .",
}


def _python(language: Language) -> str:
    base = f"python:{language.toolchain.version}-slim"
    return f"""\
FROM {base} AS dependencies
WORKDIR /app
{_python_install(language)}
FROM {base}
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --no-create-home app
WORKDIR /app
COPY --link --from=dependencies /venv /venv
COPY --link . .
EXPOSE 8080
USER 10001
CMD {json.dumps(language.start)}
"""


def _python_install(language: Language) -> str:
    """The dependencies, and where the project names a program of its own, the project."""
    requirements = any("requirements.txt" in line for line in language.toolchain.setup)
    manager = "requirements" if requirements else language.manager
    program = language.start[0] != "python" or manager == "pip"
    install = _PROGRAM.get(manager, _PROGRAM["pip"].replace("install .", "install --no-deps ."))
    return _PYTHON_DEPENDENCIES[manager] + (f"COPY . .\n{install}\n" if program else "")


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
