"""Quotes: every layout, every bound, and nothing free to change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx import der
from enarx.errors import MalformedError
from enarx.tee.dcap import enclave as bits
from enarx.tee.dcap.enclave import EnclaveReport
from enarx.tee.dcap.pck import write_chain
from enarx.tee.dcap.quote import BODY_SIZES, MAX_QUOTE, Quote
from enarx.tee.dcap.quoted import MAX_EVIDENCE, Bundle, Quoted
from enarx.tee.model import Endorsements
from enarx.tee.sgx.report import encode
from tests.unit.tee.dcap import support
from tests.values import replace

QUOTE = support.case().quote
LAYOUTS = [(3, 1), (4, 2), (5, 1), (5, 2), (5, 3), (5, 4)]


def made(version: int, body_type: int) -> bytes:
    """A quote of any layout; its body need not make sense here."""
    body = bytes(index % 256 for index in range(BODY_SIZES[body_type]))
    return support.enclave().machine.quote(body, version=version, body_type=body_type)


@pytest.mark.parametrize(("version", "body_type"), LAYOUTS)
def test_every_layout_is_read_and_written_byte_for_byte(version: int, body_type: int) -> None:
    """What was parsed encodes to the same bytes, and the signed part is the front of them."""
    data = made(version, body_type)
    quote = Quote.parse(data)
    assert quote.encode() == data
    assert data.startswith(quote.signed)
    assert (quote.version, quote.body_type, len(quote.body)) == (version, body_type, BODY_SIZES[body_type])


@pytest.mark.parametrize(("version", "body_type"), LAYOUTS)
def test_zero_padding_is_kept_and_nothing_else_may_follow(version: int, body_type: int) -> None:
    """Zeros after a quote are a buffer's padding; any other byte there is refused."""
    data = made(version, body_type)
    assert Quote.parse(data + bytes(70)).padding == 70
    assert Quote.parse(data + bytes(70)).encode() == data + bytes(70)
    with pytest.raises(MalformedError, match=r"after the signature data .* must be zero"):
        Quote.parse(data + bytes(69) + b"\x01")


@pytest.mark.parametrize(("version", "body_type"), LAYOUTS)
def test_every_truncation_is_refused(version: int, body_type: int) -> None:
    """A quote that ends early is never a quote."""
    data = made(version, body_type)
    for length in [*range(700), *range(700, len(data), 97), len(data) - 1]:
        with pytest.raises(MalformedError):
            Quote.parse(data[:length])


@pytest.mark.parametrize(
    ("offset", "value", "sentence"),
    [
        (0, b"\x02\x00", "version at 0x0: expected 3, 4 or 5, found 2"),
        (0, b"\x06\x00", "version at 0x0: expected 3, 4 or 5, found 6"),
        (2, b"\x03\x00", "attestation key type at 0x2: expected 2"),
        (4, b"\x81\x00", "TEE type at 0x4: expected 0x0 in version 3"),
        (4, b"\x00\x00\x00\x01", "TEE type at 0x4"),
        (432, b"\xff\xff\xff\xff", "signature data at 0x1b4 needs"),
        (436 + 128 + 448, b"\xff\xff", "quote signature data"),
        (436 + 128 + 448 + 2 + 32, b"\x07\x00", "certification data type: expected 1 to 5, found 7"),
        (436 + 128 + 448 + 2 + 32 + 2, b"\xff\xff\xff\xff", "certification data at"),
    ],
)
def test_a_field_out_of_bounds_is_refused_by_name(offset: int, value: bytes, sentence: str) -> None:
    """Each error names the field, where it stands, what was expected and what was found."""
    data = QUOTE[:offset] + value + QUOTE[offset + len(value) :]
    with pytest.raises(MalformedError, match=sentence):
        Quote.parse(data)


def test_version_4_is_a_td_and_its_certification_data_is_wrapped() -> None:
    """Version 4 with an SGX TEE type, and one whose outer certification data is not of type 6, are refused."""
    data = made(4, 2)
    with pytest.raises(MalformedError, match="expected 0x81 in version 4"):
        Quote.parse(data[:4] + bytes(4) + data[8:])
    outer = 632 + 4 + 128
    with pytest.raises(MalformedError, match="expected 6, found 5"):
        Quote.parse(data[:outer] + b"\x05\x00" + data[outer + 2 :])


