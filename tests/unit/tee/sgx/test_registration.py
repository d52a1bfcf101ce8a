"""The firmware's variables for multi-package platforms: every bound, and nothing behind what they hold."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError
from enarx.tee.sgx.registration import ATTRIBUTES, KINDS, MAX_VARIABLE, Request, Status, keeps_keys, response

GUID = next(iter(KINDS))


def variable(version: int, body: bytes, *, behind: bytes = b"") -> bytes:
    """As the firmware writes one: attributes, version, size (of four bytes in version 3), body."""
    return struct.pack("<IHI" if version == 3 else "<IHH", ATTRIBUTES, version, len(body)) + body + behind


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_request_of_each_version_is_read_and_written(version: int) -> None:
    """Byte for byte; the third has a longer size, and only there are more than 65,535 bytes."""
    data = variable(version, GUID + b"rest")
    request = Request.parse(data)
    assert (request.kind, request.version, request.encode()) == (KINDS[GUID], version, data)


def test_a_request_that_is_made_is_of_the_first_version() -> None:
    """What every firmware knows."""
    assert Request(kind="platform", body=GUID).encode() == variable(1, GUID)


@pytest.mark.parametrize("version", [0, 4, 256])
def test_other_versions_are_not_read(version: int) -> None:
    """A status and a configuration have the first alone."""
    with pytest.raises(MalformedError, match=f"version: expected 1 or 2 or 3, found {version}"):
        Request.parse(variable(version, GUID))
    for wrong in (version, 2):
        with pytest.raises(MalformedError, match=f"status: version: expected 1, found {wrong}"):
            Status.parse(variable(wrong, b"\x01\x00\x00"))
        with pytest.raises(MalformedError, match=f"configuration: version: expected 1, found {wrong}"):
            keeps_keys(variable(wrong, b"\x01\x00"))


def test_nothing_stands_behind_what_a_variable_holds() -> None:
    """Neither behind its body nor, in a status, behind the two fields of that."""
    status = b"\x01\x00\x00"
    assert Status.parse(variable(1, status)).complete
    for wrong in (variable(1, status, behind=b"\0"), variable(1, status + b"\0")):
        with pytest.raises(MalformedError, match="1 bytes follow"):
            Status.parse(wrong)


def test_a_variable_has_at_most_64_kib() -> None:
    """Counted with its head, and asked before anything is read."""
    assert MAX_VARIABLE == 64 * 1024
    assert len(Request.parse(variable(3, GUID + bytes(MAX_VARIABLE - 26))).body) == MAX_VARIABLE - 10
    with pytest.raises(MalformedError, match="at most 65536 bytes, found 65537"):
        Request.parse(variable(3, GUID + bytes(MAX_VARIABLE - 25)))


def test_a_configuration_is_two_bytes_of_flags() -> None:
    """The first bit says that the service keeps no keys."""
    assert keeps_keys(variable(1, b"\x00\x00"))
    assert keeps_keys(variable(1, b"\xfe\xff"))
    assert not keeps_keys(variable(1, b"\x01\x00"))


@pytest.mark.parametrize("size", [0, 1, 65535, 65536])
def test_a_response_fits_the_size_that_it_names(size: int) -> None:
    """16 bits, and not empty: the firmware would take an empty one for an answer."""
    if 0 < size <= 0xFFFF:
        assert response(bytes(size)) == variable(1, bytes(size))
    else:
        with pytest.raises(MalformedError, match=f"expected 1 to 65535 bytes, found {size}"):
            response(bytes(size))


@given(st.binary(max_size=80))
def test_any_bytes_are_a_variable_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the parsers, they answer with a value or with MalformedError."""
    for parser in (Request, Status):
        try:
            found = parser.parse(data)
        except MalformedError:
            continue
        assert found.encode() == data
