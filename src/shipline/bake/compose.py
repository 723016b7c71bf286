"""Compose files -> targets: one for each service that has a `build`.

Reference: github.com/compose-spec/compose-spec, build.md, 12-interpolation.md, 13-merge.md; the
extension x-bake: docs.docker.com/build/bake/compose-file.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from msgspec import Struct

from shipline.bake.definitions import NAME_HINT, Definitions, wrong_name
from shipline.bake.entries import Entry, parse_entries, without_duplicates
from shipline.bake.syntax import BakeError
from shipline.bake.target import Group, Target
from shipline.bake.yaml_tree import YamlMap, fail, parse_yaml
from shipline.build import parse_boolean, parse_size
from shipline.errors import ShiplineError, UsageError, closest
from shipline.units import go_size

_TOP = """
version name include services models networks volumes secrets configs
"""
_SERVICE = """
annotations attach build blkio_config cap_add cap_drop cgroup cgroup_parent command
configs container_name cpu_count cpu_percent cpu_shares cpu_quota cpu_period
cpu_rt_period cpu_rt_runtime cpus cpuset credential_spec depends_on deploy develop
device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file
environment expose extends external_links extra_hosts gpus group_add healthcheck
hostname image init ipc isolation label_file labels links logging mac_address
mem_limit mem_reservation mem_swappiness memswap_limit models network_mode networks
oom_kill_disable oom_score_adj pid pids_limit platform ports post_start pre_stop
privileged profiles provider pull_policy pull_refresh_after read_only restart runtime
scale secrets security_opt shm_size stdin_open stop_grace_period stop_signal
storage_opt sysctls tmpfs tty ulimits use_api_socket user userns_mode uts volumes
volumes_from working_dir
"""
_BUILD = """
context dockerfile dockerfile_inline entitlements args ssh labels cache_from cache_to
no_cache no_cache_filter additional_contexts network provenance sbom pull target
shm_size extra_hosts isolation privileged secrets tags ulimits platforms
"""
_BAKE = """
tags cache-from cache-to secret ssh platforms output pull no-cache no-cache-filter
contexts
"""
_MAPPINGS = ("args", "labels", "environment", "additional_contexts")
_NAME = re.compile(r"[a-zA-Z0-9_-]+\Z")
_MOST_FILES = 100


def is_compose(file: Any, environ: Mapping[str, str]) -> bool:
    """Whether a file without a telling name is a compose file."""
    try:
        return "services" in _load(file.name, file.content, environ)
    except ShiplineError:
        return False


def add_compose(config: Definitions, files: Sequence[Any], environ: Mapping[str, str]) -> None:
    """Add the services that are built to `config`, and a group `default` of them. Several files are
    one project, in which later ones win. Raises BakeError.
    """
    environ = {**_dotenv(".env", environ), **environ}
    environ["COMPOSE_PROJECT_NAME"] = _project_name(files, environ)
    project = YamlMap("")
    for file in files:
        for document in _with_included(file, environ):
            _check_format(document)
            config.warnings.extend(_notes(document))
            project = _merged(project, document)
    group = Group("default")
    services = project.get("services") or {}
    secrets = project.get("secrets") or {}
    for name in services:
        service = _extended(name, services, environ)
        for other in service.get("depends_on") or ():
            if other not in services:
                _fail(service, "depends_on", f"{name} depends on {other!r}, which is not a service")
        _variables_of(service, environ)
        if service.get("build") is None:
            if not service.get("image"):
                message = f'service "{name}" has neither an image nor a build context specified'
                _fail(services, name, message)
            continue
        target = _Service(name, service, secrets, environ, config.warnings).target()
        if not _NAME.match(target.name):
            _fail(services, name, wrong_name(name), NAME_HINT)
        if target.name in config.targets:  # web.app and web_app are one target
            config.targets[target.name].merge(target)
            continue
        group.targets.append(target.name)
        config.targets[target.name] = target
    if services:
        config.groups["default"] = group


def _project_name(files: Sequence[Any], environ: Mapping[str, str]) -> str:
    """The name that the last file gives to the project, else that of the environment, or bake."""
    names = [parse_yaml(file.name, file.content).get("name") for file in files]
    named = next((one for one in reversed(names) if isinstance(one, str) and one), "")
    where = YamlMap(files[-1].name if files else "")
    given: str = _interpolated(named, where, "name", environ)
    return given or environ.get("COMPOSE_PROJECT_NAME") or "bake"


def _fail(where: Mapping[str, Any], key: str, message: str, hint: str = "") -> NoReturn:
    if isinstance(where, YamlMap) and key in where.lines:
        fail(where.file, where.lines[key], message, hint)
    raise BakeError(message, hint=hint)


# reading


def _load(name: str, content: bytes, environ: Mapping[str, str], directory: str = "") -> YamlMap:
    """A compose file with its variables replaced, and its paths those below `directory`. Raises
    BakeError for unknown keys.
    """
    document = parse_yaml(name, content)
    services = document.get("services")
    if services is None:
        services = YamlMap(name)
    if not isinstance(services, YamlMap):
        _fail(document, "services", "services is a mapping of names")
    for key, service in services.items():
        if service is None:
            services[key] = YamlMap(name)
            continue
        if not isinstance(service, YamlMap):
            _fail(services, key, f"the service {key} is a mapping")
        build = service.get("build")
        if isinstance(build, str):
            service["build"] = YamlMap(name)
            service["build"]["context"] = build
            service["build"].lines["context"] = service.lines["build"]
        elif isinstance(build, YamlMap):
            _check(build, _BUILD.split(), "build")
        elif build is not None:
            _fail(service, "build", "build is a path or a mapping")
    for part in ("services", "secrets", "include"):
        if part in document:
            document[part] = _interpolated(document[part], document, part, environ)
    for service in (document.get("services") or {}).values():
        _normalize(service)
        _place(service, directory, os.path.dirname(name))
    for secret in (document.get("secrets") or {}).values():
        if isinstance(secret, YamlMap) and secret.get("file"):
            secret["file"] = _below(directory or ".", secret["file"])
    return document


def _place(service: YamlMap, directory: str, beside: str) -> None:
    """Make the paths of a service those of the project: contexts are below `directory`, files of
    variables beside the file.
    """
    build = service.get("build")
    if isinstance(build, YamlMap) and directory:
        build["context"] = _below(directory, build.get("context") or ".")
        contexts = build.get("additional_contexts") or {}
        for name, value in contexts.items() if isinstance(contexts, YamlMap) else ():
            kind, colon, _ = str(value).partition(":")
            if not (colon and kind in ("service", "target")):
                contexts[name] = _below(directory, value)
    files = service.get("env_file")
    listed = files if isinstance(files, list) else [] if files is None else [files]
    placed: list[Any] = []
    for one in listed:
        if isinstance(one, YamlMap):
            one["path"] = os.path.join(beside, str(one.get("path")))
            placed.append(one)
        else:
            placed.append(os.path.join(beside, str(one)))
    if placed:
        service["env_file"] = placed


def _below(directory: str, path: Any) -> Any:
    """A relative path below `directory`; URLs and other values stay."""
    if not directory or not isinstance(path, str) or any(mark in path for mark in ("://", "@")):
        return path
    return posixpath.normpath(os.path.join(directory, path))


def _check(mapping: YamlMap, known: Iterable[str], what: str) -> None:
    for key, meant in _unknown(mapping, known):
        _fail(mapping, key, f"{what} has no key {key!r}", f"did you mean {meant}?" if meant else "")


def _unknown(mapping: YamlMap, known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The keys that are not `known`, each with a similar one."""
    for key in mapping:
        if key not in known and not key.startswith("x-"):
            yield key, closest(key, known)


