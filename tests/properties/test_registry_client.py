"""What comes from a registry, an issuer or a disk is a value or an error of ours, whatever it is."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from enarx.cli.credentials import Logins
from enarx.drawbridge import client, login
from enarx.drawbridge.client import up
from enarx.drawbridge.names import PackageSlug
from enarx.errors import MalformedError
from enarx.web.client import Response

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_file_of_logins_or_malformed(data: bytes) -> None:
    """A damaged file is said to be damaged, and nothing of it is quoted."""
    descriptor, name = tempfile.mkstemp()
    said = f"{name}: not a file of logins; remove it and log in again"
    try:
        os.write(descriptor, data)
        assert _refusal(lambda: Logins.read(Path(name))) in {None, said}
    finally:
        os.close(descriptor)
        Path(name).unlink()


@given(st.binary(max_size=100) | JSON.map(msgspec.json.encode))
def test_any_answer_of_an_issuer_is_a_document_or_malformed(body: bytes) -> None:
    """Discovery, codes, tokens, subjects and refusals."""
    answer = Response(status=200, headers={}, body=body)
    for form in (login._Document, login._Device, login._Tokens, login._Subject):
        try:
            login._decode(answer, form, "issuer")
        except MalformedError:
            continue
    login._failure(answer)


@given(st.text(max_size=80))
def test_any_link_header_names_a_steward_or_none(text: str) -> None:
    """Whatever is around it, the target of rel="steward" is found, and no other."""
    client._steward(text)
    quiet = text.replace("<", "").replace(">", "").replace('"', "").replace(",", "")
    found = client._steward(f'<https://a.example>; rel="x{quiet}", <https://steward.example>; rel="steward"')
    assert found == "https://steward.example"


@given(st.dictionaries(st.sampled_from(["content-length", "content-type", "content-digest"]), st.text(max_size=60)))
def test_any_headers_of_a_node_are_a_meta_or_malformed(headers: dict[str, str]) -> None:
    """What HEAD says is read strictly."""
    said = _refusal(lambda: up._meta(Response(status=200, headers=headers), "node"))
    assert said is None or said.startswith("node: ")


@given(st.text(max_size=60))
def test_any_text_is_a_slug_or_malformed(text: str) -> None:
    """And one that is prints as it can be read again."""
    if _refusal(lambda: PackageSlug.parse(text)) is None:
        slug = PackageSlug.parse(text)
        assert PackageSlug.parse(str(slug)) == slug


def _refusal(do: Callable[[], object]) -> str | None:
    """What it was refused with; anything but MalformedError passes through and fails the test."""
    try:
        do()
    except MalformedError as error:
        return str(error)
    return None
