"""The flow inside a Keep, one function a step (flow.md, 1; the numbers are those of its picture).

  3  nonce        a fresh value of the Steward, so that no old report will do
  4  claims       TLS key and sealing key are made; the claims say what they are for
  5  evidence     the TEE vouches for key and claims
  6  certificate  the Steward judges and certifies; when it did so must agree with our clock
  7  release      the registry gives the workload to this certificate, sealed to this Keep; if the deploy
                  configuration names signers, the version must be signed by one of them
  8  workload     every hash is checked up to the digest that stands in the certificate, then the package is read;
                  if it wishes names or a lifetime, steps 3 to 6 are gone again with the same keys, and the Steward
                  grants what its policy for this workload allows

What the host said (`Order`) is believed in nothing: a wrong digest makes a certificate that says so, a false Steward
one that nobody accepts, a false registry bytes that fail at step 8. Each step ends at its own gate. `tell` is told of
each step with public facts alone.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from enarx.attested.claims import RuntimeClaims
from enarx.drawbridge.client import AnsweredError, Limits, Opening, Registry
from enarx.drawbridge.names import PackageSlug
from enarx.drawbridge.tag import subject_of
from enarx.errors import EnarxError, UntrustedError
from enarx.keep import identity as own
from enarx.keep.backends.api import Attester
from enarx.keep.clock import Clock
from enarx.keep.deployment import Order
from enarx.keep.identity import Identity, Secrets
from enarx.keep.refusal import RefusalError, gate
from enarx.keep.workload import MAX_CONFIG, MAX_DATA, MAX_DATA_FILES, MAX_WASM, Workload
from enarx.pki.certificate import certificates_from_pem
from enarx.steward import client as steward
from enarx.web.client import Client
from enarx.web.tls import ClientIdentity

LIMITS: Final = Limits(total=MAX_WASM + MAX_CONFIG + MAX_DATA, file=max(MAX_WASM, MAX_DATA), files=MAX_DATA_FILES + 2)


class Tell(Protocol):
    """Hears of each step that was done."""

    def __call__(self, phase: str, facts: Mapping[str, str], /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """A Keep that is ready to run. `renew` goes steps 3 to 6 again with the same keys."""

    identity: Identity
    workload: Workload
    renew: Callable[[], Identity]


def provision(order: Order, attester: Attester, *, clock: Clock, tell: Tell) -> Provisioned:
    """Steps 3 to 8. Raises RefusalError at the gate that refused."""
    secrets = Secrets.generate(attester.technology.key_curve)
    identity = certify(order, attester, secrets, clock=clock)
    tell("certified", identity.facts())
    files = release(order, identity)
    tell("released", {"files": str(len(files)), "bytes": str(sum(map(len, files.values())))})
    with gate("package"):
        workload = order.applied_to(Workload.from_package(files))
    if workload.config.steward is not None:
        tell(
            "warning",
            {"steward": f"{workload.config.steward} in Enarx.toml is for `enarx run`; the registry named ours"},
        )
    wishes = workload.config.certificate
    renew = partial(certify, order, attester, secrets, clock=clock, names=wishes.names, lifetime=wishes.lifetime)
    if wishes.names or wishes.lifetime is not None:
        identity = renew()
        tell("certified again", identity.facts())
    return Provisioned(identity=identity, workload=workload, renew=renew)


def certify(
    order: Order,
    attester: Attester,
    secrets: Secrets,
    *,
    clock: Clock,
    names: tuple[str, ...] = (),
    lifetime: int | None = None,
) -> Identity:
    """Steps 3 to 6: once at the start, again for what the package wishes, and again before the certificate ends."""
    with gate("steward"):
        anchors = None if order.steward_ca is None else certificates_from_pem(order.steward_ca, "Stewards to accept")
        connection = Client(order.steward, ca_pem=order.steward_roots)
    with connection:
        with gate("steward"):
            nonce = steward.nonce(connection)
        with gate("evidence"):
            claims = RuntimeClaims(
                audience=connection.base_url,
                nonce=nonce,
                digests=(order.digest,),
                slug=order.slug,
                config=order.config_digest,
                names=names,
                lifetime=lifetime,
            )
            request = own.request(attester, secrets, own.with_keys(claims, secrets))
        with gate("steward"):
            chain = steward.attest(connection, request)
            clock.hear(own.judged_at(chain))
            if anchors is not None:
                own.require_issued_by(chain, anchors, clock.now())
    return Identity(secrets=secrets, chain=chain)


def release(order: Order, identity: Identity) -> dict[str, bytes]:
    """Steps 7 and 8: the files of the package, every hash checked up to the digest in our certificate."""
    with gate("drawbridge"):
        slug = PackageSlug.parse(order.slug)
        key = ClientIdentity(chain_pem=identity.chain_pem, key=identity.secrets.tls)
        connection = Client(order.drawbridge, ca_pem=order.drawbridge_roots, identity=key, token=order.token)
    with connection:
        opening = Opening(private=identity.secrets.sealing, leaf=identity.leaf.der)
        registry = Registry(connection, opening=opening)
        with gate("drawbridge"):
            published = registry.tag(slug)
        with gate("tag"):
            order.require_signer(published.tag, subject_of(slug.user, slug.repository, published.name))
        with _checking():
            return registry.down.fetch(slug, published.entry, workload=order.digest, limits=LIMITS)


@contextmanager
def _checking() -> Iterator[None]:
    """What the registry refuses, or fails to deliver, ends at `drawbridge`; what it delivers and is wrong, at `digest`."""
    try:
        yield
    except UntrustedError as error:
        refused = isinstance(error.__cause__, AnsweredError | OSError)
        raise RefusalError("drawbridge" if refused else "digest", error) from error
    except EnarxError as error:
        raise RefusalError("drawbridge", error) from error
