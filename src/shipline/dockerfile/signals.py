"""The signals that STOPSIGNAL takes.

Source: signal(7); Dockerfile reference, "STOPSIGNAL".
"""

from __future__ import annotations

import re

from shipline.dockerfile.suggest import did_you_mean
from shipline.errors import DockerfileError

NAMES = tuple(
    f"SIG{name}"
    for name in (
        *("ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT"),
        *("KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM"),
        *("TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU"),
        *("XFSZ", "RTMIN", "RTMAX"),
        *(f"RTMIN+{number}" for number in range(1, 16)),
        *(f"RTMAX-{number}" for number in range(1, 15)),
    )
)


def checked_signal(text: str) -> str:
    """`text` where it is a positive number or a name, with or without SIG, letter case ignored.

    Raises DockerfileError otherwise.
    """
    name = "SIG" + text.upper().removeprefix("SIG")
    if (re.fullmatch("[0-9]+", text) and int(text) > 0) or name in NAMES:
        return text
    raise DockerfileError(
        f"invalid signal: {text}{did_you_mean(name, NAMES)}", hint="write STOPSIGNAL SIGTERM"
    )
