"""Who may do what: accounts, projects, robots, tokens."""

from shipline.server.access.accounts import (
    ROLES,
    Access,
    Permission,
    Prefix,
    Project,
    Robot,
    Role,
    User,
    Wish,
)
from shipline.server.access.administration import Administration
from shipline.server.access.audit import Audit, Sampler, read_audit
from shipline.server.access.certificates import Certificates, renewed, watch_certificates
from shipline.server.access.control import Entrance, check_entrance, open_entrance
from shipline.server.access.guard import AccountGuard, Guard, OpenGuard
from shipline.server.access.operations import Holdings, accounts_json, perform
from shipline.server.access.section import AccessSection, TlsSection
from shipline.server.access.store import Directory
from shipline.server.access.tokens import refresh_tokens

__all__ = [
    "ROLES",
    "Access",
    "AccessSection",
    "AccountGuard",
    "Administration",
    "Audit",
    "Certificates",
    "Directory",
    "Entrance",
    "Guard",
    "Holdings",
    "OpenGuard",
    "Permission",
    "Prefix",
    "Project",
    "Robot",
    "Role",
    "Sampler",
    "TlsSection",
    "User",
    "Wish",
    "accounts_json",
    "check_entrance",
    "open_entrance",
    "perform",
    "read_audit",
    "refresh_tokens",
    "renewed",
    "watch_certificates",
]
