"""TCB info and QE identity: the exact signed text, and nothing lenient around it."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError
from enarx.tee.dcap.collateral import MAX_DEPTH, MAX_DOCUMENT, MAX_LEVELS, QeIdentity, TcbInfo, compose, split
from tests.unit.tee.dcap import support

INFO = support.vendor().tcb_info(support.AT).body
TDX_INFO = support.vendor().tcb_info(support.AT, "TDX").body
IDENTITY = support.vendor().qe_identity(support.AT).body
SIGNATURE = bytes(range(64))


def inner(document: bytes = INFO, name: str = "tcbInfo") -> dict[str, object]:
    value: dict[str, object] = json.loads(document)[name]
    return value


def signed(value: dict[str, object] | str) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return compose("tcbInfo", text, SIGNATURE)


def changed(change: Callable[[dict[str, object]], object]) -> bytes:
    value = inner()
    change(value)
    return signed(value)


def test_the_signed_text_is_exactly_what_came() -> None:
    """Whatever white space Intel would use, the span between the quotation marks' ends is what is verified."""
    text = '{ "id" : "SGX" }'
    for document in (
        f'{{"tcbInfo":{text},"signature":"{SIGNATURE.hex()}"}}',
        f' {{ "tcbInfo" : {text} ,\n "signature"\t: "{SIGNATURE.hex().upper()}" }}\r\n',
        f'{{"signature":"{SIGNATURE.hex()}","tcbInfo":{text}}}',
    ):
        assert split(document.encode(), "tcbInfo") == (text.encode(), SIGNATURE)


