"""Reports and evidence, bytes to values: what is refused before anything is believed (S3 to S6)."""

import pytest

from enarx import der
from enarx.errors import MalformedError
from enarx.pki.certificate import pem
from enarx.tee.documents import MAX_CRLS
from enarx.tee.model import Endorsements, Evidence
from enarx.tee.snp import report as layout
from enarx.tee.snp.report import OID, OID_WITH_CHAIN, Report, encode, parse, recognise
from tests.unit.tee.snp import support
from tests.values import replace

GOOD = support.machine().report(support.REPORT_DATA)


def changed(offset: int, *values: int, base: bytes = GOOD) -> bytes:
    return base[:offset] + bytes(values) + base[offset + len(values) :]


def of_version(version: int) -> bytes:
    return support.machine(version=version).report(support.REPORT_DATA)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_parse_and_encode_are_inverses(version: int, product: str) -> None:
    """A report of each version, written again, is the same bytes; what is signed is kept as it came."""
    data = support.machine(product, version=version).report(support.REPORT_DATA)
    report = Report.parse(data)
    assert report.encode() == data
    assert report.signed == data[: layout.SIGNED] == report.to_be_signed()
    assert (report.version, report.cpuid is None) == (version, version == 2)


def test_every_field_stands_where_the_specification_has_it() -> None:
    """A distinct value in every field comes back from its offset (AMD 56860, ATTESTATION_REPORT)."""
    data = bytearray(GOOD)
    places = {
        "guest_svn": (0x04, 4),
        "family_id": (0x10, 16),
        "image_id": (0x20, 16),
        "report_data": (0x50, 64),
        "measurement": (0x90, 48),
        "host_data": (0xC0, 32),
        "id_key_digest": (0xE0, 48),
        "author_key_digest": (0x110, 48),
        "report_id": (0x140, 32),
        "report_id_ma": (0x160, 32),
        "chip_id": (0x1A0, 64),
        "launch_mit_vector": (0x1F8, 8),
        "current_mit_vector": (0x200, 8),
        "platform_info": (0x40, 8),
    }
    for number, (offset, size) in enumerate(places.values(), start=1):
        data[offset : offset + size] = bytes([number]) * size
    data[0x1E8:0x1EB], data[0x1EC:0x1EF] = bytes((7, 58, 1)), bytes((6, 57, 1))
    for number, offset in enumerate((0x38, 0x180, 0x1E0, 0x1F0), start=20):
        data[offset : offset + 8] = bytes((number, number + 1, 0, 0, 0, 0, number + 2, number + 3))
    report = Report.parse(bytes(data))
    for number, (name, (_, size)) in enumerate(places.items(), start=1):
        value = getattr(report, name)
        assert (value if isinstance(value, bytes) else value.to_bytes(size, "little")) == bytes([number]) * size, name
    assert (str(report.current_version), str(report.committed_version)) == ("1.58.7", "1.57.6")
    assert [tcb[0] for tcb in report.tcbs.values()] == [20, 21, 22, 23]
    assert report.encode() == bytes(data)


@pytest.mark.parametrize("size", [0, 4, 672, 1183, 1185, 2048])
def test_a_report_is_exactly_1184_bytes(size: int) -> None:
    """S3: neither cut off nor followed by anything."""
    with pytest.raises(MalformedError, match=f"expected 1184 bytes, found {size}"):
        Report.parse(GOOD.ljust(size, b"\0")[:size])


@pytest.mark.parametrize("offset", [*range(0x2A0 + 48, 0x2A0 + 72), *range(0x2E8 + 48, 0x2E8 + 72)])
def test_the_signature_has_nothing_above_48_bytes(offset: int) -> None:
    """S4: r and s stand in fields of 72 bytes, whose upper 24 are zero."""
    with pytest.raises(MalformedError, match=r"above 48 bytes .* must be zero"):
        Report.parse(changed(offset, 1))


@pytest.mark.parametrize("offset", [0x330, 0x400, 0x49F])
def test_the_signature_has_no_tail(offset: int) -> None:
    """S4: the 368 bytes behind s are zero."""
    with pytest.raises(MalformedError, match="signature's tail"):
        Report.parse(changed(offset, 1))


@pytest.mark.parametrize("version", [0, 1, 6, 9, 0x01000005])
def test_other_versions_are_refused(version: int) -> None:
    """S5: 2 to 5, and no later one is read as if it were 5."""
    with pytest.raises(MalformedError, match=f"VERSION at 0x0: expected 2 to 5, found {version}"):
        Report.parse(version.to_bytes(4, "little") + GOOD[4:])


