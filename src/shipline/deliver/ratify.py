"""Objects of Ratify and Gatekeeper from the section `trust`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations

from shipline.deliver.admission import (
    HOST,
    HUB,
    AdmissionOptions,
    cannot,
    check_required,
    check_sayable,
    expression_of,
    requires,
)
from shipline.deliver.objects import Object
from shipline.supply import ImagePattern, PublicKey
from shipline.trust import ResolvedPolicy, ResolvedRule

_KIND = "ShiplineTrust"
_SIGNATURE = "application/vnd.dev.cosign.artifact.sig.v1+json"
_SCOPE = re.compile(r"[a-z0-9.:@/-]*\*?")


def ratify_policy(trust: ResolvedPolicy, admission: AdmissionOptions) -> tuple[Object, ...]:
    """The objects of Ratify 1 (config.ratify.deislabs.io/v1beta1), which replace those of its chart
    by their names, and a ConstraintTemplate with its constraint for Gatekeeper 3.19, which calls
    Ratify for the images whose rule requires signatures, and applies the other rules itself.

    Raises ConfigError for what Ratify cannot check, which is all but keys and their number, and for
    patterns that its scopes, prefixes of names, cannot tell apart.
    """
    check_required(trust)
    required = {f"rule{i}": rule for i, rule in enumerate(trust.rules) if requires(rule)}
    for name, rule in required.items():
        where = _place(name)
        check_sayable(rule, where, admission, "Ratify")
        for what in ("annotations", "predicates"):
            if getattr(rule.section, what):
                cannot(where, what, "Ratify")
    scopes = _scopes(required)
    keys = {key.id: key for rule in required.values() for key in rule.keys}
    providers = {key: f"{admission.name}-{key[:12]}" for key in keys}
    policies = [
        {
            "name": name,
            "version": "1.0.0",
            "scopes": scopes[name],
            "keys": [{"provider": providers[key.id]} for key in rule.keys],
            "tLogVerify": False,
        }
        for name, rule in required.items()
    ]
    login = {
        "name": "k8Secrets",
        "secrets": [{"secretName": secret} for secret in admission.secrets],
    }
    store = {"cosignEnabled": True, **({"authProvider": login} if admission.secrets else {})}
    thresholds = {name: rule.section.threshold for name, rule in required.items()}
    own = [("KeyManagementProvider", providers[key], _key_provider(keys[key])) for key in keys] + [
        ("Store", "store-oras", {"name": "oras", "parameters": store}),
        (
            "Verifier",
            "verifier-cosign",
            {
                "name": "cosign",
                "artifactTypes": _SIGNATURE,
                "parameters": {"trustPolicies": policies},
            },
        ),
        (
            "Policy",
            "ratify-policy",
            {"type": "rego-policy", "parameters": {"policy": _ratify_rego(thresholds)}},
        ),
    ]
    return (
        *(
            {
                "apiVersion": "config.ratify.deislabs.io/v1beta1",
                "kind": kind,
                "metadata": {"name": name},
                "spec": spec,
            }
            for kind, name, spec in own
        ),
        *_gatekeeper(trust, admission),
    )


def _key_provider(key: PublicKey) -> Object:
    return {"type": "inline", "parameters": {"contentType": "key", "value": key.pem.decode()}}


def _scopes(required: Mapping[str, ResolvedRule]) -> Mapping[str, list[str]]:
    """The scopes of Ratify's trust policies: names, prefixes with `*`, or `*` alone, which applies
    where no other does. Those of two policies must not overlap.
    """
    found = dict[str, list[str]]()
    for name, rule in required.items():
        where = _place(name)
        parts = dict.fromkeys(s for one in rule.section.images for s in _scope(one, where))
        inexact = [one for one in rule.section.images if not _is_prefix(one)]
        if len(required) > 1 and inexact:
            cannot(where, f"the pattern {inexact[0]} beside other rules", "Ratify")
        found[name] = [
            one for one in parts if not any(_covers(wide, one) for wide in parts if wide != one)
        ]
    for (first, ours), (second, theirs) in combinations(found.items(), 2):
        falls_back = theirs == ["*"] != ours
        if not falls_back and any(_covers(a, b) or _covers(b, a) for a in ours for b in theirs):
            cannot(f"{_place(first)}, {_place(second)}", "rules for the same images", "Ratify")
    return found


def _scope(pattern: ImagePattern, where: str) -> list[str]:
    text = str(pattern)
    prefix = re.split(r"[*?]", text)[0] if pattern.has_host else ""
    if not _SCOPE.fullmatch(prefix):
        cannot(where, f"the characters of {text}", "Ratify")
    return [prefix, f"{prefix}:*", f"{prefix}@*"] if prefix == text else [f"{prefix}*"]


def _is_prefix(pattern: ImagePattern) -> bool:
    """Whether it matches what begins with its text, or its text alone."""
    text = str(pattern)
    return text == "**" or (pattern.has_host and not re.search(r"[*?]", text.removesuffix("**")))


def _place(name: str) -> str:
    return f"trust.rules[{name.removeprefix('rule')}]"


def _covers(wide: str, narrow: str) -> bool:
    return wide == narrow or (wide.endswith("*") and narrow.startswith(wide[:-1]))


def _ratify_rego(thresholds: Mapping[str, int]) -> str:
    """The policy of Ratify: enough different keys of the trust policy signed the image. The
    verifier reports each key that it checked a signature with.
    """
    needed = ", ".join(f'"{name}": {number}' for name, number in thresholds.items())
    return f"""\
