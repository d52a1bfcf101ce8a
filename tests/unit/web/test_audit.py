"""What an audit line looks like, whichever encoder writes it."""

import json
from datetime import UTC, datetime

import pytest

from enarx.web.audit import AuditLog

NOW = datetime(2026, 1, 31, 12, 30, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        'a "b" \\ \n\t\0\x1f',
        "\x7f",
        "é\u2028\u202e",
        "\U0001f511 ← é\x7f\x80",
        "\ud800",
        2**200,
        -1,
        0.25,
        None,
        True,
        ["a", {"b": "c"}],
    ],
    ids=ascii,
)
def test_a_line_is_printable_ascii_and_says_what_was_told(value: object) -> None:
    """Nothing that a requester sends can end a line, hide in it, or keep it from being written; others read it as JSON."""
    lines: list[bytes] = []

    def write(line: bytes) -> int:
        lines.append(line)
        return len(line)

    AuditLog(write).write("decision", NOW, told=value)
    (line,) = lines
    assert line[-1:] == b"\n"
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    assert json.loads(line) == {"time": "2026-01-31T12:30:05.000000Z", "event": "decision", "told": value}
    expected = json.dumps(
        {"time": "2026-01-31T12:30:05.000000Z", "event": "decision", "told": value}, separators=(",", ":")
    )
    assert line[:-1] == expected.encode().replace(b"\x7f", b"\\u007f")
