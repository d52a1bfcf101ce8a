"""The PCK extension and the chain that a quote carries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx import der
from enarx.errors import MalformedError
from enarx.pki.certificate import Certificate, pem
from enarx.tee.dcap.pck import EXTENSION, SGX_TYPES, Pck, read_chain, read_leaf, write_chain
from tests.unit.tee.dcap import support
from tests.values import replace

CHAIN = support.enclave().machine.chain
PLATFORM = Pck.of(Certificate.parse(CHAIN[0]))
PROCESSOR = Pck.of(Certificate.parse(support.enclave("processor").machine.chain[0]))

BYTES16 = st.binary(min_size=16, max_size=16)
PCKS = st.builds(
    Pck,
    ppid=BYTES16,
    components=st.tuples(*[st.integers(0, 255)] * 16),
    pce_svn=st.integers(0, 0xFFFF),
    cpu_svn=BYTES16,
    pce_id=st.binary(min_size=2, max_size=2),
    fmspc=st.binary(min_size=6, max_size=6),
    sgx_type=st.sampled_from(SGX_TYPES),
    platform_instance_id=st.none() | BYTES16,
    dynamic_platform=st.none() | st.booleans(),
    cached_keys=st.none() | st.booleans(),
    smt_enabled=st.none() | st.booleans(),
)


@given(PCKS)
def test_what_is_encoded_is_read_again(value: Pck) -> None:
    """`parse` inverts `encode` for every value, PCESVN above 255 and absent fields included."""
    assert Pck.parse(value.encode()) == value


@given(st.binary(max_size=600))
def test_any_bytes_are_a_pck_extension_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the parser, it answers with a value or with MalformedError."""
    try:
        value = Pck.parse(data)
    except MalformedError:
        return
    assert Pck.parse(value.encode()) == value


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_a_value_or_malformed(position: int, byte: int) -> None:
    """One changed byte never escapes as another error."""
    data = bytearray(PLATFORM.encode())
    data[position % len(data)] = byte
    try:
        Pck.parse(bytes(data))
    except MalformedError:
        return


def test_the_two_certification_authorities_certify_different_things() -> None:
    """The Platform CA names the instance and its flags, the Processor CA does not."""
    assert PLATFORM.platform_instance_id is not None
    assert PLATFORM.smt_enabled is False
    assert PROCESSOR.platform_instance_id is None
    assert PROCESSOR.smt_enabled is None


def item(arc: str, value: bytes) -> bytes:
    oid = der.encode(_Oid(oid=der.ObjectIdentifier(f"{EXTENSION}.{arc}")))[2:]
    return der.wrap(0x30, oid + value)


@der.sequence
class _Oid:
    oid: der.ObjectIdentifier


TCB = der.wrap(
    0x30,
    b"".join(item(f"2.{index}", b"\x02\x01\x05") for index in range(1, 17))
    + item("2.17", b"\x02\x02\x01\x00")
    + item("2.18", der.wrap(4, bytes(16))),
)
MEMBERS = {
    "1": der.wrap(4, bytes(16)),
    "2": TCB,
    "3": der.wrap(4, bytes(2)),
    "4": der.wrap(4, bytes(6)),
    "5": b"\x0a\x01\x01",
}


def extension(members: dict[str, bytes], *more: bytes) -> bytes:
    return der.wrap(0x30, b"".join(item(arc, value) for arc, value in members.items()) + b"".join(more))


def test_the_table_of_members_is_what_the_parser_reads() -> None:
    """The fixture of the refusals below is itself accepted, PCESVN 256 included."""
    assert Pck.parse(extension(MEMBERS)).pce_svn == 256


@pytest.mark.parametrize("arc", MEMBERS)
def test_a_missing_member_is_refused(arc: str) -> None:
    """No field has a default."""
    with pytest.raises(MalformedError, match="is missing"):
        Pck.parse(extension({key: value for key, value in MEMBERS.items() if key != arc}))


@pytest.mark.parametrize("arc", MEMBERS)
def test_a_member_that_stands_twice_is_refused(arc: str) -> None:
    """Which of the two would count is not ours to choose."""
    with pytest.raises(MalformedError, match="stands twice"):
        Pck.parse(extension(MEMBERS, item(arc, MEMBERS[arc])))


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"1": der.wrap(4, bytes(15))}, "PPID: expected 16 bytes, found 15"),
        ({"3": der.wrap(4, bytes(3))}, "PCEID: expected 2 bytes"),
        ({"4": der.wrap(4, bytes(5))}, "FMSPC: expected 6 bytes"),
        ({"4": der.wrap(3, bytes(6))}, "FMSPC: expected tag 0x04"),
        ({"5": b"\x0a\x01\x03"}, "SGX type: expected ENUMERATED 0 to 2, found 03"),
        ({"5": b"\x02\x01\x00"}, "SGX type: expected tag 0x0a"),
        ({"5": b"\x0a\x02\x00\x00"}, "SGX type"),
        ({"6": der.wrap(4, bytes(17))}, "platform instance id: expected 16 bytes"),
        ({"7": der.wrap(0x30, item("7.1", b"\x01\x01\x01"))}, "dynamic platform: expected a BOOLEAN"),
        ({"7": der.wrap(0x30, item("7.4", b"\x01\x01\xff"))}, "unknown member 4"),
        ({"8": b"\x05\x00"}, "unknown member 8"),
        ({"2": TCB.replace(b"\x02\x02\x01\x00", b"\x02\x02\x00\x05")}, "PCESVN: expected a minimal INTEGER"),
        ({"2": TCB.replace(b"\x02\x02\x01\x00", b"\x02\x02\xff\x00")}, "PCESVN: expected a minimal INTEGER"),
        ({"2": TCB.replace(b"\x02\x01\x05", b"\x02\x01\x85", 1)}, "component 1: expected a minimal INTEGER"),
    ],
)
def test_a_member_of_another_shape_is_refused(members: dict[str, bytes], sentence: str) -> None:
    """Every length, tag and range is checked, and the message names the field."""
    with pytest.raises(MalformedError, match=sentence):
        Pck.parse(extension({**MEMBERS, **members}))


