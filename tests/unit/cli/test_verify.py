"""`enarx verify` against a real TLS server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from enarx.attested.relying import Expectation
from enarx.cli.verify import verify
from enarx.digest import Digest
from enarx.errors import EnarxError, MalformedError, RejectedError, UnavailableError, UntrustedError
from enarx.pki.certificate import Certificate
from enarx.web.app import build
from enarx.web.attested import connect
from tests.values import replace

Fixture = Any  # Any: fixtures of the conftest beside the rooms, whose module has no name to import from
Run = Callable[..., Result]

APP = build([Route("/", lambda _: PlainTextResponse("the page"))], name="page", body_limit=0)


@pytest.fixture
def run(tmp_path: Path, start: Callable[..., int], authority: Fixture) -> Run:
    """`run(issued, *options)` verifies a server with that certificate."""

    def go(issued: Fixture, *options: str, anchor: Fixture = authority) -> Result:
        ca = tmp_path / "ca.pem"
        ca.write_bytes(anchor.pem)
        port = start(APP, issued.server_tls())
        return CliRunner().invoke(verify, [f"localhost:{port}", "--steward-ca", str(ca), *options])

    return go


def refused(result: Result, family: type[EnarxError]) -> str:
    assert isinstance(result.exception, family), result.output
    return str(result.exception)


def test_verify_says_what_is_there(run: Run, authority: Fixture, result: Fixture) -> None:
    """A few lines: technology, workload, measurement, standing, and what is only claimed."""
    answer = run(authority.attest(result))
    assert answer.exit_code == 0, answer.output
    assert answer.output.startswith("technology  snp (AMD SEV-SNP)\ndebug       no\nworkload    sha-256:")
    assert "(claimed, not proven)" in answer.output
    assert "SIMULATED" not in answer.output


def test_verify_as_json(run: Run, authority: Fixture, result: Fixture) -> None:
    """The same for programs."""
    answer = json.loads(run(authority.attest(result), "--json").output)
    assert answer["verdict"] == "accepted"
    assert answer["peer"]["workload"] == str(Digest.of(b"workload"))


@pytest.mark.parametrize(
    ("change", "warning"),
    [({"simulated": True}, "SIMULATED: proves nothing"), ({"technology": "nil", "measurement": b""}, "UNATTESTED: ")],
)
def test_what_proves_nothing_is_said_first_and_refused_when_proof_is_asked_for(
    run: Run, authority: Fixture, result: Fixture, change: dict[str, Any], warning: str
) -> None:
    """Shown in capitals without options; refused with --technology, and with a policy."""
    issued = authority.attest(replace(result, **change))
    assert run(issued).output.startswith(warning)
    assert "refused at rejected: technology: expected" in refused(run(issued, "--technology", "snp"), RejectedError)


def test_a_simulated_tee_may_be_asked_for(run: Run, authority: Fixture, result: Fixture) -> None:
    """Tests of a deployment ask for a technology and say that it is simulated."""
    issued = authority.attest(replace(result, simulated=True))
    answer = run(issued, "--technology", "snp", "--allow-simulated")
    assert answer.exit_code == 0
    assert answer.output.startswith("SIMULATED: proves nothing")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--workload", str(Digest.of(b"other"))], f"workload: expected {Digest.of(b'other')}, found"),
        (["--technology", "sgx"], "technology: expected sgx, found snp"),
        (["--config-digest", "11" * 32], "deploy configuration: expected 1111"),
    ],
)
def test_what_is_not_as_pinned_is_rejected(
    run: Run, authority: Fixture, result: Fixture, options: list[str], reason: str
) -> None:
    """Every option refuses by its reason, in words and in JSON."""
    assert f"refused at rejected: {reason}" in refused(run(authority.attest(result), *options), RejectedError)
    answer = run(authority.attest(result), *options, "--json")
    found = json.loads(answer.stdout)
    assert found["verdict"] == "rejected"
    assert found["reasons"][0].startswith(reason)


def test_pins_that_hold_are_accepted(run: Run, authority: Fixture, result: Fixture) -> None:
    """All options together accept the peer they describe."""
    options = ["--workload", str(Digest.of(b"workload")), "--technology", "snp", "--config-digest", "00" * 32]
    assert run(authority.attest(result), *options).exit_code == 0


def test_a_policy_file_counts(run: Run, authority: Fixture, result: Fixture, tmp_path: Path) -> None:
    """What the file expects is compared, and options narrow it further."""
    policy = tmp_path / "policy.toml"
    policy.write_text('tcb_statuses = ["OutOfDate"]\n')
    assert "TCB status" in refused(run(authority.attest(result), "--policy", str(policy)), RejectedError)
    policy.write_text("max_age = 3")
    assert "max_age" in refused(run(authority.attest(result), "--policy", str(policy)), MalformedError)


def test_strangers_are_untrusted(run: Run, authority: Fixture, foreign: Fixture, result: Fixture) -> None:
    """Another CA, the CA's own certificate, and a certificate without a result are refused at their gate."""
    assert "refused at untrusted: peer" in refused(run(foreign.attest(result)), UntrustedError)
    assert "refused at untrusted: peer" in refused(run(foreign.issued), UntrustedError)
    assert "no attestation result" in refused(run(authority.attest(None)), UntrustedError)


def test_nobody_and_no_tls_are_unavailable(tmp_path: Path, start: Callable[..., int], authority: Fixture) -> None:
    """A port where nobody answers TLS is no verdict about anybody."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    plain = start(APP)
    for port in (9, plain):
        answer = CliRunner().invoke(verify, [f"127.0.0.1:{port}", "--steward-ca", str(ca)])
        refused(answer, UnavailableError)


@pytest.mark.parametrize(
    "address",
    [
        "localhost",
        "localhost:",
        ":443",
        "localhost:0",
        "localhost:65536",
        "localhost:x",
        "localhost:²",
        f"localhost:{'9' * 5000}",
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, tmp_path: Path) -> None:
    """A wrong address is a usage error, before anything is opened."""
    answer = CliRunner().invoke(verify, [address, "--steward-ca", str(tmp_path / "none")])
    assert answer.exit_code == 2
    assert "expected HOST:PORT" in answer.output


def test_the_connection_that_was_judged_is_the_one_to_use(
    start: Callable[..., int], authority: Fixture, result: Fixture
) -> None:
    """`connect` hands out the very connection whose peer it judged."""
    port = start(APP, authority.attest(result).server_tls())
    anchors = [Certificate.parse(authority.issued.der)]
    with connect("127.0.0.1", port, anchors=anchors, expectation=Expectation()) as (connection, peer):
        assert peer.workload == Digest.of(b"workload")
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert answer.endswith(b"the page")
