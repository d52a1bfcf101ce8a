"""The CA key in a security module: SoftHSM, where it is installed, plays one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from enarx.errors import MalformedError, NotFoundError, UnavailableError
from enarx.pki import crl, keys
from enarx.pki.chain import verify_issued
from enarx.steward import issuer as ca
from enarx.steward import setup
from enarx.steward.config import Config, Flags, assemble, load_issuer, private_key
from enarx.steward.ledger import Ledger
from enarx.steward.token import TokenUri, open_key
from enarx.toml import ConfigError
from tests.unit.steward import support

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)


@dataclass(frozen=True)
class Token:
    """A token with a key `ca` on P-256 and a key `root` on P-384, and its PIN in a file."""

    module: str
    folder: Path

    def uri(self, label: str = "ca", **changes: str) -> str:
        options = {"token": "steward", "module": self.module, "pin": str(self.folder / "pin")} | changes
        return f"pkcs11:token={options['token']};object={label}?module-path={options['module']}&pin-source={options['pin']}"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    module = next((path for path in MODULES if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM (softhsm2) is not installed")
    pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 (the extra `pkcs11`) is not installed")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    initialise = ["softhsm2-util", "--init-token", "--free", "--label", "steward", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run(initialise, check=True, capture_output=True)
    (folder / "pin").write_text("1234\n")
    (folder / "pin").chmod(0o600)
    from pkcs11.util.ec import encode_named_curve_parameters

    library = pkcs11.lib(module)
    with library.get_token(token_label="steward").open(rw=True, user_pin="1234") as session:
        for label, curve in (("ca", "secp256r1"), ("root", "secp384r1")):
            attributes = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
            parameters = session.create_domain_parameters(pkcs11.KeyType.EC, attributes, local=True)
            parameters.generate_keypair(store=True, label=label)
    yield Token(module, folder)
    del os.environ["SOFTHSM2_CONF"]


def test_errors_name_the_key_and_never_the_pin(token: Token, tmp_path: Path) -> None:
    """Wrong PIN, absent key, token or library, and a key of another certificate."""
    (tmp_path / "pin").write_text("666666")
    (tmp_path / "pin").chmod(0o600)
    with pytest.raises(UnavailableError, match="PinIncorrect") as caught:
        open_key(token.uri(pin=str(tmp_path / "pin")))
    assert "666666" not in str(caught.value)
    with pytest.raises(NotFoundError, match="key absent of token steward: NoSuchKey"):
        open_key(token.uri("absent"))
    with pytest.raises(NotFoundError, match="NoSuchToken"):
        open_key(token.uri(token="other"))
    with pytest.raises(UnavailableError, match=r"/absent\.so"):
        open_key(token.uri(module="/absent.so"))
    (tmp_path / "pin").chmod(0o644)
    with pytest.raises(MalformedError, match="everybody may read"):
        open_key(token.uri(pin=str(tmp_path / "pin")))
    with pytest.raises(MalformedError, match="the key does not belong to the certificate Steward"):
        private_key(token.uri(), ca.development("Steward", support.AT).certificate)


def test_a_module_signs_certificates_and_lists(token: Token, tmp_path: Path) -> None:
    """The key never leaves it; certificates and CRLs verify; the nonce key has to be configured."""
    key = open_key(token.uri())
    root = ca.self_signed("Steward", key, support.AT, lifetime=timedelta(days=30), path_length=0)
    (tmp_path / "ca.pem").write_bytes(root.to_pem())
    config = tmp_path / "steward.toml"
    config.write_text(f"crt = 'ca.pem'\nkey = '{token.uri()}'\n{support.ACCEPT_NIL}")
    read = Config.read(config, Flags())
    issuer = load_issuer(read, support.AT)
    with pytest.raises(ConfigError, match="nonce_key: missing; none can be derived from a key in a security module"):
        assemble(read, issuer, support.ORIGIN, Ledger(None))
    (tmp_path / "nonce.key").write_bytes(bytes(32))
    (tmp_path / "nonce.key").chmod(0o600)
    config.write_text(f"crt = 'ca.pem'\nkey = '{token.uri()}'\nnonce_key = 'nonce.key'\n{support.ACCEPT_NIL}")
    authority = assemble(Config.read(config, Flags()), issuer, support.ORIGIN, Ledger(None))
    issuance = authority.issue([support.request(support.nil_evidence())], support.AT)
    verify_issued(issuance.issued[0], root, "leaf")
    end = support.AT + timedelta(hours=1)
    signed = crl.Crl.parse(issuer.sign_crl([], number=1, begin=support.AT, end=end))
    crl.require_current(signed, root, support.AT, "CRL")
    for export in (issuer.derive, keys.to_pem):
        with pytest.raises(MalformedError, match="key ca of token steward: cannot be exported"):
            export("nonce") if export is issuer.derive else keys.to_pem(key)


def test_a_root_in_a_module_signs_intermediates(token: Token, tmp_path: Path) -> None:
    """`ca rotate --root-key` asks the module; the online key is a file as ever."""
    root = ca.self_signed("Root", open_key(token.uri("root")), support.AT, lifetime=timedelta(days=30), path_length=1)
    (tmp_path / "root.pem").write_bytes(root.to_pem())
    made = setup.rotate(
        tmp_path,
        "Steward",
        support.AT,
        curve="P-256",
        lifetime=timedelta(days=7),
        passphrase=b"secret",
        root_key=token.uri("root"),
    )
    verify_issued(made, root, "intermediate")
    assert b"ENCRYPTED" in (tmp_path / "ca.key").read_bytes()


def test_a_child_process_signs_too(token: Token) -> None:
    """After a fork the library is opened anew."""
    key = open_key(token.uri())
    key.sign(b"before", _ecdsa(key))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            key.public_key().verify(key.sign(b"after", _ecdsa(key)), b"after", _ecdsa(key))
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    key.public_key().verify(key.sign(b"parent", _ecdsa(key)), b"parent", _ecdsa(key))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pkcs11:token=a;object=b?module-path=/m&pin-value=1234", "pin-value would show the PIN to everybody"),
        ("pkcs11:token=a?module-path=/m", "expected token=, object= or id="),
        ("pkcs11:token=a;object=b", "expected token=, object= or id="),
        ("pkcs11:token=a;object=b;colour=c?module-path=/m", "'colour' is not understood"),
    ],
)
def test_a_uri_says_which_key_and_no_pin(text: str, message: str) -> None:
    """RFC 7512, as much of it as there is use for."""
    with pytest.raises(MalformedError, match=message) as caught:
        TokenUri.parse(text)
    assert "1234" not in str(caught.value)


def test_names_in_a_uri_are_percent_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label may have any character, an id any byte; without a PIN nothing is opened."""
    uri = TokenUri.parse("pkcs11:token=my%20token;id=%01%ff?module-path=/m&pin-source=file:/run/pin")
    assert (uri.token, uri.key_id, uri.pin_source) == ("my token", b"\x01\xff", Path("/run/pin"))
    monkeypatch.delenv("STEWARD_PKCS11_PIN", raising=False)
    with pytest.raises(NotFoundError, match="no PIN: name a file with pin-source, or set STEWARD_PKCS11_PIN"):
        open_key("pkcs11:token=t;object=o?module-path=/m")


def _ecdsa(key: keys.PrivateKey) -> ec.ECDSA:
    return ec.ECDSA(keys.hash_of(key))
