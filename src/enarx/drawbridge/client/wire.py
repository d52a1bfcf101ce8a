"""One conversation with a registry: requests, what is repeated of them, and what a refusal means.

What was not answered is asked again where asking twice does what asking once does. A refusal becomes the error of its
family, with one sentence for whoever sees only that, and beneath it what the registry answered to what.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from enarx.digest import Digests
from enarx.drawbridge import canonical
from enarx.drawbridge.transfer import BusyError, Sleep, repeated, retry_after
from enarx.errors import EnarxError, MalformedError, RejectedError
from enarx.web.client import Client, Response
from enarx.web.problems import MEDIA_TYPE as PROBLEM_TYPE
from enarx.web.problems import error_of

API: Final = "/api/v0.1.0"  # what both generations of the originals' clients say
JSON_TYPE: Final = "application/json"
ACCEPT: Final = f"*/*, {PROBLEM_TYPE}"  # an older registry answers with its sentence alone
REFUSALS: Final = range(300, 600)

MAX_DOCUMENT: Final = 1_000_000  # bytes of a record or a tag
MAX_LISTING: Final = 16_000_000  # bytes of a list of tags
UPLOADS: Final = "enarx-uploads"  # header of a tag: whether files may come in parts
RESUMABLE: Final = "resumable"  # its value where they may


class AnsweredError(EnarxError):
    """Beneath a refusal: what the registry answered to what. The command line tells it as the originals do."""

    def __init__(self, *, method: str, status: int, sentence: str, anonymous: bool) -> None:
        super().__init__(sentence)
        self.method, self.status, self.sentence, self.anonymous = method, status, sentence, anonymous


class Wire:
    """Requests to one registry over `http`, as whoever `http` says that we are."""

    def __init__(self, http: Client, sleep: Sleep = time.sleep) -> None:
        self.http: Final = http
        self.sleep: Final = sleep
        self.is_resumable = False  # until the registry says that it is
        self._met = False  # until it has answered once

    @property
    def host(self) -> str:
        return self.http.host

    def look(self, url: str) -> canonical.Json:
        """A resource as JSON."""
        return _json(self.get(url, MAX_LISTING), f"{self.host}: {url}")

    def set(self, url: str, value: canonical.Json) -> canonical.Json:
        """Replace a resource. What the registry says of it comes back."""
        headers = {"Content-Type": JSON_TYPE, "Accept": ACCEPT}
        body = canonical.encode(value)
        answer = self.repeated(lambda: self.http.put(API + url, body, headers=headers, allow=REFUSALS))
        return self._accepted("PUT", url, answer)

    def remove(self, url: str) -> canonical.Json:
        """Remove a resource."""

        def send() -> Response:
            return self.http.request("DELETE", API + url, headers={"Accept": ACCEPT}, allow=REFUSALS)

        return self._accepted("DELETE", url, self.repeated(send))

    def make(self, url: str, value: canonical.Json) -> canonical.Json:
        """Make something new. Asked once: twice would make two."""
        return self.ask(url, canonical.encode(value), JSON_TYPE)

    def ask(self, url: str, body: bytes, media_type: str) -> canonical.Json:
        """POST, and the JSON that comes back."""
        headers = {"Content-Type": media_type, "Accept": ACCEPT}
        answer = self.http.post(API + url, body, headers=headers, allow=REFUSALS)
        return self._accepted("POST", url, answer)

    def _accepted(self, method: str, url: str, answer: Response) -> canonical.Json:
        if answer.status >= 300:
            self.refuse(method, url, answer.status, answer.headers, answer.body)
        return _json(answer, f"{self.host}: {url}") if answer.body else None

    def get(self, url: str, limit: int = MAX_DOCUMENT) -> Response:
        answer = self.fetched(url, limit)
        if answer.status >= 300:
            self.refuse("GET", url, answer.status, answer.headers, answer.body)
        return answer

    def fetched(self, url: str, limit: int) -> Response:
        return self.repeated(lambda: self.http.get(API + url, headers={"Accept": ACCEPT}, allow=REFUSALS, limit=limit))

    def object(self, url: str, what: str) -> dict[str, Any]:  # Any: parsed JSON, checked by the caller
        what = f"{self.host}: {what}"
        return canonical.members(canonical.parse(self.get(url).body, what), what)

    def put_json(self, url: str, value: canonical.Json) -> bool:
        return self.put(url, canonical.encode(value), JSON_TYPE)

    def put(self, url: str, body: bytes, media_type: str) -> bool:
        """Answers whether it is new. Raises what the registry refuses with."""
        headers = {
            "Content-Type": media_type,
            "Content-Digest": Digests.of(body).header(),
            "Accept": ACCEPT,
        }
        answer = self.repeated(lambda: self.http.put(API + url, body, headers=headers, allow=REFUSALS))
        if answer.status >= 300:
            self.refuse("PUT", url, answer.status, answer.headers, answer.body)
        self.is_resumable = self.is_resumable or answer.headers.get(UPLOADS) == RESUMABLE
        return answer.status == 201

    def repeated(self, send: Callable[[], Response]) -> Response:
        def noticed() -> Response:
            answer = send()
            self._met = True
            return answer

        return repeated(noticed, self.sleep, met=lambda: self._met)

    def refuse(self, method: str, url: str, status: int, headers: Mapping[str, str], body: bytes) -> NoReturn:
        """Raise what the answer means: in one sentence for whoever sees only that, and beneath it what was said."""
        if status < 400:
            raise MalformedError(f"{self.host}: {method} {url}: answered with a redirect, which is not followed")
        said = error_of(status, headers.get("content-type", ""), body, who="")
        sentence = str(said).removeprefix(": ")
        text, seconds = f"{self.host}: {method} {url}: {status}: {sentence}", retry_after(status, headers)
        raised = _family(said, text) if seconds is None else BusyError(text, seconds)
        raise raised from AnsweredError(method=method, status=status, sentence=sentence, anonymous=self.http.anonymous)


def _json(answer: Response, what: str) -> canonical.Json:
    found: canonical.Json = canonical.parse(answer.body, what)
    return found


def _family(error: EnarxError, text: str) -> EnarxError:
    """The same error with another text."""
    return RejectedError(text, reasons=error.reasons) if isinstance(error, RejectedError) else type(error)(text)
