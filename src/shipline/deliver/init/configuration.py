"""A first shipline.yaml for a project, with comments that say what to change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shipline.deliver.ci.document import Comment, Inline, render
from shipline.deliver.project import Language, Project, ProjectCheck

PLACEHOLDER = "registry.example/team"
PLATFORMS = ("linux/amd64", "linux/arm64")
_SHOWN = 5  # parts that are named
KEY = "env://COSIGN_PRIVATE_KEY"


def initial_config(
    project: Project,
    *,
    image: str = "",
    platforms: tuple[str, ...] = PLATFORMS,
    key: str = "",
) -> str:
    """The text of shipline.yaml. Without `image` it names a registry that does not exist, and says
    so; `key` is the private key that signs, where there is one.
    """
    document: dict[object, object] = {
        Comment(_HEADER): None,
        **_image(project, image),
        **_steps(project.language),
        **_build(project, platforms),
        **_gates(project.language),
        **_signing(key),
    }
    return render(document)


_HEADER = """\
From a commit to a signed image: `shipline ship` does what stands here, `shipline ship --plan`
only tells it, `shipline config check` reads it, `shipline ci github` writes the CI workflow.
"""


def _image(project: Project, image: str) -> dict[object, object]:
    if image:
        return {"image": image}
    return {
        Comment("TODO: where the image goes; tags come from git (`shipline tags`)."): None,
        "image": f"{PLACEHOLDER}/{project.name}",
    }


def _steps(language: Language | None) -> dict[object, object]:
    if language is None or not language.checks:
        return {
            Comment(
                "\nCommands of the project, side by side where they can; reports feed the gates.\n"
                "steps:\n  test:\n    run: make test\n    reports: {tests: reports/junit.xml}"
            ): None
        }
    steps: dict[object, object] = {}
    for check in language.checks:
        if check.note:
            steps[Comment(f"{check.note[0].upper()}{check.note[1:]}.")] = None
        steps[check.name] = _step(check)
    comment = (
        "\nCommands of the project. Independent ones run side by side; reports feed the gates."
    )
    return {Comment(comment): None, "steps": steps}


def _step(check: ProjectCheck) -> object:
    if not check.reports:
        return check.run
    return {"run": check.run, "reports": dict(check.reports)}


def _build(project: Project, platforms: tuple[str, ...]) -> dict[object, object]:
    build: dict[object, object] = {}
    file = project.dockerfiles[0] if project.dockerfiles else ""
    if project.context != ".":
        build["context"] = project.context
    if file and file != str(Path(project.context, "Dockerfile")):
        build["file"] = file
    build["platforms"] = Inline(platforms)
    return {Comment("\n" + "\n".join(_remarks(project, file))): None, "build": build}


def _remarks(project: Project, file: str) -> Iterator[str]:
    yield "All platforms are built at once and published under one name."
    if not file:
        yield "TODO: there is no Dockerfile yet, and nothing here says how the program is started."
    for other in project.dockerfiles[1:]:
        yield f"{other} is another image: give it a shipline.yaml of its own."
    if project.parts:
        ellipsis = ", ..." if len(project.parts) > _SHOWN else ""
        yield f"Parts: {', '.join(project.parts[:_SHOWN])}{ellipsis}. One that has versions of its"
        yield "own gets a shipline.yaml with tags.paths and tags.tag-prefix."


def _gates(language: Language | None) -> dict[object, object]:
    """Gates for the reports that the steps write."""
    written = (
        {gate for check in language.checks for gate, _ in check.reports} if language else set()
    )
    gates = {name: dict(limits) for name, limits in _LIMITS.items() if name in written}
    if not gates:
        return {}
    comment = (
        "\nWhat has to hold before anything gets a name. A report that is missing is never a pass."
    )
    return {Comment(comment): None, "gates": gates}


_LIMITS: dict[str, dict[str, object]] = {
    "coverage": {"min": 80},
    "tests": {},
    "analysis": {},
    "vulnerabilities": {},
}


def _signing(key: str) -> dict[object, object]:
    if key:
        return {Comment(): None, "sign": {"key": key}}
    return {
        Comment(
            "\nSigned with a key of your own: `shipline key generate` makes one. The private half\n"
            f"stays out of git; CI has it as a secret.\nsign:\n  key: {KEY}"
        ): None
    }
