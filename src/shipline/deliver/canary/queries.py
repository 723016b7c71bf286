"""Asking Prometheus, Loki and Tempo for one number: over HTTP, with templates of queries.

An empty result, NaN, infinity and a part of an answer are `NoData`; a refusal, a time-out and
several numbers are `QueryFailed`.

https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
https://grafana.com/docs/loki/latest/reference/loki-http-api/#query-logs-at-a-single-point-in-time
https://grafana.com/docs/tempo/latest/api_docs/#traceql-metrics
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from shipline.deliver.canary.section import SAFE, VARIABLE, MetricServer
from shipline.errors import ConfigError, ShiplineError
from shipline.registry.errors import clean
from shipline.registry.http import HttpClient
from shipline.registry.request import ClientRequest, Url
from shipline.tasks import time_limit

_LIMIT = 1 << 20  # bytes of an answer
_PATHS = {"promql": "/api/v1/query", "logql": "/loki/api/v1/query", "traceql": "/api/metrics/query"}
_REFUSALS = (400, 422, 429, 500, 502, 503, 504)  # with a reason in the body


class NoData(Exception):
    """The server has no number."""


class QueryFailed(Exception):
    """The server was not reached, refused, or did not answer with one number."""


def filled_in(query: str, values: Mapping[str, str]) -> str:
    """The query with its variables replaced. No value can end a string or begin an expression: they
    are names, tags, digests and durations. Raises ConfigError for others.
    """
    for name in set(VARIABLE.findall(query)):
        if not SAFE.match(values[name]):
            raise ConfigError(
                f"{{{{{name}}}}} is {values[name]!r}, which has no place in a query",
                hint="only letters, digits and . _ : @ / - are put into queries",
            )
    return VARIABLE.sub(lambda match: values[match[1]], query)


@dataclass(frozen=True, slots=True)
class QueryClient:
    """Asks one server; `headers` have the credentials, which stay with its origin."""

    http: HttpClient
    url: Url
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float

    def ask(self, language: str, query: str, window: str) -> float:
        """The number that a query gives now, with Tempo over the window. Raises NoData,
        QueryFailed.
        """
        parameters = [("q" if language == "traceql" else "query", query)]
        if language == "traceql":
            parameters.append(("since", window))
        url = Url.parse(f"{str(self.url).rstrip('/')}{_PATHS[language]}").with_query(*parameters)
        document = self._get(url)
        number = _of_tempo(document) if language == "traceql" else _of_prometheus(document)
        if not math.isfinite(number):
            raise NoData(f"the result is {number}")
        return number

    def _get(self, url: Url) -> Mapping[str, Any]:
        request = ClientRequest("GET", url, self.headers)
        try:
            with (
                time_limit(self.timeout_s),
                closing(
                    self.http.hasty.call(
                        request, expect=(200, *_REFUSALS), operation="the query", redirects=0
                    )
                ) as response,
            ):
                status, content = response.status, response.content(_LIMIT)
        except TimeoutError as error:
            raise QueryFailed(str(error)) from None
        except ShiplineError as error:
            raise QueryFailed(error.message) from None
        if status != 200:
            raise QueryFailed(f"{status}: {_reason(content)}")
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise QueryFailed("the answer is not a JSON object")
        return document


def query_client(
    http: HttpClient, server: MetricServer, environ: Mapping[str, str], timeout_s: float
) -> QueryClient:
    """A client of a server, with the credentials of its variables. Raises ConfigError for one that
    is not set.
    """

    def value(name: str) -> str:
        if not environ.get(name):
            raise ConfigError(
                f"{server.url}: the variable {name} is not set", code="variable-missing"
            )
        return environ[name].strip()

    headers = {"Accept": "application/json"}
    if server.token:
        headers["Authorization"] = f"Bearer {value(server.token)}"
    elif server.user:
        login = f"{value(server.user)}:{value(server.password)}"
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    if server.tenant:
        headers["X-Scope-OrgID"] = server.tenant
    return QueryClient(http, Url.parse(server.url), headers, timeout_s)


def _of_prometheus(document: Mapping[str, Any]) -> float:
    """The number of an instant query's scalar, or of its vector with one sample."""
    if document.get("status") != "success":
        raise QueryFailed(clean(str(document.get("error", "no success"))))
    if warnings := _warnings(document.get("warnings")):
        raise NoData(f"the answer is incomplete: {clean(str(warnings))}")
    answer = document.get("data")
    kind = answer.get("resultType") if isinstance(answer, dict) else None
    result = answer.get("result") if isinstance(answer, dict) else None
    if kind == "vector" and isinstance(result, list):
        _require_one(result)
        result = result[0].get("value") if isinstance(result[0], dict) else None
    elif kind != "scalar":
        raise QueryFailed(f"the result is a {clean(str(kind))}, not one number")
    if not isinstance(result, list) or len(result) != 2:
        raise QueryFailed("the result is not one number")
    return _number(result[1])


def _warnings(stated: object) -> object:
    """Without the notes on a query, such as on rate() of a name that does not end in _total, which
    Prometheus 2.48 to 2.53 has among the warnings, and later versions apart.
    """
    if not isinstance(stated, list):
        return stated
    return [one for one in stated if not str(one).startswith("PromQL info:")]


def _of_tempo(document: Mapping[str, Any]) -> float:
    """The number of the one series (tempopb, QueryInstantResponse)."""
    if document.get("status") not in (None, "COMPLETE", 0):
        raise NoData(f"the answer is incomplete: {clean(str(document.get('message', '')))}")
    series = document.get("series") or []
    if not isinstance(series, list):
        raise QueryFailed("the result is not a list of series")
    _require_one(series)
    # a zero is left out of the JSON of protocol buffers
    return _number(series[0].get("value", 0) if isinstance(series[0], dict) else None)


def _require_one(series: list[Any]) -> None:
    if not series:
        raise NoData("the result is empty")
    if len(series) > 1:
        raise QueryFailed(f"the result has {len(series)} series: make one of them, as with sum()")


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise QueryFailed("the result is not a number")
    try:
        return float(str(value).replace("_", "?"))  # Python takes 1_0, others do not
    except ValueError:
        raise QueryFailed("the result is not a number") from None


def _reason(content: bytes) -> str:
    """What the body of a refusal says."""
    text = content[:2000].decode(errors="replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return clean(text)
    error = document.get("error") or document.get("message") if isinstance(document, dict) else text
    return clean(str(error))
