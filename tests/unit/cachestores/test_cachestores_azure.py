"""Azure: tokens from every source in order, and requests without any."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from peers import free_port
from serving import ReceivedRequest, Reply, Served, serving
from shipline.cachestores.azblob import sign_with_query
from shipline.cachestores.azure import AzureEnvironment, AzureLogin
from shipline.cachestores.service import Service
from shipline.errors import AuthError
from shipline.registry import HostSettings, NoKeychain
from shipline.registry.http import HttpClient
from shipline.registry.request import ClientRequest, Url
from shipline.values import replace

NOW = datetime(2026, 11, 29, 8, 0, 5, tzinfo=UTC)
BLOB = ClientRequest("GET", Url.parse("https://account.blob.core.windows.net/cache/x"))


def entra(request: ReceivedRequest) -> Reply:
    """Tokens whose text says who got them."""
    if request.path == "/tenant/oauth2/v2.0/token":
        form = {name: values[0] for name, values in parse_qs(request.all().decode()).items()}
        assert form["scope"] == "https://storage.azure.com/.default"
        if form.get("client_secret") == "wrong":
            error = {"error": "invalid_client", "error_description": "AADSTS7000215: no"}
            return 401, {}, json.dumps(error).encode()
        who = form.get("client_secret") or form["client_assertion"]
        return 200, {}, json.dumps({"access_token": f"of-{who}", "expires_in": 3600}).encode()
    if request.path == "/metadata/identity/oauth2/token":
        assert request.headers["metadata"] == "true" and request.query["client_id"] == ["client"]
    else:
        assert request.headers["x-identity-header"] == "header"
    assert request.query["resource"] == ["https://storage.azure.com/"]
    until = str(int((NOW + timedelta(hours=1)).timestamp()))
    return 200, {}, json.dumps({"access_token": "of-machine", "expires_on": until}).encode()


@pytest.fixture
def played() -> Iterator[Served]:
    with serving(entra) as served:
        yield served


@pytest.fixture
def login(played: Served) -> Iterator[Callable[..., AzureLogin]]:
    http = HttpClient(HostSettings(connect_s=0.2), NoKeychain(), tries=1)
    service = Service(http, "azblob cache", "check the role")

    def opened(now: Callable[[], datetime] = lambda: NOW, **variables: str) -> AzureLogin:
        given = {"AZURE_AUTHORITY_HOST": played.url, **variables}
        environment = AzureEnvironment(given, service, service, now)
        return AzureLogin(environment.sources(), now)

    yield opened
    http.close()


PRINCIPAL = {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client"}


def test_a_service_principal_proves_itself_with_its_secret(
    login: Callable[..., AzureLogin],
) -> None:
    signed = login(**PRINCIPAL, AZURE_CLIENT_SECRET="hidden").sign(BLOB)
    assert signed.headers["Authorization"] == "Bearer of-hidden"


def test_a_workload_proves_itself_with_its_token(
    login: Callable[..., AzureLogin], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("federated\n")
    signed = login(**PRINCIPAL, AZURE_FEDERATED_TOKEN_FILE=str(tmp_path / "token")).sign(BLOB)
    assert signed.headers["Authorization"] == "Bearer of-federated"


def test_a_managed_identity_asks_its_endpoint(
    login: Callable[..., AzureLogin], played: Served
) -> None:
    found = login(IDENTITY_ENDPOINT=f"{played.url}/msi", IDENTITY_HEADER="header")
    assert found.sign(BLOB).headers["Authorization"] == "Bearer of-machine"


def test_a_virtual_machine_asks_its_metadata_service(
    login: Callable[..., AzureLogin], played: Served
) -> None:
    found = login(AZURE_POD_IDENTITY_AUTHORITY_HOST=played.url, AZURE_CLIENT_ID="client")
    assert found.sign(BLOB).headers["Authorization"] == "Bearer of-machine"


def test_without_any_identity_requests_are_anonymous(login: Callable[..., AzureLogin]) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert login(AZURE_POD_IDENTITY_AUTHORITY_HOST=nobody).sign(BLOB) == BLOB


def test_a_wrong_secret_is_an_error_that_does_not_show_it(login: Callable[..., AzureLogin]) -> None:
    with pytest.raises(AuthError, match="invalid_client: AADSTS7000215") as caught:
        login(**PRINCIPAL, AZURE_CLIENT_SECRET="wrong").sign(BLOB)
    assert "wrong" not in repr(caught.value)


def test_a_token_is_asked_for_once_and_renewed_before_it_expires(
    login: Callable[..., AzureLogin], played: Served
) -> None:
    now = [NOW]
    found = login(lambda: now[0], **PRINCIPAL, AZURE_CLIENT_SECRET="s")
    found.sign(BLOB)
    found.sign(BLOB)
    assert len(played.requests) == 1
    now[0] += timedelta(minutes=56)
    found.sign(BLOB)
    assert len(played.requests) == 2


def test_a_shared_access_signature_is_added_to_every_query() -> None:
    url = replace(BLOB.url, target="/cache/x?comp=block")
    signed = sign_with_query("sv=1&sig=a%2B", replace(BLOB, url=url))
    assert signed.url.target == "/cache/x?comp=block&sv=1&sig=a%2B"
    assert sign_with_query("sv=1&sig=a%2B", BLOB).url.target == "/cache/x?sv=1&sig=a%2B"


@pytest.mark.parametrize("text", ["²", "9" * 30, "9" * 5000, "1e9", "-1", "soon"])
@pytest.mark.parametrize("name", ["expires_in", "expires_on"])
def test_a_time_that_is_none_does_not_matter(name: str, text: str) -> None:
    body = json.dumps({"access_token": "odd", name: text}).encode()
    http = HttpClient(HostSettings(), NoKeychain(), tries=1)
    with serving(lambda _: (200, {}, body)) as served:
        service = Service(http, "azblob cache", "check the role")
        given = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": served.url}
        login = AzureLogin(AzureEnvironment(given, service, service, lambda: NOW).sources())
        assert login.sign(BLOB).headers["Authorization"] == "Bearer odd"
    http.close()
