"""A workflow of GitHub Actions: tests, one native build per platform, one release."""

from __future__ import annotations

from typing import Any

from shipline.deliver.ci import scripts
from shipline.deliver.ci.document import Comment, Inline, Noted, render
from shipline.deliver.ci.header import headed
from shipline.deliver.ci.pins import Pins
from shipline.deliver.ci.workflow import Login, Workflow, native_runner, packages, slug

Node = dict[Any, Any]
_RUNNER = "ubuntu-24.04"
_PULL_REQUEST = "github.event_name == 'pull_request'"
_NO_PULL_REQUEST = "github.event_name != 'pull_request'"
_ORDER = (
    *("name", "needs", "if", "runs-on", "environment", "timeout-minutes"),
    *("permissions", "strategy", "steps"),
)
_STATE = ("content", "toc", "cache.db")
"""What is worth keeping of the state directory: layers, their tables, what came out of what."""


def github(workflow: Workflow, pins: Pins) -> str:
    """The text of `.github/workflows/shipline.yml`."""
    jobs = {
        "test": _test(workflow, pins) if workflow.tests else None,
        "findings": _findings(workflow, pins) if workflow.tests and workflow.findings else None,
        "try": _try(workflow, pins),
        "build": _build(workflow, pins),
        "release": _release(workflow, pins),
    }
    document = {
        "name": "shipline",
        Comment(): None,
        "on": triggers(workflow),
        Comment("\nNo job has a right that it does not name."): None,
        "permissions": {},
        Comment("\nA new push replaces a pull request's run; a release is never cut short."): None,
        "concurrency": concurrency("shipline"),
        Comment(): None,
        "env": {"SHIPLINE": workflow.install},
        Comment(): None,
        "jobs": spaced({name: job for name, job in jobs.items() if job is not None}),
    }
    return headed(render(document), "github")


def triggers(workflow: Workflow) -> Node:
    """When the workflow runs: releasing pushes, pull requests, and by hand."""
    section = workflow.section
    push = {"branches": Inline(section.branches), "tags": Inline(section.tags)}
    return {
        "push": {key: value for key, value in push.items() if value},
        "pull_request": None,
        "workflow_dispatch": None,
    }


def concurrency(name: str) -> Node:
    """One run per pull request or ref."""
    return {
        "group": f"{name}-${{{{ github.event.pull_request.number || github.ref }}}}",
        "cancel-in-progress": f"${{{{ {_PULL_REQUEST} }}}}",
    }


def spaced(jobs: Node) -> Node:
    """The jobs with an empty line between them."""
    document: Node = {}
    for name, job in jobs.items():
        if document:
            document[Comment()] = None
        document[name] = job
    return document


def checkout(pins: Pins, *, history: bool = True) -> Node:
    """The commit, or all commits and tags with the files of this one alone. No token stays."""
    options: Node = {"persist-credentials": False}
    if history:
        options |= {"fetch-depth": 0, "filter": "blob:none"}
    return {"name": "Check out", "uses": pins.uses("actions/checkout"), "with": options}


def _job(workflow: Workflow, name: str, **more: Any) -> Node:
    job = {
        "name": name,
        "runs-on": _RUNNER,
        "timeout-minutes": workflow.section.timeout_minutes,
        "permissions": {"contents": Noted("read", "check out")},
        **more,
    }
    return {key: job[key] for key in _ORDER if key in job}


def _install() -> Node:
    place = "$RUNNER_TEMP/shipline"
    path = f'echo "{place}/bin" >> "$GITHUB_PATH"'
    return {"name": "Install shipline", "run": f"{scripts.install(place)}\n{path}\n"}


def _test(workflow: Workflow, pins: Pins) -> Node:
    steps = [checkout(pins), *_toolchain(workflow, pins), _install()]
    steps += [{"name": "Set up the project", "run": line} for line in workflow.setup]
    steps.append({"name": "Test", "run": scripts.test(workflow)})
    if workflow.reports:
        steps += [
            {
                "name": "Pack the reports",
                "if": "${{ !cancelled() }}",
                "run": scripts.pack(workflow),
            },
            _keep("reports", "reports.tar", pins, always=True),
        ]
    return _job(workflow, "Test", steps=steps)


