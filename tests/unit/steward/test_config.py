"""steward.toml: what it may say, and where its errors point."""

from datetime import timedelta
from pathlib import Path

import pytest

from enarx.errors import MalformedError, NotFoundError
from enarx.pki import keys
from enarx.steward import issuer as ca
from enarx.steward.config import Config, Flags, assemble, load_issuer
from enarx.steward.explain import explain
from enarx.steward.ledger import Ledger
from enarx.toml import ConfigError
from enarx.web.files import write_private
from tests.unit.steward import support

NIL = support.ACCEPT_NIL


def read(text: str, tmp_path: Path, **flags: object) -> Config:
    path = tmp_path / "steward.toml"
    path.write_text(text)
    return Config.read(path, Flags(**flags))  # type: ignore[arg-type]  # the fields of Flags


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"steward.toml: this policy accepts nothing: expected a table .*"),
        (
            "[unsafe]\naccept_nill = true\n",
            r"steward.toml:2: unsafe.accept_nill: unknown key; did you mean 'accept_nil'\?",
        ),
        ("orign = 'x'\n" + NIL, r"steward.toml:1: orign: unknown key; did you mean 'origin'\?"),
        ("origin = 'https://h/x'\n" + NIL, r"steward.toml:1: origin: expected .* found 'https://h/x'"),
        ("origin = 'http://example.com'\n" + NIL, r"steward.toml:1: origin: expected"),
        ("origin = 'https://Example.com'\n" + NIL, r"steward.toml:1: origin: expected"),
        ("trust_domain = 'A B'\n" + NIL, r"steward.toml:1: trust_domain: expected lower-case"),
        ("listen = '3000'\n" + NIL, r"steward.toml:1: listen: expected"),
        ("nonce = 'never'\n" + NIL, r"steward.toml:1: nonce: expected claims, always or optional, found 'never'"),
        ("tls_cert = 'x'\n" + NIL, r"steward.toml:1: tls_cert: tls_cert and tls_key belong together"),
        ("key = 'x'\n" + NIL, r"steward.toml: crt: missing; key and crt belong together"),
        (NIL + "accept_simulated = true\n", r"steward.toml:3: unsafe.accept_simulated: no root is named"),
        (
            NIL + "[unsafe.simulated]\namd = ['absent.pem']\n",
            r"steward.toml:4: unsafe.simulated.amd: .*absent.pem: No such file",
        ),
        (NIL + "[certificate]\n", r"steward.toml:3: certificate: an empty table"),
        (NIL + "[unsafe.simulated]\n", r"steward.toml:3: unsafe.simulated: an empty table"),
        (NIL + "[nonsense]\nx = 1\n", r"steward.toml:3: nonsense: unknown key"),
        (
            "tls_from_ca = true\ntls_cert = 'x'\ntls_key = 'x'\n" + NIL,
            r"steward.toml:1: tls_from_ca: expected either this or tls_cert and tls_key",
        ),
        (NIL + "[certificate]\nlifetime = 10\n", r"steward.toml:4: certificate.lifetime: expected an integer from 60"),
        (
            NIL + "[certificate]\ndns_names = ['A b']\n",
            r"steward.toml:4: certificate.dns_names: expected lower-case DNS",
        ),
        (NIL + "[[certificate.workload]]\ndigest = 'x'\n", r"steward.toml:4: certificate.workload\[0\].digest: digest"),
    ],
)
def test_errors_say_where(text: str, message: str, tmp_path: Path) -> None:
    """Every error of a configuration names the line or the dotted path."""
    with pytest.raises(ConfigError, match=message):
        read(text, tmp_path)


def test_simulated_roots_need_the_word(tmp_path: Path) -> None:
    """A simulated root that is named without `accept_simulated` is an error, not a silent nothing."""
    root = ca.development("ARK-Simulated", support.AT).certificate
    (tmp_path / "root.pem").write_bytes(root.to_pem())
    with pytest.raises(ConfigError, match="simulated: simulated vendors count only with"):
        read(NIL + "[unsafe.simulated]\namd = ['root.pem']\n", tmp_path)
    config = read(NIL + "accept_simulated = true\n[unsafe.simulated]\namd = ['root.pem']\n", tmp_path)
    (anchor,) = config.policy.anchors
    assert (anchor.family, anchor.simulated, anchor.sha256) == ("amd", True, root.sha256)