def test_the_documents_are_read() -> None:
    """Every member that is judged comes out typed."""
    info, identity, tdx = TcbInfo.parse(INFO), QeIdentity.parse(IDENTITY), TcbInfo.parse(TDX_INFO)
    assert (info.id, info.version, info.fmspc, len(info.levels)) == ("SGX", 3, support.vendor().fmspc, 2)
    assert info.levels[0].sgx[0].kind == "Early Microcode Update"
    assert info.levels[0].tdx is None
    assert (identity.id, identity.version, identity.product_id) == ("QE", 2, 1)
    assert identity.attributes_mask[0] == 0xFB
    assert tdx.module is not None
    assert [module.id for module in tdx.modules] == ["TDX_01"]
    assert INFO.find(info.signed) > 0


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (b"", "expected '{'"),
        (b"[]", "expected '{'"),
        (b"{}", "expected a member"),
        (b'{"tcbInfo":{}}', "expected the members tcbInfo and signature"),
        (IDENTITY, "expected the members tcbInfo and signature"),
        (INFO + b"x", "follow the document"),
        (INFO + b"{}", "follow the document"),
        (INFO[:-1], "expected '}'"),
        (INFO[:-1] + b',"more":1}', "expected the members"),
        (INFO[:-1] + b',"signature":"00"}', "signature stands twice"),
        (INFO[:-1] + b',"tcbInfo":{}}', "tcbInfo stands twice"),
        (INFO.replace(b'"signature":"', b'"signature":"0'), "128 hexadecimal digits"),
        (INFO.replace(b'"signature":"', b'"signature":1,"x":"'), "expected the members"),
        (INFO.replace(b'"tcbInfo"', b'"tcb\\u0049nfo"'), "escape"),
        (INFO.replace(b'"SGX"', b'"S\\u0047X"'), "escape"),
        (INFO.replace(b'"SGX"', '"SGX\u00e9"'.encode()), "expected ASCII"),
        (INFO.replace(b'"SGX"', b'"SG\nX"'), "not JSON"),
        (b"\xef\xbb\xbf" + INFO, "expected ASCII"),
        (signed('{"a":1,"a":1}'), "'a' stands twice"),
        (signed('{"b":{"a":1,"a":2}}'), "'a' stands twice"),
        (signed('{"a":1.0}'), "not an integer"),
        (signed('{"a":1e3}'), "not an integer"),
        (signed('{"a":NaN}'), "not an integer"),
        (signed('{"a":-Infinity}'), "not an integer"),
        (signed('{"a":' + "9" * 5000 + "}"), "integer of 5000 digits"),
        (signed('{"a":' + "[" * 20 + "]" * 20 + "}"), "nested deeper"),
        (b'{"tcbInfo":' + b"[" * 100_000, "nested deeper"),
        (signed("[]"), "expected an object"),
        (signed("null"), "expected an object"),
        (signed('{"a":01}'), "not JSON"),
        (signed("{'a':1}"), "not JSON"),
        (b" " * (MAX_DOCUMENT + 1), "at most"),
    ],
)
def test_what_is_not_exactly_such_a_document_is_refused(document: bytes, sentence: str) -> None:
    """Duplicate keys, escapes, floats, NaN, huge numbers, depth, and text before or after."""
    with pytest.raises(MalformedError, match=sentence):
        TcbInfo.parse(document)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda info: info.pop("id"), r"tcbInfo\.id: missing"),
        (lambda info: info.update(version="3"), r"tcbInfo\.version: expected int, found str"),
        (lambda info: info.update(version=True), r"tcbInfo\.version: expected int, found bool"),
        (lambda info: info.update(version=-1), r"tcbInfo\.version: expected 0 to"),
        (lambda info: info.update(fmspc="00"), r"tcbInfo\.fmspc: expected 6 bytes of hex"),
        (lambda info: info.update(fmspc="0g" * 6), r"tcbInfo\.fmspc: expected 6 bytes of hex"),
        (lambda info: info.update(pceId="000000"), r"tcbInfo\.pceId"),
        (lambda info: info.update(issueDate="2026-06-01"), r"tcbInfo\.issueDate: expected YYYY"),
        (lambda info: info.update(nextUpdate="2026-13-01T00:00:00Z"), r"tcbInfo\.nextUpdate"),
        (lambda info: info.update(tcbEvaluationDataNumber=2**31), "expected 0 to"),
        (lambda info: info.update(tcbLevels={}), r"tcbInfo\.tcbLevels: expected list"),
        (lambda info: info.update(tcbLevels=[1]), r"tcbLevels\[0\]: expected an object"),
        (lambda info: info.update(tcbLevels=info["tcbLevels"] * 200), "at most 256 items"),
        (lambda info: info["tcbLevels"][0].update(tcbStatus="Fine"), "unknown TCB status 'Fine'"),
        (lambda info: info["tcbLevels"][0].update(advisoryIDs=[1]), "list of strings"),
        (lambda info: info["tcbLevels"][0]["tcb"].update(pcesvn=65536), "expected 0 to 65535"),
        (lambda info: info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"].pop(), "expected 16 components, found 15"),
        (lambda info: info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"].append({"svn": 1}), "found 17"),
        (lambda info: info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][3].update(svn=256), "expected 0 to 255"),
        (lambda info: info["tcbLevels"][0]["tcb"].update(tdxtcbcomponents=[]), "expected 16 components, found 0"),
        (lambda info: info.update(tdxModule={"mrsigner": "00"}), r"tcbInfo\.tdxModule\.mrsigner: expected 48 bytes"),
        (lambda info: info.update(tdxModuleIdentities=[{"id": "TDX_01"}]), r"tdxModuleIdentities\[0\]\.mrsigner"),
    ],
)
def test_a_member_of_another_shape_is_refused_by_its_path(
    change: Callable[[dict[str, object]], object], sentence: str
) -> None:
    """Every member that is judged has one type, one length and one range."""
    with pytest.raises(MalformedError, match=sentence):
        TcbInfo.parse(changed(change))


def test_members_that_intel_may_add_are_passed_over() -> None:
    """They are inside what was signed; what we do not know we do not judge."""
    assert TcbInfo.parse(changed(lambda info: info.update(somethingNew=[{"a": None}]))).id == "SGX"


