"""What is in force stays until what is new was read whole, left alone and found good."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enarx.errors import MalformedError
from enarx.pki import keys
from enarx.pki.certificate import Certificate, certificates_from_pem
from enarx.steward import setup
from enarx.steward.config import Flags
from enarx.steward.nonce import OVERLAP, Nonces
from enarx.steward.reload import AGAIN, Loaded, Reloading, load
from enarx.steward.runner import Running

AT = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CONFIG = """origin = 'https://steward.example.com'
crt = 'ca/ca.pem'
key = 'ca/ca.key'
[unsafe]
accept_nil = true
"""


class Watched:
    """A CA on disk, whoever watches it, what was put to work, and a clock."""

    def __init__(self, folder: Path, lifetime: timedelta = 30 * DAY) -> None:
        self.folder, self.ca, self.now = folder, folder / "ca", AT
        self.lifetime = lifetime
        setup.init(self.ca, "Steward", AT, curve="P-256", lifetime=lifetime, passphrase=None)
        self.write(CONFIG)
        self.applied: list[Loaded] = []
        first = load(folder / "steward.toml", Flags(), AT)
        self.reloading = Reloading(folder / "steward.toml", Flags(), first, self.applied.append, lambda: self.now)

    def write(self, text: str) -> None:
        (self.folder / "steward.toml").write_text(text)

    def rotate(self) -> None:
        setup.rotate(self.ca, "Steward", self.now, curve="P-256", lifetime=self.lifetime, passphrase=None)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_change_counts_when_it_was_left_alone(watched: Watched) -> None:
    """At the second look that finds the files as they are, once, and with the intermediate before kept."""
    former = watched.reloading.loaded.issuer
    watched.reloading.tick()
    watched.rotate()
    watched.reloading.tick()
    assert watched.applied == []
    watched.reloading.tick()
    watched.reloading.tick()
    (taken,) = watched.applied
    assert taken.issuer.certificate != former.certificate
    assert [each.key_id for each in taken.former] == [former.key_id]
    assert watched.reloading.loaded is taken


def test_what_is_wrong_is_tried_once_and_taken_when_it_is_mended(
    watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log says why, and the policy that was in force stays so."""
    before = watched.reloading.loaded
    watched.write(CONFIG + "[certificate]\nlifetime = 'long'\n")
    for _ in range(5):
        watched.reloading.tick()
    assert (watched.applied, watched.reloading.loaded) == ([], before)
    watched.write(CONFIG + "[certificate]\nlifetime = 60\n")
    for _ in range(3):
        watched.reloading.tick()
    assert len(watched.applied) == 1


@pytest.mark.parametrize("error", [MalformedError("no"), RuntimeError("a bug")])
def test_what_cannot_be_put_to_work_changes_nothing(watched: Watched, error: Exception) -> None:
    """Also when it is our own mistake: then the old is better than nothing."""

    def refuse(_: Loaded) -> None:
        raise error

    reloading = Reloading(watched.folder / "steward.toml", Flags(), watched.reloading.loaded, refuse, lambda: AT)
    before = reloading.loaded
    reloading.reload()
    assert reloading.loaded is before