def test_the_memory_of_numbers_needs_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that cannot be written beside are kept in mind with the state, or it is an error at start."""
    monkeypatch.setattr("os.access", lambda path, mode: path.name != "collateral")
    (tmp_path / "collateral").mkdir()
    with pytest.raises(ConfigError, match=r"steward.toml:1: collateral: .*collateral cannot be written"):
        read("collateral = 'collateral'\n" + NIL, tmp_path)
    read("collateral = 'collateral'\nstate = 'state'\n" + NIL, tmp_path)


def test_plain_http_stays_on_loopback(tmp_path: Path) -> None:
    """Without TLS, others can be served only through a proxy, and only if somebody said so."""
    assert read(NIL, tmp_path).listen() == "127.0.0.1"
    assert read(NIL, tmp_path, behind_proxy=True).listen() == "::"
    with pytest.raises(ConfigError, match=r"plain HTTP on 0\.0\.0\.0 would be seen by everybody"):
        read("listen = '0.0.0.0:3000'\n" + NIL, tmp_path).listen()


def test_the_origin_is_never_guessed_for_others(tmp_path: Path) -> None:
    """On loopback the origin is the address; elsewhere it has to be said."""
    assert read(NIL, tmp_path).origin_at(1234) == "http://localhost:1234"
    with pytest.raises(ConfigError, match="origin: missing"):
        read(NIL, tmp_path, behind_proxy=True).origin_at(1234)
    named = read("origin = 'https://steward.example.com'\n" + NIL, tmp_path, behind_proxy=True)
    assert named.origin_at(1234) == "https://steward.example.com"


def test_keys_that_everybody_may_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CA key is no secret when its file is open to all."""
    made = keys.generate("P-384")
    certificate = ca.self_signed("Steward", made, support.AT, lifetime=timedelta(days=1), path_length=0)
    (tmp_path / "ca.pem").write_bytes(certificate.to_pem())
    (tmp_path / "ca.key").write_bytes(keys.to_pem(made, b"secret"))
    (tmp_path / "ca.key").chmod(0o644)
    config = read("crt = 'ca.pem'\nkey = 'ca.key'\n" + NIL, tmp_path)
    with pytest.raises(MalformedError, match=r"ca.key: everybody may read or change it \(mode 0644\)"):
        load_issuer(config, support.AT)
    (tmp_path / "ca.key").chmod(0o600)
    with pytest.raises(MalformedError, match="its passphrase is wrong"):
        load_issuer(config, support.AT)
    monkeypatch.setenv("STEWARD_KEY_PASSPHRASE", "secret")
    assert load_issuer(config, support.AT).certificate == certificate
    monkeypatch.delenv("STEWARD_KEY_PASSPHRASE")
    write_private(tmp_path / "steward-key-passphrase", b"secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_issuer(config, support.AT).certificate == certificate
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    monkeypatch.setenv("STEWARD_KEY_PASSPHRASE_FILE", str(tmp_path / "steward-key-passphrase"))
    assert load_issuer(config, support.AT).certificate == certificate
    monkeypatch.delenv("STEWARD_KEY_PASSPHRASE_FILE")
    named = "crt = 'ca.pem'\nkey = 'ca.key'\nkey_passphrase = 'steward-key-passphrase'\n"
    assert load_issuer(read(named + NIL, tmp_path), support.AT).certificate == certificate
    (tmp_path / "steward-key-passphrase").chmod(0o604)
    with pytest.raises(MalformedError, match="everybody may read"):
        load_issuer(read(named + NIL, tmp_path), support.AT)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    """The originals did not look."""
    certificate = ca.development("Steward", support.AT).certificate
    (tmp_path / "ca.pem").write_bytes(certificate.to_pem())
    write_private(tmp_path / "ca.key", keys.to_pem(keys.generate("P-256")))
    with pytest.raises(MalformedError, match="CA: the key does not belong to the certificate Steward"):
        load_issuer(read("crt = 'ca.pem'\nkey = 'ca.key'\n" + NIL, tmp_path), support.AT)


def test_a_generated_ca_keeps_the_policy(tmp_path: Path) -> None:
    """`--host` generates a CA and does not ignore the file; no CA at all is an error that says what to do."""
    config = read(NIL + "[certificate]\ndns_names = ['localhost']\n", tmp_path, host="steward.test", san="extra.test")
    issuer = load_issuer(config, support.AT)
    assert issuer.certificate.common_name == "steward.test"
    authority = assemble(config, issuer, "https://steward.test", Ledger(None))
    assert authority.profile.trust_domain == "steward.test"
    assert authority.policy.grant.dns_names == ("localhost", "extra.test")
    with pytest.raises(ConfigError, match="no CA: give key and crt, or --host NAME or --dev"):
        load_issuer(read(NIL, tmp_path), support.AT)


def test_an_intermediate_issues_below_its_root() -> None:
    """The chain is checked, and an intermediate never outlives its root."""
    root_key, key = keys.generate("P-384"), keys.generate("P-256")
    root_certificate = ca.self_signed("Root", root_key, support.AT, lifetime=timedelta(days=10), path_length=1)
    root = ca.Issuer.of(root_key, [root_certificate])
    made = ca.intermediate("Online", key, support.AT, root=root, lifetime=timedelta(days=99))
    assert made.not_after == root_certificate.not_after
    issuer = ca.Issuer.of(key, [made, root_certificate])
    authority = support.authority(issuer=issuer)
    issuance = authority.issue([support.request(support.nil_evidence())], support.AT)
    assert issuance.issued[0].issuer == made.subject


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    """A configuration that is not there is no empty one."""
    with pytest.raises(NotFoundError, match=r"absent\.toml: No such file"):
        Config.read(tmp_path / "absent.toml", Flags())


def test_the_policy_is_explained(tmp_path: Path) -> None:
    """`check-config` says in sentences what is accepted, what is not, and what is unsafe."""
    said = "\n".join(explain(read(NIL, tmp_path, dev=True)))
    assert "UNSAFE: requests without any TEE are certified, as O=UNATTESTED." in said
    assert "Certificates live at most 8 hours" in said


def test_the_digest_is_of_what_decides(tmp_path: Path) -> None:
    """Two configurations with the same policy have the same digest; another policy has another."""
    one = read(NIL, tmp_path).policy.digest
    assert read("listen = '127.0.0.1:1'\n" + NIL, tmp_path).policy.digest == one
    assert read("nonce = 'always'\n" + NIL, tmp_path).policy.digest != one
