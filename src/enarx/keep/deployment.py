"""The order: what the host tells an empty Keep, checked for form and believed in nothing (flow.md, 1, step 2).

A false digest gives a certificate that says so, a false Steward one that nobody accepts, a false registry bytes that
fail the hash check. The deploy configuration stays the bytes that came: the Keep hashes exactly what it applies.
"""

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Self

import msgspec

from enarx.digest import Digest
from enarx.drawbridge.tag import Tag
from enarx.errors import MalformedError
from enarx.keep.channel import MAX_BODY, VERSION, Collateral, Signed, Start
from enarx.keep.overrides import DeployConfig, apply
from enarx.keep.workload import Workload
from enarx.tee.model import Endorsements, SignedJson


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to become of a Keep. `config` are the canonical bytes of the deploy configuration, if there is one."""

    slug: str
    digest: Digest
    steward: str
    drawbridge: str
    steward_roots: bytes | None = None
    drawbridge_roots: bytes | None = None
    steward_ca: bytes | None = None
    token: str | None = field(default=None, repr=False)
    config: bytes | None = None

    @classmethod
    def parse(cls, start: Start) -> Self:
        """Raises MalformedError."""
        if start.version != VERSION:
            raise MalformedError(f"start: version: expected {VERSION}, found {start.version}")
        digest = Digest.parse(start.digest)
        config = _bytes(start.config)
        if config is not None and not DeployConfig.parse(config).encode():
            raise MalformedError("start: config: expected a deploy configuration that says something, or none")
        if digest.algorithm != "sha-256":
            raise MalformedError(f"start: digest: expected sha-256, found {digest.algorithm}")
        return cls(
            slug=start.slug,
            digest=digest,
            steward=start.steward,
            drawbridge=start.drawbridge,
            steward_roots=_bytes(start.steward_bundle),
            drawbridge_roots=_bytes(start.drawbridge_bundle),
            steward_ca=_bytes(start.steward_ca),
            token=start.token,
            config=config,
        )

    def start(self, *, collateral: bool = False) -> Start:
        """The inverse: what the host sends. With `collateral` vendors' documents follow."""
        return Start(
            collateral=collateral,
            version=VERSION,
            slug=self.slug,
            digest=str(self.digest),
            steward=self.steward,
            drawbridge=self.drawbridge,
            steward_bundle=_text(self.steward_roots, "CA bundle"),
            drawbridge_bundle=_text(self.drawbridge_roots, "CA bundle"),
            steward_ca=_text(self.steward_ca, "Steward's CA"),
            token=self.token,
            config=None if self.config is None else self.config.decode(),
        )

    @property
    def config_digest(self) -> bytes | None:
        """What the certificate says of the deploy configuration."""
        return None if self.config is None else sha256(self.config).digest()

    def require_signer(self, tag: Tag, subject: str) -> None:
        """Raises UntrustedError when the deploy configuration names signers and none of them signed."""
        if self.config is not None:
            DeployConfig.parse(self.config).require_signer(tag, subject)

    def applied_to(self, workload: Workload) -> Workload:
        """The workload as it runs. Raises RejectedError when the package does not let itself be changed so."""
        if self.config is None:
            return workload
        return replace(workload, config=apply(workload.config, DeployConfig.parse(self.config)))


def collateral_frame(documents: Endorsements) -> bytes:
    """The body that offers these documents to a Keep. Raises MalformedError when they are too many for one frame."""
    body = msgspec.json.encode(
        Collateral(
            certificates=list(documents.certificates),
            crls=list(documents.crls),
            tcb_infos=[Signed(body=item.body, chain=list(item.chain)) for item in documents.tcb_infos],
            qe_identities=[Signed(body=item.body, chain=list(item.chain)) for item in documents.qe_identities],
        )
    )
    if len(body) > MAX_BODY:
        raise MalformedError(
            f"collateral: expected documents that fit into {MAX_BODY} bytes, found {len(body)}; "
            "offer a directory that holds those of this machine alone"
        )
    return body


def offered(collateral: Collateral) -> Endorsements:
    """The inverse. Nothing is read here: what is no document is passed over where it would be used."""
    return Endorsements(
        certificates=tuple(collateral.certificates),
        crls=tuple(collateral.crls),
        tcb_infos=tuple(SignedJson(body=item.body, chain=tuple(item.chain)) for item in collateral.tcb_infos),
        qe_identities=tuple(SignedJson(body=item.body, chain=tuple(item.chain)) for item in collateral.qe_identities),
    )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _text(data: bytes | None, what: str) -> str | None:
    try:
        return None if data is None else data.decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{what}: expected PEM") from error
