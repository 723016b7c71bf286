"""Admission policies decide as the section `trust` does: by real interpreters of CEL and Rego."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import kubernetes_validate
import pytest
import regopy
from celpy import celtypes
from celpy.adapter import json_to_cel
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from shipline.deliver.admission import AdmissionOptions, kyverno_policy, name_policy
from shipline.deliver.objects import as_yaml
from shipline.deliver.ratify import ratify_policy
from shipline.errors import ConfigError
from shipline.oci import Reference
from shipline.supply import Identity, ImagePattern, PublicKey
from shipline.trust import PredicateRule, ResolvedPolicy, TrustRule, TrustSection, load_trust
from shipline.units import Duration

KEYS = {
    name: PublicKey.of(ec.generate_private_key(ec.SECP256R1()).public_key(), name)
    for name in ("one", "two", "three")
}
DIGEST = "@sha256:" + "a" * 64
PATTERNS = (
    "registry.example/team/**",
    "registry.example/team/*",
    "registry.example/team/app",
    "*/team/app",
    "docker.io/library/*",
    "library/nginx",
    "team/**/app",
    "localhost:5000/*-public",
    "re?istry.example/**",
    "**",
)
IMAGES = (
    "nginx",
    "nginx:1",
    "library/nginx:1",
    "docker.io/nginx" + DIGEST,
    "index.docker.io/nginx",
    "registry-1.docker.io/library/nginx:1" + DIGEST,
    "team/app:1",
    "team/a/b/app:1",
    "localhost/team/app",
    "localhost:5000/tool:1-public",
    "localhost:5000/tool-public:1" + DIGEST,
    "registry.example/team/app:v1" + DIGEST,
    "registry.example/team/app/part:v1",
    "registry.example/team-app",
    "registryxexample/team/app",
    "Registry.Example/team/app",
    "evil.example/registry.example/team/app:1",
    "evil.example/docker.io/nginx",
)
STRINGS: dict[str, Callable[..., Any]] = {
    "split": lambda text, by: celtypes.ListType(map(celtypes.StringType, text.split(by))),
    "join": lambda texts, by: celtypes.StringType(by.join(texts)),
    "indexOf": lambda text, part: celtypes.IntType(text.find(part)),
    "lastIndexOf": lambda text, part: celtypes.IntType(text.rfind(part)),
    "substring": lambda text, start, end=None: celtypes.StringType(text[start:end]),
}
"""The functions of cel-go's strings that the policies use."""


def trust_of(*rules: TrustRule, default: Any = "reject") -> ResolvedPolicy:
    keys = {name: key.pem.decode() for name, key in KEYS.items()}
    return load_trust(TrustSection(rules, keys, default), Path())


def rule(*patterns: str, action: Any = "require", **fields: Any) -> TrustRule:
    if action == "require":
        fields = {"keys": ("one",), "identity": Identity.parse("any"), **fields}
    return TrustRule(tuple(map(ImagePattern.parse, patterns)), action, **fields)


@cache
def environment() -> celpy.Environment:
    """Its grammar takes a tenth of a second, which only the worker that runs the tests spends."""
    return celpy.Environment()


@pytest.fixture(scope="module", autouse=True)
def grammar() -> None:
    """Made before the first example of a test, since it sets the limit of recursion."""
    environment()


def compiled(expression: str, **functions: Callable[..., Any]) -> Callable[..., Any]:
    """The expression as a function of its variables."""
    cel = environment()
    program = cel.program(cel.compile(expression), functions={**STRINGS, **functions})
    return lambda **data: program.evaluate({k: json_to_cel(v) for k, v in data.items()})


def pod(*images: str) -> dict[str, Any]:
    """Images by all ways in which a pod names them."""
    containers = [{"name": "c", "image": image} for image in images]
    volumes = [{"name": "v", "image": {"reference": images[-1]}}, {"name": "e", "emptyDir": {}}]
    return {
        "spec": {
            "containers": containers[:1],
            "initContainers": containers[1:2],
            "ephemeralContainers": containers[2:-1],
            "volumes": volumes[: len(images) > 1],
        }
    }


def refused_by_names(trust: ResolvedPolicy, *images: str) -> dict[str, set[str]]:
    policy = name_policy(trust, AdmissionOptions())[0]
    found = dict[str, Any]()
    for variable in policy["spec"]["variables"]:
        value = compiled(variable["expression"])(object=pod(*images), variables=found)
        found[variable["name"]] = list(map(str, value))
    assert found["images"] and set(found["images"]) == set(images)
    admitted = [
        bool(compiled(one["expression"])(variables=found)) for one in policy["spec"]["validations"]
    ]
    assert admitted == [not found["rejected"], not found["movable"]]
    return {name: set(found[name]) for name in ("rejected", "movable")}


