"""A configuration in sentences, for people who must decide whether it says what they meant."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from enarx.steward.config import Config
from enarx.steward.policy import Policy


def explain(config: Config) -> tuple[str, ...]:
    """The configuration in sentences, for people who must decide whether it says what they meant."""
    policy = config.policy
    said = [_about_service(config), *_about_policy(policy), *_about_grants(policy)]
    said.append(
        {
            "claims": "A request with runtime claims must carry a nonce of this Steward; one of the originals cannot.",
            "always": "Every request must carry a nonce of this Steward, so requests of the originals are refused.",
            "optional": "A nonce is checked where a request carries one; none is asked for.",
        }[policy.nonce]
    )
    if config.collateral is not None:
        said.append(f"What evidence lacks comes from {config.collateral}, read again when it changes.")
    if config.state is not None:
        said.append(f"What is issued and revoked is remembered in {config.state}; GET /crl serves the list.")
    else:
        said.append("Nothing is remembered, so nothing can be revoked (state = DIRECTORY changes that).")
    said.append(f"The digest of this policy is {policy.digest.hex()}.")
    return tuple(said)


def _about_service(config: Config) -> str:
    origin = config.origin or "the loopback address"
    how = (
        "its own TLS"
        if config.tls_cert
        else "TLS ended by a proxy"
        if config.behind_proxy
        else "plain HTTP on loopback"
    )
    issuer = "a CA generated at start" if config.generate else f"the CA in {config.crt}"
    return f"Steward answers for {origin} with {how} and issues under {issuer}."


def _about_policy(policy: Policy) -> Sequence[str]:
    said = []
    for technology in sorted({t.name: t for t in policy.technologies.values()}.values(), key=lambda t: t.name):
        name = technology.name
        if name == "nil":
            continue
        if name not in policy.configured:
            said.append(f"{technology.title} evidence is rejected: there is no [{name}] table.")
            continue
        said.append(f"{technology.title} evidence is accepted when it is authentic, current, bound to the key, and:")
        said += [f"  {name}.{key}: {_plain(value)}" for key, value in _flat(policy.tables.get(name, {}))]
    unsafe = policy.unsafe
    if unsafe.accept_nil:
        said.append("UNSAFE: requests without any TEE are certified, as O=UNATTESTED.")
    if unsafe.accept_simulated:
        roots = ", ".join(f"{a.family} {a.sha256.hex()[:16]}…" for a in policy.anchors)
        said.append(f"UNSAFE: simulated vendors are believed ({roots}), and certified as O=SIMULATED.")
    if unsafe.allow_any_measurement:
        said.append("UNSAFE: a technology may be accepted without any measurement to compare with.")
    if unsafe.allow_evaluation_skew:
        said.append("UNSAFE: TCB info and QE identity of different evaluations are accepted together.")
    return said


def _about_grants(policy: Policy) -> Sequence[str]:
    def grant(who: str, lifetime: timedelta, names: Sequence[str], wishes: Sequence[str]) -> str:
        hours = f"{lifetime.total_seconds() / 3600:g} hours"
        own = f"carry {', '.join(names)}" if names else "carry no DNS name"
        more = f", and on request {', '.join(wishes)}" if wishes else ""
        return f"{who} live at most {hours}, never longer than their issuer and collateral, and {own}{more}."

    general = policy.grant
    said = [grant("Certificates", general.lifetime, general.dns_names, general.may_request)]
    for digest, item in policy.grants.items():
        said.append(grant(f"Certificates of workload {digest}", item.lifetime, item.dns_names, item.may_request))
    return said


def _flat(table: Mapping[str, object], prefix: str = "") -> Sequence[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in table.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ("one of " if len(value) > 1 else "") + (", ".join(_plain(item) for item in value) or "nothing")
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