def test_near_its_end_the_intermediate_is_looked_for(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a minute, whatever the file system says of the files; without a new one nothing happens."""
    monkeypatch.setattr(Reloading, "_stamps", lambda _: ())  # a file system that tells nothing
    watched.now = AT + 20 * DAY
    watched.rotate()
    watched.reloading.tick()
    assert watched.applied == []
    watched.now = AT + 24 * DAY
    watched.reloading.tick()
    assert len(watched.applied) == 1
    watched.now += AGAIN
    watched.reloading.tick()
    assert len(watched.applied) == 1


@pytest.mark.parametrize("moment", [AT - DAY, AT + 40 * DAY])
def test_an_intermediate_that_does_not_count_now_is_not_taken(watched: Watched, moment: datetime) -> None:
    """One that has ended, or has not begun, would stop a Steward that still has a good one."""
    watched.rotate()
    watched.now = moment
    watched.reloading.reload()
    assert watched.applied == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "listen = '127.0.0.1:4000'\n" + text, "addr, port"),
        (lambda text: "state = 'state'\n" + text, "state"),
        (lambda text: "tls_from_ca = true\n" + text, "TLS"),
        (lambda text: "workers = 3\n" + text, "workers"),
    ],
)
def test_what_others_hold_needs_a_restart(
    change: Callable[[str], str], words: str, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it listens and where it remembers."""
    watched.write(change(CONFIG))
    watched.reloading.reload()
    assert watched.applied == []
    with pytest.raises(MalformedError, match=f"a change of {words} needs a restart"):
        load(watched.folder / "steward.toml", Flags(), AT, watched.reloading.loaded)


def test_a_former_intermediate_ends_and_one_that_cannot_be_read_is_told(watched: Watched) -> None:
    """It is kept while what it issued may count, and its loss stops nobody."""
    watched.rotate()
    path = watched.folder / "steward.toml"
    assert len(load(path, Flags(), AT).former) == 1
    assert load(path, Flags(), AT + 31 * DAY).former == ()
    (key,) = watched.ca.glob("ca.former-*.key")
    key.write_bytes(keys.to_pem(keys.generate("P-256")))
    assert load(path, Flags(), AT).former == ()


def test_every_former_intermediate_is_found_until_it_ends(watched: Watched) -> None:
    """Whoever rotates several times within the life of a certificate loses none, running or not; the latest is first."""
    issuers = [watched.reloading.loaded.issuer.certificate]
    for _ in range(3):
        watched.now += 5 * DAY
        watched.rotate()
        issuers.insert(0, load(watched.folder / "steward.toml", Flags(), watched.now).issuer.certificate)
    after = load(watched.folder / "steward.toml", Flags(), watched.now)
    assert [each.certificate for each in (after.issuer, *after.former)] == issuers
    watched.reloading.reload()  # which was there before the first of them
    assert [each.certificate for each in (watched.applied[0].issuer, *watched.applied[0].former)] == issuers
    later = AT + 32 * DAY
    assert [each.certificate for each in load(watched.folder / "steward.toml", Flags(), later).former] == issuers[1:3]
    assert len(list(watched.ca.glob("*.former-*"))) == 6
    watched.now = later
    watched.rotate()
    assert len(list(watched.ca.glob("*.former-*"))) == 6, "one more, and the one that has ended is gone with its key"
    left = load(watched.folder / "steward.toml", Flags(), later)
    assert [each.certificate for each in left.former] == issuers[:3]
    assert {file.stat().st_mode & 0o777 for file in watched.ca.glob("*.key")} == {0o600}


def test_a_rotation_that_broke_off_spoils_no_former_key(watched: Watched) -> None:
    """When the key was replaced and the certificate was not yet, the one that was put aside has the right key already."""
    first = watched.reloading.loaded.issuer.certificate
    old = (watched.ca / "ca.pem").read_bytes()
    watched.rotate()
    (watched.ca / "ca.pem").write_bytes(old)  # as it was between the two
    watched.rotate()
    after = load(watched.folder / "steward.toml", Flags(), AT)
    assert [each.certificate for each in after.former] == [first]
    (watched.ca / "ca.pem").write_bytes(b"cut off")
    watched.rotate()
    assert load(watched.folder / "steward.toml", Flags(), AT).issuer.certificate != after.issuer.certificate


def leaf(loaded: Loaded) -> Certificate:
    assert loaded.tls is not None
    return certificates_from_pem(loaded.tls.cert_chain_pem, "TLS")[0]


def test_its_own_tls_certificate_is_made_anew_before_it_ends(tmp_path: Path) -> None:
    """In a running server, whose CA is the same for years; once, and not while the CA's own end is the reason."""
    watched = Watched(tmp_path, lifetime=600 * DAY)
    watched.write("tls_from_ca = true\n" + CONFIG)
    first = load(tmp_path / "steward.toml", Flags(), AT)
    running = Running(first)
    running.ready(4000)
    assert running.served is not None
    before = running.served.context
    reloading = Reloading(tmp_path / "steward.toml", Flags(), first, running.exchange, lambda: watched.now)
    watched.now = leaf(first).not_after - 8 * DAY
    reloading.tick()
    assert reloading.loaded is first
    watched.now += 2 * DAY
    reloading.tick()
    second = reloading.loaded
    assert leaf(second).not_after == second.issuer.certificate.not_after > leaf(first).not_after
    assert second.issuer is first.issuer
    assert running.served.context is not before
    watched.now += DAY
    reloading.tick()
    assert reloading.loaded is second
    watched.now = leaf(second).not_after - DAY
    reloading.tick()
    assert reloading.loaded is second, "another would end no later"
    reloading.reload()
    assert reloading.loaded.tls == second.tls


def test_a_generated_ca_stays(tmp_path: Path) -> None:
    """It is in no file; the policy is read anew all the same."""
    path = tmp_path / "steward.toml"
    path.write_text("[unsafe]\naccept_nil = true\n")
    first = load(path, Flags(dev=True), AT)
    path.write_text("[unsafe]\naccept_nil = true\n[certificate]\nlifetime = 60\n")
    again = load(path, Flags(dev=True), AT, first)
    assert (again.issuer, again.tls, again.former) == (first.issuer, first.tls, ())
    assert again.config.policy.grant.lifetime == timedelta(seconds=60)


def test_nonces_outlive_a_change_of_keys() -> None:
    """For a moment the older key is still used, for processes that do not know the new one; later only recognised."""
    old, new = (Nonces(origin="https://s", key=letter * 32) for letter in (b"a", b"b"))
    changed = new.after(old, AT)
    early = changed.issue(AT + OVERLAP / 2, bytes(20))
    late = changed.issue(AT + OVERLAP, bytes(20))
    assert old.verify(early, AT + OVERLAP)
    assert changed.verify(early, AT + OVERLAP)
    assert new.verify(late, AT + OVERLAP) == changed.verify(late, AT + OVERLAP)
    assert dataclasses.replace(new, older=()).after(changed, AT + DAY).older == changed.older


def test_a_third_key_leaves_the_first_two_recognised() -> None:
    """Two rotations within minutes lose no request either."""
    first, second, third = (Nonces(origin="https://s", key=letter * 32) for letter in (b"a", b"b", b"c"))
    last = third.after(second.after(first, AT), AT + timedelta(seconds=5))
    for each in (first, second, third):
        assert last.verify(each.issue(AT, bytes(20)), AT + timedelta(minutes=1))
