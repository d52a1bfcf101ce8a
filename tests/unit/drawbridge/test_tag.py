"""Tags: entries, signed or not."""

import base64
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jws
from joserfc.jwk import ECKey

from enarx.drawbridge.names import RepositoryName, TagName, UserName
from enarx.drawbridge.signing import SigningKey, sign
from enarx.drawbridge.tag import ENTRY_TYPE, JOSE_TYPE, Tag, subject_of
from enarx.drawbridge.tree import Entry
from enarx.errors import MalformedError, UntrustedError

ENTRY = Entry.of(b"{}", "application/vnd.drawbridge.directory.v1+json")
SUBJECT = subject_of(UserName("user"), RepositoryName("repo"), TagName("1.0.0"))


def pem(key: Any) -> bytes:  # Any: any private key of cryptography
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def public_pem(key: Any) -> bytes:  # Any: as above
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


RELEASE = ec.generate_private_key(ec.SECP256R1())
KEYS = {
    "ES256": RELEASE,
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "PS256": rsa.generate_private_key(65537, 2048),
}
PRIVATE = SigningKey.parse("release", pem(RELEASE))
PUBLIC = SigningKey.parse("release", public_pem(RELEASE))
OTHER = SigningKey.parse("other", public_pem(ec.generate_private_key(ec.SECP256R1())))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def handmade(**protected: object) -> dict[str, Any]:  # Any: JSON
    """A flattened JWS by the release key, with these members in its protected header."""
    key = ECKey.import_key(pem(RELEASE))
    registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
    header: dict[str, Any] = {"alg": "ES256", "slug": SUBJECT, **protected}  # Any: JSON
    header = {name: value for name, value in header.items() if value is not None}
    return dict(jws.serialize_json({"protected": header}, ENTRY.encode(), key, registry=registry))


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def test_an_unsigned_tag_is_its_entry() -> None:
    """Body and type are those of the originals."""
    tag = Tag.parse(ENTRY.encode())
    assert (tag.entry, tag.is_signed, tag.media_type) == (ENTRY, False, ENTRY_TYPE)
    assert tag.encode() == ENTRY.encode()
    with pytest.raises(UntrustedError, match="expected a signature by 'release', found none"):
        tag.verify([PUBLIC], SUBJECT)


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_signature_names_its_key(algorithm: str) -> None:
    """Sign, publish, read, verify: with every kind of key, and only for what was signed."""
    private = SigningKey.parse("k", pem(KEYS[algorithm]))
    tag = Tag.parse(sign(ENTRY, SUBJECT, [private]).encode())
    assert (tag.media_type, tag.flattened, private.algorithm) == (JOSE_TYPE, True, algorithm)
    assert tag.verify([OTHER, SigningKey.parse("k", private.public_pem())], SUBJECT) == ("k",)
    with pytest.raises(UntrustedError, match=r"made for user/repo:1\.0\.0, expected user/repo:2\.0\.0"):
        tag.verify([private], "user/repo:2.0.0")


def test_several_may_sign() -> None:
    """The general form: each known signer is named, a strange one beside them does no harm."""
    second = SigningKey.parse("second", pem(KEYS["EdDSA"]))
    tag = sign(ENTRY, SUBJECT, [PRIVATE, second])
    assert not tag.flattened
    assert Tag.parse(tag.encode()) == tag
    assert tag.verify([PUBLIC, second], SUBJECT) == ("release", "second")
    assert tag.verify([second], SUBJECT) == ("second",)


def test_nobody_named_is_nobody_trusted() -> None:
    """No keys means no, and so do the wrong ones, with the reason."""
    tag = sign(ENTRY, SUBJECT, [PRIVATE])
    with pytest.raises(UntrustedError, match="no key was named"):
        tag.verify([], SUBJECT)
    with pytest.raises(UntrustedError, match=r"signature 1: made by the key .* which nobody named"):
        tag.verify([OTHER], SUBJECT)


def test_a_signature_is_over_the_entry() -> None:
    """With another payload, or another key under the same id, it does not verify."""
    tag = sign(ENTRY, SUBJECT, [PRIVATE])
    forged = json.loads(tag.encode())
    forged["payload"] = b64(Entry.of(b"evil", "a/b").encode())
    with pytest.raises(UntrustedError, match="does not verify with 'release'"):
        Tag.parse(encode(forged)).verify([PUBLIC], SUBJECT)
    anonymous = Tag.parse(encode(handmade()))
    assert anonymous.verify([OTHER, PUBLIC], SUBJECT) == ("release",)
    with pytest.raises(UntrustedError, match="does not verify with 'other'"):
        anonymous.verify([OTHER], SUBJECT)


@pytest.mark.parametrize(
    ("header", "because"),
    [({"slug": None}, "made for no slug"), ({"slug": "user/repo:1.0.1"}, "made for user/repo:1.0.1"),
     ({"kid": "somebody"}, "key 'somebody'")],
)  # fmt: skip
def test_a_signature_says_for_what(header: dict[str, object], because: str) -> None:
    """A signature over an entry alone could be shown as any version."""
    with pytest.raises(UntrustedError, match=because):
        Tag.parse(encode(handmade(**header))).verify([PUBLIC], SUBJECT)


