"""The token service's endpoints: GET, OAuth2 POST, and the JWK set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from shipline.server.access.accounts import Account, User
from shipline.server.access.authentication import read_basic
from shipline.server.access.keys import Keys
from shipline.server.access.login import Logins, unusable_reason
from shipline.server.access.rights import TokenScope, parse_scopes
from shipline.server.access.section import AccessSection
from shipline.server.access.store import AccountStore
from shipline.server.access.tokens import IssuedToken, Tokens, issue_refresh, subject_of
from shipline.server.http import Pool, Request, Response, Route, route
from shipline.server.problems import Problem

_FORM_LIMIT = 64 << 10  # bytes
_JSON = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))


class OAuthProblem(Problem):
    """An error per RFC 6749 section 5.2, with the registry's error format beside it for docker.

    An invalid grant is 401, not 400: registry clients recognize wrong credentials by it.
    """

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(status, "UNAUTHORIZED" if status == 401 else "UNSUPPORTED", message)
        self.error = error

    def body(self) -> bytes:
        known = json.loads(super().body())
        oauth = {"error": self.error, "error_description": self.message}
        return json.dumps(oauth | known).encode()


def token_routes(
    accounts: AccountStore, keys: Keys, tokens: Tokens, logins: Logins, section: AccessSection
) -> tuple[Route, ...]:
    """/service/token with GET and POST, and /.well-known/jwks.json."""

    def get(request: Request) -> Response:
        query = request.query
        _check_service(section, query.get("service", []))
        account = _basic_account(request, logins)
        document = _token_json(tokens.issue(account, parse_scopes(query.get("scope", []))))
        if request.parameter("offline_token") == "true":
            document |= refresh(account, request.parameter("client_id") or "")
        return _json_response({**document, "token": document["access_token"]})

    def post(request: Request) -> Response:
        form = _form(request)
        _check_service(section, [form["service"]] if "service" in form else [])
        account, extra = authenticate(request, form)
        token = tokens.issue(account, parse_scopes([form.get("scope", "")]))
        return _json_response(_token_json(token) | extra | {"scope": _text(token.scopes)})

    def authenticate(request: Request, form: Mapping[str, str]) -> tuple[Account, dict[str, Any]]:
        match form.get("grant_type"):
            case "password":
                account = _check_password(
                    lambda: logins.check(
                        form.get("username", ""), form.get("password", ""), request.address
                    )
                )
                offline = form.get("access_type") == "offline"
                return account, refresh(account, form.get("client_id", "")) if offline else {}
            case "refresh_token":
                token = form.get("refresh_token", "")
                return _refresh_account(accounts, section, request, token), {"refresh_token": token}
        error = "unsupported_grant_type" if form.get("grant_type") else "invalid_request"
        raise OAuthProblem(400, error, "grant_type must be password or refresh_token")

    def refresh(account: Account | None, client: str) -> dict[str, Any]:
        """Only for users: a robot's secret is good for nothing else anyway."""
        if not isinstance(account, User):
            return {}
        token = issue_refresh(
            accounts, account, section.service, client, section.refresh_lifetime.seconds
        )
        return {"refresh_token": token}

    def jwks(request: Request) -> Response:
        return Response.of(200, [_JSON[0]], json.dumps(keys.jwks()).encode())

    return (
        route(
            "/service/token|/token|/v2/token", requires="open", pool=Pool.CPU, GET=get, POST=post
        ),
        route(r"/\.well-known/jwks\.json", requires="open", GET=jwks),
    )


def _basic_account(request: Request, logins: Logins) -> Account | None:
    """The account of Basic credentials, None without any."""
    kind, _, value = (request.header("Authorization") or "").partition(" ")
    if not kind:
        return None
    if kind.lower() != "basic":
        raise Problem(401, "UNAUTHORIZED", "the token service requires Basic credentials")
    name, secret = read_basic(value.strip())
    return logins.check(name, secret, request.address)


def _refresh_account(
    accounts: AccountStore, section: AccessSection, request: Request, token: str
) -> Account:
    subject = subject_of(accounts, token, section.service)
    account = None if subject is None else accounts.view().account(subject)
    reason = unusable_reason(account, request.address, accounts.clock())
    if account is None or reason:
        raise OAuthProblem(401, "invalid_grant", "the refresh token is invalid or expired")
    return account


def _check_password(login: Callable[[], Account]) -> Account:
    try:
        return login()
    except Problem as problem:
        if problem.status != 401:
            raise
        raise OAuthProblem(401, "invalid_grant", problem.message) from None


def _check_service(section: AccessSection, named: list[str]) -> None:
    if named and named[-1] != section.service:
        raise OAuthProblem(400, "invalid_request", f"this service is {section.service}")


def _form(request: Request) -> dict[str, str]:
    if request.content_type != "application/x-www-form-urlencoded":
        raise OAuthProblem(400, "invalid_request", "send application/x-www-form-urlencoded")
    try:
        text = request.read(_FORM_LIMIT).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=100, errors="strict"))
    except ValueError:
        raise OAuthProblem(400, "invalid_request", "malformed form") from None


def _token_json(token: IssuedToken) -> dict[str, Any]:
    return {"access_token": token.text, "expires_in": token.lifetime, "issued_at": token.issued_at}


def _text(scopes: tuple[TokenScope, ...]) -> str:
    return " ".join(str(scope) for scope in scopes)


def _json_response(document: dict[str, Any]) -> Response:
    return Response.of(200, _JSON, json.dumps(document).encode())
