"""The policy.json of podman and skopeo as trust rules (containers-policy.json(5)).

What trust rules cannot express exactly is an error, so that a policy never becomes weaker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from shipline.errors import ConfigError, ContentError
from shipline.oci import from_bytes
from shipline.supply import Identity, ImagePattern, from_base64
from shipline.trust.rules import TrustRule, TrustSection

_KEYS = ("keyPath", "keyPaths", "keyData", "keyDatas")
_IDENTITIES = {
    "matchRepoDigestOrExact": "exact",
    "matchExact": "tagged",
    "matchRepository": "repository",
}


def read_containers_policy(content: bytes) -> TrustSection:
    """The rules for registries (`transports.docker` and `default`), the narrowest scope first.
    Raises ConfigError for another kind of file, and for requirements other than `reject`,
    `insecureAcceptAnything` and `sigstoreSigned` with keys.
    """
    try:
        document = from_bytes(content)
    except ContentError as error:
        raise ConfigError(f"the policy is {error.message}", code="trust-policy-file") from None
    scopes = _table(
        _table(document.get("transports", {}), "transports").get("docker", {}), "docker"
    )
    everything = scopes.get("", document.get("default"))
    if everything is None:
        raise ConfigError(
            "the policy has no default, which policy.json must have", code="trust-policy-file"
        )
    rules = [
        _rule(_patterns(scope), requirements, f"docker {scope}")
        for scope, requirements in sorted(scopes.items(), key=lambda item: _width(item[0]))
        if scope
    ]
    return TrustSection((*rules, _rule(("**",), everything, "default")))


def _width(scope: str) -> tuple[bool, int]:
    """Sort key: narrow scopes are longer; those with a wildcard come last."""
    return scope.startswith("*."), -len(scope)


def _patterns(scope: str) -> tuple[str, ...]:
    host, _, path = scope.partition("/")
    if "@" in scope or ":" in path:
        raise ConfigError(
            f"docker {scope}: rules for a tag or digest are not supported",
            code="trust-policy-file",
            hint="use the repository instead",
        )
    if not path and not any(mark in host for mark in ".:") and host != "localhost":
        raise ConfigError(f"docker {scope}: not a registry", code="trust-policy-file")
    return (scope, f"{scope}/**") if path else (f"{scope}/**",)


def _rule(patterns: tuple[str, ...], requirements: Any, where: str) -> TrustRule:
    images = tuple(map(ImagePattern.parse, patterns))
    if (
        not isinstance(requirements, list)
        or not requirements
        or not all(isinstance(requirement, dict) for requirement in requirements)
    ):
        raise ConfigError(f"{where}: must be a list of requirements", code="trust-policy-file")
    kinds = {
        requirement.get("type") if isinstance(requirement.get("type"), str) else ""
        for requirement in requirements
    }
    if "reject" in kinds:
        return TrustRule(images, "reject")
    if kinds == {"insecureAcceptAnything"}:
        return TrustRule(images, "accept")
    demands = [
        requirement
        for requirement in requirements
        if requirement.get("type") != "insecureAcceptAnything"
    ]
    if kinds - {"sigstoreSigned", "insecureAcceptAnything"}:
        _cannot(where, f"the requirement {sorted(kinds - {'sigstoreSigned'})[0]!r}")
    return _signed(images, demands, where)


def _signed(
    images: tuple[ImagePattern, ...], requirements: list[dict[str, Any]], where: str
) -> TrustRule:
    """The rule for requirements that must all hold: with several, each has one key, and all keys
    must sign.
    """
    keys = [_keys(requirement, where) for requirement in requirements]
    identities = {
        _identity(requirement.get("signedIdentity"), where) for requirement in requirements
    }
    if len(requirements) > 1 and (any(len(group) != 1 for group in keys) or len(identities) > 1):
        _cannot(where, "several requirements, some with a choice of keys")
    flat = tuple(dict.fromkeys(key for group in keys for key in group))
    threshold = len(flat) if len(requirements) > 1 else 1
    identity = Identity.parse(identities.pop())
    return TrustRule(images, "require", flat, threshold=threshold, identity=identity)


def _keys(requirement: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The keys of one requirement, as paths and PEM texts."""
    if unknown := sorted(requirement.keys() - {"type", "signedIdentity", *_KEYS}):
        _cannot(where, unknown[0])
    sources = [name for name in _KEYS if name in requirement]
    if len(sources) != 1:
        raise ConfigError(
            f"{where}: sigstoreSigned needs exactly one of {', '.join(_KEYS)}",
            code="trust-policy-file",
        )
    value = requirement[sources[0]]
    texts = value if sources[0].endswith("s") else [value]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{where}: {sources[0]} is not text", code="trust-policy-file")
    return tuple(map(_pem, texts)) if "Data" in sources[0] else tuple(texts)


def _pem(text: str) -> str:
    try:
        return from_base64(text).decode("ascii")
    except (ContentError, UnicodeDecodeError):
        raise ConfigError("keyData is not a PEM file in base64", code="trust-policy-file") from None


def _identity(identity: Any, where: str) -> str:
    if identity is None:
        return "exact"
    kind = _table(identity, where).get("type")
    if kind == "exactRepository" and isinstance(identity.get("dockerRepository"), str):
        return str(identity["dockerRepository"])
    if not isinstance(kind, str) or kind not in _IDENTITIES:
        _cannot(where, f"the signedIdentity {kind!r}")
    return _IDENTITIES[kind]


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: must be a JSON object", code="trust-policy-file")
    return value


def _cannot(where: str, problem: str) -> NoReturn:
    raise ConfigError(
        f"{where}: {problem} is not supported",
        code="trust-policy-file",
        hint="write the rules in the section `trust` of a shipline.yaml",
    )
