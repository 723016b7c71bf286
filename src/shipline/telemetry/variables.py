"""What the variables of OpenTelemetry ask for.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/; those of receivers are in receiver.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from shipline.propagation import Trace

Signal = Literal["traces", "logs", "metrics"]
_RATIO_BITS = (1 << 64) - 1  # of the trace ID, which TraceIdRatioBased compares


def asked(signal: Signal, environ: Mapping[str, str]) -> bool:
    """Whether to export `signal`: an exporter or an endpoint is named for it."""
    return bool(exporters(signal, environ))


def wanted(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The targets that `environ` asks for."""
    signals: tuple[Signal, ...] = ("traces", "logs", "metrics")
    found: dict[str, bool] = {signal: asked(signal, environ) for signal in signals}
    found["loki"] = bool(environ.get("SHIPLINE_LOKI", "").strip())
    return tuple(name for name, is_asked in found.items() if is_asked)


def exporters(signal: Signal, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the exporters to use: those of OTEL_<SIGNAL>_EXPORTER, else otlp if there is an
    endpoint; none if the SDK is disabled.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    name = signal.upper()
    named = environ.get(f"OTEL_{name}_EXPORTER", "").strip()
    ends = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")
    if not named:
        return ("otlp",) if any(environ.get(end, "").strip() for end in ends) else ()
    words = tuple(word.strip() for word in named.split(",") if word.strip())
    return () if "none" in words else words


def protocol(signal: Signal, environ: Mapping[str, str]) -> str:
    """The protocol of the exporter `otlp`; http/protobuf if nothing is said, as specified."""
    own = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "").strip()
    return own or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip() or "http/protobuf"


def is_sampled(trace: Trace, environ: Mapping[str, str]) -> bool:
    """What the sampler that OTEL_TRACES_SAMPLER names decides on the root span, which requests
    tell. A sampler that is not built into SDKs takes all.
    """
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip() or "parentbased_always_on"
    if name.startswith("parentbased_") and trace.parent is not None:
        return trace.parent.sampled
    kind = name.removeprefix("parentbased_")
    if kind == "traceidratio":
        bound = round(_ratio(environ) * (_RATIO_BITS + 1))
        return int(trace.trace_id, 16) & _RATIO_BITS < bound
    return kind != "always_off"


def positive(name: str, environ: Mapping[str, str], default: int) -> int:
    """A variable that is a positive number, `default` for anything else."""
    text = environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdecimal() and int(text) else default


def _ratio(environ: Mapping[str, str]) -> float:
    try:
        return float(environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or 1)
    except ValueError:
        return 1.0
