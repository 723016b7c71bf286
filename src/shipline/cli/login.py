"""`shipline login` and `shipline logout`: credentials, never in plain text by accident."""

from __future__ import annotations

import os
import sys

import click

from shipline.cli.environment import (
    host_of,
    insecure_host,
    login_file_option,
    registry_options,
    use_http,
)
from shipline.errors import AuthError, MissingFlag, UsageError

_HUB = "docker.io"
_LONGEST = 1 << 20  # bytes of a password on standard input


@click.command("login")
@click.argument("host", metavar="[REGISTRY]", required=False)
@click.option("-u", "--username", metavar="NAME", help="The user, or a robot account.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option(
    "-p", "--password", hidden=True, help="Refused: other processes can read command lines."
)
@click.option(
    "--store",
    type=click.Choice(["auto", "vault", "plain"]),
    default="auto",
    show_default=True,
    help="vault: a file encrypted with a passphrase; auto: the helper in config.json, else vault.",
)
@click.option("--get-login", is_flag=True, help="Print the user who is logged in, and do nothing.")
@click.option("--tls-verify", type=bool, default=True, help="false: --insecure for the registry.")
@registry_options
@login_file_option
def login(
    host: str | None,
    username: str | None,
    password_stdin: bool,
    password: str | None,
    store: str,
    get_login: bool,
    tls_verify: bool,
) -> None:
    """Check credentials with a registry and store them for later commands.

    --insecure alone may name the registry.
    """
    from shipline.registry import (
        Client,
        Credentials,
        LoginStore,
        StaticKeychain,
        save_login,
        settings_from,
    )

    if password is not None:
        raise UsageError(
            "a password on the command line is visible to every process",
            code="password-on-command-line",
            hint="pipe it to shipline login --password-stdin, or omit it for a prompt",
        )
    host = host_of(host or insecure_host() or _HUB)
    if get_login:
        click.echo(_user_of(host))
        return
    if not tls_verify:
        use_http(host)
    credentials = Credentials(*_ask(username, password_stdin))
    environment = _with_passphrase(host, store)
    settings = settings_from(os.environ)
    with Client(settings, StaticKeychain({host: credentials}), tries=2) as client:
        try:
            client.check(host)
        except AuthError as error:
            if error.status == 401:
                error.hint = "check the username, and the password or token"
            raise
    location = save_login(host, credentials, environment, LoginStore(store))
    click.echo(f"logged in to {host}; credentials stored in {location}", err=True)


@click.command("logout")
@click.argument("host", metavar="[REGISTRY]", default=_HUB)
@click.option("-a", "--all", "everywhere", is_flag=True, help="Log out of every registry.")
@login_file_option
def logout(host: str, everywhere: bool) -> None:
    """Remove the stored credentials of a registry."""
    from shipline.registry import forget_login, logins

    for registry in logins(os.environ) if everywhere else (host_of(host),):
        known = forget_login(registry, os.environ)
        click.echo(
            f"logged out of {registry}" if known else f"not logged in to {registry}", err=True
        )


def _user_of(host: str) -> str:
    """The user whose credentials are stored for a registry. Raises AuthError without any."""
    from shipline.registry import keychain_from

    found = keychain_from(os.environ).credentials(host, "")
    if found is None:
        raise AuthError(
            f"not logged in to {host}",
            code="login-missing",
            host=host,
            hint=f"log in with `shipline login {host}`",
        )
    return found.username


def _ask(username: str | None, password_stdin: bool) -> tuple[str, str]:
    if password_stdin:
        if not username:
            raise MissingFlag("--password-stdin needs --username")
        secret = sys.stdin.buffer.read(_LONGEST).decode("utf-8", "strict").rstrip("\r\n")
    else:
        if not sys.stdin.isatty():
            raise UsageError(
                "no terminal to prompt for the password",
                code="terminal-needed",
                hint="pipe it: shipline login --username NAME --password-stdin REGISTRY",
            )
        username = username or click.prompt("Username", err=True)
        secret = click.prompt("Password", hide_input=True, err=True)
    if not secret:
        raise UsageError("the password is empty", code="password-empty")
    return username, secret


def _with_passphrase(host: str, store: str) -> dict[str, str]:
    """The environment, with a prompt for the store's passphrase if needed."""
    from shipline.registry import STORE_HELPER, login_helper

    environment = dict(os.environ)
    elsewhere = store == "auto" and login_helper(host, environment) != STORE_HELPER
    if store == "plain" or elsewhere:
        return environment
    if environment.get("SHIPLINE_PASSPHRASE") or environment.get("SHIPLINE_PASSPHRASE_FILE"):
        return environment
    if not sys.stdin.isatty():
        raise AuthError(
            "no encrypted store for the credentials is configured",
            code="credential-store",
            host="",
            hint="set SHIPLINE_PASSPHRASE for the encrypted store, configure a credential helper "
            "as credsStore in config.json, or accept plain text with --store plain",
        )
    environment["SHIPLINE_PASSPHRASE"] = click.prompt(
        "Passphrase of the encrypted store (later from SHIPLINE_PASSPHRASE)",
        hide_input=True,
        err=True,
    )
    return environment
