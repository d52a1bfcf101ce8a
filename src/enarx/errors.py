"""What can go wrong, and what the caller can do about it.

    EnarxError
    ├── MalformedError      the bytes are not what they claim to be
    ├── UntrustedError      well formed, but nobody we trust vouches for it
    ├── RejectedError       authentic, but policy says no (carries every reason)
    ├── DeniedError         we know who you are, and you may not
    ├── NotFoundError       nothing by that name
    ├── ConflictError       already something by that name
    └── UnavailableError    somebody we depend on did not answer

Leaves are defined beside the code that raises them, and only if somebody catches them.
Nothing here knows of HTTP or exit codes: `enarx.web.problems` and `enarx.cli.exits` do.
"""

from collections.abc import Iterable


class EnarxError(Exception):
    """Root of everything we raise on purpose; anything else is a bug."""


class MalformedError(EnarxError):
    """The bytes are not what they claim to be."""


class UntrustedError(EnarxError):
    """Well formed, but nobody we trust vouches for it."""


class RejectedError(EnarxError):
    """Authentic, but policy says no. `reasons` holds every failed rule, not only the first."""

    def __init__(self, message: str, *, reasons: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons) or (message,)


class DeniedError(EnarxError):
    """We know who you are, and you may not."""


class NotFoundError(EnarxError):
    """Nothing by that name, or nothing that the caller may know of."""


class ConflictError(EnarxError):
    """There is already something by that name."""


class UnavailableError(EnarxError):
    """Somebody we depend on did not answer, or not in time."""
