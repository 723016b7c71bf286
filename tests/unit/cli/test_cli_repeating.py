"""The command that repeats a failed one: runnable, and without secrets."""

from __future__ import annotations

import shlex

import pytest

from shipline.cli.repeating import repeatable

PLAIN = [
    ("build", "-t", "h:5000/a:1", "--push", "."),
    ("build", "--build-arg", "VERSION=1 2'3", "-f", "my file", "--", "-odd"),
    ("build", "--build-arg=AUTHOR=joe", "--build-arg", "COMPASS=1", "."),
    ("build", "--build-arg", "NPM_TOKEN", "."),
    ("build", "--secret", "id=token,src=/run/token", "--secret", "type=env,id=password", "."),
    ("build", "--ssh", "deploy_key=/home/me/key", "--build-context", "tokens=./tokens", "."),
    ("build", "--cache-to", "type=registry,ref=h/c,mode=max", "--output=type=tar,dest=x", "."),
    ("build", "ssh://git@host/a.git#main", "-"),
    ("build", "https://host/a.git?ref=main&submodules=false"),
    ("bake", "--set", "app.args.A=1", "--set", "*.secret=id=token,src=f", "--set", "a.args.T_KEY"),
    ("bake", "--set", "a.contexts.token=./x", "--var", "A=b", "app"),
    ("ship", "--resume", "20261130-0a", "--key", "cosign.key", "--password-file", "pw", "-D"),
]


@pytest.mark.parametrize("words", PLAIN, ids=" ".join)
def test_a_command_without_secrets_is_as_it_was(words: tuple[str, ...]) -> None:
    assert shlex.split(repeatable(words)) == ["shipline", *words]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("--build-arg NPM_TOKEN=S3CR3T", "--build-arg NPM_TOKEN"),
        ("--build-arg=dbPassword=S3CR3T", "--build-arg=dbPassword"),
        ("--build-arg HTTP_PROXY=http://u:S3CR3T@p:1", "--build-arg HTTP_PROXY"),
        ("--build-arg X=ghp_S3CR3Tabcdefgh", "--build-arg X"),
        ("--build-arg KEY='a\nS3CR3T'", "--build-arg KEY"),
        ("--build-arg TEXT='a\nS3CR3T'", "--build-arg TEXT"),
        ("--label api_key=S3CR3T --push", "--push"),
        ("--annotation=index:auth.token=S3CR3T", ""),
        ("--var PASSWORD=S3CR3T", ""),
        ("--var URL=https://S3CR3T@h/", ""),
        ("--set app.args.API_KEY=S3CR3T", "--set app.args.API_KEY"),
        ("--set=app.labels.my.token=S3CR3T", ""),
        ("--set app.context=https://S3CR3T@h/a.git", "--set app.context=https://h/a.git"),
        (
            "--set *.cache-to=type=s3,bucket=b,secret_access_key=S3CR3T",
            "--set '*.cache-to=type=s3,bucket=b'",
        ),
        (
            "--cache-to type=s3,secret_access_key=S3CR3T,region=r,session_token=S3CR3T",
            "--cache-to type=s3,region=r",
        ),
        ("--cache-from=type=gha,token=S3CR3T,scope=a", "--cache-from=type=gha,scope=a"),
        (
            '--cache-to \'type=s3,"secret_access_key=S3,S3CR3T","ref=a,b"\'',
            "--cache-to 'type=s3,\"ref=a,b\"'",
        ),
        ("--cache-to 'type=s3,\"secret_access_key=S3CR3T'", "--cache-to '***'"),
        ("-otype=s3,token=S3CR3T", "-otype=s3"),
        ("https://me:S3CR3T@host/a.git#main", "'https://host/a.git#main'"),
        ("https://S3CR3T@host/a.git", "https://host/a.git"),
        ("ssh://git:S3CR3T@host/a.git", "ssh://git@host/a.git"),
        ("git+ssh://git:S3CR3T@h/a.git", "git+ssh://git@h/a.git"),
        ("'https://h/a.tar?sig=S3CR3T&ref=main'", "'https://h/a.tar?ref=main'"),
        ("'https://h/a?X-Amz-Signature=S3CR3T'", "'https://h/a?'"),
        ("--build-context c=https://u:S3CR3T@h/c.git", "--build-context c=https://h/c.git"),
        ("--file github_pat_S3CR3Tabcdefgh", "--file '***'"),
    ],
)
def test_secrets_are_left_out_and_the_rest_stays(given: str, shown: str) -> None:
    line = repeatable(("build", *shlex.split(given), "."))
    assert "S3CR3T" not in line
    assert line == " ".join(filter(None, ("shipline build", shown, ".")))
