"""SIGSTRUCT: every byte where Intel's manual puts it, and the quotients that the processor divides by."""

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from enarx.errors import MalformedError
from enarx.tee.sgx import sigstruct

KEY = sigstruct.generate()
BODY = bytes(range(128))


def test_the_structure_is_signed_and_the_quotients_check() -> None:
    """s³ mod n, computed from Q1 and Q2 as the processor does it, is what an RSA signature of exponent 3 gives."""
    data = sigstruct.sign(BODY, KEY, date=0x20261124)
    modulus, signature, first, second = (int.from_bytes(data[at : at + 384], "little") for at in (128, 516, 1040, 1424))
    assert len(data) == sigstruct.SIZE
    assert data[512:516] == (3).to_bytes(4, "little")
    assert data[20:24] == bytes.fromhex("24112620")
    assert data[900:1028] == BODY
    KEY.public_key().verify(signature.to_bytes(384, "big"), data[:128] + BODY, padding.PKCS1v15(), SHA256())
    rest = signature * signature - first * modulus
    assert 0 <= rest < modulus
    assert rest * signature - second * modulus == pow(signature, 3, modulus)


def test_mr_signer_is_the_digest_of_the_modulus() -> None:
    """The same value that a quote carries: it depends on the key alone."""
    assert sigstruct.mr_signer(KEY.public_key()) == sigstruct.mr_signer(KEY.public_key())
    assert len(sigstruct.mr_signer(KEY.public_key())) == 32


def test_only_keys_that_the_processor_knows_may_sign() -> None:
    """3072 bits and the exponent 3; a body of 128 bytes."""
    with pytest.raises(MalformedError, match="the exponent 3"):
        sigstruct.sign(BODY, rsa.generate_private_key(public_exponent=65537, key_size=3072))
    with pytest.raises(MalformedError, match="RSA of 3072 bits"):
        sigstruct.require_key(rsa.generate_private_key(public_exponent=3, key_size=2048))
    with pytest.raises(MalformedError, match="expected 128 bytes, found 127"):
        sigstruct.sign(BODY[:-1], KEY)