def _check_format(document: YamlMap) -> None:
    """Raises BakeError for format 1, which has its services at the top."""
    if "services" in document:
        return
    for name, _ in _unknown(document, _TOP):
        one = document[name]
        if isinstance(one, YamlMap) and ("build" in one or "image" in one):
            hint = "this is format 1 of compose: put its services below `services:`"
            _fail(document, name, f"a compose file has no key {name!r}", hint)


def _notes(document: YamlMap) -> Iterator[str]:
    """A warning for each unknown key outside of what is built."""
    services = document.get("services") or {}
    places = [
        (document, _TOP, "a compose file"),
        *((one, _SERVICE.split(), "a service") for one in services.values()),
    ]
    for mapping, known, what in places:
        for key, meant in _unknown(mapping, known):
            question = f", did you mean {meant}?" if meant else ""
            yield f"{mapping.file}:{mapping.lines[key]}: {what} has no key {key}{question}"


def _normalize(service: YamlMap) -> None:
    """Lists of NAME=VALUE as mappings."""
    for place in (service, service.get("build") or {}):
        for key in _MAPPINGS:
            if isinstance(place.get(key), list) and not (key == "labels" and place is service):
                place[key] = _pairs(place, key)
        if isinstance(place.get("extra_hosts"), list) and place is not service:
            place["extra_hosts"] = _hosts(place)


