"""Admission policies from the section `trust`: for Kyverno, and by names and digests alone for
Kubernetes' own ValidatingAdmissionPolicy. Ratify's are in `ratify`.

As in `trust`, the first rule that matches the name of an image decides, for every container of a
pod. What an engine cannot check is an error that names it, never a weaker policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from shipline.deliver.objects import Object
from shipline.errors import ConfigError
from shipline.supply import ImagePattern, PublicKey
from shipline.trust import ResolvedPolicy, ResolvedRule

IDENTITY, MAX_AGE = "identity", "max-age"
OMISSIBLE = (IDENTITY, MAX_AGE)
"""What a policy may leave out if that is said."""

_OMITTED = "shipline.dev/not-checked"
_REKOR = "https://rekor.sigstore.dev"
HOST = "^([^/]*[.:A-Z][^/]*|localhost)/"
HUB = "^(index|registry-1)[.]docker[.]io/"
_GLOB = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_CHANGES_PODS = "request.operation == 'CREATE' || object.spec != oldObject.spec"
_PODS = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"]}


@dataclass(frozen=True, slots=True)
class AdmissionOptions:
    """How a policy is applied: `name` is that of its objects, `excluded` are namespaces that it
    leaves alone, `secrets` have the logins with which the engine reads registries, `omitted` are
    those of OMISSIBLE that the policy does not check.
    """

    name: str = "shipline-trust"
    audit: bool = False
    excluded: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    omitted: Collection[str] = ()

    @property
    def metadata(self) -> Object:
        """The name, and a note of what is not checked."""
        noted = {"annotations": {_OMITTED: ", ".join(sorted(self.omitted))}} if self.omitted else {}
        return {"name": self.name, **noted}

    @property
    def selector(self) -> Object:
        """The fields of a match that leave out namespaces."""
        if not self.excluded:
            return {}
        key = "kubernetes.io/metadata.name"
        expression = {"key": key, "operator": "NotIn", "values": list(self.excluded)}
        return {"namespaceSelector": {"matchExpressions": [expression]}}


def name_policy(trust: ResolvedPolicy, admission: AdmissionOptions) -> tuple[Object, ...]:
    """A ValidatingAdmissionPolicy and its binding: images must be named by digest, and are admitted
    unless the rule that matches the name is `reject`. Signatures are not checked
    (admissionregistration.k8s.io/v1, Kubernetes 1.30).
    """
    kinds = ("containers", "initContainers", "ephemeralContainers")
    lists = [f"{_optional(kind)}.map(c, c.image)" for kind in kinds]
    lists.append(f"{_optional('volumes')}.filter(v, has(v.image)).map(v, v.image.reference)")
    verdict = _first_match(
        trust, "image", lambda rule, _: _boolean(rule.section.action != "reject")
    )
    variables = {
        "images": " +\n".join(lists),
        "rejected": f"variables.images.filter(image, !({verdict}))",
        "movable": "variables.images.filter(image, !image.matches('@[a-z0-9]+:[0-9a-f]{32,}$'))",
    }
    reasons = {"rejected": "not trusted", "movable": "not named by digest"}
    spec: Object = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [{**_PODS, "resources": ["pods", "pods/ephemeralcontainers"]}],
            **admission.selector,
        },
        "matchConditions": [{"name": "images", "expression": _CHANGES_PODS}],
        "variables": [{"name": name, "expression": text} for name, text in variables.items()],
        "validations": [
            {
                "expression": f"variables.{name}.size() == 0",
                "messageExpression": f"'{reason}: ' + variables.{name}.join(', ')",
            }
            for name, reason in reasons.items()
        ],
    }
    action = "Audit" if admission.audit else "Deny"
    kind = "ValidatingAdmissionPolicy"
    return tuple(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind + suffix,
            "metadata": {"name": admission.name},
            "spec": content,
        }
        for suffix, content in (
            ("", spec),
            ("Binding", {"policyName": admission.name, "validationActions": [action]}),
        )
    )


def _optional(field: str) -> str:
    return f"(has(object.spec.{field}) ? object.spec.{field} : [])"


def kyverno_policy(trust: ResolvedPolicy, admission: AdmissionOptions) -> tuple[Object, ...]:
    """An ImageValidatingPolicy (policies.kyverno.io/v1, Kyverno 1.17). Raises ConfigError for what
    Kyverno cannot check: names in signatures, ages.
    """
    check_required(trust)
    attestors, attestations = dict[tuple[Any, ...], str](), dict[str, str]()

    def named(key: PublicKey, annotations: Mapping[str, str]) -> str:
        facts = (key, *sorted(annotations.items()))
        return attestors.setdefault(facts, f"key{len(attestors)}")

    def verify(rule: ResolvedRule, where: str) -> str:
        if rule.section.action != "require":
            return _boolean(rule.section.action == "accept")
        check_sayable(rule, where, admission, "Kyverno")
        signers = [named(key, rule.section.annotations) for key in rule.keys]
        witnesses = _attestors(named(key, {}) for key in rule.keys) if rule.predicates else ""
        parts = [f"verifyImageSignatures(image, {_attestors(signers)}) >= {rule.section.threshold}"]
        for uri in rule.predicates:
            name = attestations.setdefault(uri, f"predicate{len(attestations)}")
            call = f"verifyAttestationSignatures(image, attestations.{name}, {witnesses})"
            parts.append(f"{call} > 0")
        return f"({' && '.join(parts)})"

    verdict = _first_match(trust, "image", verify)
    signed = _first_match(trust, "ref", lambda rule, _: _boolean(requires(rule)), last=False)
    credentials = {"credentials": {"secrets": list(admission.secrets)}} if admission.secrets else {}
    spec: Object = {
        "failurePolicy": "Fail",
        "validationActions": ["Audit" if admission.audit else "Deny"],
        "webhookConfiguration": {"timeoutSeconds": 30},
        "matchConstraints": {
            "resourceRules": [{**_PODS, "resources": ["pods"]}],
            **admission.selector,
        },
        "matchImageReferences": [{"expression": signed}],
        **credentials,
        "attestors": [
            {"name": name, "cosign": _cosign(key, dict(annotations))}
            for (key, *annotations), name in attestors.items()
        ],
        "attestations": [
            {"name": name, "intoto": {"type": uri}} for uri, name in attestations.items()
        ],
        "validations": [
            {
                "message": "the trust policy does not admit an image of this pod",
                "expression": "images.containers.size() > 0 && "
                f"images.all(kind, images[kind].all(image, {verdict}))",
            }
        ],
    }
    return (
        {
            "apiVersion": "policies.kyverno.io/v1",
            "kind": "ImageValidatingPolicy",
            "metadata": admission.metadata,
            "spec": spec,
        },
    )


def _attestors(names: Iterable[str]) -> str:
    return "[" + ", ".join(f"attestors.{name}" for name in names) + "]"


def _cosign(key: PublicKey, annotations: Mapping[str, str]) -> Object:
    """Signatures by keys count without an entry in a transparency log, as in `shipline verify`.
    Kyverno demands the log's URL even so.
    """
    log = {"url": _REKOR, "insecureIgnoreTlog": True, "insecureIgnoreSCT": True}
    extra = {"annotations": dict(annotations)} if annotations else {}
    return {"key": {"data": key.pem.decode()}, "ctlog": log, **extra}


def expression_of(pattern: ImagePattern) -> str:
    """The pattern for `host/repository` in the syntax of RE2."""
    parts = re.split(r"((?<![^/])\*\*/|\*\*|\*|\?)", str(pattern))
    body = "".join(_GLOB.get(part) or part.replace(".", "[.]") for part in parts)
    return f"^{body}$" if pattern.has_host else f"^[^/]+/{body}$"


def _first_match(
    trust: ResolvedPolicy,
    variable: str,
    verdict: Callable[[ResolvedRule, str], str],
    *,
    last: bool | None = None,
) -> str:
    """An expression in CEL: the verdict of the first rule that matches the image that `variable`
    names as users write it; without a rule `last`, by default whether others are accepted.
    """
    text = ""
    for number, rule in enumerate(trust.rules):
        matches = (f"name.matches('{expression_of(one)}')" for one in rule.section.images)
        text += f"{' || '.join(matches)} ? {verdict(rule, f'trust.rules[{number}]')} :\n"
    text += _boolean(trust.accepts_others if last is None else last)
    for name, value in reversed(tuple(_full_name(variable).items())):
        text = f"[{value}].all({name},\n{text})"
    return text


def _full_name(variable: str) -> Mapping[str, str]:
    """Bindings in CEL, of which the last, `name`, is `host/repository` of an image, as
    `Reference.parse` reads it.
    """
    tag = "tagged.lastIndexOf(':')"
    return {
        "tagged": f"{variable}.split('@')[0]",
        "bare": f"{tag} > tagged.lastIndexOf('/') ? tagged.substring(0, {tag}) : tagged",
        "full": f"bare.matches('{HOST}') ? bare : 'docker.io/' + bare",
        "there": f"full.matches('{HUB}') ? 'docker.io' + full.substring(full.indexOf('/')) : full",
        "name": "there.matches('^docker[.]io/[^/]*$')"
        " ? 'docker.io/library' + there.substring(9) : there",
    }


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def requires(rule: ResolvedRule) -> bool:
    """Whether signatures are required."""
    return rule.section.action == "require"


def check_required(trust: ResolvedPolicy) -> None:
    """Raises ConfigError if no rule requires signatures."""
    if not any(map(requires, trust.rules)):
        raise ConfigError(
            "no rule of trust requires signatures",
            code="trust-no-rules",
            hint="`shipline k8s policy kubernetes` writes a policy by names and digests",
        )


def check_sayable(rule: ResolvedRule, where: str, admission: AdmissionOptions, engine: str) -> None:
    """Raises ConfigError for names in signatures and for ages, unless `admission` omits them."""
    section = rule.section
    if str(section.identity) != "any" and IDENTITY not in admission.omitted:
        cannot(where, f"identity: {section.identity}", engine, IDENTITY)
    aged = section.max_age is not None or any(rule.predicates.values())
    if aged and MAX_AGE not in admission.omitted:
        cannot(where, MAX_AGE, engine, MAX_AGE)


def cannot(where: str, what: str, engine: str, omit: str = "") -> NoReturn:
    """Raises ConfigError: the engine has no means for it."""
    raise ConfigError(
        f"{where}: {engine} cannot check {what}",
        code="admission-impossible",
        hint=f"`--without {omit}` leaves it out, and the policy says so" if omit else "",
    )
