"""Challenges, scopes and the conversation with a token server, without a network."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.errors import AuthError, RegistryError
from shipline.registry.auth import (
    EndpointAuth,
    Scope,
    Scopes,
    Token,
    covers,
    parse_challenges,
    token_flow,
    union,
)
from shipline.registry.credentials import Credentials, StaticKeychain
from shipline.registry.errors import HttpResponse, response_error
from shipline.registry.hosts import HostSettings
from shipline.registry.request import ClientRequest, Url

REALM = Url.parse("https://auth.example.com/token?x=1")
PULL = (Scope.repository("a/b", "pull"),)
PUSH = (Scope.repository("a/b", "pull", "push"),)
ALICE = Credentials("alice", "secret")


@dataclass
class Said:
    status: int
    body: bytes = b""
    url: Url = REALM
    closed: bool = False

    def header(self, name: str) -> str:
        return ""

    def content(self, limit: int) -> bytes:
        return self.body

    def close(self) -> None:
        self.closed = True


def end(flow: Generator[ClientRequest, HttpResponse, Token], response: Said) -> Token:
    with pytest.raises(StopIteration) as done:
        flow.send(response)
    assert response.closed
    token: Token = done.value.value
    return token


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        ("Basic", [("basic", {})]),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"',
            [
                (
                    "bearer",
                    {"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"},
                )
            ],
        ),
        (
            'Basic realm="x", Bearer realm="y",error=invalid_token',
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "error": "invalid_token"})],
        ),
        ('BEARER Realm = "q\\"uote" , a=b', [("bearer", {"realm": 'q"uote', "a": "b"})]),
        ("", []),
        (",,,", []),
        ('"', []),
    ],
)
def test_challenges_are_read(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in parse_challenges(header)] == expected


@given(st.text(max_size=200))
def test_no_header_breaks_the_parser(header: str) -> None:
    parse_challenges(header)
    parse_challenges(f"Bearer {header}")


names = st.sampled_from(["a", "a/b", "host:5000/a", "c"])
actions = st.frozensets(st.sampled_from(["pull", "push", "delete", "*"]), min_size=1)
scopes = st.lists(st.builds(Scope, st.just("repository"), names, actions), max_size=4).map(
    lambda found: union(tuple(found), ())
)


@given(scopes)
def test_a_scope_reads_what_it_writes(some: Scopes) -> None:
    assert Scope.parse_all(" ".join(map(str, some))) == some


@given(scopes, scopes)
def test_a_union_covers_both_and_nothing_else(one: Scopes, other: Scopes) -> None:
    both = union(one, other)
    assert covers(both, one) and covers(both, other)
    assert all(
        scope.actions
        <= frozenset().union(*(s.actions for s in (*one, *other) if s.name == scope.name))
        for scope in both
    )
    assert covers(one, other) == (set(union(one, other)) == set(one))


def test_push_stands_last_and_the_first_resource_first() -> None:
    assert str(PUSH[0]) == "repository:a/b:pull,push"
    other = Scope.repository("a/base", "pull")
    assert union(PUSH, (other,)) == (*PUSH, other)


def test_a_token_is_asked_for_with_get() -> None:
    flow = token_flow(REALM, "registry", PUSH, ALICE)
    request = next(flow)
    query = parse_qs(urlsplit(str(request.url)).query)
    assert request.method == "GET" and request.url.origin == REALM.origin
    assert query == {
        "x": ["1"],
        "service": ["registry"],
        "scope": ["repository:a/b:pull,push"],
        "client_id": ["shipline"],
        "account": ["alice"],
    }
    assert request.headers == {"Authorization": "Basic YWxpY2U6c2VjcmV0"}
    token = end(flow, Said(200, b'{"access_token":"abc","expires_in":30}'))
    assert (token.value, token.scopes, token.lifetime_s) == ("abc", PUSH, 30)


def test_nobody_asks_anonymously() -> None:
    assert "Authorization" not in next(token_flow(REALM, "s", PULL, None)).headers


@pytest.mark.parametrize("status", [404, 405])
def test_an_identity_token_is_posted_and_then_shown(status: int) -> None:
    flow = token_flow(REALM, "s", PULL, Credentials(identity_token="long"))
    posted = next(flow)
    assert posted.method == "POST" and isinstance(posted.body, bytes)
    form = parse_qs(posted.body.decode())
    assert form["grant_type"] == ["refresh_token"] and form["refresh_token"] == ["long"]
    assert "long" not in str(posted.url)
    refused = Said(status)
    assert flow.send(refused).method == "GET" and refused.closed


def test_an_accepted_post_is_the_end() -> None:
    flow = token_flow(REALM, "s", PULL, Credentials(identity_token="long"))
    next(flow)
    assert end(flow, Said(200, b'{"access_token":"abc"}')).lifetime_s == 60


def test_a_refusal_is_about_credentials_and_an_outage_is_not() -> None:
    for status, kind in ((401, AuthError), (400, AuthError), (503, RegistryError)):
        flow = token_flow(REALM, "s", PULL, ALICE)
        next(flow)
        with pytest.raises(kind) as raised:
            flow.send(Said(status, b'{"details":"no"}'))
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("said", "expected"),
    [(300, 300), (-1, 60), (0, 60), (10**30, 3600), ("90", 90), ("x", 60), (None, 60), (0.2, 1)],
)
def test_13_lifetimes_are_clamped(said: object, expected: float) -> None:
    content = json.dumps({"token": "abc", "expires_in": said}).encode()
    assert Token.read(content, PULL, "host").lifetime_s == expected


def test_secrets_are_not_shown() -> None:
    shown = repr((ALICE, Credentials("u", "", "idtoken", "regtoken"), Token("tok", PULL, 1)))
    assert not any(secret in shown for secret in ("secret", "idtoken", "regtoken", "tok'"))
    request = next(token_flow(REALM, "s", PULL, ALICE))
    assert "YWxpY2U6c2VjcmV0" not in repr(request)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def auth(clock: Clock) -> EndpointAuth:
    return EndpointAuth(
        HostSettings().endpoint("reg.example.com"),
        StaticKeychain({"reg.example.com": ALICE}),
        clock,
    )


BEARER = 'Bearer realm="https://auth.example.com/token",service="s",scope="repository:a/b:pull"'


def test_a_token_is_kept_until_shortly_before_its_end() -> None:
    clock, asked = Clock(), []

    def request_token(realm: Url, flow: Generator[ClientRequest, HttpResponse, Token]) -> Token:
        asked.append(str(next(flow).url))
        return end(flow, Said(200, b'{"token":"t%d","expires_in":100}' % len(asked)))

    door = auth(clock)
    assert door.authorization("a/b", PUSH, request_token) == "" and asked == []
    assert door.accept_challenge("a/b", BEARER, PUSH, "")
    assert door.authorization("a/b", PUSH, request_token) == "Bearer t1"
    clock.now = 89
    assert (
        door.authorization("a/b", PULL, request_token) == "Bearer t1"
    )  # more rights than needed will do
    clock.now = 91
    assert door.authorization("a/b", PULL, request_token) == "Bearer t2"
    assert door.authorization("a/b", PUSH, request_token) == "Bearer t3"  # fewer will not


def test_a_refused_token_is_forgotten_once() -> None:
    tokens = iter(("one", "two", "three"))

    def request_token(realm: Url, flow: Generator[ClientRequest, HttpResponse, Token]) -> Token:
        next(flow)
        return Token(next(tokens), PULL, 100)

    door = auth(Clock())
    door.accept_challenge("a/b", BEARER, PULL, "")
    first = door.authorization("a/b", PULL, request_token)
    assert door.accept_challenge("a/b", BEARER, PULL, first)
    assert door.authorization("a/b", PULL, request_token) == "Bearer two"
    assert not door.accept_challenge("a/b", BEARER, PULL, "Bearer unknown")


def test_a_challenge_may_widen_the_scope_of_its_own_repository_only() -> None:
    asked: list[Scopes] = []

    def request_token(realm: Url, flow: Generator[ClientRequest, HttpResponse, Token]) -> Token:
        request = next(flow)
        query = parse_qs(urlsplit(str(request.url)).query)
        asked.append(Scope.parse_all(" ".join(query["scope"])))
        return Token("t", asked[-1], 100)

    door = auth(Clock())
    wide = 'Bearer realm="https://x/",scope="repository:a/b:delete repository:other:pull"'
    door.accept_challenge("a/b", wide, PULL, "")
    door.authorization("a/b", PULL, request_token)
    assert asked == [(Scope.repository("a/b", "pull", "delete"),)]


def test_bearer_is_preferred_to_basic() -> None:
    door = auth(Clock())
    door.accept_challenge("a/b", f'Basic realm="x", {BEARER}', PULL, "")
    assert door.authorization("a/b", PULL, lambda realm, flow: Token("t", PULL, 9)) == "Bearer t"


@dataclass
class Challenged(Said):
    challenge: str = ""

    def header(self, name: str) -> str:
        return self.challenge if name == "WWW-Authenticate" else ""


def test_a_login_without_the_right_is_not_called_wrong() -> None:
    body = b'{"errors": [{"code": "UNAUTHORIZED", "message": "push is not covered"}]}'
    refused = response_error(Challenged(401, body, challenge=f"{BEARER},error=x"), "pushing")
    assert "refuses the login" in str(refused) and refused.code == "login-refused"
    scoped = Challenged(401, body, challenge=f'{BEARER},error="insufficient_scope"')
    refused = response_error(scoped, "pushing")
    assert isinstance(refused, AuthError) and refused.code == "login-insufficient"
    assert refused.message == "auth.example.com: pushing: 401: UNAUTHORIZED: push is not covered"
    assert "an account with this right" in refused.hint
