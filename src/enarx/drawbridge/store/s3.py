"""A store in a bucket of any S3-compatible service: the only state that any number of Drawbridges share.

    s3://BUCKET[/PREFIX][?endpoint=URL][&region=NAME]

Credentials come from where those of AWS tools come from (AWS_ACCESS_KEY_ID and the like), never from the location.

Everything rests on `If-None-Match: *`: of many who create one object, one does. Services that accept the header and
ignore it exist, so opening a bucket tries it, also with several at once, and refuses where it does not hold. An answer
that got lost on the way is no conflict: who created an object knows it by a number in its metadata.

Small objects are one PUT. Longer ones are multipart uploads straight to their key, which show nothing before they are
completed and overwrite only what is the same; where the key is not known before the end, they go to `staging/` and
are copied. An upload that dies leaves parts that no listing shows: let the bucket's lifecycle abort incomplete
multipart uploads after some days.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from queue import Full, Queue
from secrets import token_hex
from threading import Thread
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import parse_qs, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store as Bucket

from enarx.drawbridge.store.api import CHUNK, Item, Key, UploadBase
from enarx.errors import ConflictError, MalformedError, NotFoundError, UnavailableError
from enarx.web.place import is_loopback

if TYPE_CHECKING:
    from obstore.store import RetryConfig

SMALL: Final = 5 << 20  # bytes up to which an object is one PUT; the least that a part may have
PART: Final = 8 << 20  # bytes of a part; S3 allows 10,000 of them, so 80 GB is the most that an object can have
_PARTS_AT_ONCE: Final = 2  # being sent; each is in memory
_QUEUED: Final = 4  # pieces that wait to be sent
_COPY: Final = 4 << 30  # bytes that a service copies by itself; beyond, S3 refuses
_RETRY: "Final[RetryConfig]" = {
    "max_retries": 8,
    "backoff": {"init_backoff": timedelta(milliseconds=20), "max_backoff": timedelta(seconds=2), "base": 2},
    "retry_timeout": timedelta(seconds=60),
}
_STAGING: Final = "staging"
_WRITER: Final = "enarx-writer"
_PROBES: Final = 3
_OPTIONS: Final = frozenset({"endpoint", "region"})


class S3Store:
    """Objects in a bucket, all under one prefix."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @classmethod
    def open(cls, location: str) -> Self:
        """The store at a URL. Raises UnavailableError when the bucket can not be used, or not be relied upon."""
        store = cls(_bucket(location))
        store.require_conditional_create()
        return store

    def require_conditional_create(self) -> None:
        """Raises UnavailableError unless exactly one of those who create an object at once does."""
        for _ in range(_PROBES):
            key = Key.of("probe", token_hex(16))

            def attempt(_: int, key: Key = key) -> bool:
                try:
                    self.create(key, b"")
                except ConflictError:
                    return False
                return True

            try:
                with ThreadPoolExecutor(_PROBES) as pool:
                    made = sum(pool.map(attempt, range(_PROBES))) + attempt(0)
            finally:
                with suppress(UnavailableError):  # what it hides behind is what matters
                    self.delete(key)
            if made != 1:
                raise UnavailableError(
                    f"storage: this service does not hold to conditional create (If-None-Match): of {_PROBES + 1} who"
                    f" created one object {made} were told that they did; two publishers could overwrite each other"
                )

    def get(self, key: Key, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        if stop is not None and start >= stop:
            if self.stat(key) is None:
                raise NotFoundError(f"storage: no object {key}")
            return iter(())
        try:
            with _translated("read"):
                if stop is not None:
                    found = obstore.get(self._bucket, key.text, options={"range": (start, stop)})
                elif start:
                    found = obstore.get(self._bucket, key.text, options={"range": {"offset": start}})
                else:
                    found = obstore.get(self._bucket, key.text)
                pieces = iter(found.stream(min_chunk_size=CHUNK))
        except FileNotFoundError as error:
            raise NotFoundError(f"storage: no object {key}") from error
        except UnavailableError:
            item = self.stat(key)
            if item is not None and start >= item.size:
                return iter(())  # a range behind the end is an error there (416)
            raise
        return _bounded(pieces)

    def stat(self, key: Key) -> Item | None:
        try:
            with _translated("stat"):
                found = obstore.head(self._bucket, key.text)
        except FileNotFoundError:
            return None
        return Item(key=key, size=found["size"], modified=found["last_modified"])

    def list(self, prefix: Key, after: Key | None = None) -> Iterator[Item]:
        with _translated("list"):
            pages = iter(
                obstore.list(self._bucket, prefix.text, offset=None if after is None else after.text, chunk_size=1000)
            )
        while True:
            with _translated("list"):
                page = next(pages, None)
            if page is None:
                return
            for found in page:
                key = Key(found["path"])
                if after is None or key > after:
                    yield Item(key=key, size=found["size"], modified=found["last_modified"])

    def create(self, key: Key, data: bytes) -> None:
        writer = token_hex(16)
        try:
            with _translated("create"):
                obstore.put(self._bucket, key.text, data, mode="create", attributes={_WRITER: writer})
        except ConflictError:
            if self._writer(key) != writer:
                raise ConflictError(f"storage: there is an object {key}") from None

    def upload(self, key: Key | None = None) -> "S3Upload":
        return S3Upload(self._bucket, key)

    def delete(self, key: Key) -> None:
        with suppress(FileNotFoundError), _translated("delete"):
            obstore.delete(self._bucket, key.text)

    def sweep(self, before: datetime) -> int:
        old = [item.key for item in self.list(Key(_STAGING)) if item.modified < before]
        for key in old:
            self.delete(key)
        return len(old)

    def _writer(self, key: Key) -> str | None:
        try:
            with _translated("read"):
                return dict(obstore.get(self._bucket, key.text).attributes).get(_WRITER)
        except FileNotFoundError:
            return None


class S3Upload(UploadBase):
    """Held in memory while it is small, then sent on by a thread of its own as a multipart upload."""

    def __init__(self, bucket: Bucket, key: Key | None) -> None:
        self._bucket = bucket
        self._target = key.text if key is not None else f"{_STAGING}/{token_hex(16)}"
        self._held = bytearray()
        self._sender: _Sender | None = None
        self._size = 0
        self._open = True

    def write(self, data: bytes | memoryview) -> None:
        self._size += len(data)
        if self._sender is None:
            self._held += data
            if len(self._held) <= SMALL:
                return
            self._sender = _Sender(self._bucket, self._target)
            data, self._held = bytes(self._held), bytearray()
        self._sender.send(bytes(data))

    def commit(self, key: Key) -> None:
        self._open = False
        if self._sender is None:
            with _translated("write"):
                obstore.put(self._bucket, key.text, bytes(self._held), use_multipart=False)
            return
        self._sender.finish()
        if self._target != key.text:
            self._move(key.text)

    def abort(self) -> None:
        if self._open:
            self._open = False
            self._held = bytearray()
            if self._sender is not None:
                self._sender.cancel()

    def _move(self, path: str) -> None:
        with _translated("copy"):
            if self._size <= _COPY:
                obstore.copy(self._bucket, self._target, path)
            else:
                pieces = obstore.get(self._bucket, self._target).stream(min_chunk_size=PART)
                obstore.put(self._bucket, path, iter(pieces), chunk_size=PART, max_concurrency=_PARTS_AT_ONCE)
            obstore.delete(self._bucket, self._target)


class _Sender:
    """A thread that sends what it is given. The library takes an iterator; we are given pieces one by one."""

    def __init__(self, bucket: Bucket, path: str) -> None:
        self._pieces: Queue[bytes | _Cancelled | None] = Queue(_QUEUED)
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, args=(bucket, path), name="s3-upload", daemon=True)
        self._thread.start()

    def send(self, piece: bytes | None) -> None:
        """Wait until there is room. Raises UnavailableError when sending has failed."""
        while True:
            self._raise()
            with suppress(Full):
                self._pieces.put(piece, timeout=1)
                return

    def finish(self) -> None:
        self.send(None)
        self._thread.join()
        self._raise()

    def cancel(self) -> None:
        while self._thread.is_alive():
            with suppress(Full):
                self._pieces.put(_Cancelled(), timeout=0.1)
            self._thread.join(0.1)

    def _run(self, bucket: Bucket, path: str) -> None:
        try:
            with _translated("write"):
                obstore.put(bucket, path, self._all(), chunk_size=PART, max_concurrency=_PARTS_AT_ONCE)
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits, whatever it is
            self._error = error

    def _all(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, _Cancelled):
                raise piece
            yield piece

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class _Cancelled(Exception):  # noqa: N818 - nobody catches it: it makes the library abort
    """An upload that is not to be completed."""


