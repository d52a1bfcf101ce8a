"""Behind a proxy that ends TLS (HAProxy, of the distribution): whoever renews is known by what the proxy passes on."""

import base64
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7

from enarx.attested.claims import RuntimeClaims
from enarx.digest import Digest
from enarx.errors import RejectedError, UntrustedError
from enarx.pki import csr, keys
from enarx.pki.certificate import pem
from enarx.steward import client
from enarx.web.client import Client
from enarx.web.tls import ClientIdentity
from tests.stories.test_drawbridge_proxy import HAPROXY, haproxy
from tests.stories.test_steward_serves import serving, steward
from tests.unit.conftest import Authority
from tests.unit.steward import support

ORIGIN = "https://steward.example.com"
RENEW = "/.well-known/est/simplereenroll"


def request(connection: Client, workload: Digest = support.WORKLOAD) -> tuple[bytes, keys.PrivateKey]:
    """For a Keep without a TEE that says what it runs, after a nonce."""

    key = keys.generate("P-256")
    claims = RuntimeClaims(audience=ORIGIN, nonce=client.nonce(connection), digests=(workload,))
    return csr.build(key, [support.nil_evidence(), support.claims_extension(claims)]), key


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed (Debian: apt-get install haproxy)")
def test_a_certificate_is_renewed_through_a_proxy(tmp_path: Path) -> None:
    """RFC 9440 from the proxy's address: the name stays, also over a rotation; no header of a client's own counts."""
    web = Authority.root("Web")
    localhost = web.issue(names=(x509.DNSName("localhost"),))
    (tmp_path / "proxy.pem").write_bytes(localhost.chain_pem + keys.to_pem(localhost.key))
    steward(["ca", "init", str(tmp_path / "ca")])
    (tmp_path / "steward.pem").write_bytes((tmp_path / "ca" / "root.pem").read_bytes())
    (tmp_path / "steward.toml").write_text(
        f"origin = '{ORIGIN}'\nlisten = '127.0.0.1:0'\ncrt = 'ca/ca.pem'\nkey = 'ca/ca.key'\n"
        "[proxy]\naddresses = ['127.0.0.1']\n[unsafe]\naccept_nil = true\n"
    )

    def behind(stack: ExitStack) -> str:
        port = stack.enter_context(serving(tmp_path / "steward.toml", "--behind-proxy"))
        return f"https://localhost:{stack.enter_context(haproxy(tmp_path, port))}"

    with ExitStack() as stack:
        base = behind(stack)
        with Client(base, ca_pem=web.pem) as keep:
            body, key = request(keep)
            path = client.attest(keep, body)
            encoded = base64.b64encode(request(keep)[0])
            forged = {"Client-Cert": f":{base64.b64encode(path[0]).decode()}:"}
            with pytest.raises(UntrustedError, match="expected a TLS client certificate that this Steward issued"):
                keep.post(RENEW, encoded, headers=forged)
    steward(["ca", "rotate", str(tmp_path / "ca")])
    identity = ClientIdentity(chain_pem=b"".join(pem("CERTIFICATE", each) for each in path), key=key)
    with ExitStack() as stack:
        base = behind(stack)
        with Client(base, ca_pem=web.pem, identity=identity) as keep:
            (again,) = pkcs7.load_der_pkcs7_certificates(
                base64.b64decode(keep.post(RENEW, base64.b64encode(request(keep)[0])).body)
            )
            with pytest.raises(RejectedError, match=r"renewal\.name"):
                keep.post(RENEW, base64.b64encode(request(keep, Digest.of(b"another"))[0]))
        with Client(base, ca_pem=web.pem) as nobody, pytest.raises(UntrustedError):
            nobody.post(RENEW, encoded, headers=forged)
    leaf = x509.load_der_x509_certificate(path[0])
    name = x509.SubjectAlternativeName
    assert again.extensions.get_extension_for_class(name) == leaf.extensions.get_extension_for_class(name)
    assert again.issuer != leaf.issuer