def action_of(trust: ResolvedPolicy, image: str) -> str:
    found = trust.rule_for(Reference.parse(image))
    if found is None:
        return "accept" if trust.accepts_others else "reject"
    return found.section.action


POLICIES = st.builds(
    lambda rules, default: trust_of(
        *(rule(*patterns, action=action) for patterns, action in rules), default=default
    ),
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2),
            st.sampled_from(["require", "accept", "reject"]),
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(["accept", "reject"]),
)


@settings(max_examples=12, deadline=None)
@given(POLICIES)
@example(trust_of(rule("localhost:5000/*-public", action="accept")))
def test_names_are_admitted_as_the_first_matching_rule_says(trust: ResolvedPolicy) -> None:
    refused = refused_by_names(trust, *IMAGES)
    assert refused["rejected"] == {one for one in IMAGES if action_of(trust, one) == "reject"}
    assert refused["movable"] == {one for one in IMAGES if DIGEST not in one}


def test_the_objects_of_kubernetes_pass_its_schema() -> None:
    admission = AdmissionOptions("names", excluded=("kube-system",), audit=True)
    objects = name_policy(trust_of(rule("**"), default="accept"), admission)
    read = list(YAML(typ="safe", pure=True).load_all(as_yaml(objects)))
    for one in read:
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    policy, binding = read
    assert binding["spec"] == {"policyName": "names", "validationActions": ["Audit"]}
    selector = policy["spec"]["matchConstraints"]["namespaceSelector"]
    assert selector["matchExpressions"][0]["values"] == ["kube-system"]


def test_pods_that_run_already_can_lose_their_finalizers() -> None:
    """Updates that leave the specification alone are not asked about."""
    policy = name_policy(trust_of(rule("**")), AdmissionOptions())[0]
    (condition,) = policy["spec"]["matchConditions"]
    matches = compiled(condition["expression"])
    before, after = pod("nginx"), pod("nginx", "other")
    assert not matches(request={"operation": "UPDATE"}, object=before, oldObject=before)
    assert matches(request={"operation": "UPDATE"}, object=after, oldObject=before)
    assert matches(request={"operation": "CREATE"}, object=before, oldObject=None)


# Kyverno


Signers = Mapping[str, set[str]]


def kyverno(trust: ResolvedPolicy) -> Callable[..., bool]:
    """What Kyverno does with the policy, as its documentation says: the two functions count the
    attestors whose key signed, and are 0 for images that `matchImageReferences` leaves out.
    """
    (policy,) = kyverno_policy(trust, AdmissionOptions())
    spec = policy["spec"]
    pems = {key.pem.decode(): name for name, key in KEYS.items()}
    attestors = {one["name"]: pems[one["cosign"]["key"]["data"]] for one in spec["attestors"]}
    (matches,) = [compiled(one["expression"]) for one in spec["matchImageReferences"]]
    signed, attested = dict[str, set[str]](), dict[str, set[str]]()

    def count(image: str, keys: Sequence[str], signers: Signers) -> Any:
        counted = sum(key in signers.get(str(image), set()) for key in map(str, keys))
        return celtypes.IntType(counted if matches(ref=str(image)) else 0)

    (validation,) = spec["validations"]
    valid = compiled(
        validation["expression"],
        verifyImageSignatures=lambda image, keys: count(image, keys, signed),
        verifyAttestationSignatures=lambda image, _, keys: count(image, keys, attested),
        size=lambda items: celtypes.IntType(len(items)),
    )

    def admitted(images: Sequence[str], signatures: Signers, statements: Signers) -> bool:
        for known, given_ in ((signed, signatures), (attested, statements)):
            known.clear()
            known.update(given_)
        kinds = {"containers": list(images[:1]), "initContainers": list(images[1:])}
        names = {one["name"]: one["name"] for one in spec["attestations"]}
        return bool(valid(images=kinds, attestors=attestors, attestations=names))

    return admitted


@settings(max_examples=12, deadline=None)
@given(POLICIES)
def test_kyverno_admits_accepted_images_and_those_that_are_signed(trust: ResolvedPolicy) -> None:
    if not any(one.section.action == "require" for one in trust.rules):
        with pytest.raises(ConfigError, match="no rule of trust requires signatures"):
            kyverno_policy(trust, AdmissionOptions())
        return
    admitted = kyverno(trust)
    for image in IMAGES:
        action = action_of(trust, image)
        assert admitted([image], {}, {}) == (action == "accept")
        assert admitted([image], {image: {"one"}}, {}) == (action != "reject")
        assert admitted([image], {image: {"two"}}, {}) == (action == "accept")


