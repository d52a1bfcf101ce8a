"""Products and TCB versions: which chip, which of its firmware's parts at which level (AMD 56860, 57230).

A TCB_VERSION is eight bytes, one for each component, and is compared component by component, never as a number.
Milan and Genoa have one layout; from Turin on there is another, with the FMC in front. Which product a report is of
stands in its CPUID from version 3 on; in version 2 the chain that endorses it tells. AMD publishes no list of levels:
what is old is a matter of policy, and of the few floors that its bulletins name.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Self

from msgspec import Struct

from enarx.binary import Reader, Writer
from enarx.errors import MalformedError

Layout = int  # structVersion of the VCEK: 0 up to Genoa, 1 from Turin on

LAYOUTS: Final[Mapping[str, Layout]] = {"Milan": 0, "Genoa": 0, "Turin": 1, "Venice": 1}
PRODUCTS: Final = tuple(LAYOUTS)

# (family, first model, last model, product). Bergamo and Siena are Genoa to AMD's key servers.
_MODELS: Final = (
    (0x19, 0x00, 0x0F, "Milan"),
    (0x19, 0x10, 0x1F, "Genoa"),
    (0x19, 0xA0, 0xAF, "Genoa"),
    (0x1A, 0x00, 0x11, "Turin"),
    (0x1A, 0x50, 0x57, "Venice"),
    (0x1A, 0x90, 0xAF, "Venice"),
    (0x1A, 0xC0, 0xC7, "Venice"),
)


class Tcb(Struct, frozen=True, kw_only=True):
    """The security version of each component. `fmc` stands only in the later layout."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    @classmethod
    def parse(cls, data: bytes, layout: Layout, name: str = "TCB") -> Self:
        """Read a TCB_VERSION. Raises MalformedError."""
        reader = Reader(data, what=f"SNP {name}")
        fmc = reader.uint(1, "FMC") if layout else None
        bootloader, tee = reader.uint(1, "BOOT_LOADER"), reader.uint(1, "TEE")
        if not layout:
            reader.zeros(4)
        snp = reader.uint(1, "SNP")
        if layout:
            reader.zeros(3)
        microcode = reader.uint(1, "MICROCODE")
        reader.end()
        return cls(bootloader=bootloader, tee=tee, snp=snp, microcode=microcode, fmc=fmc)

    def encode(self) -> bytes:
        writer = Writer()
        if self.fmc is None:
            return (
                writer.uint(self.bootloader, 1)
                .uint(self.tee, 1)
                .zeros(4)
                .uint(self.snp, 1)
                .uint(self.microcode, 1)
                .getvalue()
            )
        writer.uint(self.fmc, 1).uint(self.bootloader, 1).uint(self.tee, 1).uint(self.snp, 1).zeros(3)
        return writer.uint(self.microcode, 1).getvalue()

    def components(self) -> dict[str, int]:
        """The components that there are, by name."""
        found = {"bootloader": self.bootloader, "tee": self.tee, "snp": self.snp, "microcode": self.microcode}
        return found if self.fmc is None else {**found, "fmc": self.fmc}

    def behind(self, floor: Mapping[str, int]) -> tuple[str, ...]:
        """Where this is below `floor`, in words; a component that this product has not is behind any floor above 0."""
        mine = self.components()
        return tuple(
            f"{name} is {mine.get(name, 0)}, needs {wanted} (behind by {wanted - mine.get(name, 0)})"
            for name, wanted in floor.items()
            if mine.get(name, 0) < wanted
        )

    def __str__(self) -> str:
        return _text(self)


@lru_cache(maxsize=256)
def _text(tcb: Tcb) -> str:
    return " ".join(f"{name} {value}" for name, value in tcb.components().items())


@lru_cache(maxsize=1024)
def read_tcb(data: bytes, layout: Layout, name: str) -> Tcb:
    """As `Tcb.parse`, remembered: machines report the same ones again and again. Raises MalformedError."""
    return Tcb.parse(data, layout, name)


COMPONENTS: Final = ("bootloader", "tee", "snp", "microcode", "fmc")

# Floors that AMD's bulletins name, by product: the firmware from which on the weakness is mended.
ADVISORIES: Final[Mapping[str, Mapping[str, Mapping[str, int]]]] = {
    "AMD-SB-3019": {"Milan": {"snp": 0x18}, "Genoa": {"snp": 0x17}},  # microcode loader, CVE-2024-56161
}


def product_of(cpuid: tuple[int, int, int]) -> str | None:
    """The product with this family and model, or None when none is known here."""
    family, model, _ = cpuid
    return next((name for fam, first, last, name in _MODELS if fam == family and first <= model <= last), None)


def layout_of(cpuid: tuple[int, int, int] | None) -> Layout | None:
    """The layout that a report's CPUID tells, if it tells one."""
    product = None if cpuid is None else product_of(cpuid)
    return None if product is None else LAYOUTS[product]


def read_layout(version: int) -> Layout:
    """The structVersion of a VCEK. Raises MalformedError for one that is not known."""
    if version not in LAYOUTS.values():
        raise MalformedError(f"VEK certificate: structVersion: expected 0 or 1, found {version}")
    return version
