"""Pages that change images: deleting, and moving or adding a tag. Each asks first; its form carries
the digest that the page showed, and the node refuses it if that has changed.
"""

from __future__ import annotations

from shipline.oci import Digest, InvalidReference, check_tag
from shipline.server.http import Action, AnyHandler, Pool, Request, Response, Route
from shipline.server.pages.site import Form, Site, first, redirect, sentence
from shipline.server.problems import Problem
from shipline.server.routes.manifests import manifest_routes

_NAME = "(?P<name>[^:@]+)"


def change_routes(site: Site) -> tuple[Route, ...]:
    """What the pages do is what the API does, with the visitor's rights."""
    pages = ChangePages(site)
    return (
        site.route(f"/r/{_NAME}/-/delete", pool=Pool.DISK, GET=pages.ask_delete, POST=pages.delete),
        site.route(f"/r/{_NAME}/-/tag", pool=Pool.DISK, GET=pages.ask_tag, POST=pages.tag),
    )


class ChangePages:
    """All public methods are handlers."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._node = site.node
        self._api = manifest_routes(site.node)[0].handlers

    def ask_delete(self, request: Request, name: str) -> Response:
        reference = request.parameter("what") or ""
        target = _target(reference)
        self._require(request, "delete", name, target)
        digest = target if isinstance(target, Digest) else self._node.manifests.target(name, target)
        entry = None if digest is None else self._node.manifests.entry(name, digest)
        if digest is None or entry is None:
            raise Problem(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {reference}.")
        return self._site.page(
            request,
            "delete.html",
            "Images",
            name=name,
            reference=reference,
            is_tag=isinstance(target, str),
            digest=digest,
            entry=entry,
        )

    def delete(self, request: Request, name: str) -> Response:
        fields = self._site.form(request)
        target = _target(first(fields, "what"))
        self._require(request, "delete", name, target)
        seen = {"if-match": f'"{Digest.parse(first(fields, "seen"))}"'}
        asked = self._site.as_visitor(request, method="DELETE", query_string="", headers=seen)
        _called(self._api["DELETE"], asked, name, str(target))
        return redirect(f"/r/{name}" if self._node.storage.exists(name) else "/")

    def ask_tag(self, request: Request, name: str) -> Response:
        """With the new name, what it points to now."""
        self._require(request, "push", name)
        digest = self._digest(name, request.parameter("of") or "")
        wanted, error = (request.parameter("to") or "").strip(), ""
        if wanted:
            try:
                check_tag(wanted)
            except InvalidReference as refused:
                error = sentence(refused)
        before = self._node.manifests.target(name, wanted) if wanted and not error else None
        return self._site.page(
            request,
            "retag.html",
            "Images",
            status=400 if error else 200,
            name=name,
            of=request.parameter("of") or "",
            digest=digest,
            wanted=wanted,
            error=error,
            before=before,
        )

    def tag(self, request: Request, name: str) -> Response:
        fields = self._site.form(request)
        tag = check_tag(first(fields, "to"))
        self._require(request, "push", name, tag)
        stored = self._node.manifests.get(name, Digest.parse(first(fields, "seen")))
        if stored is None:
            raise Problem(412, "MANIFEST_UNKNOWN", "The image was deleted meanwhile.")
        asked = self._site.as_visitor(
            request,
            method="PUT",
            query_string="",
            content=stored.raw,
            headers={"content-type": stored.media_type, **_condition(fields)},
        )
        _called(self._api["PUT"], asked, name, tag)
        return redirect(f"/r/{name}:{tag}")

    def _require(
        self, request: Request, action: Action, name: str, target: Digest | str = ""
    ) -> None:
        """What the API's routes check before their handlers. Raises Problem 403 or 404."""
        principal = self._site.readable(request, name)
        tag = target if isinstance(target, str) else ""
        if not principal.may(action, name) or not principal.may(action, name, tag):
            raise Problem(403, "DENIED", f"You may not {action} {target or 'images'} in {name}.")

    def _digest(self, name: str, reference: str) -> Digest:
        target = _target(reference)
        digest = target if isinstance(target, Digest) else self._node.manifests.target(name, target)
        if digest is None:
            raise Problem(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {reference}.")
        return digest


def _target(reference: str) -> Digest | str:
    return Digest.parse(reference) if ":" in reference else check_tag(reference)


def _condition(fields: Form) -> dict[str, str]:
    """The tag is still where the page showed it, or not there."""
    before = first(fields, "before")
    return {"if-match": f'"{Digest.parse(before)}"'} if before else {"if-none-match": "*"}


def _called(handler: AnyHandler, request: Request, name: str, reference: str) -> None:
    response = handler(request, name=name, reference=reference)
    assert isinstance(response, Response)
