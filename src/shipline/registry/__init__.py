"""A client for registries: the OCI distribution specification, made a `content.Repository`."""

from shipline.registry.client import Client
from shipline.registry.credentials import Credentials, Keychain, NoKeychain, StaticKeychain
from shipline.registry.hosts import HostSettings, Proxies, parse_mirrors, settings_from
from shipline.registry.ingest import RemoteIngest
from shipline.registry.keychain import NAME as VAULT_NAME
from shipline.registry.keychain import ConfigKeychain, keychain_from, vault_from
from shipline.registry.keychain import forget as forget_in_vault
from shipline.registry.login import LoginStore, forget_login, keeper, logins, save_login, vault_file
from shipline.registry.repository import RemoteRepository

__all__ = [
    "VAULT_NAME",
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
    "forget_in_vault",
    "forget_login",
    "keeper",
    "keychain_from",
    "logins",
    "parse_mirrors",
    "save_login",
    "settings_from",
    "vault_file",
    "vault_from",
]
