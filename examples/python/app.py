"""Words, counted: POST a text to /count."""

import json
import re
import sys
from collections import Counter

from bottle import Bottle, request

app = Bottle()


def count(text: str) -> dict[str, int]:
    """The ten most frequent words."""
    words = re.findall(r"\w+", text.lower())
    return dict(Counter(words).most_common(10))


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/count")
def count_words() -> dict[str, int]:
    return count(request.body.read(1 << 20).decode("utf-8", "replace"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["count"]:
        print(json.dumps(count(" ".join(sys.argv[2:]))))
    else:
        from waitress import serve

        serve(app, listen="*:8080")