def _toolchain(workflow: Workflow, pins: Pins) -> list[Node]:
    found = workflow.toolchain
    if found is None:
        return []
    action = f"actions/setup-{found.kind}"
    options: Node = {
        f"{found.kind}-version{'-file' if found.file else ''}": found.file or found.version
    }
    # A cache that a pull request could write is not read by releases.
    options |= {"package-manager-cache": False} if found.kind == "node" else {}
    options |= {"cache": False} if found.kind == "go" else {}
    return [{"name": f"Set up {found.title}", "uses": pins.uses(action), "with": options}]


def _keep(name: str, path: str, pins: Pins, *, always: bool = False) -> Node:
    step: Node = {"name": f"Keep {name}"}
    if always:
        step["if"] = "${{ !cancelled() }}"
    options = {"name": name, "path": path, "if-no-files-found": "error", "retention-days": 7}
    return step | {"uses": pins.uses("actions/upload-artifact"), "with": options}


def _fetch(name: str, pins: Pins, **options: Any) -> Node:
    key = "pattern" if "*" in name else "name"
    return {
        "name": f"Fetch {name.rstrip('-*')}",
        "uses": pins.uses("actions/download-artifact"),
        "with": {key: name, **options},
    }


def _findings(workflow: Workflow, pins: Pins) -> Node:
    """Show findings in the repository: apart, because tests must not hold that right."""
    upload = [
        {
            "name": f"Upload {path}",
            "uses": pins.uses("github/codeql-action", "upload-sarif"),
            "with": {"sarif_file": path, "category": path},
        }
        for path in workflow.findings
    ]
    inside = "github.event.pull_request.head.repo.full_name == github.repository"
    steps = [checkout(pins, history=False), _fetch("reports", pins), _unpack(), *upload]
    permissions = {
        "actions": Noted("read", "which run this is, in a private repository"),
        "contents": Noted("read", "check out"),
        "security-events": Noted("write", "show findings"),
    }
    condition = f"${{{{ !cancelled() && (github.event_name != 'pull_request' || {inside}) }}}}"
    more = {"needs": "test", "if": condition, "permissions": permissions}
    return _job(workflow, "Findings", **more, steps=steps)


def _unpack() -> Node:
    return {"name": "Unpack the reports", "run": scripts.unpack()}


def _machines(workflow: Workflow) -> Node:
    machines = [
        {
            "platform": platform,
            "runner": workflow.section.runners.get(platform, native_runner(platform) or _RUNNER),
            "name": slug(platform),
        }
        for platform in workflow.platforms
    ]
    return {"fail-fast": True, "matrix": {"include": machines}}


def _prepare(workflow: Workflow) -> Node:
    wanted = sorted({name for one in workflow.platforms for name in packages(one)})
    return {
        "name": "Prepare the runner",
        "run": "sudo apt-get update -qq\n"
        f"sudo apt-get install -y -qq --no-install-recommends {' '.join(wanted)}\n"
        "# Ubuntu keeps programs without root from user namespaces, in which builds run.\n"
        "sudo sysctl -q -w kernel.apparmor_restrict_unprivileged_userns=0\n",
    }


def _cache(pins: Pins, *, save: bool) -> Node:
    options: Node = {
        "path": "".join(f"~/.local/state/shipline/{name}\n" for name in _STATE),
        "key": "shipline-${{ matrix.name }}-${{ github.sha }}",
    }
    if not save:
        options["restore-keys"] = "shipline-${{ matrix.name }}-"
    step: Node = {"name": "Save the cache" if save else "Restore the cache"}
    if save:
        step["if"] = "github.ref_type == 'branch'"
    path = "save" if save else "restore"
    return step | {"uses": pins.uses("actions/cache", path), "with": options}


def _matrix_job(workflow: Workflow, name: str, **more: Any) -> Node:
    """One job per platform, on a runner that is such a machine."""
    runner = {"runs-on": "${{ matrix.runner }}", "strategy": _machines(workflow)}
    return _job(workflow, f"{name} ${{{{ matrix.platform }}}}", **runner, **more)


