"""ID block and ID auth: every byte where AMD's specification puts it, signatures that verify."""

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError
from enarx.tee.snp import idblock
from enarx.tee.snp.idblock import IdBlock

ID_KEY = ec.derive_private_key(0x1D, ec.SECP384R1())
AUTHOR = ec.derive_private_key(0xA0, ec.SECP384R1())
BLOCK = IdBlock(launch_digest=bytes(range(48)), policy=0x30000, guest_svn=1).encode()


def verify(key: ec.EllipticCurvePrivateKey, signature: bytes, data: bytes) -> None:
    r, s = (int.from_bytes(signature[at : at + 72], "little") for at in (0, 72))
    assert not any(signature[144:])
    key.public_key().verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA384()))


def test_id_auth_has_both_signatures_and_both_keys_in_place() -> None:
    """The block is signed by the ID key, the ID key by the author; everything else is zero."""
    auth = idblock.authenticate(BLOCK, ID_KEY, idblock.sign_key(AUTHOR, ID_KEY.public_key()))
    assert len(auth) == idblock.AUTH_SIZE
    assert auth[:8] == bytes.fromhex("0100000001000000")
    verify(ID_KEY, auth[64:576], BLOCK)
    assert auth[576:1604] == idblock.public_key(ID_KEY.public_key())
    verify(AUTHOR, auth[1664:2176], auth[576:1604])
    assert auth[2176:3204] == idblock.public_key(AUTHOR.public_key())
    assert not any((*auth[8:64], *auth[1604:1664], *auth[3204:]))


def test_without_an_author_his_fields_are_zero() -> None:
    """An ID key may stand alone."""
    auth = idblock.authenticate(BLOCK, ID_KEY)
    assert auth[4:8] == bytes(4)
    assert not any(auth[1604:])


def test_a_signature_of_another_block_does_not_verify() -> None:
    """The proof that the test above can fail."""
    auth = idblock.authenticate(BLOCK, ID_KEY)
    with pytest.raises(InvalidSignature):
        verify(ID_KEY, auth[64:576], BLOCK[:-1] + b"\1")


def test_signing_twice_gives_the_same_bytes() -> None:
    """Signatures are deterministic, so what an image's owner publishes can be made again."""
    assert idblock.authenticate(BLOCK, ID_KEY) == idblock.authenticate(BLOCK, ID_KEY)


def test_the_digest_covers_the_padded_key() -> None:
    """Curve and little-endian coordinates, padded with zeros to 1028 bytes."""
    structure = idblock.public_key(ID_KEY.public_key())
    x = ID_KEY.public_key().public_numbers().x
    assert len(structure) == idblock.PUBLIC_KEY_SIZE
    assert structure[:76] == (2).to_bytes(4, "little") + x.to_bytes(72, "little")
    assert len(idblock.key_digest(ID_KEY.public_key())) == 48


@pytest.mark.parametrize("size", [0, 95, 97])
def test_a_block_of_another_size_is_malformed(size: int) -> None:
    """96 bytes, and no others."""
    with pytest.raises(MalformedError, match="expected 96 bytes"):
        idblock.authenticate(bytes(size), ID_KEY)


def test_a_key_of_another_curve_is_malformed() -> None:
    """The firmware knows P-384 alone."""
    with pytest.raises(MalformedError, match="expected P-384, found secp256r1"):
        idblock.authenticate(BLOCK, ec.derive_private_key(1, ec.SECP256R1()))


@given(st.binary(min_size=90, max_size=100))
def test_any_bytes_are_a_block_or_malformed(data: bytes) -> None:
    """Whatever is read is written back as it was."""
    try:
        block = IdBlock.parse(data)
    except MalformedError:
        return
    assert block.encode() == data
