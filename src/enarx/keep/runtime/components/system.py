"""wasi:cli, wasi:clocks and wasi:random for components."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Final

from enarx.keep.runtime.components.host import Implementation
from enarx.keep.runtime.components.io import Input, Output, Timer
from enarx.keep.runtime.components.values import Err, Own
from enarx.keep.runtime.descriptors import Descriptor, Null
from enarx.keep.runtime.waiting import Waiter
from enarx.keep.runtime.wasi import Exit

MAX_RANDOM: Final = 1 << 20  # bytes that may be asked for at once

_BILLION: Final = 10**9


def implementations(
    argv: Sequence[str], env: Sequence[tuple[str, str]], streams: Mapping[str, Descriptor], waiter: Waiter
) -> Mapping[str, Implementation]:
    """`streams` are the descriptors named stdin, stdout and stderr; one that is missing is empty and swallows."""
    cli, clocks, random = "wasi:cli/", "wasi:clocks/", "wasi:random/"
    stdin = Input(streams.get("stdin") or Null(), waiter)
    outputs = {name: Output(streams.get(name) or Null(), waiter) for name in ("stdout", "stderr")}

    def leave(result: object) -> None:
        raise Exit(1 if isinstance(result, Err) else 0)

    def leave_with(code: int) -> None:
        raise Exit(code)

    def datetime(nanoseconds: int) -> dict[str, int]:
        return {"seconds": nanoseconds // _BILLION, "nanoseconds": nanoseconds % _BILLION}

    def data(count: int) -> bytes:
        if count > MAX_RANDOM:
            raise ValueError("random: more than a mebibyte was asked for at once")
        return os.urandom(count)

    def number() -> int:
        return int.from_bytes(os.urandom(8), "little")

    return {
        f"{cli}environment#get-environment": lambda: list(env),
        f"{cli}environment#get-arguments": lambda: list(argv),
        f"{cli}environment#initial-cwd": lambda: None,
        f"{cli}exit#exit": leave,
        f"{cli}exit#exit-with-code": leave_with,
        f"{cli}stdin#get-stdin": lambda: Own(_Shared(stdin), "input-stream"),
        f"{cli}stdout#get-stdout": lambda: Own(_Shared(outputs["stdout"]), "output-stream"),
        f"{cli}stderr#get-stderr": lambda: Own(_Shared(outputs["stderr"]), "output-stream"),
        **{f"{cli}terminal-{name}#get-terminal-{name}": lambda: None for name in ("stdin", "stdout", "stderr")},
        f"{clocks}monotonic-clock#now": time.monotonic_ns,
        f"{clocks}monotonic-clock#resolution": lambda: 1,
        f"{clocks}monotonic-clock#subscribe-instant": lambda when: Own(Timer(when), "pollable"),
        f"{clocks}monotonic-clock#subscribe-duration": lambda span: Own(Timer(time.monotonic_ns() + span), "pollable"),
        f"{clocks}wall-clock#now": lambda: datetime(time.time_ns()),
        f"{clocks}wall-clock#resolution": lambda: {"seconds": 0, "nanoseconds": 1},
        f"{random}random#get-random-bytes": data,
        f"{random}random#get-random-u64": number,
        f"{random}insecure#get-insecure-random-bytes": data,
        f"{random}insecure#get-insecure-random-u64": number,
        f"{random}insecure-seed#insecure-seed": lambda: (number(), number()),
    }


class _Shared:
    """One of several handles to a standard stream: dropping it flushes, and closes nothing."""

    def __init__(self, stream: Input | Output) -> None:
        self._stream = stream
        for name in ("read", "blocking_read", "check", "write", "flush", "pollable"):
            if hasattr(stream, name):
                setattr(self, name, getattr(stream, name))

    def drop(self) -> None:
        if isinstance(self._stream, Output):
            self._stream.flush()
