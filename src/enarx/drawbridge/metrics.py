"""What operators watch, in Prometheus' text format. Counters are shared by all worker processes (`enarx.web.counters`).

No series is made by a request, and none carries anything of a requester: no names, no addresses, no digests.
"""

import time
from collections.abc import Iterable
from typing import Final, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enarx import __version__
from enarx.attested.relying import TITLES
from enarx.web.counters import OTHER, Counters, Key, histogram, histogram_keys, line

MetricsFor = Literal["loopback", "everybody", "nobody"]

METHODS: Final = ("GET", "HEAD", "PUT", "POST", "DELETE", OTHER)
CODES: Final = (
    "200", "201", "202", "204", "206", "304", "400", "401", "403", "404", "405", "408", "409", "413", "415", "416", "422",
    "429", "500", "501", "503", OTHER,
)  # fmt: skip

_HELP: Final = {
    "drawbridge_http_responses_total": ("counter", "HTTP answers, by status code."),
    "drawbridge_http_requests_total": ("counter", "HTTP requests, by method."),
    "drawbridge_received_bytes_total": ("counter", "Bytes of requests' bodies."),
    "drawbridge_sent_bytes_total": ("counter", "Bytes of answers' bodies."),
    "drawbridge_releases_total": ("counter", "Workloads released to Keeps, by technology."),
    "drawbridge_refusals_total": ("counter", "Requests that access refused."),
    "drawbridge_request_seconds": ("histogram", "Time from the headers of a request to the end of its answer."),
}


class Metrics(Counters):
    """The counters of one Drawbridge."""

    def __init__(self, workers: int = 1) -> None:
        super().__init__(_keys(), workers)

    def text(self, *, lists: int, stewards: int) -> str:
        """The whole exposition. `lists` is how many revocation lists of the `stewards` are current."""
        values = self.totals()
        lines: list[str] = []
        for name, (kind, told) in _HELP.items():
            lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
            if kind == "histogram":
                lines += histogram(name, values)
            else:
                lines += [line(key[0], key[1], value) for key, value in values.items() if key[0] == name]
        for name, told, value in (
            ("drawbridge_stewards", "Stewards that are trusted.", stewards),
            ("drawbridge_revocation_lists_current", "Revocation lists that are current.", lists),
            ("drawbridge_workers", "Processes that serve.", self.workers),
        ):
            lines += [f"# HELP {name} {told}", f"# TYPE {name} gauge", line(name, (), value)]
        lines += ["# HELP drawbridge_build_info The version that runs.", "# TYPE drawbridge_build_info gauge"]
        lines.append(line("drawbridge_build_info", (("version", __version__),), 1))
        return "\n".join(lines) + "\n"


class Counted:
    """An application whose exchanges are counted."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics, begun, sizes = self._metrics, time.perf_counter(), {"received": 0, "sent": 0}

        async def receiving() -> Message:
            message = await receive()
            sizes["received"] += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.add("drawbridge_http_responses_total", code=str(message["status"]))
            else:
                sizes["sent"] += len(message.get("body", b""))
            await send(message)

        metrics.add("drawbridge_http_requests_total", method=scope["method"])
        try:
            await self._app(scope, receiving, sending)
        finally:
            metrics.took("drawbridge_request_seconds", time.perf_counter() - begun)
            for name, size in sizes.items():
                metrics.add(f"drawbridge_{name}_bytes_total", size)


def _keys() -> Iterable[Key]:
    for method in METHODS:
        yield "drawbridge_http_requests_total", (("method", method),)
    for code in CODES:
        yield "drawbridge_http_responses_total", (("code", code),)
    for technology in (*TITLES, OTHER):
        yield "drawbridge_releases_total", (("technology", technology),)
    for name in ("drawbridge_received_bytes_total", "drawbridge_sent_bytes_total", "drawbridge_refusals_total"):
        yield name, ()
    yield from histogram_keys("drawbridge_request_seconds")
