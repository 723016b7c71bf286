"""The scripts of generated jobs, the same for every CI system: sh, without expressions."""

from __future__ import annotations

from shipline.deliver.ci.stage_jobs import StageJob
from shipline.deliver.ci.workflow import Workflow, pattern, quoted


def install(venv: str) -> str:
    """Install `$SHIPLINE` into a virtual environment in the directory `venv`. Only its own programs
    are in `programs` there, so that `python` and `pip` remain those of the project.
    """
    return (
        f'python3 -m venv "{venv}"\n'
        f'"{venv}/bin/pip" install --quiet --disable-pip-version-check "$SHIPLINE"\n'
        f'mkdir -p "{venv}/programs"\n'
        f'ln -sf ../bin/shipline ../bin/docker-credential-shipline "{venv}/programs/"'
    )


def test(workflow: Workflow) -> str:
    """Run the steps that need no image and no credentials."""
    return f"shipline ship --only {','.join(workflow.tests)}"


def code_quality(program: str, reports: tuple[str, ...], output: str) -> str:
    """Write the findings in SARIF reports to `output`, in the form that GitLab reads."""
    names = " ".join(pattern(path) for path in reports)
    return f'"{program}" ci code-quality --output {output} -- {names}'


def attempt(workflow: Workflow) -> str:
    """Build `$PLATFORM` without credentials, and push nothing."""
    if workflow.targets:
        return 'shipline ship --only build --platform "$PLATFORM"'
    words = ["shipline build", '--platform "$PLATFORM"', *_pairs(workflow.build)]
    return " \\\n  ".join([*words, "--output type=cacheonly", quoted(workflow.context)])


def build(file: str) -> str:
    """Build `$PLATFORM` and push it without a tag; the digest is written to `file`."""
    return f'''\
mkdir -p "$(dirname "{file}")"
shipline ship --only build --platform "$PLATFORM" --metadata-file "{file}"
'''


def release(workflow: Workflow, built: str) -> str:
    """Merge the built images, run gates, sign and publish; `built` is a pattern of metadata files.
    Files that the job adds to the work tree are excluded in git, so that the tree remains that of
    the commit.
    """
    brought = [built.partition("/")[0] + "/", "reports.tar", *workflow.reports]
    lines = []
    if workflow.signing is not None and workflow.signing.file:
        file, key = quoted(workflow.signing.file), workflow.signing.secret
        brought.append(workflow.signing.file)
        lines = [
            f'if [ -n "${key}" ]; then',
            f"  (umask 077 && printf '%s\\n' \"${key}\" > {file})",
            f"  unset {key}",
            "fi",
        ]
    names = " ".join(quoted(f"/{path}") for path in brought)
    lines.insert(0, f"printf '%s\\n' {names} >> .git/info/exclude")
    skip = f" --skip {','.join(workflow.tests)}" if workflow.tests else ""
    lines += ["set --", f'for file in {built}; do set -- "$@" --built "$file"; done']
    until = " --until publish" if workflow.environments else ""
    lines.append(f'shipline ship{skip}{until} "$@"')
    return "\n".join(lines)


def stage(stage: StageJob) -> str:
    """Take the image of this commit to an environment, and see that it is well there."""
    if not stage.section.after:
        return f"shipline deploy --env {stage.name} --wait"
    return f'shipline promote --env {stage.name} --wait "$(git rev-parse HEAD)"'


def approvals(stage: StageJob) -> str:
    """Record who approved this job: shipline asks nobody a second time."""
    return f'shipline approve --env {stage.name} --from-ci "$(git rev-parse HEAD)"'


def pack(workflow: Workflow) -> str:
    """Pack the reports into one archive, with their paths."""
    names = " ".join(pattern(path) for path in workflow.reports)
    return f"tar --create --file reports.tar --ignore-failed-read -- {names}"


def unpack() -> str:
    """Restore reports, without replacing existing files."""
    return "tar --extract --file reports.tar --keep-old-files --exclude=.git"


def login(host: str, username: str, password: str) -> str:
    """Log in with the credentials in two variables, and store them encrypted."""
    return (
        f"printf '%s' \"${password}\" |\n"
        f'  shipline login --username "${username}" --password-stdin {quoted(host)}'
    )


def own_login(workflow: Workflow, hand_on: str = "") -> str:
    """Run the project's login commands; the credentials they store are encrypted with a passphrase
    of this job. `hand_on` passes the passphrase to later steps.
    """
    make = "SHIPLINE_PASSPHRASE=$(python3 -c 'import secrets; print(secrets.token_hex(32))')"
    lines = [make, "export SHIPLINE_PASSPHRASE", hand_on, *workflow.section.login]
    return "\n".join(filter(None, lines)) + "\n"


def _pairs(flags: tuple[str, ...]) -> list[str]:
    """Each flag with its value on a line."""
    lines: list[str] = []
    for word in flags:
        if word.startswith("--") or not lines or " " in lines[-1]:
            lines.append(word if word.startswith("--") else quoted(word))
        else:
            lines[-1] += f" {quoted(word)}"
    return lines