@pytest.mark.parametrize(("body_type", "size"), [(0, 384), (5, 384), (6, 648), (1, 584), (3, 584)])
def test_version_5_names_its_body_exactly(body_type: int, size: int) -> None:
    """An unknown body type, or a size that is not the type's, is refused."""
    data = made(5, 1)
    header = data[:48] + body_type.to_bytes(2, "little") + size.to_bytes(4, "little")
    with pytest.raises(MalformedError, match=r"body (type|size) at 0x3"):
        Quote.parse(header + data[54:])


def test_the_auth_data_may_be_empty_or_long_but_not_longer_than_the_quote() -> None:
    """Its length is 16 bits wide and bounded by what is there."""
    quote = Quote.parse(QUOTE)
    for size in (0, 1, 32, 40_000):
        assert Quote.parse(replace(quote, qe_auth=bytes(size)).encode()).qe_auth == bytes(size)


def test_a_huge_quote_is_refused_before_it_is_read() -> None:
    """The bound counts padding too."""
    with pytest.raises(MalformedError, match=f"at most {MAX_QUOTE} bytes"):
        Quote.parse(QUOTE + bytes(MAX_QUOTE))


def test_the_bound_on_a_quote_is_exact() -> None:
    """64 KiB with padding."""
    assert MAX_QUOTE == 64 * 1024
    assert Quote.parse(QUOTE + bytes(MAX_QUOTE - len(QUOTE))).encode() == QUOTE + bytes(MAX_QUOTE - len(QUOTE))
    with pytest.raises(MalformedError, match="at most"):
        Quote.parse(QUOTE + bytes(MAX_QUOTE - len(QUOTE) + 1))


@pytest.mark.parametrize(("version", "body_type"), [(3, 1), (5, 3)])
def test_nothing_stands_behind_the_certification_data(version: int, body_type: int) -> None:
    """A longer signature data with bytes that no field covers is refused, zeros too."""
    data = made(version, body_type)
    start = len(Quote.parse(data).signed)
    size = int.from_bytes(data[start : start + 4], "little")
    longer = data[:start] + (size + 1).to_bytes(4, "little") + data[start + 4 :] + b"\0"
    with pytest.raises(MalformedError, match="bytes follow the end"):
        Quote.parse(longer)


def test_the_bits_of_an_enclave_stand_where_intel_has_them() -> None:
    """ATTRIBUTES.FLAGS and MISCSELECT, SDM volume 3D."""
    flags = (bits.INIT, bits.DEBUG, bits.MODE64BIT, bits.PROVISION_KEY, bits.EINITTOKEN_KEY, bits.CET, bits.KSS)
    assert flags == (0x1, 0x2, 0x4, 0x10, 0x20, 0x40, 0x80)
    assert (bits.AEX_NOTIFY, bits.EXINFO) == (0x400, 0x1)


@pytest.mark.parametrize("count", [0, 5])
def test_a_document_has_one_to_four_certificates_beside_it(count: int) -> None:
    """A signer and its root, with room for what Intel might add; neither none nor many."""
    machine = support.enclave()
    info = machine.endorsements.tcb_infos[0]
    evidence = encode(QUOTE, replace(machine.endorsements, tcb_infos=(replace(info, chain=info.chain[:1] * count),)))
    with pytest.raises(MalformedError, match=f"1 to 4 certificates beside JSON, found {count}"):
        Bundle.parse(evidence.body, "evidence")
    for fits in (1, 4):
        good = encode(QUOTE, replace(machine.endorsements, tcb_infos=(replace(info, chain=info.chain[:1] * fits),)))
        assert Bundle.parse(good.body, "evidence").parts == 4


