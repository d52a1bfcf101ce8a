"""What every storage promises: the same suite over memory, directories of both kinds, and a real S3 server."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import pytest

from enarx.drawbridge import layout
from enarx.drawbridge.content import Contents
from enarx.drawbridge.records import DamagedError
from enarx.drawbridge.store import STORES, FilesystemStore, Key, MemoryStore, Store, open_store
from enarx.drawbridge.store.api import CHUNK, Prompt
from enarx.errors import ConflictError, MalformedError, NotFoundError, UnavailableError
from tests import seaweed

KEY = Key("folder/name")
LONG = bytes(range(256)) * 50_000  # beyond what is sent in one piece anywhere
KINDS = ("memory", "file", "file-named", "s3")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[seaweed.Seaweed]:
    """One S3 server for all; each test has a prefix of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in seaweed.CREDENTIALS.items():
            patch.setenv(name, value)
        running = seaweed.start(tmp_path_factory.mktemp("weed"))
        yield running
        running.stop()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each storage, empty."""
    if request.param == "memory":
        return MemoryStore()
    if request.param == "s3":
        return open_store(request.getfixturevalue("server").location(uuid4().hex))
    return FilesystemStore(tmp_path / "store", unnamed_files=request.param == "file")


def read(store: Store, key: Key = KEY, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(store.get(key, start, stop))


def write(store: Store, data: bytes, key: Key = KEY, early: Key | None = None) -> None:
    with store.upload(early) as upload:
        for at in range(0, len(data), 1_000_000):
            upload.write(memoryview(data)[at : at + 1_000_000])
        upload.commit(key)


def keys(store: Store, prefix: str = "folder") -> list[str]:
    return [item.key.text for item in store.list(Key(prefix))]


def test_every_storage_is_in_the_suite() -> None:
    """A storage that is offered is held to the contract."""
    assert {kind.partition("-")[0] for kind in KINDS} == set(STORES)


def test_what_was_created_is_there(store: Store) -> None:
    """Bytes, size and a moment; before that, nothing."""
    assert store.stat(KEY) is None
    with pytest.raises(NotFoundError):
        store.get(KEY)
    store.create(KEY, b"data")
    item = store.stat(KEY)
    assert item is not None
    assert (item.key, item.size) == (KEY, 4)
    assert abs(item.modified - datetime.now(UTC)) < timedelta(hours=1)
    assert read(store) == b"data"
    assert keys(store) == [KEY.text]


@pytest.mark.parametrize("data", [b"other", b"data", b""])
def test_what_is_there_can_not_be_created(store: Store, data: bytes) -> None:
    """The same bytes or others: a conflict, and what was there is untouched."""
    store.create(KEY, b"data")
    with pytest.raises(ConflictError):
        store.create(KEY, data)
    assert read(store) == b"data"


def test_of_many_who_create_one_does(store: Store) -> None:
    """Sixteen at once, several times: one is told yes, and it is that one's bytes which are there."""
    for number in range(5):
        key = Key(f"race/{number}")
        barrier = Barrier(16)

        def attempt(index: int, key: Key = key, barrier: Barrier = barrier) -> bytes | None:
            data = b"%d" % index * 100
            barrier.wait(30)
            try:
                store.create(key, data)
            except ConflictError:
                return None
            return data

        with ThreadPoolExecutor(16) as pool:
            won = [data for data in pool.map(attempt, range(16)) if data is not None]
        assert won == [read(store, key)]


@pytest.mark.parametrize("early", [KEY, None])
@pytest.mark.parametrize("data", [b"", b"small", LONG], ids=["empty", "small", "long"])
def test_an_upload_appears_whole(store: Store, data: bytes, early: Key | None) -> None:
    """Nothing can be seen before it is committed, everything after; whether its key was known early or not."""
    with store.upload(early) as upload:
        upload.write(data)
        assert store.stat(KEY) is None
        assert keys(store) == []
        upload.commit(KEY)
    assert read(store) == data
    assert keys(store) == [KEY.text]


@pytest.mark.parametrize("data", [b"small", LONG], ids=["small", "long"])
def test_an_upload_that_is_not_committed_leaves_nothing(store: Store, data: bytes) -> None:
    """Left, aborted, aborted twice, or broken by an error: there was nothing."""
    with store.upload(KEY) as upload:
        upload.write(data)
    upload.abort()
    with pytest.raises(ValueError, match="broken"), store.upload() as upload:  # noqa: PT012 - it breaks in the middle
        upload.write(data)
        raise ValueError("broken")
    assert store.stat(KEY) is None
    assert keys(store) == []
    assert store.sweep(datetime.now(UTC) + timedelta(days=1)) == 0


