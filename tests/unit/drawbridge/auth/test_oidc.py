"""Tokens: what counts, what does not and why, and what is asked of the issuer for it."""

import base64
import hmac
import json
import warnings

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from enarx.drawbridge.access import Identity
from enarx.drawbridge.auth.keyset import BURST, FRESH, STALE, KeySource, read_keys
from enarx.drawbridge.auth.oidc import (
    OPAQUE_FRESH,
    IntrospectedIssuer,
    Issuers,
    JwtIssuer,
    Rules,
    TokenError,
    UserinfoIssuer,
)
from enarx.errors import UnavailableError
from tests.unit.drawbridge.issuers import AT, AUDIENCE, SUBJECT, URL, Provider

RULES = Rules(name="corp", url=URL, audience=AUDIENCE)


def issuer(provider: Provider, rules: Rules = RULES) -> JwtIssuer:
    return JwtIssuer.discovered(rules, provider.fetch)


def test_a_good_token_names_a_person_with_scopes() -> None:
    """Discovery, keys, signature, issuer, audience in a list, expiry: then subject and scopes count."""
    provider = Provider()
    person = issuer(provider).authenticate(provider.token(), AT)
    assert person.identity == Identity(issuer="corp", subject=SUBJECT)
    assert person.may("read", "tags")
    assert person.may("write", "users")
    assert provider.asked == ["/.well-known/openid-configuration", "/jwks"]


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", RSAKey.generate_key(2048, {"kid": "k"})),
        ("PS256", RSAKey.generate_key(2048, {"kid": "k"})),
        ("ES256", ECKey.generate_key("P-256", {"kid": "k"})),
        ("ES384", ECKey.generate_key("P-384", {"kid": "k"})),
        ("EdDSA", OKPKey.generate_key("Ed25519", {"kid": "k"})),
        ("Ed25519", OKPKey.generate_key("Ed25519", {"kid": "k"})),
    ],
)
def test_each_algorithm_that_is_configured_verifies(algorithm: str, key: RSAKey | ECKey | OKPKey) -> None:
    """RS256, PS256, ES256, ES384 and EdDSA by both of its names; one that is not configured is refused."""
    provider = Provider(URL, key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library warns of EdDSA when it signs
        token = provider.token(algorithm)
    assert issuer(provider).authenticate(token, AT).identity.subject == SUBJECT
    other = "RS256" if algorithm != "RS256" else "ES256"
    with pytest.raises(TokenError) as refused:
        issuer(provider, Rules(name="c", url=URL, audience=AUDIENCE, algorithms=(other,))).authenticate(token, AT)
    assert refused.value.why == "its algorithm is not accepted"


NOW = int(AT.timestamp())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": NOW - 3600}, "it has expired"),
        ({"exp": None}, "it never expires"),
        ({"exp": float("nan")}, "its exp is no time"),
        ({"exp": "tomorrow"}, "its exp is no time"),
        ({"nbf": NOW + 600}, "it is not valid yet"),
        ({"iat": NOW + 600}, "it is not valid yet"),
        ({"aud": "elsewhere"}, "it is for another audience"),
        ({"aud": None}, "it is for another audience"),
        ({"iss": "https://login.example.com.evil.org/"}, "another issuer made it"),
        ({"iss": None}, "another issuer made it"),
        ({"sub": None}, "it has no subject"),
        ({"sub": 7}, "it has no subject"),
    ],
)
def test_a_token_with_one_wrong_claim_does_not_count(changes: dict[str, object], why: str) -> None:
    """Every claim has its refusal; the sentence is the originals', the reason beside it."""
    provider = Provider()
    with pytest.raises(TokenError, match=r"^Invalid token provided$") as refused:
        issuer(provider).authenticate(provider.token(**changes), AT)  # type: ignore[arg-type]  # claims of any type
    assert refused.value.why == why


def test_a_forged_token_does_not_count() -> None:
    """A cut signature, another's key under a known id, no algorithm, and the public key as an HMAC secret."""
    provider = Provider()
    judge = issuer(provider)
    good = provider.token()
    stranger = RSAKey.generate_key(2048, {"kid": "signkey"})
    head, body, _ = good.split(".")
    unsigned = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": "signkey"}).encode()).rstrip(b"=").decode()
    hashed = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "signkey"}).encode()).rstrip(b"=").decode()
    mac = hmac.digest(provider.keys[0].as_pem(private=False), f"{hashed}.{body}".encode(), "sha256")
    confused = f"{hashed}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    for forged in (
        good[:-4],
        provider.token(key=stranger),
        f"{unsigned}.{body}.",
        confused,
        f"{head}.{body}",
        "",
        "a.b.c",
        "é",
    ):
        with pytest.raises(TokenError):
            judge.authenticate(forged, AT)


def test_a_key_is_good_for_its_own_algorithm_only() -> None:
    """A key set that says RS256 of a key is not asked to verify PS256 with it."""
    key = RSAKey.generate_key(2048, {"kid": "k", "alg": "RS256"})
    provider = Provider(URL, key)
    issuer(provider).authenticate(provider.token("RS256"), AT)
    plain = RSAKey.import_key({name: value for name, value in key.as_dict(private=True).items() if name != "alg"})
    with pytest.raises(TokenError):
        issuer(provider).authenticate(provider.token("PS256", key=plain), AT)


def test_the_type_of_a_token_can_be_required() -> None:
    """With `typ = "at+jwt"` an ID token of the same issuer is none of ours (RFC 9068)."""
    provider = Provider()
    judge = issuer(provider, Rules(name="corp", url=URL, audience=AUDIENCE, typ="at+jwt"))
    with pytest.raises(TokenError) as refused:
        judge.authenticate(provider.token(), AT)
    assert refused.value.why == "its type is not at+jwt"


