"""Keeping and forgetting credentials: a helper, the vault, or plain text where that is wanted.

What is kept where is written into docker's config.json, so that docker, skopeo and others find it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from shipline.errors import ConfigError, UsageError
from shipline.registry.credentials import (
    HUB_KEY,
    Credentials,
    normal_host,
)
from shipline.registry.helpers import clear_helper, tell_helper
from shipline.registry.keychain import (
    NAME,
    VAULT,
    forget,
    helpers_of,
    load_document,
    login_file,
    names_host,
    vault_from,
    write_private,
)


class LoginStore(StrEnum):
    """Where a login is kept. AUTO: the helper that config.json names, else the vault."""

    AUTO = "auto"
    VAULT = "vault"
    PLAIN = "plain"


def save_login(
    host: str,
    credentials: Credentials,
    environment: Mapping[str, str],
    store: LoginStore = LoginStore.AUTO,
) -> str:
    """Keep the credentials for `host`; returns where they are, for a person.

    Raises AuthError if a helper or the vault refuses them, ConfigError for an unusable file.
    Plain text is written only for Store.PLAIN.
    """
    file = login_file(environment)
    document = load_document(file)
    helper = next(helpers_of(document, normal_host(host)), "") if store is LoginStore.AUTO else ""
    if helper and helper != NAME:
        tell_helper(helper, _key(host), credentials, environment)
        _clear_entries(document, host)
        document.setdefault("auths", {})[_key(host)] = {}
        write_private(file, document)
        return f"the credential helper {helper!r}"
    if store is LoginStore.PLAIN:
        _clear(document, host)
        document.setdefault("auths", {})[_key(host)] = _plain(credentials)
        write_private(file, document)
        return f"{file}, in plain text"
    place = vault_file(environment)
    vault_from(environment, place).put(_key(host), credentials)
    _clear(document, host)
    document.setdefault("credHelpers", {})[_bare(host)] = NAME
    write_private(file, document)
    return f"{place}, encrypted"


def keeper(host: str, environment: Mapping[str, str]) -> str:
    """The name of the helper that keeps the logins of `host`; that of the vault where none does."""
    document = load_document(login_file(environment))
    return next(helpers_of(document, normal_host(host)), NAME)


def forget_login(host: str, environment: Mapping[str, str]) -> bool:
    """Take the credentials for `host` from wherever they are; False where there were none."""
    file = login_file(environment)
    document = load_document(file)
    before = json.dumps(document)
    known = False
    for helper in helpers_of(document, normal_host(host)):
        if helper == NAME:
            known |= forget(vault_file(environment), _key(host))
        else:
            clear_helper(helper, _key(host), environment)
    _clear(document, host)
    if json.dumps(document) == before:
        return known
    write_private(file, document)
    return True


def logins(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The hosts that config.json has an entry for."""
    document = load_document(login_file(environment))
    keys = [*(document.get("auths") or {}), *(document.get("credHelpers") or {})]
    return tuple(sorted({normal_host(key) for key in keys}))


def vault_file(environment: Mapping[str, str]) -> Path:
    """The vault lies beside config.json."""
    return login_file(environment).with_name(VAULT)


def _clear(document: dict[str, Any], host: str) -> None:
    _clear_entries(document, host)
    helpers = _table(document, "credHelpers")
    for key in [key for key in helpers if normal_host(key) == normal_host(host)]:
        if helpers[key] == NAME:
            del helpers[key]
    if "credHelpers" in document and not helpers:
        del document["credHelpers"]


def _clear_entries(document: dict[str, Any], host: str) -> None:
    auths = _table(document, "auths")
    same = normal_host(host)
    for key in [key for key in auths if names_host(key) and normal_host(key) == same]:
        del auths[key]


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{key} of config.json is not an object", hint="repair the file")
    return found


def _plain(credentials: Credentials) -> dict[str, str]:
    if ":" in credentials.username:
        raise UsageError("a user name cannot hold a colon")
    pair = f"{credentials.username}:{credentials.password}".encode()
    return {"auth": base64.b64encode(pair).decode()}


def _bare(host: str) -> str:
    return "index.docker.io" if normal_host(host) == "docker.io" else host


def _key(host: str) -> str:
    """How helpers and other programs call the host."""
    return HUB_KEY if normal_host(host) == "docker.io" else host
