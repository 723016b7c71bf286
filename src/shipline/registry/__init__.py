"""A client for registries: the OCI distribution specification, made a `content.Repository`."""

from shipline.registry.client import Client
from shipline.registry.credentials import Credentials, Keychain, NoKeychain, StaticKeychain
from shipline.registry.hosts import HostSettings, parse_mirrors, settings_from
from shipline.registry.ingest import RemoteIngest
from shipline.registry.keychain import ConfigKeychain, keychain_from
from shipline.registry.proxies import Proxies
from shipline.registry.repository import RemoteRepository

__all__ = [
    "Client",
    "ConfigKeychain",
    "Credentials",
    "HostSettings",
    "Keychain",
    "NoKeychain",
    "Proxies",
    "RemoteIngest",
    "RemoteRepository",
    "StaticKeychain",
    "keychain_from",
    "parse_mirrors",
    "settings_from",
]
