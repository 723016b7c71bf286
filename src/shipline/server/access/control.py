"""Access control assembled: open on loopback, otherwise TLS and accounts."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from shipline.errors import UsageError
from shipline.net import is_loopback
from shipline.server.access.administration import Administration
from shipline.server.access.audit import Audit
from shipline.server.access.authentication import (
    AccountAuthenticator,
    Authenticator,
    OpenAuthenticator,
)
from shipline.server.access.certificates import Certificates, open_certificates
from shipline.server.access.endpoint import token_routes
from shipline.server.access.harbor import harbor_routes
from shipline.server.access.keys import Keys
from shipline.server.access.login import Logins
from shipline.server.access.operations import ProjectUsage, account_routes
from shipline.server.access.section import AccessSection
from shipline.server.access.store import AccountStore
from shipline.server.access.tokens import Tokens
from shipline.server.events import Listener, NodeEvent, Publish
from shipline.server.http import Request, Route

_log = logging.getLogger(__name__)
ADMINISTRATOR = "admin"


@dataclass(frozen=True, slots=True)
class AccountAccess:
    """The accounts of a node: to read, to change in the name of a request's principal, and the data
    directory with their audit log.
    """

    store: AccountStore
    administration: Callable[[Request], Administration]
    data: Path


@dataclass(frozen=True, slots=True)
class AccessControl:
    """The parts of access control; `notices` are lines for the operator, `renew` checks and renews
    certificates.
    """

    authenticator: Authenticator
    routes: tuple[Route, ...] = ()
    listeners: tuple[Listener, ...] = ()
    certificates: Certificates | None = None
    renew: Callable[[], Certificates] | None = None
    notices: tuple[str, ...] = ()
    account_listeners: list[Publish] = field(default_factory=list)  # get logins and account changes
    projects: Callable[[], Iterable[str]] = tuple  # names, of removed ones too
    accounts: AccountAccess | None = None


@contextmanager
def open_access_control(
    data: Path,
    host: str,
    section: AccessSection,
    *,
    insecure_open: bool = False,
    insecure_http: bool = False,
    project_usage: ProjectUsage | None = None,
) -> Iterator[AccessControl]:
    """Access control of a node that listens on `host`; closed when the block ends.

    See `check_access` for what may be open. Call it after locking the data directory. Missing
    accounts, keys and certificates are created; the initial administrator's password is in the
    notices, once.
    """
    loopback = is_loopback(host)
    if insecure_open or section.mode == "open" or (section.mode == "auto" and loopback):
        yield _open_to_all(data, section, loopback=loopback)
        return
    accounts = AccountStore(data)
    try:
        plain = insecure_http or (loopback and not section.tls.cert)
        renew = None if plain else partial(open_certificates, data, section.tls, host)
        yield _with_accounts(data, accounts, section, renew, project_usage or ProjectUsage())
    finally:
        accounts.close()


def check_access(section: AccessSection, host: str, *, insecure_open: bool) -> None:
    """Raises UsageError for an open node on a reachable address without `insecure_open`; call it
    before anything is created.
    """
    if section.mode == "open" and not insecure_open and not is_loopback(host):
        raise UsageError(
            f"{host} is reachable from other machines, and access is open to everyone",
            code="registry-open",
            hint="pass --insecure-open if everyone may push and delete, or remove access.mode",
        )


def _open_to_all(data: Path, section: AccessSection, *, loopback: bool) -> AccessControl:
    where = "anyone on this machine" if loopback else "anyone who reaches it"
    publish = f"open: {where} may pull, push and delete without an account"
    renew = partial(open_certificates, data, section.tls, "") if section.tls.cert else None
    certificates = renew() if renew else None
    return AccessControl(
        OpenAuthenticator(), certificates=certificates, renew=renew, notices=(publish,)
    )


def _with_accounts(
    data: Path,
    accounts: AccountStore,
    section: AccessSection,
    renew: Callable[[], Certificates] | None,
    project_usage: ProjectUsage,
) -> AccessControl:
    certificates = renew() if renew else None
    audit = Audit(
        data, size=section.audit_size.bytes, files=section.audit_files, pulls=section.audit_pulls
    )
    account_listeners = [_audit_listener(audit)]
    publish = partial(_publish, account_listeners)
    keys = Keys(accounts)
    tokens = Tokens(accounts, keys, section)
    logins = Logins(accounts, publish)
    scheme = "http" if certificates is None else "https"
    authenticator = AccountAuthenticator(
        accounts, tokens, logins, section, _base_url(section, scheme)
    )

    def administration(request: Request) -> Administration:
        actor, address = request.principal.actor, request.address
        return Administration(accounts, actor=actor, address=address, publish=publish)

    routes = (
        *token_routes(accounts, keys, tokens, logins, section),
        *harbor_routes(accounts, administration, project_usage),
        *account_routes(accounts, administration, data),
    )
    notices = (*_bootstrap(accounts, section, publish), *_certificate_notices(certificates))

    def projects() -> Iterator[str]:
        view = accounts.view()
        return chain(view.projects, view.removed)

    return AccessControl(
        authenticator,
        routes,
        (audit,),
        certificates,
        renew,
        notices,
        account_listeners,
        projects,
        AccountAccess(accounts, administration, data),
    )


def _publish(account_listeners: list[Publish], event: NodeEvent) -> None:
    for listener in account_listeners:
        listener(event)


def _audit_listener(audit: Audit) -> Publish:
    """Log audit errors instead of failing logins."""

    def on_event(event: NodeEvent) -> None:
        try:
            audit.on_event(event)
        except OSError as error:
            _log.error("cannot write the audit log: %s", error)

    return on_event


def _bootstrap(accounts: AccountStore, section: AccessSection, publish: Publish) -> list[str]:
    """Create the initial administrator and the configured public projects."""
    administration = Administration(accounts, actor="node", publish=publish)
    accounts.set_robot_prefix(section.robot_prefix)
    lines = []
    if not accounts.view().users:
        password = secrets.token_urlsafe(18)
        administration.add_user(ADMINISTRATOR, password, admin=True)
        lines.append(f"administrator: {ADMINISTRATOR}, password: {password} (shown only now)")
    for name in section.public_projects:
        if name not in accounts.view().projects:
            administration.add_project(name, public=True)
    return lines


def _certificate_notices(certificates: Certificates | None) -> list[str]:
    if certificates is None:
        return ["plain HTTP: passwords and tokens can be read in transit"]
    lines = [f"certificate: SHA-256 {certificates.fingerprint}"]
    if certificates.ca is not None:
        path = "/etc/docker/certs.d/HOST:PORT/ca.crt"
        lines.append(f"clients need {certificates.ca}; docker looks for it in {path}")
    return lines


def _base_url(section: AccessSection, scheme: str) -> Callable[[Request], str]:
    """The URL as the client sees it, from its Host header."""
    fixed = section.url.rstrip("/")

    def base_url(request: Request) -> str:
        host = request.header("Host") or "localhost"
        good = all(letter.isalnum() or letter in ".-:[]_" for letter in host)
        return fixed or f"{scheme}://{host if good and len(host) < 300 else 'localhost'}"

    return base_url