def test_another_issuer_behind_the_same_url_is_not_believed() -> None:
    """The discovery document has to name the issuer that was configured."""
    provider = Provider()
    provider.issuer = "https://other.example.com/"
    with pytest.raises(UnavailableError, match=r"issuer: expected https://login.example.com/, found 'https://other"):
        issuer(provider).authenticate(provider.token(), AT)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_keys_rotate_without_a_restart_and_without_a_flood() -> None:
    """An unknown key id asks the issuer at once, a few times, then not again for a while; a withdrawn key is forgotten."""
    provider, clock = Provider(), Clock()
    loads = 0

    def load() -> object:
        nonlocal loads
        loads += 1
        if not provider.reachable:
            raise UnavailableError("gone")
        return [key.as_dict(private=False) for key in provider.keys]

    judge = JwtIssuer(RULES, KeySource(load, clock))
    old = provider.token()
    judge.authenticate(old, AT)
    provider.keys = [RSAKey.generate_key(2048, {"kid": "new"})]
    judge.authenticate(provider.token(), AT)
    for number in range(20):
        with pytest.raises(TokenError):
            judge.authenticate(provider.token(kid=f"unknown-{number}"), AT)
    assert loads == BURST
    with pytest.raises(TokenError):
        judge.authenticate(old, AT)
    clock.now += FRESH + 1
    provider.reachable = False
    judge.authenticate(provider.token(), AT)  # known keys outlive a short failure
    clock.now += STALE
    with pytest.raises(UnavailableError):
        judge.authenticate(provider.token(), AT)


def test_keys_that_verify_nothing_are_passed_over() -> None:
    """Symmetric, for encryption, too short, unknown: none of them counts, and none spoils the set."""
    good = ECKey.generate_key("P-256", {"kid": "good"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        short = RSAKey.generate_key(1024, {"kid": "short"}).as_dict(private=False)
    rubbish: list[object] = [
        OctKey.generate_key(256, {"kid": "secret"}).as_dict(private=True),
        {**good.as_dict(private=False), "use": "enc", "kid": "enc"},
        short,
        {"kty": "AKP", "kid": "future"},
        {"kty": "RSA", "kid": "broken", "n": 7},
        "no key",
    ]
    assert [key.kid for key in read_keys([*rubbish, good.as_dict(private=False)])] == ["good"]
    nothings: list[object] = [rubbish, [], None, {}, [{}] * 100]
    for nothing in nothings:
        with pytest.raises(UnavailableError):
            read_keys(nothing)


def test_opaque_tokens_are_asked_about_and_remembered_for_a_moment() -> None:
    """Userinfo, as the older generation: a subject without scopes, who has one name; unknown tokens are refused."""
    provider, clock = Provider(), Clock()
    provider.known["test-token"] = {"sub": SUBJECT}
    judge = UserinfoIssuer(Rules(name="old", url=URL, audience=None), provider.fetch, clock)
    person = judge.authenticate("test-token", AT)
    assert person.one_name
    assert person.may("write", "repositories")
    judge.authenticate("test-token", AT)
    assert provider.asked.count("/userinfo") == 1
    clock.now += OPAQUE_FRESH + 1
    del provider.known["test-token"]
    with pytest.raises(TokenError):
        judge.authenticate("test-token", AT)
    provider.reachable = False
    with pytest.raises(UnavailableError):
        judge.authenticate("another", AT)


def test_introspection_counts_only_what_is_active_and_for_us() -> None:
    """RFC 7662: active, our audience where the issuer names one, and not past its end."""
    provider = Provider()
    provider.known |= {
        "good": {"sub": SUBJECT, "scope": "read:drawbridge_tags", "aud": AUDIENCE},
        "elsewhere": {"sub": SUBJECT, "aud": "other"},
        "late": {"sub": SUBJECT, "aud": AUDIENCE, "exp": NOW - 60},
    }
    judge = IntrospectedIssuer(RULES, provider.fetch, Clock(), client_id="a:b", client_secret="s")
    person = judge.authenticate("good", AT)
    assert person.may("read", "tags")
    assert not person.may("write", "tags")
    for token in ("elsewhere", "late", "unknown"):
        with pytest.raises(TokenError):
            judge.authenticate(token, AT)


def test_a_token_goes_to_its_own_issuer_and_to_no_other() -> None:
    """Among several issuers the token's own word picks the judge; what names none goes to the opaque one, or nowhere."""
    one, two, old = Provider(), Provider("https://two.example.com"), Provider("https://old.example.com")
    second = JwtIssuer.discovered(Rules(name="two", url=two.url, audience=AUDIENCE), two.fetch)
    opaque = UserinfoIssuer(Rules(name="old", url=old.url, audience=None), old.fetch, Clock())
    judges = Issuers.of([issuer(one), second], opaque)
    assert judges.authenticate(two.token(), AT).identity.issuer == "two"
    assert not one.asked
    assert not old.asked
    with pytest.raises(TokenError):  # signed by the first, with the second's name in it
        judges.authenticate(one.token(iss=two.url), AT)
    with pytest.raises(TokenError):
        judges.authenticate("opaque", AT)
    assert old.asked[-1] == "/userinfo"
    with pytest.raises(TokenError):
        Issuers.of([second], None).authenticate("opaque", AT)


def test_a_machine_is_known_by_its_claims() -> None:
    """An issuer of CI tokens vouches for programs: what they may is no scope but a member's pattern."""
    provider = Provider()
    judge = issuer(provider, Rules(name="ci", url=URL, audience=AUDIENCE, machine=True))
    person = judge.authenticate(provider.token(scope=None, repository="org/app", ref="refs/tags/v1", run=7), AT)
    assert person.machine
    assert person.claims["repository"] == "org/app"
    assert "run" not in person.claims
