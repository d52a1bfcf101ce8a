"""TCB info and QE identity: the JSON that Intel signs, read without ever being written again.

`{"tcbInfo":{…},"signature":"<128 hex>"}` (version 3) and `{"enclaveIdentity":{…},"signature":…}`
(version 2), as Intel's Provisioning Certification Service v4 serves them. The signature covers the
exact text of the inner object, so its span is located in the text that came, and only that span is
parsed and verified. Size, depth and numbers are bounded before parsing; duplicate keys, floats,
NaN, escapes and anything outside ASCII are refused, for Intel writes none of them. Unknown members
inside the signed object are passed over: Intel adds some. Nothing is judged here.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, NoReturn, Self, TypeVar, cast, get_args

from enarx.errors import MalformedError
from enarx.tee.model import SignedJson

MAX_DOCUMENT: Final = 256 * 1024  # bytes; the largest known, with many TDX levels, has about 20,000
MAX_DEPTH: Final = 10  # the deepest known value, a component of a level, stands at 7
MAX_LEVELS: Final = 256
MAX_INTEGER: Final = 2**31 - 1

Status = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    "Revoked",
]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One of the 16 parts of a platform's TCB: the SVN that a level asks for, and what Intel calls the part."""

    svn: int
    category: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbLevel:
    """One level of a TCB info; `tdx` are the 16 SVNs of the TDX module's side, None in an SGX document."""

    sgx: tuple[Component, ...]
    pce_svn: int
    tdx: tuple[Component, ...] | None
    date: datetime
    status: Status
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveLevel:
    """One level of a QE identity or of a TDX module identity."""

    security_version: int
    date: datetime
    status: Status
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxModule:
    """Who signed the TDX module and with which attributes. `id` is "" for the base entry, which has no levels."""

    id: str
    mr_signer: bytes  # 48
    attributes: bytes  # 8
    attributes_mask: bytes  # 8
    levels: tuple[EnclaveLevel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What both documents have: the signed text as it came, its signature (r ‖ s, 64 bytes), and its dates."""

    signed: bytes
    signature: bytes
    id: str
    version: int
    issue_date: datetime
    next_update: datetime
    evaluation: int  # tcbEvaluationDataNumber: which set of Intel's TCB recoveries this speaks of


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbInfo(Document):
    """The TCB levels of one platform family (FMSPC), for SGX or for TDX."""

    fmspc: bytes  # 6
    pce_id: bytes  # 2
    tcb_type: int
    levels: tuple[TcbLevel, ...]
    module: TdxModule | None
    modules: tuple[TdxModule, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a document with its signature. Raises MalformedError."""
        signed, signature, info = _open(data, "tcbInfo")
        version = info.integer("version")
        if version < 3 and "id" not in info:  # the first two had none
            raise MalformedError(f"tcbInfo: expected version 3, found version {version}, which names no technology")
        base = info.member("tdxModule", _tdx_module_base) if "tdxModule" in info else None
        return cls(
            **_common(signed, signature, info),
            fmspc=info.hex("fmspc", 6),
            pce_id=info.hex("pceId", 2),
            tcb_type=info.integer("tcbType"),
            levels=info.members("tcbLevels", _tcb_level),
            module=base,
            modules=info.members("tdxModuleIdentities", _tdx_module) if "tdxModuleIdentities" in info else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QeIdentity(Document):
    """What a genuine Quoting Enclave looks like, under masks, and which of its versions are current."""

    misc_select: int
    misc_select_mask: int
    attributes: bytes  # 16
    attributes_mask: bytes  # 16
    mr_signer: bytes  # 32
    product_id: int
    levels: tuple[EnclaveLevel, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a document with its signature. Raises MalformedError."""
        signed, signature, identity = _open(data, "enclaveIdentity")
        return cls(
            **_common(signed, signature, identity),
            misc_select=int.from_bytes(identity.hex("miscselect", 4), "little"),
            misc_select_mask=int.from_bytes(identity.hex("miscselectMask", 4), "little"),
            attributes=identity.hex("attributes", 16),
            attributes_mask=identity.hex("attributesMask", 16),
            mr_signer=identity.hex("mrsigner", 32),
            product_id=identity.integer("isvprodid"),
            levels=identity.members("tcbLevels", _enclave_level),
        )


D = TypeVar("D", bound=Document)


@lru_cache(maxsize=64)
def read_tcb_info(data: bytes) -> TcbInfo:
    """As `TcbInfo.parse`, remembered by its bytes: one document serves every machine of a family."""
    return TcbInfo.parse(data)


@lru_cache(maxsize=64)
def read_qe_identity(data: bytes) -> QeIdentity:
    """As `QeIdentity.parse`, remembered by its bytes."""
    return QeIdentity.parse(data)


def readable(offered: Iterable[SignedJson], read: Callable[[bytes], D]) -> list[tuple[D, SignedJson]]:
    """Those of `offered` that can be read; what evidence brings was read before, collateral may hold rubbish."""
    found = []
    for each in offered:
        try:
            found.append((read(each.body), each))
        except MalformedError:
            continue
    return found


def unreadable(offered: Iterable[SignedJson], read: Callable[[bytes], D]) -> list[str]:
    """Why those of `offered` that `readable` leaves out cannot be read, each reason once."""
    reasons = []
    for each in offered:
        try:
            read(each.body)
        except MalformedError as error:
            reasons.append(str(error))
    return list(dict.fromkeys(reasons))


def compose(name: Literal["tcbInfo", "enclaveIdentity"], inner: str, signature: bytes) -> bytes:
    """The document as Intel serves it, from the parts that collateral bundles keep apart. No re-serialisation."""
    return f'{{"{name}":{inner},"signature":"{signature.hex()}"}}'.encode()


def split(data: bytes, name: str) -> tuple[bytes, bytes]:
    """The exact text of the inner object, and the signature. Raises MalformedError.

    The outer object has exactly the members `name` and `signature`, in either order, each once.
    """
    what = f"{name} document"
    if len(data) > MAX_DOCUMENT:
        raise MalformedError(f"{what}: expected at most {MAX_DOCUMENT} bytes, found {len(data)}")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{what}: expected ASCII, found 0x{data[error.start]:02x} at {error.start}") from error
    _bound(text, what)
    spans = _outer_spans(text, what)
    if spans.keys() != {name, "signature"}:
        raise MalformedError(f"{what}: expected the members {name} and signature, found {', '.join(spans) or 'none'}")
    signature = re.fullmatch(r'"([0-9a-f]{128}|[0-9A-F]{128})"', text[slice(*spans["signature"])])
    if signature is None:  # of one case, so that no bit of it is free
        raise MalformedError(f"{what}: signature: expected 128 hexadecimal digits of one case")
    return text[slice(*spans[name])].encode(), bytes.fromhex(signature[1])


class _Object:
    """A JSON object under its dotted path, with typed access to its members. Any: what the decoder gives."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise MalformedError(f"{path}: expected an object, found {type(value).__name__}")
        self._members: Mapping[str, Any] = value
        self._path = path

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def text(self, key: str) -> str:
        return self._typed(key, str)

    def integer(self, key: str, maximum: int = MAX_INTEGER) -> int:
        value = self._typed(key, int)
        if not 0 <= value <= maximum:
            raise MalformedError(f"{self._path}.{key}: expected 0 to {maximum}, found {value}")
        return value

    def hex(self, key: str, length: int) -> bytes:
        text = self.text(key)
        if not re.fullmatch(f"[0-9a-fA-F]{{{2 * length}}}", text):
            raise MalformedError(f"{self._path}.{key}: expected {length} bytes of hex, found {text[:100]!r}")
        return bytes.fromhex(text)

    def moment(self, key: str) -> datetime:
        text = self.text(key)
        try:
            return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError as error:
            raise MalformedError(f"{self._path}.{key}: expected YYYY-MM-DDThh:mm:ssZ, found {text[:40]!r}") from error

    def status(self, key: str) -> Status:
        text = self.text(key)
        if text not in STATUSES:
            raise MalformedError(f"{self._path}.{key}: unknown TCB status {text[:60]!r}")
        return text

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; absent means none."""
        if key not in self._members:
            return ()
        items = self._array(key)
        if not all(isinstance(item, str) for item in items):
            raise MalformedError(f"{self._path}.{key}: expected a list of strings")
        return tuple(items)

    def member(self, key: str, read: Callable[["_Object"], T]) -> T:
        return read(_Object(self._value(key), f"{self._path}.{key}"))

    def members(self, key: str, read: Callable[["_Object"], T]) -> tuple[T, ...]:
        items = self._array(key)
        return tuple(read(_Object(item, f"{self._path}.{key}[{index}]")) for index, item in enumerate(items))

    def _array(self, key: str) -> list[Any]:  # Any: as the decoder gives it
        value = self._typed(key, list)
        if len(value) > MAX_LEVELS:
            raise MalformedError(f"{self._path}.{key}: expected at most {MAX_LEVELS} items, found {len(value)}")
        return value

    def _typed(self, key: str, kind: type[T]) -> T:
        value = self._value(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise MalformedError(f"{self._path}.{key}: expected {kind.__name__}, found {type(value).__name__}")
        return value

    def _value(self, key: str) -> object:
        if key not in self._members:
            raise MalformedError(f"{self._path}.{key}: missing")
        return cast("object", self._members[key])


def _open(data: bytes, name: str) -> tuple[bytes, bytes, _Object]:
    signed, signature = split(data, name)
    return signed, signature, _Object(_value(signed.decode(), 0, name)[0], name)


def _common(signed: bytes, signature: bytes, body: _Object) -> dict[str, Any]:  # Any: keywords of one constructor
    return {
        "signed": signed,
        "signature": signature,
        "id": body.text("id"),
        "version": body.integer("version"),
        "issue_date": body.moment("issueDate"),
        "next_update": body.moment("nextUpdate"),
        "evaluation": body.integer("tcbEvaluationDataNumber"),
    }


def _tcb_level(level: _Object) -> TcbLevel:
    def components(tcb: _Object, key: str) -> tuple[Component, ...]:
        found = tcb.members(key, _component)
        if len(found) != 16:
            raise MalformedError(f"tcbInfo.tcbLevels: {key}: expected 16 components, found {len(found)}")
        return found

    sgx, tdx, pce_svn = level.member(
        "tcb",
        lambda tcb: (
            components(tcb, "sgxtcbcomponents"),
            components(tcb, "tdxtcbcomponents") if "tdxtcbcomponents" in tcb else None,
            tcb.integer("pcesvn", 0xFFFF),
        ),
    )
    return TcbLevel(
        sgx=sgx,
        tdx=tdx,
        pce_svn=pce_svn,
        date=level.moment("tcbDate"),
        status=level.status("tcbStatus"),
        advisories=level.texts("advisoryIDs"),
    )


def _component(item: _Object) -> Component:
    return Component(
        svn=item.integer("svn", 0xFF),
        category=item.text("category") if "category" in item else "",
        kind=item.text("type") if "type" in item else "",
    )


def _enclave_level(level: _Object) -> EnclaveLevel:
    return EnclaveLevel(
        security_version=level.member("tcb", lambda tcb: tcb.integer("isvsvn", 0xFFFF)),
        date=level.moment("tcbDate"),
        status=level.status("tcbStatus"),
        advisories=level.texts("advisoryIDs"),
    )


def _tdx_module_base(module: _Object) -> TdxModule:
    return TdxModule(
        id="",
        mr_signer=module.hex("mrsigner", 48),
        attributes=module.hex("attributes", 8),
        attributes_mask=module.hex("attributesMask", 8),
    )


def _tdx_module(module: _Object) -> TdxModule:
    return TdxModule(
        id=module.text("id"),
        mr_signer=module.hex("mrsigner", 48),
        attributes=module.hex("attributes", 8),
        attributes_mask=module.hex("attributesMask", 8),
        levels=module.members("tcbLevels", _enclave_level),
    )


def _bound(text: str, what: str) -> None:
    """Depth and escapes, before any recursion. Without escapes a quotation mark always opens or closes a string."""
    if "\\" in text:
        raise MalformedError(f"{what}: escape at {text.index(chr(92))}; Intel's documents have none")
    depth = 0
    for part in text.split('"')[::2]:
        for character in part:
            if character in "{[":
                depth += 1
            elif character in "}]":
                depth -= 1
            if depth > MAX_DEPTH:
                raise MalformedError(f"{what}: nested deeper than {MAX_DEPTH}")


_SPACE: Final = re.compile(r"[ \t\r\n]*")
_KEY: Final = re.compile(r'"([^"\x00-\x1f]*)"')


def _outer_spans(text: str, what: str) -> dict[str, tuple[int, int]]:
    """Where the value of each member of the outermost object stands. Every byte of the text is accounted for."""
    position = _expect(text, 0, "{", what)
    spans: dict[str, tuple[int, int]] = {}
    while True:
        key = _KEY.match(text, _skip(text, position))
        if key is None:
            raise MalformedError(f"{what}: expected a member at {position}")
        start = _skip(text, _expect(text, key.end(), ":", what))
        end = _value(text, start, what)[1]
        if key[1] in spans:
            raise MalformedError(f"{what}: {key[1]} stands twice")
        spans[key[1]] = start, end
        position = _skip(text, end)
        if text[position : position + 1] != ",":
            break
        position += 1
    position = _skip(text, _expect(text, position, "}", what))
    if position != len(text):
        raise MalformedError(f"{what}: {len(text) - position} bytes follow the document, expected none")
    return spans


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return position if match is None else match.end()


def _expect(text: str, position: int, character: str, what: str) -> int:
    position = _skip(text, position)
    if text[position : position + 1] != character:
        raise MalformedError(f"{what}: expected {character!r} at {position}, found {text[position : position + 1]!r}")
    return position + 1


def _value(text: str, position: int, what: str) -> tuple[object, int]:
    """The JSON value at `position` and where it ends."""
    try:
        return cast("tuple[object, int]", _DECODER.raw_decode(text, position))
    except (json.JSONDecodeError, RecursionError) as error:
        raise MalformedError(f"{what}: not JSON: {error}") from error


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if any(key == other for other, _ in pairs[:index]))
        raise MalformedError(f"JSON: member {twice[:60]!r} stands twice")
    return members


def _integer(text: str) -> int:
    if len(text) > 10:
        raise MalformedError(f"JSON: integer of {len(text)} digits, expected at most 10")
    return int(text)


def _refuse_number(text: str) -> NoReturn:
    raise MalformedError(f"JSON: number {text[:40]} is not an integer")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_without_duplicates,
    parse_int=_integer,
    parse_float=_refuse_number,
    parse_constant=_refuse_number,
)
