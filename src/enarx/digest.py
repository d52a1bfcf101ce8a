"""Digests: an algorithm and bytes of the right length, alone or as the set in a `Content-Digest`.

The names are those of RFC 9530 with the originals' sha-224 and sha-384 beside them. We write the
originals' header form (members joined by a comma without spaces, base64 with padding) and read
liberally: spaces and unknown algorithms are passed over, a known algorithm with a value of the
wrong length is an error. Order is always sha-224, sha-256, sha-384, sha-512.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Self, cast, get_args

from enarx.errors import MalformedError

HashName = Literal["sha-224", "sha-256", "sha-384", "sha-512"]

ALGORITHMS: Final[tuple[HashName, ...]] = get_args(HashName)
LENGTHS: Final[Mapping[HashName, int]] = {"sha-224": 28, "sha-256": 32, "sha-384": 48, "sha-512": 64}
_NEW: Final[Mapping[HashName, Callable[[], "hashlib._Hash"]]] = {
    "sha-224": hashlib.sha224,
    "sha-256": hashlib.sha256,
    "sha-384": hashlib.sha384,
    "sha-512": hashlib.sha512,
}


def hash_name(text: str) -> HashName | None:
    """The algorithm that `text` names, in any case and with or without the hyphen, or None."""
    folded = text.strip().lower()
    if folded.startswith("sha") and not folded.startswith("sha-"):
        folded = "sha-" + folded[3:]
    return folded if folded in ALGORITHMS else None


def hash_bytes(algorithm: HashName, *parts: bytes) -> bytes:
    """The hash of `parts`, one after the other."""
    state = _NEW[algorithm]()
    for part in parts:
        state.update(part)
    return state.digest()


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Digest:
    """One digest. Raises MalformedError when the value has not the algorithm's length."""

    algorithm: HashName
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != LENGTHS[self.algorithm]:
            raise MalformedError(
                f"{self.algorithm} digest: expected {LENGTHS[self.algorithm]} bytes, found {len(self.value)}"
            )

    @classmethod
    def of(cls, data: bytes, algorithm: HashName = "sha-256") -> Self:
        return cls(algorithm=algorithm, value=hash_bytes(algorithm, data))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha-256:<hex>`, `sha256:<hex>`, or 64 hexadecimal digits alone (SHA-256)."""
        name, colon, digits = text.strip().rpartition(":")
        algorithm = hash_name(name) if colon else "sha-256"
        if algorithm is None:
            raise MalformedError(
                f"digest {text!r}: unknown algorithm {name!r}, expected one of {', '.join(ALGORITHMS)}"
            )
        try:
            value = bytes.fromhex(digits)
        except ValueError as error:
            raise MalformedError(f"digest {text!r}: expected hexadecimal digits after the algorithm") from error
        if " " in digits:
            raise MalformedError(f"digest {text!r}: expected hexadecimal digits without spaces")
        return cls(algorithm=algorithm, value=value)

    @property
    def hex(self) -> str:
        return self.value.hex()

    def matches(self, data: bytes) -> bool:
        return hmac.compare_digest(self.value, hash_bytes(self.algorithm, data))

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value.hex()}"


class Digests(Mapping[HashName, bytes]):
    """An immutable set of digests of the same bytes, at most one for each algorithm."""

    __slots__ = ("_values",)

    def __init__(self, digests: Iterable[Digest] = ()) -> None:
        values = {digest.algorithm: digest.value for digest in digests}
        self._values: dict[HashName, bytes] = {name: values[name] for name in ALGORITHMS if name in values}

    @classmethod
    def of(cls, data: bytes, algorithms: Iterable[HashName] = ALGORITHMS) -> Self:
        return cls(Digest.of(data, algorithm) for algorithm in algorithms)

    @classmethod
    def parse_header(cls, text: str) -> Self:
        """Read a `Content-Digest` field: `alg=:BASE64:` members. An empty field is the empty set."""
        return cls(_member(part) for part in text.split(",") if part.strip() and _known(part))

    @classmethod
    def from_json(cls, members: Mapping[str, str]) -> Self:
        """Read the `digest` object of an Entry; unknown algorithms are an error there, for they are hashed."""
        found = []
        for name, text in members.items():
            if name not in ALGORITHMS:
                raise MalformedError(f"digest: unknown algorithm {name!r}, expected one of {', '.join(ALGORITHMS)}")
            found.append(Digest(algorithm=name, value=_base64(text, name)))
        return cls(found)

    def header(self) -> str:
        return ",".join(f"{name}=:{base64.b64encode(value).decode()}:" for name, value in self._values.items())

    def to_json(self) -> dict[str, str]:
        return {name: base64.b64encode(value).decode() for name, value in self._values.items()}

    def digests(self) -> tuple[Digest, ...]:
        return tuple(Digest(algorithm=name, value=value) for name, value in self._values.items())

    def agrees(self, other: "Digests") -> bool:
        """Whether both name an algorithm in common, and are equal in every one they have in common."""
        common = [name for name in self._values if name in other]
        return bool(common) and all(hmac.compare_digest(self._values[name], other[name]) for name in common)

    def __getitem__(self, name: HashName) -> bytes:
        return self._values[name]

    def __iter__(self) -> Iterator[HashName]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digests) and self._values == other._values

    def __repr__(self) -> str:
        return f"Digests({self.header()!r})"


class Hasher:
    """Hashes bytes as they pass, with several algorithms at once, and counts them."""

    __slots__ = ("_states", "length")

    def __init__(self, algorithms: Iterable[HashName] = ("sha-256",)) -> None:
        self._states = {name: _NEW[name]() for name in algorithms}
        self.length = 0

    def update(self, data: bytes | memoryview) -> None:
        for state in self._states.values():
            state.update(data)
        self.length += len(data)

    def digests(self) -> Digests:
        return Digests(Digest(algorithm=name, value=state.digest()) for name, state in self._states.items())


def _known(part: str) -> bool:
    return part.partition("=")[0].strip().lower() in ALGORITHMS


def _member(part: str) -> Digest:
    name, _, text = part.strip().partition("=")
    text = text.split(";", 1)[0].strip()  # RFC 9530 members may carry parameters; none is defined
    if len(text) < 2 or text[0] != ":" or text[-1] != ":":
        raise MalformedError(f"Content-Digest: {name.strip()}: expected :BASE64:, found {text[:80]!r}")
    algorithm = cast("HashName", name.strip().lower())
    return Digest(algorithm=algorithm, value=_base64(text[1:-1], algorithm))


def _base64(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"digest {name}: expected padded base64, found {text[:100]!r}") from error
