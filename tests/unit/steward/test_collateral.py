"""Vendors' documents are told by their content, and what is none is passed over."""

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.binary import Writer
from enarx.errors import MalformedError, NotFoundError
from enarx.pki.certificate import pem
from enarx.steward import collateral
from enarx.steward.collateral import Directory, recognise
from enarx.steward.issuer import development
from enarx.tee.dcap.simulator import Vendor
from enarx.tee.model import Endorsements, SignedJson
from tests.unit.steward import support
from tests.values import replace

AT = support.AT


def qvl(vendor: Vendor) -> dict[str, str]:
    """What dcap-qvl would keep of this vendor's documents for SGX."""
    published = vendor.publish(AT)
    chain = published["tcb-signing-chain.pem"].decode()
    members = {"root_ca_crl": published["root.crl"].hex(), "pck_crl": published["platform.crl"].hex()}
    for key, name, outer in (("tcb_info", "tcb-info", "tcbInfo"), ("qe_identity", "qe-identity", "enclaveIdentity")):
        body = published[f"{name}-sgx.json"].decode()
        inner, signature = body.removeprefix(f'{{"{outer}":').removesuffix('"}').rsplit(',"signature":"', 1)
        members |= {f"{key}_issuer_chain": chain, key: inner, f"{key}_signature": signature}
    return {**members, "pck_crl_issuer_chain": chain}


def test_everything_a_vendor_publishes_is_recognised(tmp_path: Path) -> None:
    """Lists, signed documents and their signer, each by its content; documents find who signed them."""
    for name, data in Vendor.create(AT).publish(AT).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "README.txt").write_text("nothing")
    (tmp_path / ".hidden").write_text("nothing")
    reading = collateral.read([tmp_path])
    assert sorted(document.kind for document in reading.documents) == sorted(
        ["CRL"] * 3 + ["TCB info"] * 2 + ["QE identity"] * 2 + ["certificate"] * 2
    )
    assert [Path(path).name for path, _ in reading.passed_over] == ["README.txt"]
    assert all(item.chain for item in (*reading.endorsements.tcb_infos, *reading.endorsements.qe_identities))


def test_every_writing_of_certificates_is_read() -> None:
    """PEM with text between, several DER after each other, a SEQUENCE of them, hexadecimal, base64, and AMD's table."""
    one = development("One", AT).certificate
    two = development("Two", AT).certificate
    both = (one.der, two.der)
    assert recognise(b"words\n" + one.to_pem() + b"more\n" + two.to_pem(), "x")[0].certificates == both
    assert recognise(one.der + two.der, "x")[0].certificates == both
    from enarx import der

    assert recognise(der.wrap(0x30, one.der + two.der), "x")[0].certificates == both
    assert recognise(one.der.hex().encode(), "x")[0].certificates == (one.der,)
    assert recognise(base64.encodebytes(one.der), "x")[0].certificates == (one.der,)
    assert recognise(_table(one.der, two.der), "x")[0].certificates == both


def test_answers_of_intels_services_are_read_with_their_headers() -> None:
    """A body below its head, headers alone, and a chain in percent signs: each gives the signer that it names."""
    vendor = Vendor.create(AT)
    published = vendor.publish(AT)
    info = published["tcb-info-sgx.json"]
    chain = published["tcb-signing-chain.pem"]
    head = b"HTTP/1.1 200 OK\r\nTCB-Info-Issuer-Chain: " + quote(chain, safe="").encode()
    found, documents = recognise(head + b"\r\n\r\n" + info, "x")
    assert [item.body for item in found.tcb_infos] == [info]
    assert [document.kind for document in documents] == ["certificate", "certificate", "TCB info"]
    for text in (head, quote(chain).encode(), head.replace(b"HTTP/1.1 200 OK\r\n", b"")):
        assert recognise(text, "x")[0].certificates == found.certificates
    with pytest.raises(MalformedError, match="an HTTP answer without a document"):
        recognise(b"HTTP/1.1 200 OK\r\n\r\n", "x")


def test_collateral_json_is_read_however_its_members_are_written() -> None:
    """Lists in hexadecimal, base64, PEM or numbers; documents bare or in their frame; nothing where nothing is needed."""
    members = qvl(Vendor.create(AT))
    wanted = recognise(json.dumps(members).encode(), "x")[0]
    assert len(wanted.crls) == 2
    crls = {key: bytes.fromhex(members[key]) for key in ("root_ca_crl", "pck_crl")}
    writings = (
        {key: base64.b64encode(crl).decode() for key, crl in crls.items()},
        {key: list(crl) for key, crl in crls.items()},
        {key: pem("X509 CRL", crl).decode() + "\0" for key, crl in crls.items()},
        {f"{key}_signature": list(bytes.fromhex(members[f"{key}_signature"])) for key in ("tcb_info", "qe_identity")},
        {"pck_certificate_chain": None, "tcb_info": members["tcb_info"] + "\n"},
    )
    for changed in writings:
        assert recognise(json.dumps({**members, **changed}, indent=2).encode(), "x")[0] == wanted
    framed = {
        key: f'{{"{outer}":{members[key]},"signature":"{members[f"{key}_signature"]}"}}'
        for key, outer in (("tcb_info", "tcbInfo"), ("qe_identity", "enclaveIdentity"))
    }
    bare = {key: value for key, value in members.items() if not key.endswith("_signature")}
    assert recognise(json.dumps({**bare, **framed}).encode(), "x")[0] == wanted


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"root_ca_crl": [1, 256]}, "root_ca_crl: expected numbers from 0 to 255"),
        ({"root_ca_crl": {}}, "root_ca_crl: expected text, found no text"),
        ({"tcb_info": {}}, "tcb_info: expected text, found no text"),
        ({"qe_identity_signature": None}, "qe_identity_signature: expected text, found nothing"),
        ({"tcb_info": "[]"}, "JSON, but no object"),
    ],
)
def test_collateral_json_with_a_wrong_member_names_it(changed: dict[str, object], why: str) -> None:
    """A document that was parsed and written again could not be verified; it has to come as the text it was."""
    with pytest.raises(MalformedError, match=why):
        recognise(json.dumps({**qvl(Vendor.create(AT)), **changed}).encode(), "x")


