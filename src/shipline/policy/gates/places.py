"""Which file of the repository a path in a report means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from shipline.git import Changes


class Places:
    """Reports name files from the top of the repository, from a source directory inside it, from
    the root of another machine, or by package: what they have in common is how they end.
    """

    def __init__(self, changes: Changes, roots: Iterable[str] = ()) -> None:
        self._files = changes.files | changes.lines.keys()
        self._roots = tuple(root.replace("\\", "/").strip("/") for root in roots)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self._files:
            self._by_name[path.rpartition("/")[2]].append(path)

    def find(self, path: str) -> tuple[str, ...]:
        """The files it can mean: one, none, or several that it does not tell apart."""
        plain = path.replace("\\", "/").removeprefix("./")
        if plain in self._files:
            return (plain,)
        for root in self._roots:
            joined = f"{root}/{plain}".removeprefix("./")
            if found := self._ending(joined):
                return found
        return self._ending(plain.lstrip("/"), shorter=True)

    def _ending(self, path: str, *, shorter: bool = False) -> tuple[str, ...]:
        """Files that `path` ends with; the longest one means it best. With `shorter` also those
        that end with `path`.
        """
        same_name = self._by_name.get(path.rpartition("/")[2], ())
        inside = [one for one in same_name if path == one or path.endswith(f"/{one}")]
        if inside:
            return (max(inside, key=len),)
        if not shorter:
            return ()
        return tuple(sorted(one for one in same_name if one.endswith(f"/{path}")))
