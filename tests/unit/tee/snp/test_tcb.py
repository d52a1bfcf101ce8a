"""Products and TCB versions, and the key certificates that say them."""

import pytest

from enarx.errors import MalformedError
from enarx.pki.certificate import Certificate, Extension
from enarx.tee.snp import vek
from enarx.tee.snp.tcb import ADVISORIES, Tcb, layout_of, product_of
from enarx.tee.snp.vek import Vek
from tests.unit.tee.snp import support
from tests.values import replace


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x00, "Milan"),
        (0x19, 0x0F, "Milan"),
        (0x19, 0x10, "Genoa"),
        (0x19, 0x1F, "Genoa"),
        (0x19, 0x20, None),
        (0x19, 0x9F, None),
        (0x19, 0xA0, "Genoa"),
        (0x19, 0xAF, "Genoa"),
        (0x19, 0xB0, None),
        (0x1A, 0x00, "Turin"),
        (0x1A, 0x11, "Turin"),
        (0x1A, 0x12, None),
        (0x1A, 0x50, "Venice"),
        (0x1A, 0x57, "Venice"),
        (0x1A, 0x90, "Venice"),
        (0x1A, 0xAF, "Venice"),
        (0x1A, 0xC0, "Venice"),
        (0x1A, 0xC7, "Venice"),
        (0x1A, 0x4F, None),
        (0x1A, 0x58, None),
        (0x1A, 0x8F, None),
        (0x1A, 0xB0, None),
        (0x1A, 0xBF, None),
        (0x1A, 0xC8, None),
        (0x17, 0x31, None),
    ],
)
def test_products_by_family_and_model(family: int, model: int, product: str | None) -> None:
    """S15: the ranges with both their ends; Bergamo and Siena are Genoa."""
    assert product_of((family, model, 0)) == product
    assert layout_of((family, model, 0)) == {None: None, "Milan": 0, "Genoa": 0}.get(product, 1)


@pytest.mark.parametrize("layout", [0, 1])
def test_a_tcb_is_written_as_it_is_read(layout: int) -> None:
    """S14: each layout has its components at their bytes."""
    data = bytes((1, 2, 0, 0, 0, 0, 3, 4)) if layout == 0 else bytes((1, 2, 3, 4, 0, 0, 0, 5))
    tcb = Tcb.parse(data, 1 if layout else 0)
    assert tcb.encode() == data
    values = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 4}
    later = {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 5}
    assert tcb.components() == (later if layout else values)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_tcb_has_eight_bytes(layout: int, size: int) -> None:
    """Neither fewer nor more."""
    with pytest.raises(MalformedError, match="SNP TCB"):
        Tcb.parse(bytes(size), 1 if layout else 0)


def test_floors_that_bulletins_name() -> None:
    """The microcode loader (AMD-SB-3019) is mended from these on."""
    floors = ADVISORIES["AMD-SB-3019"]
    for product, mended in (("Milan", 0x18), ("Genoa", 0x17)):
        for snp, behind in ((mended, False), (mended - 1, True)):
            assert bool(Tcb(bootloader=0, tee=0, snp=snp, microcode=0).behind(floors[product])) is behind


def test_what_lags_is_told_by_component_and_by_how_much() -> None:
    """A TCB is compared by component, never as a number: a higher microcode does not outweigh an older loader."""
    tcb = Tcb(bootloader=3, tee=0, snp=8, microcode=255)
    assert tcb.behind({"bootloader": 4, "snp": 24, "microcode": 10}) == (
        "bootloader is 3, needs 4 (behind by 1)",
        "snp is 8, needs 24 (behind by 16)",
    )
    assert tcb.behind({"fmc": 1}) == ("fmc is 0, needs 1 (behind by 1)",)