@given(st.binary(max_size=500))
def test_any_bytes_are_a_document_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the readers, they answer with a value or with MalformedError."""
    for read in (TcbInfo.parse, QeIdentity.parse):
        try:
            read(data)
        except MalformedError:
            continue


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(sorted(inner())), VALUES)
def test_any_value_of_any_member_is_read_or_malformed(key: str, value: object) -> None:
    """A member may be replaced by any JSON value, and the reader never answers with another error."""
    try:
        TcbInfo.parse(signed({**inner(), key: value}))
    except MalformedError:
        return


@given(st.integers(0, len(INFO) - 1), st.integers(0, 255))
def test_any_changed_byte_is_read_or_malformed(position: int, byte: int) -> None:
    """The signed text of what is read stands in the bytes that came."""
    data = INFO[:position] + bytes((byte,)) + INFO[position + 1 :]
    try:
        info = TcbInfo.parse(data)
    except MalformedError:
        return
    assert info.signed in data


def test_the_bounds_are_exact() -> None:
    """Size, depth and the number of levels: one more is refused, the bound itself is not."""
    assert (MAX_DOCUMENT, MAX_DEPTH, MAX_LEVELS) == (256 * 1024, 10, 256)
    space = b" " * (MAX_DOCUMENT - len(INFO))
    assert TcbInfo.parse(INFO + space).id == "SGX"
    with pytest.raises(MalformedError, match="at most"):
        TcbInfo.parse(INFO + space + b" ")
    for depth, fits in ((MAX_DEPTH - 2, True), (MAX_DEPTH - 1, False)):
        nested: object = {}
        for _ in range(depth - 1):
            nested = [nested]
        data = changed(lambda value, nested=nested: value.update(more=nested))  # type: ignore[misc]  # one expression
        if fits:
            assert TcbInfo.parse(data).id == "SGX"
        else:
            with pytest.raises(MalformedError, match="nested deeper"):
                TcbInfo.parse(data)
    level = inner()["tcbLevels"][0]  # type: ignore[index]  # a list
    for count, fits in ((MAX_LEVELS, True), (MAX_LEVELS + 1, False)):
        data = changed(lambda value, count=count: value.update(tcbLevels=[level] * count))  # type: ignore[misc]
        if fits:
            assert len(TcbInfo.parse(data).levels) == count
        else:
            with pytest.raises(MalformedError, match="at most 256 items"):
                TcbInfo.parse(data)


def test_brackets_in_order_are_not_deep() -> None:
    """Depth is counted down again at every closing bracket."""
    assert TcbInfo.parse(changed(lambda value: value.update(more=[[] for _ in range(40)]))).id == "SGX"


@pytest.mark.parametrize(("value", "fits"), [(0, True), (65535, True), (65536, False), (-1, False)])
def test_an_isvsvn_has_two_bytes(value: int, fits: bool) -> None:
    """Its bounds are those of the field in a report."""
    levels = [{"tcb": {"isvsvn": value}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}]
    body = support.vendor().qe_identity(support.AT, "SGX", tcbLevels=levels).body
    if fits:
        assert QeIdentity.parse(body).levels[0].security_version == value
        return
    with pytest.raises(MalformedError, match="isvsvn: expected 0 to 65535"):
        QeIdentity.parse(body)


@pytest.mark.parametrize(("value", "fits"), [(2**31 - 1, True), (2**31, False), (10**10, False)])
def test_an_evaluation_number_has_four_bytes(value: int, fits: bool) -> None:
    """As in Intel's library; longer ones are refused before they become numbers."""
    body = support.vendor().qe_identity(support.AT, "SGX", tcbEvaluationDataNumber=value).body
    if fits:
        assert QeIdentity.parse(body).evaluation == value
        return
    with pytest.raises(MalformedError, match=r"expected 0 to 2147483647|integer of 11 digits, expected at most 10"):
        QeIdentity.parse(body)
