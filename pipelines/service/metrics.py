"""Figures for Prometheus: of jobs, as the table has them; of requests, as this process saw them. No ids or names."""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.service.job import STATES
from pipelines.service.queue import Spool

disable_created_metrics()
_requests = Counter("medseg_http_requests_total", "HTTP requests", ("method", "route", "status"), registry=None)
METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")


class Counted:
    """Counts requests by the route's pattern, never by what was asked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            _requests.labels(method, _route(scope), str(status)).inc()


def _route(scope: Scope) -> str:
    """As the router has noted it."""
    return str(getattr(scope.get("route"), "path", "none"))


class _Jobs(Collector):
    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def collect(self) -> Iterable[Metric]:
        counts, figures = self._spool.counts(), self._spool.figures()
        jobs = GaugeMetricFamily("medseg_jobs", "Jobs by state", labels=("state",))
        for state in STATES:
            jobs.add_metric((state,), counts.get(state, 0))
        yield jobs
        waits = time.time() - figures["oldest"] if figures["oldest"] else 0.0
        yield GaugeMetricFamily("medseg_oldest_waiting_seconds", "Age of the oldest job not taken", waits)
        yield GaugeMetricFamily("medseg_undelivered", "Answers that wait to be delivered", figures["waiting"])
        yield GaugeMetricFamily("medseg_not_deliverable", "Answers whose delivery was given up", figures["undelivered"])
        yield CounterMetricFamily("medseg_answer_seconds", "Seconds of work on answered jobs", figures["seconds"])
        yield CounterMetricFamily("medseg_received_bytes", "Bytes of accepted scans", figures["bytes"])


def exposition(spool: Spool) -> bytes:
    registry = CollectorRegistry()
    registry.register(_requests)
    registry.register(_Jobs(spool))
    return generate_latest(registry)
