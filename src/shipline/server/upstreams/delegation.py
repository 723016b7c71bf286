"""Access to repositories whose upstream decides who may pull from them: whatever the rules of this
node say, nobody may without asking the upstream. So neither mounts, the catalog nor the web page
show or give away what is cached.
"""

from __future__ import annotations

from collections.abc import Callable

from shipline.server.access.authentication import Authenticator
from shipline.server.http import Action, Pool, Principal, Request, Requirement, Rights
from shipline.server.problems import Problem
from shipline.values import replace


class DelegatingAuthenticator:
    """An `Authenticator` without rights to pull from the repositories that are `delegated`."""

    def __init__(self, own: Authenticator, delegated: Callable[[str], bool]) -> None:
        self._own, self._delegated = own, delegated

    @property
    def accounts(self) -> bool:
        return self._own.accounts

    def pool(self, request: Request) -> Pool:
        return self._own.pool(request)

    def authorize(self, request: Request, requires: Requirement, name: str) -> Principal:
        return self._limited(self._own.authorize(request, requires, name))

    def challenge_refusal(
        self, request: Request, requires: Requirement, problem: Problem
    ) -> Problem:
        return self._own.challenge_refusal(request, requires, problem)

    def request_scope(self, request: Request, name: str) -> Problem:
        return self._own.request_scope(request, name)

    def sign_in(self, name: str, secret: str, address: str) -> Principal:
        return self._limited(self._own.sign_in(name, secret, address))

    def principal_of(self, name: str, address: str) -> Principal | None:
        principal = self._own.principal_of(name, address)
        return None if principal is None else self._limited(principal)

    def is_secure(self, request: Request) -> bool:
        return self._own.is_secure(request)

    def _limited(self, principal: Principal) -> Principal:
        account = None if principal.account is None else self._without(principal.account)
        return replace(principal, rights=self._without(principal.rights), account=account)

    def _without(self, rights: Rights) -> Rights:
        def limited(action: Action, repository: str, tag: str) -> bool:
            if action == "pull" and self._delegated(repository):
                return False
            return rights(action, repository, tag)

        return limited
