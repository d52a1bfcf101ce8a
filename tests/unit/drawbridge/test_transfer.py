"""Patience and its end, and several transfers at once."""

from functools import partial
from threading import Barrier

import pytest

from enarx.drawbridge.transfer import ATTEMPTS, MAX_ASKED, MAX_WAIT, Crew, Patience, repeated, retry_after
from enarx.errors import NotFoundError, UnavailableError
from enarx.web.client import Response


def answer(status: int, **headers: str) -> Response:
    return Response(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_pauses_grow_and_end() -> None:
    """Each pause is twice the one before; progress begins anew; then it is enough."""
    slept: list[float] = []
    patience = Patience(slept.append)
    assert patience.again()
    patience.progress()
    assert [patience.again() for _ in range(ATTEMPTS)] == [True] * (ATTEMPTS - 1) + [False]
    assert slept == [0.5, 0.5, 1.0, 2.0]


def test_who_asks_to_wait_is_waited_for() -> None:
    """`Retry-After` counts as no failure, however often, until all of it is too much."""
    slept: list[float] = []
    answers = [answer(429, retry_after="2")] * 20 + [answer(201)]
    assert repeated(lambda: answers.pop(0), slept.append).status == 201
    assert slept == [2.0] * 20
    busy = answer(503, retry_after=str(MAX_ASKED))
    assert repeated(lambda: busy, slept.append) == busy
    assert sum(slept) <= MAX_WAIT + 50


@pytest.mark.parametrize(
    ("status", "text", "seconds"),
    [(429, "3", 3), (503, "0", 0), (200, "3", None), (429, "", None), (429, "soon", None), (429, "999999999", None), (429, "-1", None)],
)  # fmt: skip
def test_retry_after_is_read_strictly(status: int, text: str, seconds: int | None) -> None:
    """A small number of seconds with a status that says so; anything else asks for nothing."""
    assert retry_after(status, {"retry-after": text}) == seconds


def test_an_error_that_stays_is_raised() -> None:
    """Nobody answers four times: unavailable. What is no matter of patience passes at once."""
    calls: list[int] = []

    def silent() -> Response:
        calls.append(1)
        raise UnavailableError("nobody")

    with pytest.raises(UnavailableError, match="nobody"):
        repeated(silent, lambda _: None)
    assert len(calls) == ATTEMPTS
    assert repeated(lambda: answer(403), lambda _: None).status == 403


def test_several_at_once_and_told_in_order() -> None:
    """Two that wait for each other both end, so they ran at once; results come as they were given."""
    both, told = Barrier(2, timeout=20), list[int]()

    def work(number: int) -> int:
        both.wait()
        return number

    with Crew[int](told.append, workers=2) as crew:
        crew.give(lambda: work(1))
        crew.give(lambda: work(2))
        crew.now(lambda: 3)
    assert told == [1, 2, 3]


def test_the_first_failure_ends_the_crew() -> None:
    """It is raised, and what had not begun does not begin."""
    begun: list[int] = []

    def fail() -> None:
        raise NotFoundError("gone")

    def give_all() -> None:
        with Crew[None](lambda _: None, workers=1) as crew:
            crew.give(fail)
            for number in range(100):
                crew.give(partial(begun.append, number))

    with pytest.raises(NotFoundError, match="gone"):
        give_all()
    assert len(begun) < 10