def test_kyverno_counts_keys_and_demands_each_predicate() -> None:
    image, other = "reg.example/app:1", "reg.example/app:2"
    trust = trust_of(
        rule("reg.example/**", keys=("one", "two", "three"), threshold=2, predicates=("spdx",))
    )
    admitted = kyverno(trust)
    both = {image: {"one", "three"}, other: {"one", "two", "three"}}
    assert admitted([image, other], both, {image: {"two"}, other: {"one"}})
    assert not admitted([image, other], both, {image: {"two"}})
    assert not admitted([image], {image: {"one"}}, {image: {"two"}})
    assert not admitted([], {}, {})


def test_the_policy_of_kyverno_has_the_documented_structure() -> None:
    """Of policies.kyverno.io/v1, ImageValidatingPolicy."""
    trust = trust_of(rule("reg.example/**", annotations={"env": "prod"}, predicates=("spdx",)))
    admission = AdmissionOptions(
        "t", excluded=("kyverno",), secrets=("login",), omitted=("identity",)
    )
    text = as_yaml(kyverno_policy(trust, admission))
    policy = YAML(typ="safe", pure=True).load(text)
    assert (policy["apiVersion"], policy["kind"]) == (
        "policies.kyverno.io/v1",
        "ImageValidatingPolicy",
    )
    assert policy["metadata"]["annotations"] == {"shipline.dev/not-checked": "identity"}
    spec = policy["spec"]
    log = {"insecureIgnoreTlog": True, "insecureIgnoreSCT": True}
    plain = {
        "key": {"data": KEYS["one"].pem.decode()},
        "ctlog": {"url": "https://rekor.sigstore.dev", **log},
    }
    assert spec["attestors"] == [
        {"name": "key0", "cosign": {**plain, "annotations": {"env": "prod"}}},
        {"name": "key1", "cosign": plain},
    ]
    assert spec["attestations"] == [
        {"name": "predicate0", "intoto": {"type": "https://spdx.dev/Document"}}
    ]
    assert spec["credentials"] == {"secrets": ["login"]}
    assert (spec["failurePolicy"], spec["validationActions"]) == ("Fail", ["Deny"])


# Ratify


def gatekeeper_refuses(
    trust: ResolvedPolicy, images: Sequence[str], verified: Sequence[str], *, error: str = ""
) -> tuple[list[str], list[str]]:
    """The messages, and the images about which Ratify is asked. `external_data` is a built-in of
    Gatekeeper alone.
    """
    *_, template, constraint = ratify_policy(trust, AdmissionOptions())
    (code,) = template["spec"]["targets"][0]["code"]
    assert "import" not in code["source"]["rego"], "Gatekeeper allows those of data.lib alone"
    responses = json.dumps([[image, {"isSuccess": True}] for image in verified])
    stub = (
        f'\nexternal_data(given) := {{"responses": {responses}, "errors": [], '
        f'"system_error": "{error}"}} if given.provider == "ratify-provider"\n'
    )
    interpreter = regopy.Interpreter()
    interpreter.add_module("trust", code["source"]["rego"] + stub)
    interpreter.set_input(
        {"review": {"object": pod(*images)}, "parameters": constraint["spec"]["parameters"]}
    )
    query = interpreter.query(
        "messages = [v.msg | some v in data.shipline.trust.violation];"
        "asked = data.shipline.trust.signed"
    )
    bindings = json.loads(str(query))["bindings"]
    return sorted(bindings["messages"]), sorted(bindings["asked"])


@pytest.mark.parametrize(
    "trust",
    [
        trust_of(rule(pattern), rule("docker.io/**", action=action), default=default)
        for pattern in PATTERNS
        for action, default in (("accept", "reject"), ("reject", "accept"))
    ],
)
def test_gatekeeper_refuses_what_is_rejected_or_not_verified(trust: ResolvedPolicy) -> None:
    messages, asked = gatekeeper_refuses(trust, IMAGES, [])
    rejected = [one for one in IMAGES if action_of(trust, one) == "reject"]
    unsigned = [one for one in IMAGES if action_of(trust, one) == "require"]
    full = sorted({str(Reference.parse(one)) for one in unsigned})
    assert asked == full
    assert messages == sorted(
        [f"not trusted: {one}" for one in rejected]
        + [f"not signed as trust requires: {one}" for one in full]
    )
    messages, _ = gatekeeper_refuses(trust, IMAGES, full)
    assert messages == sorted(f"not trusted: {one}" for one in rejected)