def _bucket(location: str) -> Bucket:
    url = urlsplit(location if location.startswith("s3:") else f"s3:{location}")
    options = {name: values[-1] for name, values in parse_qs(url.query).items()}
    unknown = sorted(set(options) - _OPTIONS)
    if url.scheme != "s3" or not url.hostname or url.username or url.password or unknown:
        raise MalformedError("storage: expected s3://BUCKET[/PREFIX][?endpoint=URL][&region=NAME], without credentials")
    endpoint = options.get("endpoint")
    plain = endpoint is not None and urlsplit(endpoint).scheme == "http"
    if plain and not is_loopback(urlsplit(str(endpoint)).hostname or ""):
        raise MalformedError(
            "storage: expected an endpoint with https, for everything goes through it; http is loopback's"
        )
    with _translated("open"):
        return Bucket(
            url.netloc,
            prefix=url.path.strip("/") or None,
            region=options.get("region", "us-east-1"),
            retry_config=_RETRY,
            client_options={"allow_http": plain, "timeout": "1h", "connect_timeout": "10s"},
            config={"disable_bulk_delete": True, **({} if endpoint is None else {"endpoint": endpoint})},
        )


def _bounded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """In pieces of at most CHUNK, with errors said as ours."""
    while True:
        with _translated("read"):
            piece = next(pieces, None)
        if piece is None:
            return
        view = memoryview(piece)
        for at in range(0, len(view), CHUNK):
            yield bytes(view[at : at + CHUNK])


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except (AlreadyExistsError, PreconditionError) as error:
        raise ConflictError("storage: there is such an object") from error
    except FileNotFoundError:
        raise
    except (BaseError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnavailableError(f"storage: {doing}: {type(error).__name__}: {reason}") from error
