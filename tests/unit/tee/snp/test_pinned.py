"""AMD's roots as the package carries them."""

from hashlib import sha256

from enarx.pki.certificate import Certificate
from enarx.pki.chain import verify_chain
from enarx.tee.snp import pinned
from tests.unit.tee.snp import support


def test_what_the_package_carries_has_the_digests_that_are_pinned() -> None:
    """Milan's and Genoa's ARK and ASK are those of the table, and each ARK signed its ASK."""
    roots = {anchor.sha256: anchor for anchor in pinned.anchors()}
    carried = [Certificate.parse(data) for data in pinned.intermediates()]
    for product, ask in zip(pinned.CARRIED, carried, strict=True):
        digest, pin, _ = (bytes.fromhex(text) for text in pinned.DIGESTS[product])
        root = roots[digest].certificate
        assert root is not None
        assert (sha256(root).digest(), ask.sha256) == (digest, pin)
        assert (ask.common_name, ask.issuer_common_name) == (f"SEV-{product}", f"ARK-{product}")
        verify_chain([ask, Certificate.parse(root)], support.AT)


def test_the_revoked_intermediate_of_genoa_is_not_pinned() -> None:
    """Serial number 0x20001 was replaced by 0x20002."""
    genoa = Certificate.parse(pinned.intermediates()[pinned.CARRIED.index("Genoa")])
    assert genoa.serial == 0x20002
    revoked = bytes.fromhex("54467b96b8baf21dd42ef7162a62ec7812c5231ef301790e37a84b822ae6f459")
    assert all(revoked not in (anchor.intermediates or ()) for anchor in pinned.anchors())


def test_turin_is_pinned_by_digest_alone() -> None:
    """Its certificates come with the evidence or from the collateral."""
    turin = next(a for a in pinned.anchors() if a.sha256.hex() == pinned.DIGESTS["Turin"][0])
    assert turin.certificate is None
    assert len(turin.intermediates or ()) == 2
