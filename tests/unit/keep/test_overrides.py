"""What whoever deploys may change, and what not."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.drawbridge.signing import SigningKey, sign
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Entry
from enarx.errors import MalformedError, RejectedError, UntrustedError
from enarx.keep.config import Config, Listen
from enarx.keep.overrides import DeployConfig, apply
from enarx.pki import keys

PACKAGE = """
args = ["a"]
env = { A = "1", B = "2" }
[[files]]
kind = "listen"
name = "web"
prot = "tls"
port = 8443
[[files]]
kind = "connect"
prot = "tls"
host = "db.example"
port = 5432
"""
OPEN = PACKAGE + '[deploy]\nargs = true\nenv = ["A", "C"]\nports = true\n'


def test_what_the_package_allows_is_applied() -> None:
    """Arguments are replaced, variables merged, ports moved by name, network lists narrowed."""
    deploy = DeployConfig.of(args=["x"], env={"A": "9", "C": "3"}, ports={"web": 9443}, outgoing=["db.example:5432"])
    made = apply(Config.parse(OPEN), deploy)
    assert made.args == ("x",)
    assert dict(made.env) == {"A": "9", "B": "2", "C": "3"}
    assert isinstance(made.files[0], Listen)
    assert made.files[0].port == 9443
    assert made.may_reach("db.example", 5432)
    assert not made.may_reach("other.example", 5432)


def test_what_the_package_does_not_allow_is_refused_whole() -> None:
    """Every override that is forbidden is named, and nothing is applied."""
    deploy = DeployConfig.of(args=[], env={"A": "9"}, ports={"web": 1, "other": 2}, incoming=[8443])
    closed = PACKAGE + "[deploy]\nnetwork = false\n"
    with pytest.raises(RejectedError) as refused:
        apply(Config.parse(closed), deploy)
    assert refused.value.reasons == (
        "args: the package does not let them be replaced (deploy.args)",
        "env.A: the package does not let it be set (deploy.env)",
        "ports: the package does not let them be chosen (deploy.ports)",
        "ports.other: the package has no such listener; it has web",
        "network: the package does not let it be narrowed (deploy.network)",
    )


def test_signers_are_part_of_what_is_certified() -> None:
    """Sorted, each once, in the bytes whose digest is certified; nobody named asks for nothing, a stranger's name refuses."""
    one, two = (SigningKey.parse("key", keys.to_pem(keys.generate("P-256"))) for _ in range(2))
    pems = [key.public_pem().decode() for key in (one, two)]
    deploy = DeployConfig.of(signers=[*pems, pems[0]])
    assert deploy == DeployConfig.of(signers=pems[::-1])
    assert DeployConfig.parse(deploy.encode()).signers == tuple(sorted(pems))
    entry = Entry.of(b"root", "text/plain")
    deploy.require_signer(sign(entry, "u/r:1.0.0", [two]), "u/r:1.0.0")
    DeployConfig.of(args=["x"]).require_signer(Tag(entry=entry), "u/r:1.0.0")
    for tag in (Tag(entry=entry), sign(entry, "u/r:2.0.0", [two])):
        with pytest.raises(UntrustedError):
            deploy.require_signer(tag, "u/r:1.0.0")
    with pytest.raises(MalformedError):
        DeployConfig.of(signers=["no key"]).require_signer(Tag(entry=entry), "u/r:1.0.0")


def test_a_list_that_forbids_what_the_package_needs_is_refused() -> None:
    """A narrower list may not cut off a descriptor without a word."""
    with pytest.raises(RejectedError, match=r"'db.example' connects to db.example:5432, which network.outgoing"):
        apply(Config.parse(PACKAGE), DeployConfig.of(outgoing=[]))


def test_the_bytes_are_canonical_and_their_digest_is_bound() -> None:
    """Sorted, compact, rules in short form; nothing said is no bytes and no digest."""
    deploy = DeployConfig.of(args=["é"], env={"B": "2", "A": "1"}, ports={"web": 1}, incoming=["8000-8000", 1])
    data = '{"args":["é"],"env":{"A":"1","B":"2"},"network":{"incoming":["8000","1"]},"ports":{"web":1}}'.encode()
    assert deploy.encode() == data
    assert deploy.digest == hashlib.sha256(data).digest()
    assert DeployConfig.parse(data) == deploy
    assert DeployConfig.of().encode() == b""
    assert DeployConfig.of().digest is None
    assert DeployConfig.parse(b"") == DeployConfig()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{ "args": []}', "expected canonical JSON"),
        (b'{"argv":[]}', "argv"),
        (b'{"ports":{"web":70000}}', "ports.web: expected 0 to 65535"),
        (b'{"env":{"A=B":""}}', "expected a name without '='"),
        (b'{"network":{"outgoing":["x"]}}', r"network\[0\]: expected host:port"),
        (b"{}", "expected canonical JSON"),
        (b"[", "deploy configuration: "),
    ],
)
def test_what_is_not_canonical_or_not_known_is_refused(data: bytes, message: str) -> None:
    """One text for one meaning, for its digest is compared."""
    with pytest.raises(MalformedError, match=message):
        DeployConfig.parse(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_deploy_configuration_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the reader, it answers with a value that encodes as the same bytes, or MalformedError."""
    try:
        made = DeployConfig.parse(data)
    except MalformedError:
        return
    assert made.encode() == data
