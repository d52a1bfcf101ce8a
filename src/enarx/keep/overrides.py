"""The deploy configuration: what whoever deploys a package changes in it, if the package lets them (flow.md, 2).

It is canonical JSON, sorted and compact, with any of five members:

    {"args":["-v"],"env":{"MODE":"test"},"network":{"incoming":["8443"],"outgoing":["db.example:5432"]},"ports":{"web":8443}}

The Keep applies exactly the bytes whose SHA-256 its certificate carries. Arguments replace the package's, variables are
added to them or replace them one by one, a port belongs to a listener by its name, and a network list narrows: both
lists have to allow, so it can only take away. `signers` are public keys (PEM), one of which must have signed the
version: the Keep checks that before it fetches, and its certificate says, by the digest of all this, that it did. None, or an empty object, is no deploy configuration at all.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Self

import msgspec

from enarx.drawbridge.tag import Tag
from enarx.errors import MalformedError, RejectedError
from enarx.keep import network
from enarx.keep.config import Config, File, Listen
from enarx.keep.network import Network

MAX_BYTES: Final = 100_000


class _Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    incoming: list[str | int] | None = None
    outgoing: list[str] | None = None


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    args: list[str] | None = None
    env: dict[str, str] | None = None
    network: _Network | None = None
    ports: dict[str, int] | None = None
    signers: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployConfig:
    """A checked deploy configuration; one that says nothing encodes as no bytes."""

    args: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ports: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    network: Network | None = None
    signers: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the JSON, or no bytes at all. Raises MalformedError, also when it is not canonical."""
        if not data:
            return cls()
        if len(data) > MAX_BYTES:
            raise MalformedError(f"deploy configuration: expected at most {MAX_BYTES} bytes, found {len(data)}")
        try:
            wire = msgspec.json.decode(data, type=_Wire, strict=True)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedError(f"deploy configuration: {error}") from error
        made = cls.of(
            args=wire.args,
            env=wire.env or {},
            ports=wire.ports or {},
            incoming=None if wire.network is None else wire.network.incoming,
            outgoing=None if wire.network is None else wire.network.outgoing,
            signers=wire.signers or (),
        )
        if made.encode() != data:
            raise MalformedError("deploy configuration: expected canonical JSON: sorted, compact, rules in short form")
        return made

    @classmethod
    def of(
        cls,
        *,
        args: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        ports: Mapping[str, int] | None = None,
        incoming: Sequence[str | int] | None = None,
        outgoing: Sequence[str] | None = None,
        signers: Sequence[str] = (),
    ) -> Self:
        """From what a command line says. Raises MalformedError."""
        lists: Network | None = None
        try:
            if incoming is not None or outgoing is not None:
                lists = Network(
                    incoming=None if incoming is None else network.incoming(incoming),
                    outgoing=None if outgoing is None else network.outgoing(outgoing),
                )
        except MalformedError as error:
            raise MalformedError(f"deploy configuration: network{error}") from error
        for argument in args or ():
            if "\0" in argument:
                raise MalformedError("deploy configuration: args: must not contain a NUL")
        for name, value in (env or {}).items():
            if not name or "=" in name or "\0" in name + value:
                raise MalformedError(f"deploy configuration: env: expected a name without '=', found {name[:100]!r}")
        for name, port in (ports or {}).items():
            if not 0 <= port <= network.LAST_PORT:
                raise MalformedError(f"deploy configuration: ports.{name[:100]}: expected 0 to 65535, found {port}")
        return cls(
            args=None if args is None else tuple(args),
            env=MappingProxyType(dict(env or {})),
            ports=MappingProxyType(dict(ports or {})),
            network=lists,
            signers=tuple(sorted(set(signers))),
        )

    def encode(self) -> bytes:
        """The canonical bytes; none when nothing is said."""
        members: dict[str, object] = {}
        if self.args is not None:
            members["args"] = list(self.args)
        if self.env:
            members["env"] = dict(self.env)
        if self.ports:
            members["ports"] = dict(self.ports)
        if self.network is not None:
            lists = {"incoming": self.network.incoming, "outgoing": self.network.outgoing}
            members["network"] = {
                name: [str(rule) for rule in rules] for name, rules in lists.items() if rules is not None
            }
        if self.signers:
            members["signers"] = list(self.signers)
        if not members:
            return b""
        return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def digest(self) -> bytes | None:
        """SHA-256 of the canonical bytes; None when nothing is said."""
        data = self.encode()
        return hashlib.sha256(data).digest() if data else None

    def require_signer(self, tag: Tag, subject: str) -> None:
        """Raises UntrustedError when signers are named and none of them signed `tag` as `subject`."""
        if not self.signers:
            return
        from enarx.drawbridge.signing import SigningKey  # noqa: PLC0415 - takes its time, and most name no signer

        keys = [SigningKey.parse("signer", pem.encode()) for pem in self.signers]
        tag.verify([replace(key, name=key.key_id) for key in keys], subject)


def apply(config: Config, deploy: DeployConfig) -> Config:
    """What the program is given. Raises RejectedError with every override that the package does not allow."""
    reasons = [*_refusals(config, deploy)]
    if reasons:
        raise RejectedError("deploy configuration: " + "; ".join(reasons), reasons=reasons)
    made = replace(
        config,
        args=config.args if deploy.args is None else deploy.args,
        env=MappingProxyType({**config.env, **deploy.env}),
        files=tuple(_moved(file, deploy.ports) for file in config.files),
        network=config.network if deploy.network is None else config.network.narrow(deploy.network),
    )
    reasons = [problem for _, problem in made.forbidden_files()]
    if reasons:
        raise RejectedError("deploy configuration: " + "; ".join(reasons), reasons=reasons)
    return made


def _refusals(config: Config, deploy: DeployConfig) -> Sequence[str]:
    allowed, reasons = config.deploy, list[str]()
    if deploy.args is not None and not allowed.args:
        reasons.append("args: the package does not let them be replaced (deploy.args)")
    reasons += [
        f"env.{name}: the package does not let it be set (deploy.env)"
        for name in deploy.env
        if allowed.env is not None and name not in allowed.env
    ]
    if deploy.ports and not allowed.ports:
        reasons.append("ports: the package does not let them be chosen (deploy.ports)")
    listeners = [file.name for file in config.files if isinstance(file, Listen)]
    reasons += [
        f"ports.{name}: the package has no such listener; it has {', '.join(listeners) or 'none'}"
        for name in deploy.ports
        if name not in listeners
    ]
    if deploy.network is not None and not allowed.network:
        reasons.append("network: the package does not let it be narrowed (deploy.network)")
    return reasons


def _moved(file: File, ports: Mapping[str, int]) -> File:
    return replace(file, port=ports[file.name]) if isinstance(file, Listen) and file.name in ports else file
