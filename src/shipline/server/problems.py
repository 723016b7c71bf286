"""HTTP errors (distribution specification, "Error Codes").

Handlers raise Problem or let domain exceptions through; `problem_of` maps those.
"""

from __future__ import annotations

import errno
import json
import logging

from shipline.errors import ContentError, ShiplineError
from shipline.oci import InvalidDigest, InvalidReference

_log = logging.getLogger(__name__)
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Problem(ShiplineError):
    """An error response with one error `reason` (its code in the specification)."""

    code = "refused"

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        detail: object = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.headers = headers

    def body(self) -> bytes:
        error: dict[str, object] = {"code": self.reason, "message": self.message}
        if self.detail is not None:
            error["detail"] = self.detail
        return json.dumps({"errors": [error]}).encode()


def blob_unknown(digest: object) -> Problem:
    """404 BLOB_UNKNOWN."""
    return Problem(404, "BLOB_UNKNOWN", f"this repository has no blob {digest}")


def precondition_failed(subject: str, now: object) -> Problem:
    """412 for If-Match or If-None-Match."""
    return Problem(412, "PRECONDITION_FAILED", f"{subject} is {now}")


def manifest_unknown(reference: object) -> Problem:
    """404 MANIFEST_UNKNOWN."""
    return Problem(404, "MANIFEST_UNKNOWN", f"this repository has no manifest {reference}")


def name_unknown(name: str) -> Problem:
    """404 NAME_UNKNOWN."""
    return Problem(404, "NAME_UNKNOWN", f"there is no repository {name}")


def upload_unknown(session: str) -> Problem:
    """404 BLOB_UPLOAD_UNKNOWN."""
    return Problem(404, "BLOB_UPLOAD_UNKNOWN", f"there is no upload {session} in this repository")


def digest_invalid(message: str) -> Problem:
    """400 DIGEST_INVALID."""
    return Problem(400, "DIGEST_INVALID", message)


def size_invalid(message: str) -> Problem:
    """400 SIZE_INVALID."""
    return Problem(400, "SIZE_INVALID", message)


def manifest_invalid(message: str) -> Problem:
    """400 MANIFEST_INVALID."""
    return Problem(400, "MANIFEST_INVALID", message)


def out_of_order(size: int, message: str) -> Problem:
    """Problem 416 for a chunk that does not start at `size`; Range tells the client where to
    resume.
    """
    return Problem(416, "BLOB_UPLOAD_INVALID", message, headers=(("Range", received(size)),))


def received(size: int) -> str:
    """The Range header of an upload with `size` bytes; inclusive on both ends (end-5, end-13)."""
    return f"0-{max(size - 1, 0)}"


def problem_of(error: Exception, **fields: str) -> Problem:
    """Map any exception to a Problem; unexpected ones are logged with `fields` and reported without
    details.
    """
    match error:
        case Problem():
            return error
        case InvalidDigest():
            return digest_invalid(error.message)
        case InvalidReference():
            return Problem(400, "NAME_INVALID", error.message)
        case ContentError():
            return manifest_invalid(error.message)
        case OSError() if error.errno in _NO_SPACE:
            _log.error("no space left: %s", error, extra=fields)
            return Problem(507, "UNKNOWN", "the registry has no space left")
        case OSError() if error.errno == errno.EROFS:
            _log.error("read-only: %s", error, extra=fields)
            return Problem(503, "UNKNOWN", "the registry's disk is read-only")
    _log.error("request failed", exc_info=error, extra=fields)
    return Problem(500, "UNKNOWN", "internal error; see the registry's log")
