"""Tokens of Microsoft Entra for Azure's storage, found where Azure's SDKs find them.

Sources, in this order: a secret or a workload's token in the environment, the managed identity of
the machine ("DefaultAzureCredential" without the programs that it would start).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

from shipline.cachestores.service import Clock, Service, json_object, small_file, utc_now
from shipline.errors import AuthError, RegistryError
from shipline.registry.request import ClientRequest, Url

_RESOURCE = "https://storage.azure.com/"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_METADATA = "http://169.254.169.254"
_SECONDS = re.compile(r"[0-9]{1,10}\Z")  # more is no time
_EARLY = timedelta(minutes=5)  # before it expires, a token is fetched again


@dataclass(frozen=True, slots=True)
class EntraToken:
    """A bearer token and when it expires."""

    text: str = field(repr=False)
    expires: datetime


Source = Callable[[], EntraToken | None]


class AzureLogin:
    """Signs requests with the token of the first source that has one; without, requests are
    anonymous, which a public container allows to read. Safe to use from any thread.
    """

    def __init__(self, sources: Iterator[Source], clock: Clock = utc_now) -> None:
        self._sources = tuple(sources)
        self._clock = clock
        self._lock = threading.Lock()
        self._current: EntraToken | None = None
        self._anonymous = False

    def sign(self, request: ClientRequest) -> ClientRequest:
        token = self._token()
        return request.with_authorization(f"Bearer {token.text}" if token else "")

    def _token(self) -> EntraToken | None:
        with self._lock:
            current = self._current
            if not self._anonymous and (
                current is None or current.expires - self._clock() < _EARLY
            ):
                found = (source() for source in self._sources)
                current = self._current = next((one for one in found if one), None)
                self._anonymous = current is None
            return current


@dataclass(frozen=True, slots=True)
class AzureEnvironment:
    """What the sources read. `metadata` is asked without a proxy and without patience."""

    variables: Mapping[str, str] = field(repr=False)
    service: Service
    metadata: Service
    clock: Clock = utc_now

    def sources(self) -> Iterator[Source]:
        yield self._principal
        yield self._managed

    def _principal(self) -> EntraToken | None:
        """A service principal: its secret, or a token that it is federated with."""
        tenant, client = self._variable("AZURE_TENANT_ID"), self._variable("AZURE_CLIENT_ID")
        secret, file = (
            self._variable("AZURE_CLIENT_SECRET"),
            self._variable("AZURE_FEDERATED_TOKEN_FILE"),
        )
        if not tenant or not client or not (secret or file):
            return None
        proof = {"client_secret": secret}
        if not secret:
            token = small_file(Path(file))
            proof = {"client_assertion_type": _ASSERTION, "client_assertion": token}
        host = self._variable("AZURE_AUTHORITY_HOST") or "https://login.microsoftonline.com"
        form = {
            "grant_type": "client_credentials",
            "client_id": client,
            "scope": f"{_RESOURCE}.default",
            **proof,
        }
        _, body = self.service.finish(
            "POST",
            Url.parse(f"{host.rstrip('/')}/{tenant}/oauth2/v2.0/token"),
            expect={200},
            operation="requesting a token of Microsoft Entra",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(form).encode(),
        )
        return self._token(body)

    def _managed(self) -> EntraToken | None:
        """The identity of an App Service or of a virtual machine; None elsewhere."""
        query = [("resource", _RESOURCE)]
        if client := self._variable("AZURE_CLIENT_ID"):
            query.append(("client_id", client))
        endpoint, header = self._variable("IDENTITY_ENDPOINT"), self._variable("IDENTITY_HEADER")
        if endpoint and header:
            url, version = Url.parse(endpoint), "2019-08-01"
            headers = {"X-IDENTITY-HEADER": header}
        else:
            host = self._variable("AZURE_POD_IDENTITY_AUTHORITY_HOST") or _METADATA
            url = Url.parse(f"{host.rstrip('/')}/metadata/identity/oauth2/token")
            version, headers = "2018-02-01", {"Metadata": "true"}
        try:
            _, body = self.metadata.finish(
                "GET",
                url.with_query(("api-version", version), *query),
                expect={200},
                operation="requesting a token of the managed identity",
                headers=headers,
            )
        except (RegistryError, AuthError):
            if endpoint:
                raise
            return None  # not in Azure, or without an identity
        return self._token(body)

    def _token(self, body: bytes) -> EntraToken:
        document = json_object(body)
        text, left = document.get("access_token"), str(document.get("expires_in", ""))
        until = str(document.get("expires_on", ""))
        if not isinstance(text, str) or not text:
            raise AuthError("Azure returned no token", code="cloud-credentials", host="")
        now = self.clock()
        expires = now + timedelta(seconds=int(left) if _SECONDS.match(left) else 600)
        if not _SECONDS.match(left) and _SECONDS.match(until):
            expires = datetime.fromtimestamp(int(until), now.tzinfo)
        return EntraToken(text, expires)

    def _variable(self, name: str) -> str:
        return self.variables.get(name, "").strip()
