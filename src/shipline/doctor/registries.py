"""What registries are reached, as whom, and with which rights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from shipline.doctor.diagnosis import Examination, Remark
from shipline.errors import NotFound, RegistryError
from shipline.oci import Reference
from shipline.registry import Client, Keychain
from shipline.units import counted

_SKEW_S = 60.0  # what token services and timestamps of signatures bear


def examine_registry(
    client: Client, keychain: Keychain, host: str, repositories: Sequence[Reference] = ()
) -> Iterator[Examination]:
    """The examinations of a registry: who this user is there, its mirrors, and what may be read
    from and pushed to `repositories`. Nothing is left there.
    """
    yield Examination(host, "login", partial(_login, client, keychain, host))
    if len(client.settings.endpoints(host)) > 1:
        yield Examination(host, "mirrors", partial(_mirrors, client, host))
    for repository in repositories:
        rights: dict[str, Callable[[], str]] = {
            "pull": partial(_pull, client, repository),
            "push": partial(_push, client, repository),
        }
        for right, examine in rights.items():
            yield Examination(host, f"{right} {repository.repository}", examine)


def _login(client: Client, keychain: Keychain, host: str) -> str | Remark:
    credentials = keychain.credentials(host, "")
    theirs = client.check(host)
    user = "without a login" if credentials is None else f"as {credentials.username or 'token'}"
    skew = 0.0 if theirs is None else time.time() - theirs
    if abs(skew) > _SKEW_S:
        side = "ahead of" if skew > 0 else "behind"
        return Remark(
            f"reached {user}; the clock here is {counted(round(abs(skew)), 'second')} {side} that"
            " of the registry, so tokens and signatures may be refused",
            "`timedatectl set-ntp true`, or set the clock that is wrong",
        )
    return f"reached {user}"


def _mirrors(client: Client, host: str) -> str | Remark:
    mirrors = client.settings.endpoints(host)[:-1]
    lost = [one.endpoint.base for one in client.known(host)[:-1] if one.measurement.failures]
    if lost:
        return Remark(
            f"no answer from {', '.join(lost)}: the others and the registry are used",
            "`shipline mirror ls` shows why",
        )
    return f"{counted(len(mirrors), 'mirror')} reached"


def _pull(client: Client, repository: Reference) -> str:
    try:
        tags = client.repository(repository).unmirrored.tags()
        first = next(iter(tags), None)
    except NotFound:
        return "allowed; the repository does not exist yet"
    except RegistryError as error:
        if error.status != 404:
            raise
        return "allowed; the repository does not exist yet"
    return "allowed" if first else "allowed; the repository has no tags"


def _push(client: Client, repository: Reference) -> str:
    client.repository(repository).check_push()
    return "allowed"
