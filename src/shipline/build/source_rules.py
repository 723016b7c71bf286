"""BuildKit's source policy: rules about what a build may read, from the file that the variable
EXPERIMENTAL_BUILDKIT_SOURCE_POLICY names.

A source is an identifier with attributes, as `docker-image://docker.io/library/alpine:latest`,
`https://host/file`, `git://host/project.git#ref` and `local://context`. Of the rules ALLOW and DENY
the last one that matches counts; CONVERT replaces the source, which is then judged again. Source:
BuildKit, sourcepolicy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

from shipline.errors import GateRefused, UsageError
from shipline.oci import Platform, Reference
from shipline.regular_expressions import Match, RegularExpression, compiled
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.build.base_images import BaseImage
    from shipline.build.rego import RegoPolicies
    from shipline.git import GitCommit, GitSource

VARIABLE = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"
_NO_POLICY = "pass --policy disabled=true to build without policies"
_IMAGE, _GIT, _FULL_URL, _CHECKSUM = "docker-image://", "git://", "git.fullurl", "http.checksum"
_MOST_CHANGES = 20
_SIZE_LIMIT = 1 << 20  # bytes
_WORDS = {
    "action": ("ALLOW", "DENY", "CONVERT"),
    "matchtype": ("WILDCARD", "EXACT", "REGEX"),
    "condition": ("EQUAL", "NOTEQUAL", "MATCHES"),
}
"""The values of members, which may also be written as numbers."""


class InvalidBuildPolicy(UsageError):
    """A policy for the sources of builds cannot be read, or decides nothing."""

    code = "build-policy"


class _Constraint(Struct, frozen=True):
    key: str = ""
    value: str = ""
    condition: str = "EQUAL"

    def holds(self, attributes: Mapping[str, str]) -> bool:
        found = attributes.get(self.key, "")
        if self.condition == "MATCHES":
            return compiled(self.value).search(found) is not None
        return (found == self.value) is (self.condition == "EQUAL")


class _Selector(Struct, frozen=True, rename={"match_type": "matchtype"}):
    identifier: str
    match_type: str = "WILDCARD"
    constraints: tuple[_Constraint, ...] = ()

    def pattern(self) -> RegularExpression:
        if self.match_type == "REGEX":
            return compiled(self.identifier)
        exact = rf"{re.escape(self.identifier)}\z"
        return compiled(exact if self.match_type == "EXACT" else exact.replace(r"\*", "(.*)"))


class _Updates(Struct, frozen=True):
    identifier: str = ""
    attrs: Mapping[str, str] = field(default_factory=dict)


class _Rule(Struct, frozen=True):
    selector: _Selector
    action: str = "ALLOW"
    updates: _Updates | None = None

    def match(self, identifier: str, attributes: Mapping[str, str]) -> Match | None:
        found = self.selector.pattern().search(identifier)
        if found is None or not all(one.holds(attributes) for one in self.selector.constraints):
            return None
        return found


class _Document(Struct, frozen=True):
    rules: tuple[_Rule, ...] = ()


class SourcePolicy(Struct, frozen=True):
    """The rules; without any, every source is taken as it is, unless `rego` refuses what came of
    it.
    """

    rules: tuple[_Rule, ...] = ()
    rego: RegoPolicies | None = None

    def judge(self, identifier: str, attributes: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """The source after all conversions. Raises GateRefused where it is denied, and UsageError
        for conversions without end.
        """
        found = dict(attributes)
        for _ in range(_MOST_CHANGES + 1):
            changed = self._changed(identifier, found)
            if changed is None:
                return identifier, found
            identifier, found = changed
        raise InvalidBuildPolicy(
            f"the source policy converts {identifier} without end",
            hint=f"correct the rules CONVERT in the file that {VARIABLE} names",
        )

    def _changed(
        self, identifier: str, attributes: Mapping[str, str]
    ) -> tuple[str, dict[str, str]] | None:
        denied = False
        for rule in self.rules:
            found = rule.match(identifier, attributes)
            if found is None:
                continue
            if rule.action == "CONVERT":
                updates = rule.updates or _Updates()
                wanted = found.expand(updates.identifier) or identifier
                changed = (wanted, {**attributes, **updates.attrs})
                if changed != (identifier, dict(attributes)):
                    return changed
            else:
                denied = rule.action == "DENY"
        if denied:
            raise GateRefused(
                f'source "{identifier}" denied by policy',
                code="source-denied",
                hint=f"the rules are in the file that {VARIABLE} names",
            )
        return None

    def image(self, name: str) -> str:
        """The name of an image to use instead of `name`, by its tag or digest."""
        if not self.rules:
            return name
        full = str(Reference.parse(name).or_latest)
        changed, _ = self.judge(f"{_IMAGE}{full}", {})
        return (
            _same_kind(f"{_IMAGE}{full}", changed, _IMAGE) if changed != f"{_IMAGE}{full}" else name
        )

    def check_image(self, reference: Reference) -> None:
        """Raises GateRefused for an image that may not be used with the digest that it has."""
        if self.rules:
            self.judge(f"{_IMAGE}{reference}", {})

    def check_local(self, name: str) -> None:
        """Raises GateRefused for the local directory `context` or `dockerfile`, if it is denied,
        and UsageError if it is to be something else.
        """
        identifier = f"local://{name}"
        changed, _ = self.judge(identifier, {})
        if changed != identifier:
            raise _unsuitable(identifier, changed)
        if self.rego is not None:
            self.rego.check_local(name)

    def check_base(self, name: str, image: BaseImage, platform: Platform) -> None:
        """Raises GateRefused for an image, called `name`, that may not be used, and UsageError for
        one in a layout, which a policy in Rego cannot judge.
        """
        if self.rego is None or image.target:
            return
        if image.layout:
            raise InvalidBuildPolicy(f"policies in Rego cannot judge {name}", hint=_NO_POLICY)
        self.rego.check_image(
            Reference.parse(self.image(name)).or_latest, image.reference, platform, image.config
        )

    def http(self, url: str, checksum: str) -> tuple[str, str]:
        """URL and checksum to use instead."""
        changed, attributes = self.judge(url, {_CHECKSUM: checksum} if checksum else {})
        if not changed.lower().startswith(("http://", "https://")):
            raise _unsuitable(url, changed)
        return changed, attributes.get(_CHECKSUM, "")

    def check_http(self, url: str, checksum: str, *, authorized: bool) -> None:
        """Raises GateRefused for a file that may not be used."""
        if self.rego is not None:
            self.rego.check_http(url, checksum, authorized=authorized)

    def check_git(self, found: GitCommit) -> None:
        """Raises GateRefused for a commit that may not be used."""
        if self.rego is not None:
            self.rego.check_git(found)

    def git(self, source: GitSource) -> GitSource:
        """The source to use instead; its subdirectory and login stay."""
        bare = re.sub(r"^[a-z+]+://(?:[^/@]*@)?|^[^/@]*@", "", source.remote)
        identifier = f"{_GIT}{bare}" + (f"#{source.ref}" if source.ref else "")
        changed, attributes = self.judge(identifier, {_FULL_URL: source.remote})
        address, _, ref = _same_kind(identifier, changed, _GIT).partition("#")
        remote = attributes[_FULL_URL]
        if remote == source.remote and address != bare:
            remote = f"https://{address}"
        return replace(source, remote=remote, ref=ref.partition(":")[0])


def _same_kind(identifier: str, changed: str, scheme: str) -> str:
    """`changed` without the scheme. Raises UsageError if it has another, as BuildKit does for an
    image.
    """
    if not changed.startswith(scheme):
        raise _unsuitable(identifier, changed)
    return changed.removeprefix(scheme)


def _unsuitable(identifier: str, changed: str) -> UsageError:
    return InvalidBuildPolicy(
        f"the source policy converts {identifier} into {changed}, which cannot take its place",
        hint=f"name a source of the same kind in the file of {VARIABLE}; or leave the rule out, and"
        " write the other source into the Dockerfile, or as --build-context",
    )


def source_policy(environ: Mapping[str, str], rego: RegoPolicies | None = None) -> SourcePolicy:
    """The rules in the file that the variable names, none if it is not set, with policies in Rego.

    Raises UsageError for a file that cannot be read, and for rules that are wrong.
    """
    path = environ.get(VARIABLE, "")
    if not path:
        return SourcePolicy(rego=rego)
    try:
        with open(path, "rb") as file:
            document = _as_go_reads(msgspec.json.decode(file.read(_SIZE_LIMIT)))
        rules = msgspec.convert(document, _Document).rules
        for rule in rules:
            _check(rule)
    except OSError as error:
        raise InvalidBuildPolicy(f"{VARIABLE}: cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidBuildPolicy(
            f"{VARIABLE}: {path} is not a source policy: {error}",
            hint='write {"rules": [{"action": "DENY", "selector": {"identifier": "..."}}]}',
        ) from None
    return SourcePolicy(rules, rego)


def _as_go_reads(value: Any) -> Any:
    """The document with the names of members as the classes here have them: BuildKit takes them in
    any case, and `match_type`; and with words for numbers. Raises ValueError.
    """
    if isinstance(value, list):
        return [_as_go_reads(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for name, member in value.items():
        key = name.lower().replace("_", "")
        if key in _WORDS:
            found[key] = _word(key, member)
        else:
            found[key] = member if key == "attrs" else _as_go_reads(member)
    if "action" in found and not found.get("selector"):
        raise ValueError("invalid nil selector in policy")
    return found


def _word(key: str, value: Any) -> str:
    words = _WORDS[key]
    number = value or 0 if value is None or type(value) is int else -1
    word = words[number] if number in range(len(words)) else value
    if word not in words:
        raise ValueError(f"{value!r} is not one of {', '.join(words)}")
    return str(word)


def _check(rule: _Rule) -> None:
    if rule.action == "CONVERT" and rule.updates is None:
        raise ValueError("missing destination for convert rule")
    rule.selector.pattern()
    for constraint in rule.selector.constraints:
        if constraint.condition == "MATCHES":
            compiled(constraint.value)
