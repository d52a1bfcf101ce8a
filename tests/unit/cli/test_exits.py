"""How programs end: every family has its code, and errors are told once."""

import json
import os

import click
import pytest

from enarx.cli import exits
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


def ends(
    raised: BaseException | None, capsys: pytest.CaptureFixture[str], *options: str, code: int = 0
) -> tuple[int, str]:
    @click.group(cls=exits.Program)
    def program() -> None:
        pass

    @program.command()
    @click.option("--json", "as_json", is_flag=True)
    @click.pass_context
    def act(ctx: click.Context, *, as_json: bool) -> None:
        if raised is not None:
            raise raised
        ctx.exit(code)

    with pytest.raises(SystemExit) as end:
        program.main(["act", *options])
    return int(end.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("family", "code"),
    [
        (MalformedError, 65),
        (UntrustedError, 77),
        (DeniedError, 77),
        (NotFoundError, 66),
        (ConflictError, 73),
        (UnavailableError, 69),
    ],
)
def test_every_family_has_its_code(family: type[EnarxError], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The codes are those of the table, and the message is the error's."""
    assert ends(family("why"), capsys) == (code, "Error: why\n")


def test_all_reasons_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A rejection tells every rule that was broken."""
    code, told = ends(RejectedError("a; b", reasons=["a", "b"]), capsys)
    assert (code, told) == (77, "Error: a; b\n  - a\n  - b\n")


def test_causes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """What caused an error stands beneath it."""
    error = UnavailableError("no answer")
    error.__cause__ = OSError("connection refused")
    assert ends(error, capsys)[1] == "Error: no answer\n\nCaused by:\n    connection refused\n"


def test_the_system_is_quoted_without_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """What the system says, and of which file."""
    error = ConflictError("it is there")
    error.__cause__ = FileExistsError(17, "File exists", "Enarx.toml")
    assert ends(error, capsys)[1] == "Error: it is there\n\nCaused by:\n    Enarx.toml: File exists\n"
    error.__cause__ = RuntimeError("[Errno 111] Connection refused")  # as libraries wrap it
    assert ends(error, capsys)[1] == "Error: it is there\n\nCaused by:\n    Connection refused\n"
    told = UnavailableError("localhost: Connection refused")
    told.__cause__ = error.__cause__
    assert ends(told, capsys)[1] == "Error: localhost: Connection refused\n"


def test_who_stops_reading_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    """As under `| head`: nothing is said, and the exit is that of success."""
    spare = os.dup(1)
    try:
        assert ends(BrokenPipeError(32, "Broken pipe"), capsys) == (0, "")
    finally:
        os.dup2(spare, 1)
        os.close(spare)


def test_a_chain_of_causes_is_numbered(capsys: pytest.CaptureFixture[str]) -> None:
    """Several causes are numbered, as the originals do; one that its effect quotes is not told twice."""
    bottom = OSError("refused")
    middle = UnavailableError("localhost:1: refused")
    top = UnavailableError("GET request failed")
    outer = UnavailableError("Failed to get record")
    outer.__cause__, top.__cause__, middle.__cause__ = top, middle, bottom
    expected = "Error: Failed to get record\n\nCaused by:\n    0: GET request failed\n    1: localhost:1: refused\n"
    assert ends(outer, capsys)[1] == expected


@pytest.mark.parametrize(
    ("raised", "members"),
    [
        (RejectedError("a; b", reasons=["a", "b"]), {"family": "rejected", "code": 77, "reasons": ["a", "b"]}),
        (NotFoundError("none"), {"family": "not-found", "code": 66}),
        (click.UsageError("no"), {"family": "usage", "code": 64}),
        (KeyError("Bearer secret"), {"family": "bug", "code": 70}),
        (KeyboardInterrupt(), {"family": "interrupted", "code": 130}),
    ],
)
def test_programs_get_json(
    raised: BaseException, members: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json the error is one object, with its family and its code."""
    code, told = ends(raised, capsys, "--json")
    error = json.loads(told.strip())["error"]
    assert {name: error[name] for name in members} == members
    assert code == members["code"]
    assert "secret" not in told


def test_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted program ends with 130."""
    assert ends(KeyboardInterrupt(), capsys) == (130, "\nAborted.\n")


def test_a_bug_is_told_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    """What is no error of ours exits with 70 and says where it came from."""
    code, told = ends(ZeroDivisionError("x"), capsys)
    assert code == 70
    assert "ZeroDivisionError in act (test_exits.py:" in told
    assert "Traceback" not in told


def test_usage_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is 64; a command's own code comes through."""
    assert ends(click.UsageError("no"), capsys)[0] == 64
    assert ends(None, capsys, code=7)[0] == 7