def _pairs(place: Mapping[str, Any], key: str) -> YamlMap:
    found = YamlMap(getattr(place, "file", ""))
    for one in place[key]:
        name, equals, value = str(one).partition("=")
        found[name] = value if equals else None
        found.lines[name] = getattr(place, "lines", {}).get(key, 1)
    return found


def _hosts(place: Mapping[str, Any]) -> YamlMap:
    found = YamlMap(getattr(place, "file", ""))
    for one in place["extra_hosts"]:
        name, _, address = str(one).partition("=" if "=" in str(one) else ":")
        address = address.removeprefix("[").removesuffix("]")
        found[name] = f"{found[name]},{address}" if name in found else address
    return found


class _Inclusion(Struct, frozen=True):
    """A file to load: the paths in it are below `directory`; `path` are those that include it."""

    name: str
    content: bytes
    environ: Mapping[str, str]
    directory: str = ""
    path: tuple[str, ...] = ()


def _with_included(file: Any, environ: Mapping[str, str]) -> Iterator[YamlMap]:
    """The documents that a file includes, each before the one that includes it."""
    waiting = [_Inclusion(file.name, file.content, environ)]
    documents: list[YamlMap] = []
    while waiting:
        one = waiting.pop()
        if len(documents) > _MOST_FILES:
            raise BakeError(
                f"{file.name} includes more than {_MOST_FILES} files", code="bake-too-large"
            )
        document = _load(one.name, one.content, one.environ, one.directory)
        documents.append(document)
        for entry in document.get("include") or ():
            waiting.extend(_included(document, entry, one))
    yield from reversed(documents)


def _included(document: YamlMap, entry: Any, outer: _Inclusion) -> Iterator[_Inclusion]:
    """The files of an entry of `include`: a path, or a mapping with path, project_directory and
    env_file.
    """
    here = os.path.dirname(outer.name)
    fields: Mapping[str, Any] = entry if isinstance(entry, dict) else {"path": entry}
    paths = _listed(fields.get("path"))
    directory = fields.get("project_directory")
    for path in paths:
        if "://" in path:
            _fail(document, "include", f"{path} cannot be included: it is remote")
    names = [os.path.join(here, path) for path in paths]
    if not names:
        _fail(document, "include", "what is included has a path")
    place = os.path.join(here, directory) if directory else os.path.dirname(names[0])
    files = [os.path.join(here, path) for path in _listed(fields.get("env_file"))]
    for file in files:
        if not os.path.exists(file):
            _fail(document, "include", f"cannot read {file}")
    environ = dict(outer.environ)
    for file in files or [os.path.join(place, ".env")]:
        environ = {**_dotenv(file, outer.environ), **environ}
    for name in names:
        if name in (outer.name, *outer.path):
            _fail(document, "include", f"the files include each other: {name}")
        content = _read(document, "include", name)
        yield _Inclusion(name, content, environ, place or ".", (*outer.path, outer.name))


def _listed(value: Any) -> list[str]:
    several = value if isinstance(value, list) else [] if value is None else [value]
    return [str(one) for one in several]


def _read(where: Mapping[str, Any], key: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        _fail(where, key, f"cannot read {path}: {error.strerror}")


def _extended(
    name: str, services: Mapping[str, Any], environ: Mapping[str, str], path: tuple[str, ...] = ()
) -> YamlMap:
    """A service with what it extends."""
    service: YamlMap = services[name]
    extends = service.get("extends")
    if extends is None:
        return service
    if name in path:
        _fail(services, name, f"services extend each other: {' -> '.join([*path, name])}")
    base = extends if isinstance(extends, str) else str(extends.get("service", ""))
    others = services
    if isinstance(extends, dict) and extends.get("file"):
        place = os.path.join(os.path.dirname(service.file), str(extends["file"]))
        content = _read(service, "extends", place)
        others = _load(place, content, environ, os.path.dirname(place)).get("services") or {}
        if os.path.abspath(place) != os.path.abspath(service.file):
            path = ()
    if base not in others:
        _fail(service, "extends", f"there is no service {base!r} to extend")
    found: YamlMap = _merged(_extended(base, others, environ, (*path, name)), service)
    found.pop("extends", None)
    return found


def _merged(first: Any, second: Any) -> Any:
    """Mappings are merged, lists joined, and other values replaced; `!reset` takes a key away, and
    `!override` replaces what there was.
    """
    if isinstance(first, YamlMap) and isinstance(second, YamlMap):
        found = YamlMap(second.file)
        for part in (first, second):
            for key in part.resets:
                found.pop(key, None)
            for key, value in part.items():
                kept = key in found and key not in part.overrides
                found[key] = _merged(found[key], value) if kept else value
                found.lines[key] = part.lines.get(key, 1)
        return found
    if isinstance(first, list) and isinstance(second, list):
        return [*first, *(one for one in second if one not in first)]
    return first if second is None else second


# variables

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<plain>[A-Za-z_][A-Za-z0-9_]*)|"
    r"\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<rest>[^}]?)|(?P<wrong>))"
)