def test_an_upload_replaces_what_is_there(store: Store) -> None:
    """At no moment is there anything but one of the two."""
    for data in (b"first", LONG, b"third"):
        write(store, data)
        assert read(store) == data
    assert keys(store) == [KEY.text]


def test_a_replaced_object_is_as_new(store: Store) -> None:
    """Whoever stores content again starts its grace period anew."""
    write(store, b"data")
    before = store.stat(KEY)
    write(store, b"data")
    after = store.stat(KEY)
    assert before is not None
    assert after is not None
    assert after.modified >= before.modified


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, None), (0, 1), (3, 7), (CHUNK - 1, CHUNK + 1), (len(LONG) - 5, None), (len(LONG) - 5, len(LONG) + 5),
     (0, 0), (7, 3), (len(LONG), None), (len(LONG) + 9, len(LONG) + 10)],
)  # fmt: skip
def test_a_range_is_what_it_says(store: Store, start: int, stop: int | None) -> None:
    """Also across pieces, at the end, and behind it; and pieces are no larger than promised."""
    write(store, LONG)
    assert all(0 < len(piece) <= CHUNK for piece in store.get(KEY, start, stop))
    assert read(store, KEY, start, stop) == LONG[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(0, None), (131_072, 1_000_000), (5_000_000, None), (len(LONG), None)])
def test_what_is_at_hand_is_what_comes_next(store: Store, start: int, stop: int | None) -> None:
    """In any mixture with waiting for it; a storage that never has anything at hand need not say so."""
    write(store, LONG)
    pieces, found, turn = store.get(KEY, start, stop), bytearray(), 0
    while True:
        turn += 1
        piece = pieces.now() if isinstance(pieces, Prompt) and turn % 3 else None
        if piece is None:
            piece = next(pieces, None)
        if piece is None:
            break
        found += piece
    assert found == LONG[start:stop]
    assert not isinstance(pieces, Prompt) or pieces.now() is None


def test_long_content_is_compared_wherever_it_is(store: Store) -> None:
    """By a server that stored it and by one that begins, whole and in part, however the storage cuts it; damage never passes."""
    digest = Contents(store).put(LONG)
    for contents in (Contents(store), Contents(store)):
        for start, stop in [(300_000, 9_000_000), (0, None), (0, None), (len(LONG) - 1, None)]:
            assert b"".join(contents.read(digest, len(LONG), start, stop)) == LONG[start:stop]
    with store.upload() as upload:
        upload.write(LONG[:-1] + b"?")
        upload.commit(layout.blob(digest))
    for server in (contents, Contents(store)):
        received = bytearray()
        with pytest.raises(DamagedError):
            received.extend(chain.from_iterable(server.read(digest, len(LONG))))
        assert LONG.startswith(received)
        assert len(received) < len(LONG)


def test_a_listing_has_all_under_its_prefix(store: Store) -> None:
    """Names in order, at any depth, and nothing of another prefix that begins alike."""
    names = [f"n{number:04d}" for number in range(30)]
    for name in reversed(names):
        store.create(Key(f"flat/{name}"), b"x")
    assert keys(store, "flat") == [f"flat/{name}" for name in names]
    assert [item.key.name for item in store.list(Key("flat"), Key("flat/n0027"))] == names[28:]
    for text in ("deep/a/b/c", "deep/a/d", "deep/e", "deeper/x"):
        store.create(Key(text), b"x")
    assert keys(store, "deep") == ["deep/a/b/c", "deep/a/d", "deep/e"]
    names = ["deep/a/b/c", "deep/a/d", "deep/e"]
    for number, name in enumerate(names):
        assert [item.key.text for item in store.list(Key("deep"), Key(name))] == names[number + 1 :]
    assert [item.key.text for item in store.list(Key("deep"), Key("deep/a0"))] == names[2:]
    assert keys(store, "absent") == []
    assert {item.size for item in store.list(Key("deep"))} == {1}


def test_a_prefix_is_no_object(store: Store) -> None:
    """What is above an object can not be read, and is not there."""
    store.create(KEY, b"data")
    assert store.stat(Key("folder")) is None
    with pytest.raises(NotFoundError):
        b"".join(store.get(Key("folder")))


def test_what_was_deleted_is_gone(store: Store) -> None:
    """Twice is no error; afterwards one may create it again."""
    store.create(KEY, b"data")
    store.delete(KEY)
    store.delete(KEY)
    assert store.stat(KEY) is None
    assert keys(store) == []
    store.create(KEY, b"again")
    assert read(store) == b"again"