package ratify.policy

import rego.v1

needed := {{{needed}}}

default valid := false

valid if {{
  some name, number in needed
  count(signers(name)) >= number
}}

signers(name) := {{verification.keyInformation.provider |
  walk(input, [path, extensions])
  path[count(path) - 1] == "extensions"
  extensions.trustPolicy == name
  verification := extensions.signatures[_].verifications[_]
  verification.isSuccess == true
}}
"""


_GATEKEEPER_REGO = f"""\
package shipline.trust

images contains image if {{
  some kind in {{"containers", "initContainers", "ephemeralContainers"}}
  image := input.review.object.spec[kind][_].image
}}

images contains volume.image.reference if some volume in input.review.object.spec.volumes

bare(image) := regex.replace(split(image, "@")[0], `:[^/:]*$`, "")

qualified(image) := image if regex.match(`{HOST}`, image)

qualified(image) := concat("/", ["docker.io", image]) if {{
  not regex.match(`{HOST}`, image)
}}

full(image) := regex.replace(
  regex.replace(qualified(image), `{HUB}`, "docker.io/"),
  `^docker[.]io/([^/]*)$`, "docker.io/library/$1",
)

matching(image) := [action |
  some rule in input.parameters.rules
  some pattern in rule.images
  regex.match(pattern, full(bare(image)))
  action := rule.action
]

action(image) := array.concat(matching(image), [input.parameters.default])[0]

violation contains {{"msg": message}} if {{
  some image in images
  action(image) == "reject"
  message := concat(": ", ["not trusted", image])
}}

signed contains full(image) if {{
  some image in images
  action(image) == "require"
}}

answer := external_data({{"provider": "ratify-provider", "keys": keys}}) if {{
  count(signed) > 0
  keys := [image | some image in signed]
}}

violation contains {{"msg": message}} if {{
  answer.system_error != ""
  message := concat(": ", ["Ratify", answer.system_error])
}}

violation contains {{"msg": message}} if {{
  count(answer.errors) > 0
  message := sprintf("Ratify: %v", [answer.errors])
}}

violation contains {{"msg": message}} if {{
  some image in signed
  not verified(image)
  message := concat(": ", ["not signed as trust requires", image])
}}

verified(image) if {{
  some response in answer.responses
  response[0] == image
  response[1].isSuccess == true
}}
"""


def _gatekeeper(trust: ResolvedPolicy, admission: AdmissionOptions) -> tuple[Object, ...]:
    strings = {"type": "array", "items": {"type": "string"}}
    rule = {"type": "object", "properties": {"images": strings, "action": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {"rules": {"type": "array", "items": rule}, "default": {"type": "string"}},
    }
    source = {"version": "v1", "rego": _GATEKEEPER_REGO}
    target = {
        "target": "admission.k8s.gatekeeper.sh",
        "code": [{"engine": "Rego", "source": source}],
    }
    crd = {"names": {"kind": _KIND}, "validation": {"openAPIV3Schema": schema}}
    excluded = {"excludedNamespaces": list(admission.excluded)} if admission.excluded else {}
    return (
        {
            "apiVersion": "templates.gatekeeper.sh/v1",
            "kind": "ConstraintTemplate",
            "metadata": {"name": _KIND.lower()},
            "spec": {"crd": {"spec": crd}, "targets": [target]},
        },
        {
            "apiVersion": "constraints.gatekeeper.sh/v1beta1",
            "kind": _KIND,
            "metadata": admission.metadata,
            "spec": {
                "enforcementAction": "dryrun" if admission.audit else "deny",
                "match": {"kinds": [{"apiGroups": [""], "kinds": ["Pod"]}], **excluded},
                "parameters": {
                    "rules": [
                        {
                            "images": [expression_of(pattern) for pattern in one.section.images],
                            "action": one.section.action,
                        }
                        for one in trust.rules
                    ],
                    "default": "accept" if trust.accepts_others else "reject",
                },
            },
        },
    )