def _interpolated(value: Any, where: YamlMap, key: str, environ: Mapping[str, str]) -> Any:
    if isinstance(value, YamlMap):
        for name, one in value.items():
            value[name] = _interpolated(one, value, name, environ)
        return value
    if isinstance(value, list):
        return [_interpolated(one, where, key, environ) for one in value]
    if isinstance(value, str) and "$" in value:
        try:
            return substitute(value, environ)
        except ValueError as error:
            _fail(where, key, str(error))
    return value


def substitute(text: str, environ: Mapping[str, str], depth: int = 0) -> str:
    """`text` with `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME:+other}`, `${NAME:?message}`
    replaced, and the forms without a colon, which take an empty value as one. Raises ValueError.
    """
    if depth > 20:
        raise ValueError("the variables are nested too deeply")
    found = []
    at = 0
    while (sign := text.find("$", at)) >= 0:
        found.append(text[at:sign])
        match = _VARIABLE.match(text, sign)
        assert match is not None
        at = match.end()
        if match["escaped"]:
            found.append("$")
        elif match["plain"]:
            found.append(environ.get(match["plain"], ""))
        elif match["name"]:
            at = match.end("name")
            end = _closing(text, at)
            found.append(_expanded(match["name"], text[at:end], environ, depth))
            at = end + 1
        else:
            raise ValueError(f"{text!r} has a $ that names no variable: write $$ for a plain one")
    return "".join([*found, text[at:]])


def _closing(text: str, at: int) -> int:
    open = 1
    while at < len(text):
        if text.startswith("${", at):
            open += 1
        elif text[at] == "}":
            open -= 1
            if not open:
                return at
        at += 1
    raise ValueError(f"{text!r} has a variable without }}")


def _expanded(name: str, rest: str, environ: Mapping[str, str], depth: int) -> str:
    value = environ.get(name)
    if not rest:
        return value or ""
    match = re.match(r"(:?)([-+?])", rest)
    if match is None:
        raise ValueError(f"${{{name}{rest}}} is not a form of a variable")
    given = bool(value) if match[1] else value is not None
    other = rest[match.end() :]
    if match[2] == "+":
        return substitute(other, environ, depth + 1) if given else ""
    if given:
        return str(value)
    if match[2] == "?":
        told = substitute(other, environ, depth + 1)
        raise ValueError(f"the variable {name} is not set" + (f": {told}" if told else ""))
    return substitute(other, environ, depth + 1)


_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][\w.-]*)\s*(?:=|:\s)\s*(.*)\Z", re.DOTALL)