@pytest.mark.parametrize(("svn", "fits"), [(0, True), (0xFFFF, True), (0x10000, False)])
def test_a_pcesvn_has_two_bytes(svn: int, fits: bool) -> None:
    """As in the quote, the TCB info, and everywhere else."""
    written = replace(PLATFORM, pce_svn=svn).encode()
    if fits:
        assert Pck.parse(written).pce_svn == svn
        return
    with pytest.raises(MalformedError, match="PCESVN"):
        Pck.parse(written)


def test_a_component_above_255_and_a_foreign_oid_are_refused() -> None:
    """SVNs are one byte; members of another arc do not belong here."""
    wide = der.wrap(
        0x30,
        der.content(TCB, 0x30, "TCB").replace(item("2.1", b"\x02\x01\x05"), b"") + item("2.1", b"\x02\x02\x01\x00"),
    )
    with pytest.raises(MalformedError, match="component 1: expected at most 255, found 256"):
        Pck.parse(extension({**MEMBERS, "2": wide}))
    foreign = der.wrap(0x30, der.encode(_Oid(oid=der.ObjectIdentifier("1.2.3.1")))[2:] + b"\x05\x00")
    with pytest.raises(MalformedError, match="expected a member of"):
        Pck.parse(extension(MEMBERS, foreign))


def test_a_certificate_without_the_extension_is_refused() -> None:
    """Only a PCK certificate has one."""
    with pytest.raises(MalformedError, match="is missing"):
        Pck.of(Certificate.parse(CHAIN[1]))


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("nuls", [0, 1, 7])
@pytest.mark.parametrize("between", [0, 1, 2])
@pytest.mark.parametrize("behind", [0, 1, 3])
def test_the_chain_is_read_in_the_writings_of_quoting_libraries(
    line_end: bytes, nuls: int, between: int, behind: int
) -> None:
    """Lines end in LF or in CRLF; after a block stand none, one or several; NULs may fill the end."""
    blocks = [pem("CERTIFICATE", data).strip().replace(b"\n", line_end) for data in CHAIN]
    data = (between * line_end).join(blocks) + behind * line_end + bytes(nuls)
    assert tuple(certificate.der for certificate in read_chain(data)) == CHAIN
    leaf = read_leaf(blocks[0] + behind * line_end + bytes(nuls))
    assert leaf.der == CHAIN[0]


def test_each_certificate_may_come_from_somebody_with_other_line_ends() -> None:
    """A leaf from one service and a chain from another, put together as they came."""
    leaf, above = write_chain(CHAIN[:1]), write_chain(CHAIN[1:])
    for data in (leaf.replace(b"\n", b"\r\n") + above, leaf + above.replace(b"\n", b"\r\n") + b"\n\0"):
        assert tuple(certificate.der for certificate in read_chain(data)) == CHAIN


@pytest.mark.parametrize("count", [2, 3])
def test_a_leaf_is_one_certificate(count: int) -> None:
    """A chain, or a part of one, is no leaf."""
    with pytest.raises(MalformedError, match=f"expected one certificate, found {count}"):
        read_leaf(write_chain(CHAIN[:count]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        write_chain(CHAIN[:2]),
        write_chain((*CHAIN, CHAIN[2])),
        b"text\n" + write_chain(CHAIN),
        write_chain(CHAIN) + b"text",
        write_chain(CHAIN) + b"\0text",
        write_chain(CHAIN) + b"\0\n",
        write_chain(CHAIN) + b"\r",
        write_chain(CHAIN) + b"\n\r",
        write_chain(CHAIN) + b" ",
        write_chain(CHAIN).replace(b"\n", b"\r"),
        write_chain(CHAIN).replace(b"\n", b"\r\n", 3),
        write_chain(CHAIN).replace(b"\n", b"\n\n", 3),
        write_chain(CHAIN).replace(b"\n", b"\x0b", 3),
        write_chain(CHAIN).replace(b"-----END CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n \n"),
        write_chain((b"\x30\x00", *CHAIN[1:])),
    ],
)
def test_any_other_writing_of_the_chain_is_refused(data: bytes) -> None:
    """Three certificates in PEM, each of one kind of line ends, and nothing between and behind them but those."""
    with pytest.raises(MalformedError):
        read_chain(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_chain_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the reader, it answers with a value or with MalformedError."""
    with pytest.raises(MalformedError):
        read_chain(data)


def test_values_are_frozen() -> None:
    """A changed copy is another value."""
    assert replace(PLATFORM, pce_svn=1) != PLATFORM
