"""Events with fields, as JSON lines for machines or one line of text for people.

An event is a name and a few fields that the caller chose: never a token, a key, a body or whole
headers. Values are shortened, and control characters never reach the stream as they are, so a
request can not forge a line. Everything goes through the `logging` of the standard library under
`enarx`, so an embedding program can route it as it likes; `configure` is what our servers call.
"""

import json
import logging
import re
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

Format = Literal["text", "json"]
Value = str | int | float | bool | None

ROOT: Final = "enarx"
MAX_VALUE: Final = 500  # characters of one field
MAX_FRAMES: Final = 20
_PLAIN: Final = re.compile(r"[!#-<>-~]+")  # ASCII that prints, without space, quote and equals sign


_UNKNOWN: Final = vars(logging.LogRecord("", logging.NOTSET, "", 0, "", (), None)) | dict.fromkeys(
    ("thread", "threadName", "process", "processName", "taskName")
)


class Log:
    """The events of one part of the house, such as `steward`."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{ROOT}.{name}")

    def info(self, event: str, **fields: Value) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Value) -> None:
        self._write(logging.WARNING, event, fields)

    def bug(self, event: str, error: BaseException, **fields: Value) -> None:
        """An error that is not ours: its type and where it came from, not its text, which may hold anything."""
        frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
        where = " < ".join(
            f"{frame.name} ({frame.filename.rpartition('/')[2]}:{frame.lineno})" for frame in frames[::-1]
        )
        self._write(logging.ERROR, event, {**fields, "error": type(error).__name__, "where": where})
        self._logger.debug(event, exc_info=error)

    def _write(self, level: int, event: str, fields: dict[str, Value]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.handle(_Event(self._logger.name, level, event, fields))


class _Event(logging.LogRecord):
    """A record without what takes longest to find out and no format of ours shows: file, line, thread and process."""

    def __init__(self, name: str, level: int, event: str, fields: dict[str, Value]) -> None:
        now = time.time()
        self.__dict__ = {**_UNKNOWN, "name": name, "levelno": level, "levelname": logging.getLevelName(level)}
        self.msg, self.fields = event, fields
        self.created, self.msecs = now, now % 1 * 1000


def configure(style: Format = "text", *, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Write the house's events to `stream` (default: standard error). Calling it again replaces the former way."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logger = logging.getLogger(ROOT)
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, part, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "part": record.name.removeprefix(f"{ROOT}."),
            "event": record.getMessage(),
            **{name: _short(value) for name, value in _fields(record).items()},
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


class TextFormatter(logging.Formatter):
    """`time part event field=value …`; a value with anything but plain characters is quoted."""

    def format(self, record: logging.LogRecord) -> str:
        words = [_time(record), record.name.removeprefix(f"{ROOT}."), record.getMessage()]
        words += [f"{name}={_plain(value)}" for name, value in _fields(record).items()]
        line = (
            " ".join(words) if record.levelno < logging.WARNING else " ".join([words[0], record.levelname, *words[1:]])
        )
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def _fields(record: logging.LogRecord) -> dict[str, Value]:
    return record.fields if isinstance(record, _Event) else {}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _short(value: Value) -> Value:
    return value[:MAX_VALUE] if isinstance(value, str) else value


def _plain(value: Value) -> str:
    if not isinstance(value, str):
        return "-" if value is None else str(value)
    short = value[:MAX_VALUE]
    return short if _PLAIN.fullmatch(short) else json.dumps(short)
