"""A registry client: the OCI distribution specification as a `content.Repository`."""

from shipline.registry.client import Client
from shipline.registry.credentials import Credentials, Keychain, NoKeychain, StaticKeychain
from shipline.registry.hosts import HostSettings, Proxies, parse_mirrors, settings_from
from shipline.registry.ingest import RemoteIngest
from shipline.registry.keychain import (
    STORE_HELPER,
    ConfigKeychain,
    credential_store,
    erase_credentials,
    keychain_from,
)
from shipline.registry.login import (
    LoginStore,
    credential_store_path,
    forget_login,
    login_helper,
    logins,
    save_login,
)
from shipline.registry.repository import RemoteRepository

__all__ = [
    "STORE_HELPER",
    "Client",
    "ConfigKeychain",
    "Credentials",
    "HostSettings",
    "Keychain",
    "LoginStore",
    "NoKeychain",
    "Proxies",
    "RemoteIngest",
    "RemoteRepository",
    "StaticKeychain",
    "credential_store",
    "credential_store_path",
    "erase_credentials",
    "forget_login",
    "keychain_from",
    "login_helper",
    "logins",
    "parse_mirrors",
    "save_login",
    "settings_from",
]