def test_headers_choose_neither_key_nor_algorithm() -> None:
    """HMAC with the public key as its secret, `none`, an embedded key, critical extensions: refused."""
    confused = {"payload": b64(ENTRY.encode()), "protected": b64(encode({"alg": "HS256", "slug": SUBJECT}))}
    signed = f"{confused['protected']}.{confused['payload']}".encode()
    confused["signature"] = b64(hmac.digest(PUBLIC.public_pem(), signed, "sha256"))
    with pytest.raises(UntrustedError, match="does not verify"):
        Tag.parse(encode(confused)).verify([PUBLIC], SUBJECT)
    bare = {"payload": b64(ENTRY.encode()), "protected": b64(encode({"alg": "none", "slug": SUBJECT})), "signature": ""}
    with pytest.raises(UntrustedError, match="does not verify"):
        Tag.parse(encode(bare)).verify([PUBLIC], SUBJECT)
    lenient = jws.JWSRegistry(strict_check_header=False)
    stranger = ECKey.generate_key("P-256")
    header_with_key = {"alg": "ES256", "slug": SUBJECT, "jwk": stranger.as_dict(private=False)}
    brought = jws.serialize_json({"protected": header_with_key}, ENTRY.encode(), stranger, registry=lenient)
    with pytest.raises(UntrustedError, match="does not verify"):
        Tag.parse(encode(brought)).verify([PUBLIC], SUBJECT)
    critical = sign(ENTRY, SUBJECT, [PRIVATE])
    edited = json.loads(critical.encode())
    for extension in ({"crit": ["b64"], "b64": False}, {"b64": False}, {"crit": ["exp"], "exp": 1}):
        edited["protected"] = b64(encode({"alg": "ES256", "slug": SUBJECT, **extension}))
        with pytest.raises(UntrustedError, match="critical extensions"):
            Tag.parse(encode(edited)).verify([PUBLIC], SUBJECT)


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"payload": None}, "expected a member 'payload'"),
        ({"payload": "!!"}, "payload: expected base64url"),
        ({"payload": b64(b"[]")}, "payload: expected an object"),
        ({"payload": b64(b"not json")}, "payload: expected JSON"),
        ({"protected": b64(b"foo")}, "protected: expected JSON"),
        ({"protected": b64(b'{"alg":1}')}, "alg: expected a string"),
        ({"protected": "e30="}, "without padding"),
        ({"header": {"alg": "ES256"}}, "found it protected and unprotected"),
        ({"header": 1}, "header: expected an object"),
        ({"signature": 7}, "signature: expected a string"),
        ({"extra": 1}, "found 'extra'"),
    ],
)
def test_a_jws_that_is_none_is_malformed(change: dict[str, object], because: str) -> None:
    """What made the originals' server crash is one clear error."""
    body = {name: value for name, value in {**handmade(), **change}.items() if value is not None}
    with pytest.raises(MalformedError, match=because):
        Tag.parse(encode(body))


def test_the_general_form_has_bounds() -> None:
    """At least one signature, and not any number."""
    item = {name: value for name, value in handmade().items() if name != "payload"}
    for count in (0, 17):
        with pytest.raises(MalformedError, match=f"from 1 to 16 signatures, found {count}"):
            Tag.parse(encode({"payload": b64(ENTRY.encode()), "signatures": [item] * count}))
    with pytest.raises(MalformedError, match="at most 100000 bytes"):
        Tag.parse(b" " * 100_001)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"{}", b'{"kty":"oct","k":"AAAA"}', public_pem(ec.generate_private_key(ec.SECP521R1())), b"x" * 30_000,
     public_pem(rsa.generate_private_key(65537, 1024))],  # noqa: S505 - refused
    ids=["empty", "text", "no-kty", "secret", "P-521", "large", "RSA-1024"],
)  # fmt: skip
def test_a_key_that_we_do_not_verify_with_is_refused(data: bytes) -> None:
    """The error names the key, never its bytes."""
    with pytest.raises(MalformedError, match="key 'ci'"):
        SigningKey.parse("ci", data)


def test_signing_needs_a_private_key() -> None:
    """A public key can not sign, and nobody's signature is none."""
    with pytest.raises(MalformedError, match="expected a private key"):
        sign(ENTRY, SUBJECT, [PUBLIC])
    with pytest.raises(MalformedError, match="at least one key"):
        sign(ENTRY, SUBJECT, [])
    jwk = SigningKey.parse("jwk", json.dumps({**PUBLIC.key.as_dict(private=False), "use": "sig"}).encode())
    assert jwk.key_id == PUBLIC.key_id


@pytest.mark.parametrize(
    ("jwk", "key_id"),
    [
        (
            {"kty": "OKP", "crv": "Ed25519", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
             "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
        ),
        (
            {"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
             "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "use": "enc", "kid": "1"},
            "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s",
        ),
    ],
    ids=["RFC 8037, A.3", "RFC 7517, A.1"],
)  # fmt: skip
def test_keys_of_the_standards_have_their_thumbprints(jwk: dict[str, str], key_id: str) -> None:
    """The examples of the standards, by the thumbprints that are published for them."""
    assert SigningKey.parse("k", json.dumps(jwk).encode()).key_id == key_id
