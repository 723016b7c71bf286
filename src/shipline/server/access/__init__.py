"""Access control: accounts, projects, robots, tokens."""

from shipline.server.access.accounts import (
    Permission,
    Project,
    Robot,
    RobotAccess,
    RobotOptions,
    Role,
)
from shipline.server.access.administration import Administration
from shipline.server.access.audit import Audit, Sampler, read_audit, recent_audit
from shipline.server.access.authentication import Authenticator, OpenAuthenticator
from shipline.server.access.certificates import Certificates, try_renew, watch_certificates
from shipline.server.access.control import (
    AccessControl,
    AccountAccess,
    check_access,
    open_access_control,
)
from shipline.server.access.operations import ProjectUsage, accounts_json, perform
from shipline.server.access.section import AccessSection, TlsSection
from shipline.server.access.store import AccountStore
