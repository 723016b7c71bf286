"""What the environment adds to a build that nobody writes on the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from shipline.errors import ConfigError

_PROXIES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "ftpProxy": "FTP_PROXY",
    "noProxy": "NO_PROXY",
    "allProxy": "ALL_PROXY",
}


def implied_build_args(environ: Mapping[str, str]) -> dict[str, str]:
    """Build arguments that nobody has to write: SOURCE_DATE_EPOCH, and the proxies of the docker
    configuration (`proxies.default`, both spellings). Raises ConfigError.
    """
    found: dict[str, str] = {}
    proxies = _default_proxies(environ)
    for key, name in _PROXIES.items():
        value = proxies.get(key)
        if isinstance(value, str) and value:
            found |= {name: value, name.lower(): value}
    if epoch := environ.get("SOURCE_DATE_EPOCH"):
        found["SOURCE_DATE_EPOCH"] = epoch
    return found


def _default_proxies(environ: Mapping[str, str]) -> Mapping[str, object]:
    place = environ.get("DOCKER_CONFIG")
    path = (Path(place) if place else Path.home() / ".docker") / "config.json"
    try:
        document = json.loads(path.read_bytes())
        found = document.get("proxies", {}).get("default", {})
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, AttributeError):
        raise ConfigError(
            f"{path} is not a docker configuration", hint="repair the JSON, or remove the file"
        ) from None
    return found if isinstance(found, dict) else {}