def _try(workflow: Workflow, pins: Pins) -> Node:
    """The build of a pull request: no secret, no push."""
    build = scripts.attempt(workflow)
    build_step = {"name": "Build", "env": {"PLATFORM": "${{ matrix.platform }}"}, "run": build}
    steps = [checkout(pins), _prepare(workflow), _install(), _cache(pins, save=False), build_step]
    return _matrix_job(workflow, "Try", **{"if": _PULL_REQUEST}, steps=steps)


def _build(workflow: Workflow, pins: Pins) -> Node:
    variables = {
        "NAME": "${{ matrix.name }}",
        "PLATFORM": "${{ matrix.platform }}",
        **_passphrase(workflow),
        **{name: secret(name) for name in (*workflow.variables, *workflow.section.secrets)},
    }
    script = scripts.build("built/$NAME.json")
    steps = [
        checkout(pins),
        _prepare(workflow),
        _install(),
        _cache(pins, save=False),
        *_logins(workflow.logins[:1]),
        {"name": "Build and push by digest", "env": variables, "run": script},
        _cache(pins, save=True),
        _keep("built-${{ matrix.name }}", "built/*.json", pins),
    ]
    guard = _guard(workflow, "read", "check out")
    return _matrix_job(workflow, "Build", **{"if": _NO_PULL_REQUEST}, **guard, steps=steps)


def _guard(workflow: Workflow, contents: str, why: str) -> Node:
    """The environment with the secrets, and the rights that the registry needs."""
    permissions = {"contents": Noted(contents, why)}
    if workflow.section.oidc_audience:
        permissions["id-token"] = Noted("write", "a short-lived identity for the registry")
    if any(login.host == "ghcr.io" for login in workflow.logins):
        permissions["packages"] = Noted("write", "push the image")
    return {"environment": workflow.section.environment, "permissions": permissions}


def secret(name: str) -> str:
    return f"${{{{ secrets.{name} }}}}"


def _credentials(login: Login) -> tuple[str, str]:
    """Expressions for the user and the password: on GitHub's own registry the job's token."""
    if login.host == "ghcr.io":
        return "${{ github.actor }}", secret("GITHUB_TOKEN")
    return secret(login.username), secret(login.password)


def _logins(logins: tuple[Login, ...]) -> list[Node]:
    passphrase = _credentials(logins[0])[1] if logins else ""
    return [
        {
            "name": f"Log in to {login.host}",
            "env": {
                "REGISTRY_USERNAME": _credentials(login)[0],
                "REGISTRY_PASSWORD": _credentials(login)[1],
                "SHIPLINE_PASSPHRASE": passphrase,
            },
            "run": scripts.login(login.host, "REGISTRY_USERNAME", "REGISTRY_PASSWORD"),
        }
        for login in logins
    ]


def _passphrase(workflow: Workflow) -> Node:
    """What the credentials are sealed with between the steps of a job."""
    if not workflow.logins:
        return {}
    return {"SHIPLINE_PASSPHRASE": _credentials(workflow.logins[0])[1]}


def _release(workflow: Workflow, pins: Pins) -> Node:
    reports = workflow.tests and workflow.reports
    fetched = [_fetch("reports", pins), _unpack()]
    steps = [
        checkout(pins),
        _install(),
        *(fetched if reports else []),
        _fetch("built-*", pins, path="built", **{"merge-multiple": True}),
        *_logins(workflow.logins),
        {
            "name": "Judge, sign and publish",
            "env": _release_variables(workflow),
            "run": scripts.release(workflow, "built/*.json") + "\n",
        },
    ]
    needs = Inline(["test", "build"] if workflow.tests else ["build"])
    guard = _guard(workflow, "write", "reserve the git tag of a version")
    more = {"needs": needs, "if": _NO_PULL_REQUEST, **guard}
    return _job(workflow, "Release", **more, steps=steps)


def _release_variables(workflow: Workflow) -> Node:
    variables = _passphrase(workflow)
    if workflow.signing is not None:
        names = (workflow.signing.secret, "COSIGN_PASSWORD")
        variables |= {name: secret(name) for name in names}
    helper = '!f() { test "$1" = get && printf "username=git\\npassword=%s\\n" "$GIT_TOKEN"; }; f'
    return variables | {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "credential.${{ github.server_url }}.helper",
        "GIT_CONFIG_VALUE_0": helper,
        "GIT_TOKEN": secret("GITHUB_TOKEN"),
    }
