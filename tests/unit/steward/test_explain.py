"""Every key that a technology's table can have is told in words."""

from pathlib import Path

import pytest

from enarx import toml
from enarx.steward.config import Config, Flags
from enarx.steward.explain import BY_PRODUCT, DEFAULTS, FLAGS, SENTENCES, explain
from enarx.tee import TECHNOLOGIES
from enarx.toml import Table

KINDS_OF_TABLES = {"minimum_tcb", "pcrs", "extensible"}  # told by what stands in them


def keys_of(name: str) -> set[str]:
    """What the technology asks its table for, at whatever depth."""
    technology = next(each for each in TECHNOLOGIES if each.name == name)
    table = toml.parse("", source="steward.toml").table(name)
    technology.read_policy(table)

    def below(asked: Table) -> set[str]:
        return set(asked.asked).union(*(below(child) for child in asked._children))

    return below(table)


@pytest.mark.parametrize("name", [technology.name for technology in TECHNOLOGIES])
def test_every_key_has_its_sentence(name: str) -> None:
    """`steward check-config` leaves no key to its name alone."""
    known = {*SENTENCES, *FLAGS, *BY_PRODUCT, *KINDS_OF_TABLES}
    assert {key for key in keys_of(name) if not key.isdigit()} <= known


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_a_table_does_not_say_is_told_until_it_says_so(name: str, tmp_path: Path) -> None:
    """A default is as much of the policy as a key; each is one that the technology has, and gives way to it."""
    assert {key for key, _ in DEFAULTS[name]} <= keys_of(name)

    def told(more: str = "") -> str:
        (tmp_path / "steward.toml").write_text(f"[{name}]\nhash = ['{'00' * (32 if name == 'sgx' else 48)}']\n{more}")
        return "\n".join(explain(Config.read(tmp_path / "steward.toml", Flags())))

    for key, words in DEFAULTS[name]:
        assert f"  {words} ({name}.{key} is not set)" in told()
    key, line = ("allowed_tcb_statuses", "['OutOfDate']") if "snp" not in name else ("minimum_report_version", "5")
    assert f"({name}.{key} is not set)" not in told(f"{key} = {line}\n")


def test_defaults_are_told_as_they_are(tmp_path: Path) -> None:
    """Some of them word for word, for the sentence of a flag has an opposite."""
    (tmp_path / "steward.toml").write_text(f"[tdx]\nhash = ['{'00' * 48}']\n[snp]\nhash = ['{'00' * 48}']\n")
    said = explain(Config.read(tmp_path / "steward.toml", Flags()))
    assert "  SEPT_VE_DISABLE is set (tdx.allow_sept_ve is not set)" in said
    assert "  the platform where the TD was launched is acceptable too (tdx.allow_older_launch is not set)" in said
    assert "  a chip under a VCEK is not masked (snp.allow_masked_chip_id is not set)" in said
    assert "  the report's version is at least 3 (snp.minimum_report_version is not set)" in said
    assert not any("on the disk" in sentence for sentence in said), "nothing is remembered"


def test_plain_http_that_would_be_refused_is_told_so(tmp_path: Path) -> None:
    """Whoever reads the sentence should not learn it from the first start."""

    def told(listen: str) -> str:
        (tmp_path / "steward.toml").write_text(f"listen = '{listen}'\n[unsafe]\naccept_nil = true\n")
        return explain(Config.read(tmp_path / "steward.toml", Flags()))[0]

    assert "plain HTTP on loopback" in told("127.0.0.1:80")
    assert "`serve` refuses there unless --behind-proxy" in told("0.0.0.0:80")


def test_a_table_without_a_measurement_is_told_which_keys_it_has_for_one(tmp_path: Path) -> None:
    """Of that technology, and not of others."""
    for name, keys in (("tdx", "hash"), ("sgx", "hash or signer"), ("snp", "hash or signer or id_key_digest")):
        key = {"tdx": "allow_sept_ve", "sgx": "allow_smt", "snp": "require_committed_tcb"}[name]
        (tmp_path / "steward.toml").write_text(f"[{name}]\n{key} = true\n")
        with pytest.raises(toml.ConfigError, match=f"lists no measurement: expected {keys}, or "):
            Config.read(tmp_path / "steward.toml", Flags())