def test_an_error_of_ratify_is_a_refusal() -> None:
    trust = trust_of(rule("reg.example/**"))
    image = "reg.example/app:1"
    assert gatekeeper_refuses(trust, [image], [image])[0] == []
    assert gatekeeper_refuses(trust, [image], [image], error="down")[0] == ["Ratify: down"]


def test_ratify_counts_the_keys_of_the_rule() -> None:
    trust = trust_of(
        rule("reg.example/team/**", keys=("one", "two"), threshold=2), rule("reg.example/app")
    )
    objects = ratify_policy(trust, AdmissionOptions())
    spec = {one["kind"]: one["spec"] for one in objects}
    policies = spec["Verifier"]["parameters"]["trustPolicies"]
    assert [policy["scopes"] for policy in policies] == [
        ["reg.example/team/*"],
        ["reg.example/app", "reg.example/app:*", "reg.example/app@*"],
    ]
    providers = [key["provider"] for key in policies[0]["keys"]]
    assert providers == [
        one["metadata"]["name"] for one in objects if one["kind"] == "KeyManagementProvider"
    ]

    def valid(policy: str, *verified: str) -> bool:
        checked = [
            {"isSuccess": key in verified, "keyInformation": {"provider": key}} for key in providers
        ]
        signature = {"signature": "...", "verifications": checked}
        report = {
            "isSuccess": bool(verified),
            "extensions": {"signatures": [signature], "trustPolicy": policy},
        }
        interpreter = regopy.Interpreter()
        interpreter.add_module("policy", spec["Policy"]["parameters"]["policy"])
        interpreter.set_input({"verifierReports": [{"verifierReports": [report, report]}]})
        result = interpreter.query("x = data.ratify.policy.valid")
        return bool(json.loads(str(result))["bindings"]["x"])

    assert valid("rule0", *providers)
    assert not valid("rule0", providers[0])
    assert valid("rule1", providers[0])
    assert not valid("rule1")
    assert not valid("another", *providers)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ([rule("reg.example/a/*"), rule("reg.example/b/**")], r"\[0\].*pattern reg.example/a/\*"),
        ([rule("reg.example/**"), rule("reg.example/a/**")], r"\[0\], trust.rules\[1\].*same"),
        ([rule("**"), rule("reg.example/**")], r"same images"),
        ([rule("reg.example/a_b")], "characters of reg.example/a_b"),
        ([rule("reg.example/**", annotations={"a": "b"})], "cannot check annotations"),
        ([rule("reg.example/**", predicates=("spdx",))], "cannot check predicates"),
    ],
)
def test_what_ratify_cannot_tell_apart_is_an_error(rules: list[TrustRule], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ratify_policy(trust_of(*rules), AdmissionOptions())


def test_a_last_rule_for_everything_is_the_fallback_of_ratify() -> None:
    objects = ratify_policy(
        trust_of(rule("reg.example/**"), rule("**", keys=("two",))), AdmissionOptions()
    )
    (verifier,) = [one for one in objects if one["kind"] == "Verifier"]
    policies = verifier["spec"]["parameters"]["trustPolicies"]
    assert [policy["scopes"] for policy in policies] == [["reg.example/*"], ["*"]]


YEAR = Duration.parse("365d")


@pytest.mark.parametrize("write", [kyverno_policy, ratify_policy])
@pytest.mark.parametrize(
    ("fields", "omit"),
    [
        ({"identity": Identity.parse("optional")}, "identity"),
        ({"identity": Identity.parse("exact")}, "identity"),
        ({"max_age": YEAR}, "max-age"),
        ({"predicates": (PredicateRule("vuln", YEAR),)}, "max-age"),
    ],
)
def test_what_an_engine_cannot_check_is_an_error_unless_it_is_left_out_by_name(
    write: Any, fields: dict[str, Any], omit: str
) -> None:
    trust = trust_of(rule("reg.example/**", **fields))
    with pytest.raises(ConfigError, match=rf"trust.rules\[0\].*cannot check {omit}") as caught:
        write(trust, AdmissionOptions())
    assert f"--without {omit}" in caught.value.hint
    if not (write is ratify_policy and "predicates" in fields):
        *_, last = write(trust, AdmissionOptions(omitted=(omit,)))
        assert last["metadata"]["annotations"] == {"shipline.dev/not-checked": omit}
