"""A registry client: the OCI distribution specification as a `content.Repository`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipline.lazy import load_when_named
from shipline.registry.client import Client
from shipline.registry.credentials import Credentials, Keychain, NoKeychain, StaticKeychain
from shipline.registry.hosts import HostSettings, Proxies, parse_mirrors, settings_from
from shipline.registry.keychain import (
    STORE_HELPER,
    changed_document,
    credential_store,
    erase_credentials,
    keychain_from,
)
from shipline.registry.repository import RemoteRepository

if TYPE_CHECKING:
    from shipline.registry.login import (
        LoginStore,
        credential_store_path,
        forget_login,
        login_helper,
        logins,
        save_login,
    )
else:
    __getattr__ = load_when_named(
        __name__,
        login="LoginStore credential_store_path forget_login login_helper logins save_login",
    )
