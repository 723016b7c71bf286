"""Login and logout: credentials in a helper, the encrypted store, or plain text on request.

Recorded in docker's config.json, so that docker, skopeo and others find them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from shipline.errors import ConfigError, InvalidFlag
from shipline.registry.credentials import (
    HUB_KEY,
    Credentials,
    erase_from_helper,
    normal_host,
    store_in_helper,
)
from shipline.registry.keychain import (
    STORE_FILE,
    STORE_HELPER,
    changed_document,
    credential_store,
    erase_credentials,
    helpers_of,
    load_document,
    login_file,
    names_host,
)


class LoginStore(StrEnum):
    """Where a login is stored. AUTO: the helper that config.json names, else the encrypted file."""

    AUTO = "auto"
    STORE_FILE = "vault"
    PLAIN = "plain"


def save_login(
    host: str,
    credentials: Credentials,
    environment: Mapping[str, str],
    store: LoginStore = LoginStore.AUTO,
) -> str:
    """Store the credentials for `host`; returns a description of where.

    Raises AuthError if a helper or the encrypted store fails, ConfigError for an unusable file.
    Plain text is written only for LoginStore.PLAIN.
    """
    file = login_file(environment)
    document = load_document(file)
    helper = next(helpers_of(document, normal_host(host)), "") if store is LoginStore.AUTO else ""
    if helper and helper != STORE_HELPER:
        store_in_helper(helper, _key(host), credentials, environment)
        with changed_document(file) as document:
            _clear_entries(document, host)
            document.setdefault("auths", {})[_key(host)] = {}
        return f"the credential helper {helper!r}"
    if store is LoginStore.PLAIN:
        entry = _plain(credentials)
        with changed_document(file) as document:
            _clear(document, host)
            document.setdefault("auths", {})[_key(host)] = entry
        return f"{file}, in plain text"
    path = credential_store_path(environment)
    credential_store(environment, path).put(_key(host), credentials)
    with changed_document(file) as document:
        _clear(document, host)
        document.setdefault("credHelpers", {})[_bare(host)] = STORE_HELPER
    return f"{path}, encrypted"


def login_helper(host: str, environment: Mapping[str, str]) -> str:
    """The name of the helper for `host`; without one, that of the encrypted store."""
    document = load_document(login_file(environment))
    return next(helpers_of(document, normal_host(host)), STORE_HELPER)


def forget_login(host: str, environment: Mapping[str, str]) -> bool:
    """Remove all credentials for `host`; False if there were none."""
    file = login_file(environment)
    document = load_document(file)
    before = json.dumps(document)
    removed = False
    for helper in helpers_of(document, normal_host(host)):
        if helper == STORE_HELPER:
            removed |= erase_credentials(credential_store_path(environment), _key(host))
        else:
            erase_from_helper(helper, _key(host), environment)
    _clear(document, host)
    if json.dumps(document) == before:
        return removed
    with changed_document(file) as document:
        _clear(document, host)
    return True


def logins(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The hosts that config.json has an entry for."""
    document = load_document(login_file(environment))
    keys = [*(document.get("auths") or {}), *(document.get("credHelpers") or {})]
    return tuple(sorted({normal_host(key) for key in keys}))


def credential_store_path(environment: Mapping[str, str]) -> Path:
    """The path of the encrypted store, beside config.json."""
    return login_file(environment).with_name(STORE_FILE)


def _clear(document: dict[str, Any], host: str) -> None:
    _clear_entries(document, host)
    helpers = _table(document, "credHelpers")
    for key in [key for key in helpers if normal_host(key) == normal_host(host)]:
        if helpers[key] == STORE_HELPER:
            del helpers[key]
    if "credHelpers" in document and not helpers:
        del document["credHelpers"]


def _clear_entries(document: dict[str, Any], host: str) -> None:
    auths = _table(document, "auths")
    same = normal_host(host)
    for key in [key for key in auths if names_host(key) and normal_host(key) == same]:
        del auths[key]


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    table = document.get(key)
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise ConfigError(
            f"{key} of config.json is not an object", code="docker-config", hint="repair the file"
        )
    return table


def _plain(credentials: Credentials) -> dict[str, str]:
    if ":" in credentials.username:
        raise InvalidFlag("a username cannot contain a colon")
    pair = f"{credentials.username}:{credentials.password}".encode()
    return {"auth": base64.b64encode(pair).decode()}


def _bare(host: str) -> str:
    return "index.docker.io" if normal_host(host) == "docker.io" else host


def _key(host: str) -> str:
    """The host as helpers and other programs name it."""
    return HUB_KEY if normal_host(host) == "docker.io" else host
