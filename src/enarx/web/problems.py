"""Which error becomes which answer: the one table between our families and HTTP (RFC 9457), both ways.

A server calls `problem_of`, a client `error_of`, so a refusal keeps its family, its sentence and its
reasons across the wire. What is no error of ours is a bug: 500, and nothing about it leaves the
house. Drawbridge's answers are `text/plain` unless `Accept` names problems (flow.md, 8).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from enarx.errors import (
    ConflictError,
    DeniedError,
    EnarxError,
    MalformedError,
    NotFoundError,
    RejectedError,
    UnavailableError,
    UntrustedError,
)

MEDIA_TYPE: Final = "application/problem+json"
URN: Final = "urn:enarx:problem:"

MAX_DETAIL: Final = 2000  # characters of a server's sentence that a client repeats
MAX_REASONS: Final = 50

STATUS: Final[Mapping[type[EnarxError], HTTPStatus]] = {
    MalformedError: HTTPStatus.BAD_REQUEST,
    UntrustedError: HTTPStatus.UNAUTHORIZED,
    RejectedError: HTTPStatus.FORBIDDEN,
    DeniedError: HTTPStatus.FORBIDDEN,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}
FAMILIES: Final[Mapping[str, type[EnarxError]]] = {
    "malformed": MalformedError,
    "untrusted": UntrustedError,
    "rejected": RejectedError,
    "denied": DeniedError,
    "not-found": NotFoundError,
    "conflict": ConflictError,
    "unavailable": UnavailableError,
}
TITLES: Final[Mapping[str, str]] = {
    "malformed": "The bytes are not what they claim to be",
    "untrusted": "Nobody we trust vouches for this",
    "rejected": "Authentic, but policy says no",
    "denied": "You may not",
    "not-found": "Nothing by that name",
    "conflict": "There is already something by that name",
    "unavailable": "Somebody we depend on did not answer",
}
_GATES: Final = frozenset({"malformed", "untrusted", "rejected"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One refusal. `family` is a key of FAMILIES, or empty for what only HTTP knows (405, 413, 500)."""

    status: int
    title: str
    detail: str = ""
    family: str = ""
    reasons: tuple[str, ...] = ()
    instance: str = ""  # the request id, so that a user's report finds the log line

    @property
    def gate(self) -> str | None:
        """The gate of judgement that refused, where one did."""
        return self.family if self.family in _GATES else None

    def to_json(self) -> dict[str, object]:
        members: dict[str, object] = {
            "type": URN + self.family if self.family else "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.gate:
            members["gate"] = self.gate
        if self.reasons:
            members["reasons"] = list(self.reasons)
        if self.instance:
            members["instance"] = f"urn:enarx:request:{self.instance}"
        return members

    def body(self) -> bytes:
        """The RFC 9457 document."""
        return json.dumps(self.to_json(), ensure_ascii=False, separators=(",", ":")).encode()

    def text(self) -> bytes:
        """The sentence alone, for clients of the originals."""
        return (self.detail or self.title).encode()


def problem_of(error: BaseException, *, status: int | None = None, instance: str = "") -> Problem:
    """What to answer for `error`; `status` replaces the table's where a protocol fixed another."""
    if not isinstance(error, EnarxError) or (family := family_of(error)) is None:
        return http_problem(HTTPStatus.INTERNAL_SERVER_ERROR, instance=instance)
    return Problem(
        status=status or STATUS[FAMILIES[family]],
        title=TITLES[family],
        detail=str(error),
        family=family,
        reasons=error.reasons if isinstance(error, RejectedError) else (),
        instance=instance,
    )


def http_problem(status: int, detail: str = "", *, instance: str = "") -> Problem:
    """A problem that only HTTP knows."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    return Problem(status=status, title=title, detail=detail, instance=instance)


def family_of(error: EnarxError) -> str | None:
    """The key in FAMILIES, or None for an error that belongs to no family."""
    return next((name for name, family in FAMILIES.items() if isinstance(error, family)), None)


def error_of(status: int, content_type: str, body: bytes, *, who: str) -> EnarxError:
    """The error that a server's answer stands for; `who` names the server in its text.

    Ours keep their family; others are known by status: 400 and the like malformed, 401 untrusted, 403 denied, 404
    not found, 409 conflict, 429 and 5xx unavailable.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    members = _members(body) if media_type == MEDIA_TYPE else {}
    family = FAMILIES.get(_text(members.get("type")).removeprefix(URN)) or _family_by_status(status)
    sentence = _text(members.get("detail")) or _text(members.get("title"))
    if not sentence and media_type == "text/plain":
        sentence = _printable(body[: 4 * MAX_DETAIL].decode(errors="replace"))
    message = f"{who}: {sentence or f'answered {status}'}"
    if family is RejectedError:
        listed = members.get("reasons")
        reasons = [_text(item) for item in listed[:MAX_REASONS]] if isinstance(listed, list) else []
        return RejectedError(message, reasons=[reason for reason in reasons if reason])
    return family(message)


def _family_by_status(status: int) -> type[EnarxError]:
    known: Mapping[int, type[EnarxError]] = {
        HTTPStatus.UNAUTHORIZED: UntrustedError,
        HTTPStatus.FORBIDDEN: DeniedError,
        HTTPStatus.NOT_FOUND: NotFoundError,
        HTTPStatus.CONFLICT: ConflictError,
        HTTPStatus.TOO_MANY_REQUESTS: UnavailableError,
        HTTPStatus.REQUEST_TIMEOUT: UnavailableError,
    }
    return known.get(status, UnavailableError if status >= HTTPStatus.INTERNAL_SERVER_ERROR else MalformedError)


def _members(body: bytes) -> dict[str, object]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return _printable(value) if isinstance(value, str) else ""


def _printable(text: str) -> str:
    """A stranger's sentence, made safe for a terminal: no control characters, not too long."""
    return "".join(character if character.isprintable() else " " for character in text[:MAX_DETAIL]).strip()
