"""Rules about ports and endpoints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError
from enarx.keep import network
from enarx.keep.network import Endpoint, Network, Ports


@pytest.mark.parametrize(
    ("rule", "host", "port", "allowed"),
    [
        ("example.org:443", "Example.org.", 443, True),
        ("example.org:443", "example.org", 444, False),
        ("example.org:443", "www.example.org", 443, False),
        ("*.example.org:443", "www.example.org", 443, True),
        ("*.example.org:443", "example.org", 443, False),
        ("*.example.org:443", "badexample.org", 443, False),
        ("*:443", "anything", 443, True),
        ("10.0.0.0/8:1-100", "10.2.3.4", 100, True),
        ("10.0.0.0/8:*", "11.2.3.4", 1, False),
        ("10.0.0.0/8:*", "::ffff:10.0.0.1", 1, True),
        ("10.0.0.0/8:*", "ten.example", 1, False),
        ("[2001:db8::/32]:443", "2001:0db8:0::1", 443, True),
        ("[::1]:443", "0:0:0:0:0:0:0:1", 443, True),
        ("127.0.0.1:80", "localhost", 80, False),
        ("*.1:80", "127.0.0.1", 80, False),
    ],
)
def test_a_rule_means_what_it_says(rule: str, host: str, port: int, allowed: bool) -> None:
    """Names are folded, addresses are compared as addresses, and one is never taken for the other."""
    assert Endpoint.parse(rule).allows(host, port) is allowed


@pytest.mark.parametrize(
    "rule", ["example.org", ":1", "a b:1", "x:70000", "x:9-1", "x:", "10.0.0.1/8:1", "[x]:1", "x:1-"]
)
def test_a_rule_that_means_nothing_is_refused(rule: str) -> None:
    """What cannot be read is malformed, at its position."""
    with pytest.raises(MalformedError, match=r"^\[1\]: expected "):
        network.outgoing(["ok:1", rule])


def test_narrowing_only_takes_away() -> None:
    """Both lists have to allow; a list that is not given leaves it to the other."""
    package = Network(incoming=network.incoming(["8000-8010"]), outgoing=network.outgoing(["*.org:443"]))
    narrow = package.narrow(Network(outgoing=network.outgoing(["a.org:*", "b.com:443"])))
    assert narrow.allows_outgoing("a.org", 443)
    assert not narrow.allows_outgoing("b.org", 443)
    assert not narrow.allows_outgoing("b.com", 443)
    assert not narrow.allows_outgoing("a.org", 80)
    assert narrow.names("a.org")
    assert not narrow.names("b.org")
    assert narrow.allows_incoming(8001)
    twice = narrow.narrow(Network(incoming=(Ports.parse(8001),)))
    assert twice.allows_incoming(8001)
    assert not twice.allows_incoming(8002)
    assert not twice.allows_outgoing("b.org", 443)


@given(st.text(max_size=40) | st.from_regex(r"[a-z*.0-9:/\[\]]{1,20}:[0-9*-]{1,7}", fullmatch=True))
def test_any_text_is_a_rule_or_malformed_and_a_rule_prints_as_itself(text: str) -> None:
    """Whatever is thrown at the reader, it answers with a rule whose text is read as the same rule, or MalformedError."""
    try:
        rule = Endpoint.parse(text)
    except MalformedError:
        return
    assert Endpoint.parse(str(rule)) == rule