def test_two_uploads_of_one_content_do_no_harm(store: Store) -> None:
    """Both end well, and it is there once."""
    with store.upload(KEY) as first, store.upload(KEY) as second:
        first.write(LONG)
        second.write(LONG)
        first.commit(KEY)
        second.commit(KEY)
    assert read(store) == LONG
    assert keys(store) == [KEY.text]


def test_who_reads_is_not_disturbed(store: Store) -> None:
    """An object that is replaced by the same bytes while it is read is read to its end."""
    write(store, LONG)
    pieces = store.get(KEY)
    first = next(pieces)
    write(store, LONG)
    assert first + b"".join(pieces) == LONG


@pytest.mark.parametrize(
    "text",
    ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/.hidden", "a/./b", "a\\b", "a b", "a\0b", "a%2fb", "ä",
     "a/" + "x" * 256, "a" + "/a" * 500],
)  # fmt: skip
def test_a_key_can_not_escape(text: str) -> None:
    """Nothing that climbs, hides, or is empty is a key at all."""
    with pytest.raises(MalformedError, match="storage key"):
        Key(text)


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_directory_holds_nothing_but_objects(tmp_path: Path, *, unnamed: bool) -> None:
    """Private files by the names of their keys, and nothing left over of those who gave up."""
    store = FilesystemStore(tmp_path / "s", unnamed_files=unnamed)
    write(store, b"data")
    store.create(Key("folder/other"), b"x")
    with store.upload() as upload:
        upload.write(b"gone")
    files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert sorted(path.relative_to(tmp_path / "s").as_posix() for path in files) == ["folder/name", "folder/other"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_nlink for path in files} == {1}


def test_a_removed_directory_is_made_again(tmp_path: Path) -> None:
    """Who tidied up empty directories has done no harm."""
    store = FilesystemStore(tmp_path / "s")
    store.create(KEY, b"x")
    store.delete(KEY)
    (tmp_path / "s" / "folder").rmdir()
    store.create(KEY, b"y")
    assert read(store) == b"y"


def test_descriptors_are_closed(tmp_path: Path) -> None:
    """Whether a reading came to its end or was given up."""
    store = FilesystemStore(tmp_path / "s")
    write(store, LONG)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        next(store.get(KEY))
        read(store)
        store.upload().abort()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    "location",
    ["s3://", "ftp://x", "s3://key:secret@bucket", "s3://b?x=y", "s3://b?endpoint=http://198.51.100.1:1", "s3:"],
)
def test_a_location_that_is_none_is_refused(location: str) -> None:
    """Before anything is asked, and without repeating what may be a secret."""
    with pytest.raises(MalformedError, match="storage") as caught:
        open_store(location)
    assert "secret" not in str(caught.value)


def test_locations_of_directories(tmp_path: Path) -> None:
    """With and without a scheme."""
    open_store(f"file:{tmp_path}/one").create(KEY, b"x")
    open_store(f"{tmp_path}/two").create(KEY, b"x")
    assert (tmp_path / "one" / "folder" / "name").read_bytes() == (tmp_path / "two" / "folder" / "name").read_bytes()
    assert isinstance(open_store("memory:"), MemoryStore)
    with pytest.raises(UnavailableError, match="storage: open: "):
        open_store("/proc/nowhere/store")


def test_a_bucket_whose_create_overwrites_is_refused(server: seaweed.Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that ignores If-None-Match would let two publishers overwrite each other: it is not served from."""
    import obstore

    put: Callable[..., object] = obstore.put

    def careless(*arguments: object, mode: str | None = None, **options: object) -> object:
        return put(*arguments, **options)

    monkeypatch.setattr("obstore.put", careless)
    with pytest.raises(UnavailableError, match=r"does not hold to conditional create .* 4 were told"):
        open_store(server.location("careless"))


def test_an_answer_that_got_lost_is_no_conflict(server: seaweed.Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A create that was done, but whose answer never came, is done; the retry's conflict is with itself."""
    import obstore

    put: Callable[..., object] = obstore.put
    store = open_store(server.location(uuid4().hex))

    def twice(*arguments: object, **options: object) -> object:
        put(*arguments, **options)
        return put(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("obstore.put", twice)
        store.create(KEY, b"data")
    with pytest.raises(ConflictError):
        store.create(KEY, b"data")


def test_a_service_that_does_not_answer_is_told(server: seaweed.Seaweed) -> None:
    """The error says what failed, and has no credentials."""
    location = server.location("x").rpartition(":")[0] + ":9"
    with pytest.raises(UnavailableError, match="storage: create: ") as caught:
        open_store(location)
    assert seaweed.CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
