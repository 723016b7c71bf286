"""Access control put together: open on loopback, else over TLS and with accounts."""

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
from shipline.server.access.certificates import Certificates, open_certificates
from shipline.server.access.endpoint import token_routes
from shipline.server.access.guard import AccountAuthenticator, Authenticator, OpenAuthenticator
from shipline.server.access.harbor import harbor_routes
from shipline.server.access.keys import Keys
from shipline.server.access.login import Logins
from shipline.server.access.operations import ProjectUsage, account_routes
from shipline.server.access.section import AccessSection
from shipline.server.access.store import AccountStore
from shipline.server.access.tokens import Tokens
from shipline.server.http import Request, Route
from shipline.server.journal import Listener, NodeEvent

_log = logging.getLogger(__name__)
ADMINISTRATOR = "admin"
Notice = Callable[[NodeEvent], None]


@dataclass(frozen=True, slots=True)
class AccessControl:
    """What serve.py needs; `notices` are lines for the person who starts the node, `renew` looks
    at the certificates again (see `renewal`).
    """

    guard: Authenticator
    routes: tuple[Route, ...] = ()
    listeners: tuple[Listener, ...] = ()
    certificates: Certificates | None = None
    renew: Callable[[], Certificates] | None = None
    notices: tuple[str, ...] = ()
    watchers: list[Notice] = field(default_factory=list)  # told of logins and account changes
    projects: Callable[[], Iterable[str]] = tuple  # their names, also of those that were removed


@contextmanager
def open_entrance(
    data: Path,
    host: str,
    section: AccessSection,
    *,
    insecure_open: bool = False,
    insecure_http: bool = False,
    holdings: ProjectUsage | None = None,
) -> Iterator[AccessControl]:
    """The entrance of a node that listens on address `host`, while the block lasts.

    See `check_entrance` for what may be open. Call it after the data directory is locked. Accounts,
    keys and certificates are made where there are none; the first administrator's password is in
    the notices, once.
    """
    loopback = is_loopback(host)
    if insecure_open or section.mode == "open" or (section.mode == "auto" and loopback):
        yield _open_entrance(data, section, loopback=loopback)
        return
    directory = AccountStore(data)
    try:
        plain = insecure_http or (loopback and not section.tls.cert)
        renew = None if plain else partial(open_certificates, data, section.tls, host)
        yield _guarded(data, directory, section, renew, holdings or ProjectUsage())
    finally:
        directory.close()


def check_entrance(section: AccessSection, host: str, *, insecure_open: bool) -> None:
    """Before anything is made: an open node that others reach must be asked for.

    Raises UsageError.
    """
    if section.mode == "open" and not insecure_open and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, and access is open to everyone",
            hint="say --insecure-open if everyone may push and delete, or leave access.mode out",
        )


def _open_entrance(data: Path, section: AccessSection, *, loopback: bool) -> AccessControl:
    where = "anyone on this machine" if loopback else "anyone who reaches it"
    notice = f"open: {where} may pull, push and delete without an account"
    renew = partial(open_certificates, data, section.tls, "") if section.tls.cert else None
    certificates = renew() if renew else None
    return AccessControl(
        OpenAuthenticator(), certificates=certificates, renew=renew, notices=(notice,)
    )


def _guarded(
    data: Path,
    directory: AccountStore,
    section: AccessSection,
    renew: Callable[[], Certificates] | None,
    holdings: ProjectUsage,
) -> AccessControl:
    certificates = renew() if renew else None
    audit = Audit(
        data, size=section.audit_size.bytes, files=section.audit_files, pulls=section.audit_pulls
    )
    watchers = [_quietly(audit)]
    notice = partial(_tell, watchers)
    keys = Keys(directory)
    tokens = Tokens(directory, keys, section)
    logins = Logins(directory, notice)
    scheme = "http" if certificates is None else "https"
    guard = AccountAuthenticator(directory, tokens, logins, section, _base_url(section, scheme))

    def administration(request: Request) -> Administration:
        actor, address = request.identity.actor, request.address
        return Administration(directory, actor=actor, address=address, notice=notice)

    routes = (
        *token_routes(directory, keys, tokens, logins, section),
        *harbor_routes(directory, administration, holdings),
        *account_routes(directory, administration, data),
    )
    notices = (*_first_steps(directory, section, notice), *_about(certificates))

    def projects() -> Iterator[str]:
        view = directory.view()
        return chain(view.projects, view.removed)

    return AccessControl(guard, routes, (audit,), certificates, renew, notices, watchers, projects)


def _tell(watchers: list[Notice], event: NodeEvent) -> None:
    for watch in watchers:
        watch(event)


def _quietly(audit: Audit) -> Notice:
    """The log of a full disk is no reason to let nobody in."""

    def note(event: NodeEvent) -> None:
        try:
            audit.note(event)
        except OSError as error:
            _log.error("the audit log cannot be written: %s", error)

    return note


def _first_steps(directory: AccountStore, section: AccessSection, notice: Notice) -> list[str]:
    """An administrator where there is no user at all, and the configured projects."""
    administration = Administration(directory, actor="node", notice=notice)
    directory.set_prefix(section.robot_prefix)
    lines = []
    if not directory.view().users:
        password = secrets.token_urlsafe(18)
        administration.add_user(ADMINISTRATOR, password, admin=True)
        lines.append(f"administrator: {ADMINISTRATOR}, password: {password} (shown only now)")
    for name in section.public_projects:
        if name not in directory.view().projects:
            administration.add_project(name, public=True)
    return lines


def _about(certificates: Certificates | None) -> list[str]:
    if certificates is None:
        return ["plain HTTP: passwords and tokens can be read in transit"]
    lines = [f"certificate: SHA-256 {certificates.fingerprint}"]
    if certificates.ca is not None:
        place = "/etc/docker/certs.d/HOST:PORT/ca.crt"
        lines.append(f"clients need {certificates.ca}; docker looks for it in {place}")
    return lines


def _base_url(section: AccessSection, scheme: str) -> Callable[[Request], str]:
    """How the client reached us: its own Host header, which only it sees again."""
    fixed = section.url.rstrip("/")

    def base_url(request: Request) -> str:
        host = request.header("Host") or "localhost"
        good = all(letter.isalnum() or letter in ".-:[]_" for letter in host)
        return fixed or f"{scheme}://{host if good and len(host) < 300 else 'localhost'}"

    return base_url