ALWAYS = (0x4C, 0x4F, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x208, 0x29F)
RESERVED = {
    2: (*ALWAYS, 0x188, 0x189, 0x18A, 0x1F8, 0x1FF, 0x200, 0x207),
    3: (*ALWAYS, 0x1F8, 0x1FF, 0x200, 0x207),
    4: ALWAYS,
    5: ALWAYS,
}


@pytest.mark.parametrize(("version", "offset"), [(v, at) for v, offsets in RESERVED.items() for at in offsets])
def test_reserved_bytes_are_zero_by_version(version: int, offset: int) -> None:
    """S6: what later versions give a meaning is reserved in those before."""
    with pytest.raises(MalformedError, match="must be zero, found 0x40"):
        Report.parse(changed(offset, 0x40, base=of_version(version)))


def test_what_is_not_public_of_version_4_is_recorded() -> None:
    """The bytes where version 5 has the mitigation vectors are kept and mean nothing."""
    report = Report.parse(changed(0x1F8, *range(1, 17), base=of_version(4)))
    assert report.unpublished == bytes(range(1, 17))
    assert (report.launch_mit_vector, report.current_mit_vector) == (None, None)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0x0B, 0x04, "POLICY at 0x8: bits 63 to 26 must be zero"),
        (0x0F, 0x80, "POLICY at 0x8: bits 63 to 26 must be zero"),
        (0x0A, 0x01, "POLICY at 0x8: bit 17 must be one"),
        (0x30, 0x04, "VMPL at 0x30: expected 0 to 3"),
        (0x34, 0x02, "SIGNATURE_ALGO at 0x34: expected 1"),
        (0x48, 0x20, "flags at 0x48: bits 31 to 5 must be zero"),
        (0x4B, 0x80, "flags at 0x48: bits 31 to 5 must be zero"),
        (0x48, 0x08, "SIGNING_KEY at 0x48: expected 0, 1 or 7, found 2"),
        (0x48, 0x18, "SIGNING_KEY at 0x48: expected 0, 1 or 7, found 6"),
        (0x3A, 0x01, "SNP CURRENT_TCB: reserved .* must be zero"),
        (0x182, 0x01, "SNP REPORTED_TCB: reserved .* must be zero"),
        (0x1E5, 0x01, "SNP COMMITTED_TCB: reserved .* must be zero"),
        (0x1F2, 0x01, "SNP LAUNCH_TCB: reserved .* must be zero"),
    ],
)
def test_reserved_bits_and_values_are_refused(offset: int, value: int, message: str) -> None:
    """S6: bits that must be zero or one, and values that mean nothing, with the field's name and place."""
    with pytest.raises(MalformedError, match=message):
        Report.parse(changed(offset, value))


def test_unknown_bits_of_platform_info_are_recorded() -> None:
    """Firmware sets bits there that came later: policy decides, the parser keeps them."""
    assert Report.parse(changed(0x47, 0x80)).platform_info >> 63 == 1


def test_reserved_bytes_of_a_tcb_are_those_of_the_product() -> None:
    """S14: from Turin on others are reserved."""
    data = support.machine("Turin").report(support.REPORT_DATA)
    Report.parse(data)
    with pytest.raises(MalformedError, match="SNP REPORTED_TCB: reserved at 0x4"):
        Report.parse(changed(0x184, 1, base=data))


# -- evidence


def test_the_originals_form_and_ours_are_read() -> None:
    """Both bring the same report and certificates; only ours brings the chain."""
    machine = support.machine()
    ours = parse(machine.evidence(support.REPORT_DATA))
    assert ours.endorsements == machine.with_chain()
    originals = parse(machine.evidence(support.REPORT_DATA, OID))
    assert originals.endorsements.certificates == (machine.certificate,)
    assert originals.endorsements.crls == machine.endorsements.crls
    assert {ours.legacy, originals.legacy} == {False}
    assert ours.notes == originals.notes == ()


@pytest.mark.parametrize("oid", [OID, OID_WITH_CHAIN])
def test_evidence_is_written_as_it_is_read(oid: str) -> None:
    """The URLs beside CRLs are not kept; written without, evidence comes back byte for byte."""
    evidence = support.machine().evidence(support.REPORT_DATA, oid)
    parsed = parse(evidence)
    assert encode(parsed.report.encode(), parsed.endorsements, oid) == evidence


