"""AMD's roots, each with the intermediates that may hang under it, known by the SHA-256 of their certificates.

The certificates of Milan and Genoa lie in roots/; those of Turin and of every ASVK come with the evidence or from the
collateral, and count only when they have the digest that stands here. Genoa's first ASK, serial number 0x20001, is
revoked and is not among them. Bergamo and Siena use Genoa's.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Final

from enarx.tee.model import TrustAnchor

# Of each product the digests of ARK, ASK and ASVK.
DIGESTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "Milan": (
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
        "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
    ),
    "Genoa": (
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
        "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
    ),
    "Turin": (
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
        "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
        "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
    ),
}
CARRIED: Final = ("Milan", "Genoa")


@lru_cache(maxsize=1)
def anchors() -> tuple[TrustAnchor, ...]:
    """The root of each product, with its certificate where the package carries it."""
    return tuple(
        TrustAnchor(
            family="amd",
            sha256=bytes.fromhex(ark),
            certificate=_carried("ark", product) if product in CARRIED else None,
            intermediates=frozenset({bytes.fromhex(ask), bytes.fromhex(asvk)}),
        )
        for product, (ark, ask, asvk) in DIGESTS.items()
    )


@lru_cache(maxsize=1)
def intermediates() -> tuple[bytes, ...]:
    """The intermediates (DER) that the package carries; they serve where evidence and collateral bring none."""
    return tuple(_carried("ask", product) for product in CARRIED)


def expected_root(common_name: str) -> bytes | None:
    """The digest of the root of this name, for telling which certificate is missing."""
    product = common_name.removeprefix("ARK-")
    return bytes.fromhex(DIGESTS[product][0]) if product in DIGESTS else None


def _carried(role: str, product: str) -> bytes:
    return files(__package__).joinpath("roots", f"{role}-{product.lower()}.der").read_bytes()
