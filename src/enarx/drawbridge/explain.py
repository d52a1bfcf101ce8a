"""A configuration in sentences, for who has to decide whether it says what was meant."""

from collections.abc import Iterator

from enarx.drawbridge.config import Config


def explain(config: Config) -> list[str]:
    """What `check-config` prints."""
    return list(_sentences(config))


def _sentences(config: Config) -> Iterator[str]:
    how = "TLS" if config.tls else "plain HTTP"
    yield f"Listens with {how} on {config.listen()}, port {config.port}."
    yield f"Clients know it as {config.origin or 'https://localhost, for nobody said otherwise'}."
    yield f"Everything is kept in {config.store}."
    for issuer in config.issuers:
        audience = issuer.audience or "the origin and a slash"
        kind = {"jwt": "verified here", "introspection": "asked about there", "userinfo": "shown to its userinfo"}
        yield f"{issuer.url} says who people are ({issuer.name}); its tokens are {kind[issuer.tokens]}, for {audience}."
        if issuer.machine:
            yield f"Its subjects ({issuer.name}) are programs, which publish where a member's claims match theirs."
        if not issuer.scoped:
            yield f"Its tokens ({issuer.name}) are not limited by scopes."
    for steward in config.stewards:
        lists = f"revocations from {steward.crl}" if steward.crl else "NO REVOCATIONS: it publishes no list"
        yield f"Certificates under {steward.ca} open what they name; {lists}."
    if not config.stewards:
        yield "No Steward is trusted, so nothing private is released to any Keep."
    yield f"Tags name the Steward {config.steward}." if config.steward else "Tags name no Steward."
    for name, allowed in (
        ("simulated TEEs", config.leave.simulated),
        ("no TEE at all", config.leave.nil),
        ("TEEs open to debugging", config.leave.debug),
    ):
        if allowed:
            yield f"UNSAFE: private packages are released to {name}, where a repository does not say otherwise."
    if config.proxies:
        yield f"Believes client certificates in headers from {', '.join(map(str, config.proxies))}."
    limits = config.limits
    share = f", one of {limits.servers} in equal shares here" if limits.servers > 1 else ""
    yield f"One identity may ask {limits.requests_per_minute} times a minute{share}."
    yield f"One identity may upload {limits.upload_bytes_per_day} bytes a day, whichever server they reach."