@pytest.mark.parametrize("name", ["tcb_infos", "qe_identities"])
def test_documents_in_evidence_are_read_before_anything_is_believed(name: str) -> None:
    """What a machine sends is malformed when a part of it is; a pool may hold rubbish, evidence may not."""
    endorsements = support.enclave().endorsements
    document = getattr(endorsements, name)[0]
    broken = (replace(document, body=document.body[:-1]),)
    tcb_infos = broken if name == "tcb_infos" else endorsements.tcb_infos
    identities = broken if name == "qe_identities" else endorsements.qe_identities
    evidence = encode(QUOTE, replace(endorsements, tcb_infos=tcb_infos, qe_identities=identities))
    with pytest.raises(MalformedError, match="document"):
        Bundle.parse(evidence.body, "evidence")


def test_evidence_has_at_most_sixteen_lists() -> None:
    """The originals send three; the bound is before any of them is believed."""
    crl = support.vendor().crl("root", support.AT)
    for count in (16, 17):
        evidence = encode(QUOTE, Endorsements(crls=(crl,) * count))
        if count == 16:
            assert len(Bundle.parse(evidence.body, "evidence").endorsements.crls) == 16
        else:
            with pytest.raises(MalformedError, match="at most 16 CRLs, found 17"):
                Bundle.parse(evidence.body, "evidence")


def test_evidence_is_bounded_and_has_a_quote_and_lists() -> None:
    """One MiB, and at least the two parts of the oldest form."""
    assert MAX_EVIDENCE == 1024 * 1024
    with pytest.raises(MalformedError, match="at most 1048576 bytes, found 1048577"):
        Bundle.parse(bytes(MAX_EVIDENCE + 1), "evidence")
    for data in (der.wrap(0x30, b""), der.wrap(0x30, der.wrap(0x04, QUOTE))):
        with pytest.raises(MalformedError, match="expected a quote and a list of CRLs"):
            Bundle.parse(data, "evidence")


def test_a_chain_whose_leaf_is_no_pck_certificate_is_malformed() -> None:
    """Without Intel's extension nobody says which machine it is."""
    vendor = support.vendor()
    plain = vendor.platform.issue("Intel SGX PCK Certificate", vendor.platform.key.public_key(), support.AT)
    quote = replace(
        Quote.parse(QUOTE), certification=write_chain((plain, vendor.platform.certificate, vendor.root.certificate))
    )
    with pytest.raises(MalformedError, match=r"extension 1\.2\.840\.113741\.1\.13\.1 is missing"):
        Quoted.parse(quote.encode())


@given(st.binary(max_size=2048))
def test_any_bytes_are_a_quote_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the parser, it answers with a value or with MalformedError."""
    try:
        quote = Quote.parse(data)
    except MalformedError:
        return
    assert quote.encode() == data


@given(st.integers(0, len(QUOTE) - 1), st.integers(0, 255), st.sampled_from(LAYOUTS))
def test_any_changed_byte_is_a_quote_or_malformed(position: int, value: int, layout: tuple[int, int]) -> None:
    """A value that comes of a changed quote encodes to exactly the changed bytes."""
    data = bytearray(made(*layout))
    data[position % len(data)] = value
    try:
        quote = Quote.parse(bytes(data))
    except MalformedError:
        return
    assert quote.encode() == data


@given(st.binary(min_size=384, max_size=384) | st.binary(max_size=400))
def test_any_bytes_are_an_enclave_report_or_malformed(data: bytes) -> None:
    """The report body is read strictly: reserved bytes are zero and it has exactly 384 bytes."""
    try:
        report = EnclaveReport.parse(data)
    except MalformedError:
        return
    assert report.encode() == data


@given(st.binary(min_size=384, max_size=384))
def test_an_enclave_report_with_zero_reserved_bytes_is_read(data: bytes) -> None:
    """Every other byte is free and comes back."""
    body = bytearray(data)
    for start, size in ((20, 12), (96, 32), (160, 32), (262, 42)):
        body[start : start + size] = bytes(size)
    assert EnclaveReport.parse(bytes(body)).encode() == body


@pytest.mark.parametrize("offset", [20, 31, 96, 127, 160, 191, 262, 303])
def test_reserved_bytes_of_an_enclave_report_are_zero(offset: int) -> None:
    """The first and the last byte of every reserved field is checked."""
    body = bytearray(support.enclave().report(bytes(64)).encode())
    body[offset] = 1
    with pytest.raises(MalformedError, match="must be zero"):
        EnclaveReport.parse(bytes(body))
