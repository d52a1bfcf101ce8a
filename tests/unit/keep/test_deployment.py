"""The order: read strictly, and its deploy configuration applied as it was hashed."""

from hashlib import sha256

import pytest

from enarx.digest import Digest
from enarx.errors import MalformedError
from enarx.keep.channel import Start
from enarx.keep.config import Config, Overridable
from enarx.keep.deployment import Order
from enarx.keep.workload import Workload
from tests.values import replace

ORDER = Order(
    slug="localhost/u/r:1.0.0", digest=Digest.of(b"root"), steward="https://s.example", drawbridge="https://d.example"
)
WASM = b"\0asm\x01\0\0\0"


def test_the_deploy_configuration_is_applied_as_it_was_hashed() -> None:
    """The digest is of the bytes that came, and what they say is what the program gets."""
    allowing = Overridable(args=True, env=None)
    workload = Workload(wasm=WASM, config=Config(args=("a",), env={"X": "1"}, deploy=allowing))
    order = replace(ORDER, config=b'{"args":["b"],"env":{"X":"2"}}')
    config = order.applied_to(workload).config
    assert (config.args, dict(config.env)) == (("b",), {"X": "2"})
    assert order.config_digest == sha256(b'{"args":["b"],"env":{"X":"2"}}').digest()
    assert ORDER.config_digest is None
    assert ORDER.applied_to(workload) is workload


def test_an_order_survives_the_channel() -> None:
    """What the host sends is what the Keep reads, and a token is in no representation of it."""
    order = replace(ORDER, token="t0ken", steward_roots=b"PEM", config=b'{"args":["x"]}')
    assert Order.parse(order.start()) == order
    assert "t0ken" not in repr(order)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "version: expected 1, found 2"),
        ({"digest": "sha-384:" + "00" * 48}, "expected sha-256"),
        ({"config": "{}"}, "canonical"),
        ({"config": ""}, "says something, or none"),
        ({"config": '{"args": []}'}, "canonical"),
    ],
)
def test_a_start_of_another_form_is_refused(change: dict[str, object], why: str) -> None:
    """Another version, a digest that certificates do not carry, a configuration that has two spellings."""
    start = ORDER.start()
    members = {name: getattr(start, name) for name in start.__struct_fields__}
    with pytest.raises(MalformedError, match=why):
        Order.parse(Start(**{**members, **change}))
