"""What operators watch, in Prometheus' text format (exposition format 0.0.4).

Counters live in memory that all worker processes share, a row each, so that whichever is asked answers for all. Every
label is known beforehand (technologies, verdicts, names of checks, status codes), so no request makes a new series and
none carries anything of a requester. What is no counter (when the CA ends, what collateral there is) is looked up when
somebody asks.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enarx import __version__
from enarx.steward.authority import Authority, Decision, failures
from enarx.tee import TECHNOLOGIES
from enarx.tee.model import Verdict
from enarx.web.counters import OTHER, Counters, Key, histogram, histogram_keys, line

CODES: Final = ("200", "400", "401", "404", "405", "408", "413", "431", "500", "503", OTHER)

_NONE: Final = "none"  # a request without evidence, or that could not be read
_OWN_CHECKS: Final = (
    "request",
    "request.key_type",
    "claims.audience",
    "claims.nonce",
    "evidence.age",
    "renewal.name",
    "renewal.technology",
    "revocation",
    "collateral.rollback",
    "format",
    "verification",
)
_HELP: Final[Mapping[str, tuple[str, str]]] = {
    "steward_decisions_total": ("counter", "Requests judged, by technology and verdict."),
    "steward_failed_checks_total": ("counter", "Checks that failed, by name."),
    "steward_certificates_issued_total": ("counter", "Certificates issued, by technology."),
    "steward_nonces_total": ("counter", "Nonces handed out."),
    "steward_http_responses_total": ("counter", "HTTP answers, by status code."),
    "steward_decision_seconds": ("histogram", "Time from the request's body to the decision, a bundle at once."),
}
MetricsFor = Literal["loopback", "everybody", "nobody"]


class Metrics(Counters):
    """The counters of one Steward. `worker` is the row that this process writes."""

    def __init__(self, workers: int = 1) -> None:
        super().__init__(_keys(), workers)

    def decided(self, decisions: Iterable[Decision], issued: int, seconds: float) -> None:
        """Count what became of one HTTP request's requests."""
        for position, decision in enumerate(decisions):
            technology = decision.technology or _NONE
            self.add("steward_decisions_total", technology=technology, verdict=decision.verdict.value)
            for check in () if decision.accepted else failures(decision):
                self.add("steward_failed_checks_total", check=check)
            if position < issued:
                self.add("steward_certificates_issued_total", technology=technology)
        self.took("steward_decision_seconds", seconds)

    def text(self, authority: Authority, documents: Sequence[datetime | None], at: datetime) -> str:
        """The whole exposition. `documents` are the ends of the collateral's documents."""
        values = self.totals()
        lines: list[str] = []
        for name, (kind, told) in _HELP.items():
            lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
            if kind == "histogram":
                lines += histogram(name, values)
            else:
                lines += [line(key[0], key[1], value) for key, value in values.items() if key[0] == name]
        ends = [end for end in documents if end is not None]
        gauges = {
            "steward_issuer_not_after_seconds": (
                "When the issuing certificate ends.",
                _stamp(authority.issuer.certificate.not_after),
            ),
            "steward_collateral_documents": ("Documents in the collateral directory.", float(len(documents))),
            "steward_collateral_ended_documents": (
                "Those of them that have ended.",
                float(sum(end <= at for end in ends)),
            ),
            "steward_revocation_rules": (
                "Rules of `steward revoke`.",
                float(sum(len(values) for values in authority.revocations().rules.values())),
            ),
            "steward_workers": ("Processes that serve.", float(self.workers)),
        }
        if ends:
            gauges["steward_collateral_first_end_seconds"] = ("When the first document ends.", _stamp(min(ends)))
        for name, (told, value) in gauges.items():
            lines += [f"# HELP {name} {told}", f"# TYPE {name} gauge", line(name, (), value)]
        labels = (("version", __version__),)
        lines += ["# HELP steward_build_info The version that runs.", "# TYPE steward_build_info gauge"]
        lines.append(line("steward_build_info", labels, 1.0))
        return "\n".join(lines) + "\n"


class Counted:
    """An application whose answers are counted."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.add("steward_http_responses_total", code=str(message["status"]))
            await send(message)

        await self._app(scope, receive, counting if scope["type"] == "http" else send)


def _keys() -> Iterable[Key]:
    names = (_NONE, *(technology.name for technology in TECHNOLOGIES), OTHER)
    for name in names:
        for verdict in Verdict:
            yield "steward_decisions_total", (("technology", name), ("verdict", verdict.value))
        yield "steward_certificates_issued_total", (("technology", name),)
    yield "steward_decisions_total", (("technology", OTHER), ("verdict", OTHER))
    known = {check for technology in TECHNOLOGIES for _, check in technology.check_names}
    for check in sorted(known | set(_OWN_CHECKS)):
        yield "steward_failed_checks_total", (("check", check),)
    yield "steward_failed_checks_total", (("check", OTHER),)
    yield "steward_nonces_total", ()
    for code in CODES:
        yield "steward_http_responses_total", (("code", code),)
    yield from histogram_keys("steward_decision_seconds")


def _stamp(moment: datetime) -> float:
    return float(int(moment.timestamp()))
