"""The key `abi`: Cargo's requirements on versions."""

import pytest

from enarx.tee.snp.abi import Requirement


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("*", ["0.0.0", "1.51.0", "255.255.0"], []),
        (">=1.51", ["1.51.0", "1.52.0", "2.0.0"], ["1.50.0", "0.99.0"]),
        (">1.0", ["1.1.0", "2.0.0"], ["1.0.0", "1.0.9"]),
        (">1", ["2.0.0"], ["1.0.0", "1.255.0"]),
        (">1.51.0", ["1.51.1", "1.52.0"], ["1.51.0"]),
        ("<2", ["0.0.0", "0.5.0", "1.255.0"], ["2.0.0"]),
        ("<1.51", ["1.50.9"], ["1.51.0"]),
        ("<=1.51", ["0.0.0", "1.51.0", "1.51.9", "1.0.0"], ["1.52.0"]),
        ("1.0", ["1.0.0", "1.51.0"], ["0.9.0", "2.0.0"]),
        ("^1.51", ["1.51.0", "1.99.0"], ["1.50.0", "2.0.0"]),
        ("^0.31", ["0.31.0", "0.31.5"], ["0.32.0", "1.0.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4", "0.1.0"]),
        ("^0.0", ["0.0.0", "0.0.9"], ["0.1.0"]),
        ("^0", ["0.0.0", "0.9.0"], ["1.0.0"]),
        ("~1.51", ["1.51.0", "1.51.7"], ["1.52.0"]),
        ("~1.51.2", ["1.51.2", "1.51.7"], ["1.51.1", "1.52.0"]),
        ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
        ("=1.51", ["1.51.0", "1.51.4"], ["1.52.0"]),
        ("=1.51.0", ["1.51.0"], ["1.51.1"]),
        ("1.*", ["1.0.0", "1.99.0"], ["2.0.0"]),
        ("0.*", ["0.0.0", "0.99.0"], ["1.0.0"]),
        ("1.51.x", ["1.51.0", "1.51.9"], ["1.52.0"]),
        (" >= 1.51 , < 2 ", ["1.51.0", "1.99.0"], ["1.50.0", "2.0.0"]),
    ],
)
def test_requirements(text: str, inside: list[str], outside: list[str]) -> None:
    """Each operator with one, two and three numbers, wildcards, and several joined by commas."""
    requirement = Requirement.parse(text)

    def matches(version: str) -> bool:
        major, minor, patch = map(int, version.split("."))
        return requirement.matches((major, minor, patch))

    assert [version for version in inside if not matches(version)] == []
    assert [version for version in outside if matches(version)] == []


def test_a_requirement_is_bounded() -> None:
    """200 characters, and no more."""
    assert Requirement.parse("1".rjust(200)).matches((1, 0, 0))
    with pytest.raises(ValueError, match="expected at most 200 characters, found 201"):
        Requirement.parse("1".rjust(201))


@pytest.mark.parametrize(
    "text", ["", ",", ">=", ">= *", "1.x.3", "1.2.3.4", "v1", "1.0-rc", ">=1,,<2", "one", "1" * 300]
)
def test_what_is_no_requirement_is_refused(text: str) -> None:
    """A configuration that says something else is an error."""
    with pytest.raises(ValueError, match="expected"):
        Requirement.parse(text)
