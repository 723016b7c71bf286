"""Files of definitions: which are read, and in which language each is written.

Reference: `docker buildx bake --help`, docs/reference/buildx_bake.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from shipline.bake.definitions import Definitions, add_definitions
from shipline.bake.json_syntax import parse_json
from shipline.bake.syntax import Body, not_too_deep, parse_hcl
from shipline.errors import UsageError

COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
BAKE_FILES = (
    "docker-bake.json",
    "docker-bake.hcl",
    "docker-bake.override.json",
    "docker-bake.override.hcl",
)
_LIMIT = 16 << 20  # bytes of a file
_NO_ENVIRONMENT = "BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP"


class DefinitionFile(Struct, frozen=True):
    """A file by the name that it was asked for."""

    name: str
    content: bytes


def read_files(names: Sequence[str], read_stdin: Callable[[int], bytes]) -> list[DefinitionFile]:
    """The files of these names, `-` for standard input, which `read_stdin` reads up to a number of
    bytes; without names those of the default names that exist. Raises UsageError.
    """
    if not names:
        names = [one for one in (*COMPOSE_FILES, *BAKE_FILES) if os.path.lexists(one)]
    found = [DefinitionFile(name, _content(name, read_stdin)) for name in names]
    if not found:
        raise UsageError(
            "couldn't find a bake definition",
            code="bake-not-found",
            hint=f"name one with -f, or write {BAKE_FILES[1]}",
        )
    return found


def _content(name: str, read_stdin: Callable[[int], bytes]) -> bytes:
    if name == "-":
        content = read_stdin(_LIMIT + 1)
    else:
        try:
            with open(name, "rb", opener=_open_file) as file:
                content = file.read(_LIMIT + 1)
        except OSError as error:
            why = (error.strerror or "").lower()  # as buildx words it, for scripts
            raise UsageError(f"cannot read {name}: {why}", code="bake-unreadable") from None
    if len(content) > _LIMIT:
        raise UsageError(
            f"{name} is too big for a bake definition: more than {_LIMIT} bytes",
            code="bake-too-large",
        )
    return content


def _open_file(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO without a writer does not wait


def parse_files(
    files: Iterable[DefinitionFile],
    environ: Mapping[str, str],
    *,
    variables: Mapping[str, str],
    builtin: Mapping[str, str],
) -> Definitions:
    """What the files define: compose files first, then HCL and JSON, each later one over those
    before. `variables` win over the environment; `builtin` are the constants. Raises BakeError.
    """
    with not_too_deep():
        environ = visible_environment(environ)
        given = {**environ, **variables}
        compose: list[DefinitionFile] = []
        bodies: list[Body] = []
        for file in files:
            parsed = _parse(file, given)
            if parsed is None:
                compose.append(file)
            else:
                bodies.append(parsed)
        config = Definitions()
        if compose:
            from shipline.bake.compose import add_compose

            add_compose(config, compose, given)
        if bodies:
            add_definitions(config, bodies, builtin, given.get)
        return config


def visible_environment(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment that definitions may read."""
    from shipline.build import parse_boolean

    setting = environ.get(_NO_ENVIRONMENT, "")
    try:
        hidden = bool(setting) and parse_boolean(setting, _NO_ENVIRONMENT)
    except UsageError:
        hidden = False
    return {} if hidden else environ


def _parse(file: DefinitionFile, environ: Mapping[str, str]) -> Body | None:
    """The body of a file in HCL or JSON; None for a compose file."""
    name = file.name.lower()
    if name.endswith((".yaml", ".yml")):
        return None
    if name.endswith(".json"):
        return parse_json(file.name, file.content)
    if name.endswith(".hcl"):
        return parse_hcl(file.name, file.content)
    from shipline.bake.compose import is_compose

    if is_compose(file, environ):
        return None
    shown = "standard input" if file.name == "-" else file.name
    if file.content.lstrip()[:1] == b"{":
        return parse_json(shown, file.content)
    return parse_hcl(shown, file.content)
