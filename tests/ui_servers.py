"""`shipline ui` in a process of its own, and a person who has its address."""

from __future__ import annotations

import re
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPCookieProcessor, OpenerDirector, Request, build_opener

from commands import Forked
from shipline.cli import main
from ships import Project

_FORM_FIELD = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')
_LONGEST_S = 60


@dataclass(frozen=True)
class Answer:
    """A page as it came, after redirects."""

    status: int
    url: str
    html: str

    @property
    def text(self) -> str:
        """What stands in it, without tags, in one line."""
        main = self.html.partition("<main")[2].partition(">")[2].partition("</main>")[0]
        words = unescape(re.sub(r"<[^>]+>", " ", (main or self.html).replace("<wbr>", "")))
        return " ".join(words.replace("\N{NO-BREAK SPACE}", " ").split())


def _opener() -> OpenerDirector:
    return build_opener(HTTPCookieProcessor(CookieJar()))


@dataclass
class Visitor:
    """Somebody with a browser without scripts; `url` has the token."""

    url: str
    _opener: OpenerDirector = field(default_factory=_opener)
    _entered: bool = False

    @property
    def origin(self) -> str:
        return "http://" + urlsplit(self.url).netloc

    def get(self, path: str) -> Answer:
        """A page, as somebody who came by the address with the token sees it."""
        if not self._entered:
            self._entered = True
            self._ask(Request(self.url))
        return self._ask(Request(self.origin + path))

    def form(self, path: str) -> dict[str, str]:
        """What the form on a page carries unseen."""
        form = self.get(path).html.partition('class="form"')[2].partition("</form>")[0]
        return {name: unescape(value) for name, value in _FORM_FIELD.findall(form)}

    def send(self, path: str, values: Mapping[str, str], **headers: str) -> Answer:
        """Send a form, and go where the answer leads."""
        data = urlencode(values).encode()
        return self._ask(Request(self.origin + path, data, headers, method="POST"))

    def decide(self, path: str, **fields: str) -> Answer:
        """Look at a page that asks, and confirm it."""
        return self.send(path, {**self.form(path), **fields})

    def _ask(self, request: Request) -> Answer:
        try:
            with self._opener.open(request, timeout=_LONGEST_S) as answer:
                return Answer(answer.status, answer.url, answer.read().decode())
        except HTTPError as error:
            return Answer(error.code, error.url or "", error.read().decode())


@contextmanager
def ui_server(project: Project, **environment: str) -> Iterator[Visitor]:
    """The pages of a project, for the user that the environment names."""
    with pages_of(project.root, project.environ() | environment) as url:
        yield Visitor(url)


@contextmanager
def pages_of(cwd: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """`shipline ui` on a free port; its address, with the token. It ends well when interrupted."""
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        words = ["ui", "--no-open", "--port", "0"]
        process = Forked(main, words, cwd=cwd, environ=environ, stdout=out, stderr=err)
        try:
            yield _address(process, out, err)
            process.send_signal(signal.SIGINT)
            assert (process.wait(_LONGEST_S), err.read_text()) == (0, "")
        finally:
            process.kill()


def _address(process: Forked, out: Path, err: Path) -> str:
    """What it prints when it listens."""
    end = time.monotonic() + _LONGEST_S
    while time.monotonic() < end and process.poll() is None:
        if out.exists() and (url := out.read_text()).endswith("\n"):
            return url.strip()
        time.sleep(0.02)
    raise AssertionError(f"the pages were not served:\n{err.read_text()}")