def extended(kind: vek.Kind = "VCEK", product: str = "Milan", **changes: bytes | None) -> Certificate:
    """A key certificate with extensions replaced (by their names in `vek`), or left out (None)."""
    oids = {getattr(vek, name): value for name, value in changes.items()}

    def alter(extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
        kept = [replace(e, value=oids.pop(e.oid) or b"") if e.oid in oids else e for e in extensions]
        added = [Extension(oid=oid, critical=False, value=value) for oid, value in oids.items() if value is not None]
        return tuple(e for e in (*kept, *added) if e.value)

    machine = support.machine(product, kind)
    tcb = support.snp_tcb(machine)
    made = support.vendor(product).certify(
        machine.key.public_key(), support.AT, tcb=tcb, chip_id=support.hwid(machine), kind=kind, alter=alter
    )
    return Certificate.parse(made)


def test_what_amd_writes_is_read() -> None:
    """The hwID bare or in an OCTET STRING, told by length alone; a security version of 128 and more in two bytes."""
    chip = bytes.fromhex("0440") + bytes(range(62))  # begins like an OCTET STRING and is none
    assert Vek.of(extended(HWID=chip)).hwid == chip
    assert Vek.of(extended(HWID=b"\x04\x40" + chip)).hwid == chip
    short = b"\x04\x06abcdef"
    assert Vek.of(extended(product="Turin", HWID=short)).hwid == short
    assert Vek.of(extended(product="Turin", HWID=b"\x04\x08" + short)).hwid == short
    assert Vek.of(extended(MICROCODE=b"\x02\x02\x00\xd9")).tcb.microcode == 217
    assert Vek.of(extended(PRODUCT_NAME=vek.text("Siena-A1"))).product == "Genoa"
    assert Vek.of(extended("VLEK", CSP_ID=vek.text("c" * 128))).csp_id == "c" * 128
    assert Vek.of(extended("VLEK")).csp_id == "CN=cc.simulated.invalid"


@pytest.mark.parametrize(
    ("kind", "product", "changes", "message"),
    [
        ("VCEK", "Milan", {"STRUCT_VERSION": b"\x02\x01\x02"}, "structVersion: expected 0 or 1, found 2"),
        ("VCEK", "Milan", {"STRUCT_VERSION": None}, "3704.1.1 is missing"),
        ("VCEK", "Milan", {"PRODUCT_NAME": None}, "3704.1.2 is missing"),
        ("VCEK", "Milan", {"PRODUCT_NAME": b"\x0c\x05Milan"}, "expected tag 0x16"),
        ("VCEK", "Milan", {"PRODUCT_NAME": b"\x16\x01\x07"}, "printable ASCII"),
        ("VCEK", "Milan", {"BOOTLOADER": None}, "3704.1.3.1 is missing"),
        ("VCEK", "Milan", {"TEE": None}, "3704.1.3.2 is missing"),
        ("VCEK", "Milan", {"SNP": None}, "3704.1.3.3 is missing"),
        ("VCEK", "Milan", {"MICROCODE": None}, "3704.1.3.8 is missing"),
        ("VCEK", "Turin", {"FMC": None}, "3704.1.3.9 is missing"),
        ("VCEK", "Milan", {"FMC": b"\x02\x01\x00"}, "FMC SPL has no place in structVersion 0"),
        ("VCEK", "Milan", {"SNP": b"\x02\x02\x00\x7f"}, "minimal INTEGER"),
        ("VCEK", "Milan", {"SNP": b"\x02\x01\xff"}, "minimal INTEGER"),
        ("VCEK", "Milan", {"SNP": b"\x02\x02\x01\x00"}, "from 0 to 255"),
        ("VCEK", "Milan", {"SNP": b"\x02\x01\x01\x00"}, "expected none"),
        ("VCEK", "Milan", {"HWID": None}, "a VCEK has"),
        ("VCEK", "Milan", {"CSP_ID": b"\x16\x01a"}, "a VCEK has"),
        ("VLEK", "Milan", {"CSP_ID": None}, "a VLEK has"),
        ("VLEK", "Milan", {"CSP_ID": vek.text("c" * 129)}, "expected 1 to 128 printable"),
        ("VLEK", "Milan", {"CSP_ID": vek.text("")}, "expected 1 to 128 printable"),
        ("VLEK", "Milan", {"HWID": bytes(64)}, "a VLEK has"),
        ("VCEK", "Milan", {"HWID": bytes(8)}, "hwID: expected 64 bytes in structVersion 0, found 8"),
        ("VCEK", "Turin", {"HWID": bytes(64)}, "hwID: expected 8 bytes in structVersion 1, found 64"),
        ("VCEK", "Milan", {"HWID": bytes(66)}, "hwID"),
    ],
)
def test_a_key_certificate_that_does_not_say_what_it_has_to_is_malformed(
    kind: vek.Kind, product: str, changes: dict[str, bytes | None], message: str
) -> None:
    """Missing, of another type or length, out of range, or of the other kind of key."""
    with pytest.raises(MalformedError, match=message):
        Vek.of(extended(kind, product, **changes))


def test_a_reserved_security_version_is_zero() -> None:
    """SPL_4 to SPL_7 mean nothing yet."""
    certificate = extended()
    oid = vek.RESERVED[0]
    other = {**certificate.extensions, oid: Extension(oid=oid, critical=False, value=b"\x02\x01\x01")}
    with pytest.raises(MalformedError, match="reserved SPL"):
        Vek.of(replace(certificate, extensions=other))


def test_any_other_certificate_is_none() -> None:
    """An ASK has another name."""
    with pytest.raises(MalformedError, match="expected SEV-VCEK or SEV-VLEK, found 'SEV-Milan'"):
        Vek.of(Certificate.parse(support.vendor().ask.certificate))
