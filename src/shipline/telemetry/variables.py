"""What the variables of OpenTelemetry ask for.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/; those of receivers are in receiver.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal
from urllib.parse import unquote

from shipline.propagation import Trace

Signal = Literal["traces", "logs", "metrics"]
_RATIO_BITS = (1 << 64) - 1  # of the trace ID, which TraceIdRatioBased compares
_LARGEST = 1 << 31  # as the specification has SDKs take numbers at least
_DEFAULT_SAMPLER = "parentbased_always_on"
_OTLP = "OTEL_EXPORTER_OTLP_((TRACES|LOGS|METRICS)_)?"
_NUMBER = "0{0,9}[1-9][0-9]{0,9}"
_VALUES = {
    "OTEL_SDK_DISABLED": "true|false",
    "OTEL_(TRACES|LOGS|METRICS)_EXPORTER": "(otlp|none)(,(otlp|none))*",
    f"{_OTLP}PROTOCOL": "grpc|http/protobuf",
    f"{_OTLP}COMPRESSION": "gzip|none",
    f"{_OTLP}INSECURE": "true|false",
    f"{_OTLP}TIMEOUT": _NUMBER,
    "OTEL_BSP_(SCHEDULE_DELAY|MAX_QUEUE_SIZE)": _NUMBER,
    "OTEL_TRACES_SAMPLER": "(parentbased_)?(always_on|always_off|traceidratio)",
    f"{_OTLP}TEMPORALITY_PREFERENCE": "cumulative|delta|lowmemory",
}
"""Variables and what they may be, both as regular expressions."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_HEADER_VALUE = re.compile("[\t -~\x80-\xff]*")
_FRAMING = frozenset(
    {"connection", "content-encoding", "content-length", "content-type", "te", "transfer-encoding"}
)


def asked(signal: Signal, environ: Mapping[str, str]) -> bool:
    """Whether to export `signal`: an exporter or an endpoint is named for it."""
    if word("OTEL_SDK_DISABLED", environ) == "true":
        return False
    name = signal.upper()
    if named := word(f"OTEL_{name}_EXPORTER", environ):
        words = named.replace(" ", "").split(",")
        return "otlp" in words and "none" not in words
    ends = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")
    return any(environ.get(end, "").strip() for end in ends)


def wanted(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The targets that `environ` asks for."""
    signals: tuple[Signal, ...] = ("traces", "logs", "metrics")
    found: dict[str, bool] = {signal: asked(signal, environ) for signal in signals}
    found["loki"] = bool(environ.get("SHIPLINE_LOKI", "").strip())
    return tuple(name for name, is_asked in found.items() if is_asked)


def ignored(environ: Mapping[str, str]) -> Iterator[str]:
    """What is ignored, a clause for each variable: values that are not known, as the specification
    has it. Values of headers are not shown.
    """
    if word("OTEL_SDK_DISABLED", environ) == "true":
        return
    for name, value in environ.items():
        if not name.startswith("OTEL_") or not value.strip():
            continue
        for names, values in _VALUES.items():
            text = value.replace(" ", "").lower()
            if re.fullmatch(names, name) and not re.fullmatch(values, text):
                yield f"{name} is ignored: {value[:40]!r} is not supported"
        if re.fullmatch(f"{_OTLP}HEADERS", name) and read_headers(value)[1]:
            yield f"{name}: what is not NAME=VALUE, or no header of a request, is ignored"
    if "traceidratio" in word("OTEL_TRACES_SAMPLER", environ) and _ratio(environ) is None:
        yield "OTEL_TRACES_SAMPLER_ARG is ignored: it is not a number from 0 to 1"


def word(name: str, environ: Mapping[str, str]) -> str:
    """A variable that is one of several words, in lower case; empty if it is not set."""
    return environ.get(name, "").strip().lower()


def protocol(signal: Signal, environ: Mapping[str, str]) -> str:
    """The protocol of the exporter `otlp`; http/protobuf, as specified, if none that is spoken is
    named.
    """
    own = word(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", environ)
    named = own or word("OTEL_EXPORTER_OTLP_PROTOCOL", environ)
    return "grpc" if named == "grpc" else "http/protobuf"


def read_headers(text: str) -> tuple[dict[str, str], bool]:
    """The headers of OTEL_EXPORTER_OTLP_HEADERS, by name in lower case, and whether some were left
    out: what is no header, or says how the request itself is written.
    """
    found: dict[str, str] = {}
    wrong = False
    for pair in filter(str.strip, text.split(",")):
        name, equals, value = (unquote(part.strip()) for part in pair.partition("="))
        name, value = name.lower(), value.strip(" \t")
        if (
            equals
            and name not in _FRAMING
            and _HEADER_NAME.fullmatch(name)
            and _HEADER_VALUE.fullmatch(value)
        ):
            found[name] = value
        else:
            wrong = True
    return found, wrong


def is_sampled(trace: Trace, environ: Mapping[str, str]) -> bool:
    """What the sampler that OTEL_TRACES_SAMPLER names decides on the root span, which requests
    tell. The default is taken for a sampler that is not built into SDKs.
    """
    name = word("OTEL_TRACES_SAMPLER", environ)
    if not re.fullmatch(_VALUES["OTEL_TRACES_SAMPLER"], name):
        name = _DEFAULT_SAMPLER
    if name.startswith("parentbased_") and trace.parent is not None:
        return trace.parent.sampled
    kind = name.removeprefix("parentbased_")
    if kind == "traceidratio":
        ratio = _ratio(environ)
        bound = round((1.0 if ratio is None else ratio) * (_RATIO_BITS + 1))
        return int(trace.trace_id, 16) & _RATIO_BITS < bound
    return kind != "always_off"


def positive(name: str, environ: Mapping[str, str], default: int) -> int:
    """A variable that is a positive number of 32 bits, `default` for anything else."""
    text = environ.get(name, "").strip()
    return min(int(text), _LARGEST) if re.fullmatch(_NUMBER, text) else default


def _ratio(environ: Mapping[str, str]) -> float | None:
    """OTEL_TRACES_SAMPLER_ARG, 1 if it is not set; None for what is no ratio."""
    try:
        ratio = float(environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or 1)
    except ValueError:
        return None
    return ratio if 0 <= ratio <= 1 else None