def test_the_form_from_before_crls_is_marked_as_such() -> None:
    """A VCEK and a report: explained offline, refused by a server."""
    body = der.wrap(0x30, support.machine().certificate + der.wrap(0x04, GOOD))
    parsed = parse(Evidence(oid=OID, body=body))
    assert parsed.legacy
    assert parsed.notes == ("an older form of SNP evidence: without CRLs",)
    with pytest.raises(MalformedError):
        parse(Evidence(oid=OID_WITH_CHAIN, body=body))


@pytest.mark.parametrize("oid", [OID, OID_WITH_CHAIN])
def test_evidence_that_is_not_exactly_its_form_is_malformed(oid: str) -> None:
    """The other's form, bytes behind it, a report of another length, certificates and lists that are none."""
    good = support.machine().evidence(support.REPORT_DATA, oid)
    other = support.machine().evidence(support.REPORT_DATA, OID if oid == OID_WITH_CHAIN else OID_WITH_CHAIN)
    short = encode(GOOD[:-1], support.machine().with_chain(), oid).body
    sequence = Endorsements(certificates=(b"\x30\x03\x02\x01\x01",))
    no_list = Endorsements(certificates=(support.machine().certificate,), crls=(b"\x30\x03\x02\x01\x01",))
    bodies = [
        b"",
        other.body,
        good.body + b"\0",
        good.body[:-1],
        short,
        encode(GOOD, sequence, oid).body,
        encode(GOOD, no_list, oid).body,
    ]
    for body in bodies:
        with pytest.raises(MalformedError):
            parse(Evidence(oid=oid, body=body))


def test_evidence_is_bounded_before_it_is_looked_into() -> None:
    """Bytes, certificates and lists are counted."""
    machine = support.machine()
    for endorsements, message in (
        (replace(machine.with_chain(), certificates=(machine.certificate,) * 9), "at most 8 certificates, found 9"),
        (replace(machine.with_chain(), crls=machine.endorsements.crls * (MAX_CRLS + 1)), "at most 16 CRLs, found 17"),
    ):
        with pytest.raises(MalformedError, match=message):
            parse(encode(GOOD, endorsements))
    whole = Endorsements(certificates=(machine.certificate,) * 8, crls=machine.endorsements.crls * MAX_CRLS)
    assert parse(encode(GOOD, whole)).endorsements == whole
    with pytest.raises(MalformedError, match="expected at most 262144 bytes, found 262145"):
        parse(Evidence(oid=OID, body=bytes(262145)))
    with pytest.raises(MalformedError, match=r"snp evidence: .* follow"):
        parse(Evidence(oid=OID, body=bytes(262144)))
    three = der.wrap(0x30, b"\x05\x00" * 4)
    with pytest.raises(MalformedError, match="more than 3 elements"):
        parse(Evidence(oid=OID, body=der.wrap(0x30, three + der.wrap(0x04, GOOD))))


def test_a_bare_report_is_recognised() -> None:
    """By its size, or cut off and extended, so that what is wrong with it is said; text is none."""
    assert recognise(GOOD)
    assert recognise(GOOD[:-1])
    assert recognise(GOOD + b"\0")
    assert recognise(changed(4, 1) + b"\0")
    assert recognise(changed(0, 9))
    assert not recognise(changed(0, 0xD9, 0x01, 0x8F))  # a CBOR token may have this size too
    assert not recognise(changed(0, 9)[:-1])
    assert recognise(GOOD[: layout.SIGNED + 1])
    assert not recognise(GOOD[: layout.SIGNED])
    assert not recognise(GOOD[:64])
    assert not recognise(pem("CERTIFICATE", support.machine().certificate))


RESPONSE = bytes(4) + (1184).to_bytes(4, "little") + bytes(24)


@pytest.mark.parametrize("written", [RESPONSE + GOOD, (RESPONSE + GOOD).ljust(4000, b"\0")])
def test_a_bare_report_is_found_in_what_devices_write(written: bytes) -> None:
    """Behind the head of the firmware's response, alone or in Linux's buffer that is zero behind it."""
    assert recognise(written)
    assert parse(Evidence(oid="", body=written)).report.encode() == GOOD
    wrong = written[:-1] + bytes((written[-1] ^ 1,)) if written[-1] == 0 else written + b"\0"
    with pytest.raises(MalformedError):
        parse(Evidence(oid="", body=wrong))


@pytest.mark.parametrize(
    "head", [b"\x16" + RESPONSE[1:], RESPONSE[:31] + b"\1", RESPONSE[:4] + bytes(4) + RESPONSE[8:]]
)
def test_a_response_of_the_firmware_that_is_none_is_malformed(head: bytes) -> None:
    """Its status says success, its size is a report's, and what is reserved is zero."""
    with pytest.raises(MalformedError):
        parse(Evidence(oid="", body=head + GOOD))