def test_collateral_json_gives_what_it_holds() -> None:
    """Older ones have no lists, others no documents or chains: what is there is taken, what is not is missing."""
    members = qvl(Vendor.create(AT))
    whole = recognise(json.dumps(members).encode(), "x")[0]

    def without(*names: str) -> Endorsements:
        return recognise(json.dumps({k: v for k, v in members.items() if k not in names}).encode(), "x")[0]

    assert without("root_ca_crl") == replace(whole, crls=whole.crls[1:])
    assert without("pck_crl") == replace(whole, crls=whole.crls[:1])
    assert without("root_ca_crl", "pck_crl", "pck_crl_issuer_chain") == replace(whole, crls=())
    assert recognise(json.dumps({**members, "root_ca_crl": "", "pck_crl": None}).encode(), "x")[0].crls == ()
    assert without("qe_identity") == replace(whole, qe_identities=())
    assert without("tcb_info", "qe_identity").crls == whole.crls
    assert without("tcb_info_issuer_chain").tcb_infos == (SignedJson(body=whole.tcb_infos[0].body),)
    with pytest.raises(MalformedError, match="neither TCB info, QE identity nor collateral"):
        without("root_ca_crl", "pck_crl", "tcb_info", "qe_identity")
    with pytest.raises(MalformedError, match="found nothing in any member"):
        recognise(b'{"tcb_info":"","pck_crl":null}', "x")


@pytest.mark.parametrize(("position", "value"), [(20, 1 << 20), (16, 0), (16, 24), (16, 0xFFFFFFFF), (20, 0xFFFFFFFF)])
def test_a_certificate_table_that_points_outside_is_refused(position: int, value: int) -> None:
    """Offsets and lengths lie behind the header and within the table, without wrapping at 32 bits."""
    table = bytearray(_table(b"\x30\x00"))
    table[position : position + 4] = value.to_bytes(4, "little")
    with pytest.raises(MalformedError, match="is not behind the header"):
        recognise(bytes(table), "x")


def test_a_certificate_table_holds_what_hosts_put_there() -> None:
    """GUIDs in either order of bytes, PEM inside, empty entries, and entries of kinds that are not known here."""
    one = development("One", AT).certificate
    table = _table(one.der, one.to_pem(), b"")
    other = bytes.fromhex("ecae0c0f950243b1afa20ae2e0d565b6") + (120).to_bytes(4, "little") + (4).to_bytes(4, "little")
    moved = [table[at : at + 24] for at in (0, 24, 48)]
    entries = [
        entry[:16] + (int.from_bytes(entry[16:20], "little") + 24).to_bytes(4, "little") + entry[20:] for entry in moved
    ]
    assert recognise(table, "x")[0].certificates == (one.der,)
    assert recognise(other + b"".join(entries) + table[72:], "x")[0].certificates == (one.der,)
    swapped = table[3::-1] + table[5:3:-1] + table[7:5:-1] + table[8:]
    assert recognise(swapped, "x")[0].certificates == (one.der,)


def test_a_certificate_table_without_an_end_is_refused() -> None:
    """The header ends with an entry of zeros, within a bounded number of entries."""
    entry = _table(b"\x30\x00")[:24]
    with pytest.raises(MalformedError, match="more than 64 entries"):
        recognise(entry * 70, "x")
    with pytest.raises(MalformedError, match="certificate table"):
        recognise(entry, "x")


def test_a_binary_file_with_pem_inside_is_no_chain() -> None:
    """A quote carries its chain among other bytes; it is no endorsement file."""
    with pytest.raises(MalformedError, match="not a certificate"):
        recognise(b"\x03\x00\x02\x00" + development("One", AT).certificate.to_pem(), "x")


def test_a_directory_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """What is published counts at once, and what is withdrawn counts no more."""
    directory = Directory(tmp_path)
    assert directory.current().certificates == ()
    file = tmp_path / "one.der"
    file.write_bytes(development("One", AT).certificate.der)
    assert len(directory.current().certificates) == 1
    assert directory.current() is directory.current()
    file.unlink()
    assert directory.current().certificates == ()


def test_a_path_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    """Endorsements that were named and are absent are an error, not an empty set."""
    with pytest.raises(NotFoundError, match="no such file or directory"):
        collateral.read([tmp_path / "absent"])


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda rest: b'{"tcbInfo":' + rest)))
def test_any_bytes_are_documents_or_malformed(data: bytes) -> None:
    """Whatever stands in a file, the answer is documents or MalformedError."""
    try:
        _, documents = recognise(data, "x")
    except MalformedError:
        return
    assert isinstance(documents, tuple)


def _table(*certificates: bytes) -> bytes:
    guids = [
        "63da758de6644564adc5f4b93be8accd",
        "4ab7b379bbac4fe4a02f05aef327c782",
        "c0b406a4a803495297433fb6014cd0ae",
    ]
    offset = 24 * (len(certificates) + 1)
    head, body = Writer(), b""
    for guid, data in zip(guids, certificates, strict=False):
        head.put(bytes.fromhex(guid)).uint(offset + len(body), 4).uint(len(data), 4)
        body += data
    return head.zeros(24).getvalue() + body