def _dotenv(path: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The assignments of a file of variables; none where there is no file."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, IsADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BakeError(f"cannot read {path}: {error}", code="bake-unreadable") from None
    found: dict[str, str] = {}
    waiting = iter(enumerate(lines, 1))
    for number, line in waiting:
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _ASSIGNMENT.match(line)
        if match is None:
            if re.fullmatch(r"[A-Za-z_][\w.-]*", line):
                continue
            fail(path, number, f"not NAME=VALUE: {line!r}")
        name, value = match.groups()
        if value[:1] in ("'", '"') and value:
            quote = value[0]
            while not re.match(rf"{quote}(?:[^{quote}\\]|\\.)*{quote}", value, re.DOTALL):
                following = next(waiting, None)
                if following is None:
                    fail(path, number, f"the value of {name} is not closed")
                value += "\n" + following[1]
            inner = re.match(rf"{quote}((?:[^{quote}\\]|\\.)*){quote}", value, re.DOTALL)
            assert inner is not None
            value = inner[1]
            if quote == "'":
                found[name] = value
                continue
            value = value.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
        else:
            value = re.split(r"(?:^|\s)#", value, maxsplit=1)[0].rstrip()
        try:
            found[name] = substitute(value, {**found, **environ})
        except ValueError as error:
            fail(path, number, str(error))
    return found


# services


def _variables_of(service: YamlMap, environ: Mapping[str, str]) -> dict[str, str | None]:
    """The environment of a service. Raises BakeError for a file of it that is missing."""
    found: dict[str, str | None] = {}
    for one in service.get("env_file") or ():
        fields = one if isinstance(one, dict) else {"path": one}
        path = str(fields["path"])
        if fields.get("required", True) and not os.path.exists(path):
            _fail(service, "env_file", f"cannot read {path}")
        found |= _dotenv(path, environ)
    for name, value in (service.get("environment") or {}).items():
        found[name] = environ.get(name) if value is None else _plain(value)
    return found


class _Service:
    def __init__(
        self,
        name: str,
        service: YamlMap,
        secrets: Mapping[str, Any],
        environ: Mapping[str, str],
        warnings: list[str],
    ) -> None:
        self.name = name
        self.service = service
        self.build: YamlMap = service["build"]
        self.secrets = secrets
        self.environ = environ
        self.warnings = warnings

    def target(self) -> Target:
        """The target that `build` describes."""
        build = self.build
        target = Target(self.name.replace(".", "_"))
        values = target.values
        for attribute, key in (
            ("context", "context"),
            ("dockerfile", "dockerfile"),
            ("dockerfile-inline", "dockerfile_inline"),
            ("network", "network"),
            ("target", "target"),
        ):
            if build.get(key):
                values[attribute] = self.text(build, key)
        values["tags"] = self.texts("tags")
        values["args"] = self.args()
        values["labels"] = self.mapping("labels")
        values["contexts"] = _contexts(self.mapping("additional_contexts"))
        values["extra-hosts"] = {
            host: ",".join(map(str, one)) if isinstance(one, list) else str(one)
            for host, one in (build.get("extra_hosts") or {}).items()
        }
        values["platforms"] = self.texts("platforms")
        values["no-cache-filter"] = self.texts("no_cache_filter")
        values["cache-from"] = self.entries("cache", build, "cache_from")
        values["cache-to"] = self.entries("cache", build, "cache_to")
        values["ssh"] = self.agents()
        values["secret"] = [self.secret(one) for one in build.get("secrets") or ()]
        values["ulimits"] = [*self.limits()]
        if build.get("shm_size"):
            values["shm-size"] = go_size(parse_size(str(build["shm_size"]), "shm_size"), 1024)
        for attribute, key in (("no-cache", "no_cache"), ("pull", "pull")):
            if build.get(key) is not None and self.boolean(build, key):
                values[attribute] = True
        values["attest"] = [*self.attestations()]
        self.extend(values)
        if not values["tags"] and self.service.get("image"):
            values["tags"] = [str(self.service["image"])]
        target.values = {key: value for key, value in values.items() if value not in ([], {})}
        return target

    def fail(self, where: Mapping[str, Any], key: str, message: str) -> NoReturn:
        _fail(where, key, f"the service {self.name}: {message}")

    def text(self, where: Mapping[str, Any], key: str) -> str:
        value = where[key]
        if isinstance(value, (list, dict)) or value is None:
            self.fail(where, key, f"{key} is a text")
        return str(value)

    def boolean(self, where: Mapping[str, Any], key: str) -> bool:
        value = where[key]
        try:
            return value if isinstance(value, bool) else parse_boolean(str(value), key)
        except UsageError as error:
            self.fail(where, key, error.message)

    def texts(self, key: str) -> list[str]:
        value = self.build.get(key)
        if value is not None and not isinstance(value, list):
            if key == "no_cache_filter":
                return [str(value)]
            self.fail(self.build, key, f"{key} is a list")
        return [str(one) for one in value or ()]

    def mapping(self, key: str) -> dict[str, str]:
        value = self.build.get(key) or {}
        if not isinstance(value, dict):
            self.fail(self.build, key, f"{key} is a mapping, or a list of NAME=VALUE")
        return {name: _plain(one) for name, one in value.items()}

    def args(self) -> dict[str, str]:
        """Build arguments; a name alone has its value in the service's environment, or in ours."""
        given = self.build.get("args") or {}
        if not isinstance(given, dict):
            self.fail(self.build, "args", "args is a mapping, or a list of NAME=VALUE")
        found = {}
        for name, value in given.items():
            if value is not None:
                found[name] = _plain(value)
            else:
                own = _variables_of(self.service, self.environ).get(name)
                if own is None:
                    own = self.environ.get(name)
                if own is not None:
                    found[name] = own
        return found

    def entries(self, kind: str, where: Mapping[str, Any], key: str) -> list[Entry]:
        value = where.get(key) or []
        words = value.split() if isinstance(value, str) else value
        try:
            return parse_entries(kind, [str(one) for one in words])
        except ShiplineError as error:
            self.fail(where, key, error.message)

    def agents(self) -> list[Entry]:
        given = self.build.get("ssh") or []
        if isinstance(given, dict):
            given = [f"{name}={path}" if path else name for name, path in given.items()]
        entries: list[Entry] = []
        for one in [given] if isinstance(given, str) else given:
            name, equals, path = str(one).partition("=")
            entries.append({"id": name, **({"paths": [path]} if equals and path else {})})
        return sorted(entries, key=lambda one: (one["id"], one.get("paths", [])))

    def secret(self, written: Any) -> Entry:
        source = written if isinstance(written, str) else str((written or {}).get("source", ""))
        defined = self.secrets.get(source)
        if defined is None and source not in self.secrets:
            self.fail(self.build, "secrets", f"there is no secret {source!r} in the file")
        defined = defined or {}
        if defined.get("external"):
            self.fail(self.build, "secrets", f"the secret {source} is external")
        fields = {"id": source, "src": defined.get("file"), "env": defined.get("environment")}
        return {key: str(value) for key, value in fields.items() if value}

    def limits(self) -> Iterator[str]:
        for name, limit in sorted((self.build.get("ulimits") or {}).items()):
            both = limit if isinstance(limit, dict) else {"soft": limit, "hard": limit}
            yield f"{name}={both.get('soft')}:{both.get('hard')}"

    def attestations(self) -> Iterator[Entry]:
        for kind in ("sbom", "provenance"):
            value = self.build.get(kind)
            if value is None or value == "":
                continue
            text = _plain(value)
            with suppress(UsageError):
                text = f"disabled={str(not parse_boolean(text, kind)).lower()}"
            yield from parse_entries("attest", [f"type={kind},{text}"])

    def extend(self, values: dict[str, Any]) -> None:
        """What x-bake adds."""
        extension = self.build.get("x-bake")
        if extension is None:
            return
        if not isinstance(extension, YamlMap):
            self.fail(self.build, "x-bake", "x-bake is a mapping")
        for key in extension:
            if key not in _BAKE.split():
                where = f"{extension.file}:{extension.lines[key]}"
                self.warnings.append(f"{where}: x-bake has no key {key}: it is ignored")
        for key in ("tags", "platforms", "no-cache-filter"):
            if extension.get(key):
                value = extension[key]
                words = value.split() if isinstance(value, str) else [str(one) for one in value]
                values[key] = list(dict.fromkeys([*values[key], *words]))
        for attribute, kind in (
            ("cache-from", "cache"),
            ("cache-to", "cache"),
            ("secret", "secret"),
            ("ssh", "ssh"),
            ("output", "output"),
        ):
            if extension.get(attribute):
                added = self.entries(kind, extension, attribute)
                joined = [*(values.get(attribute) or ()), *added]
                values[attribute] = without_duplicates(kind, joined)
        if values.get("ssh"):
            values["ssh"].sort(key=lambda one: (one["id"], one.get("paths", [])))
        for key in ("pull", "no-cache"):
            if extension.get(key) is not None:
                values[key] = self.boolean(extension, key)
        contexts = extension.get("contexts") or {}
        values["contexts"] = {
            **_contexts({name: _plain(one) for name, one in contexts.items()}),
            **values["contexts"],
        }


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


def _contexts(named: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, value in named.items():
        kind, colon, rest = value.partition(":")
        if colon and kind in ("service", "target"):
            value = f"target:{rest.replace('.', '_')}"
        elif value and not any(mark in value for mark in ("://", "@")):
            value = posixpath.normpath(value)
        found[name] = value
    return found
