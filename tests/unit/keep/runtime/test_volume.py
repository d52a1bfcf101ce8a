"""The private directory: a small file system that behaves as wasmtime's own directories, within its size."""

import pytest

from .conftest import Runner

STDIO = '[[files]]\nkind="stdin"\n[[files]]\nkind="stdout"\n[[files]]\nkind="stderr"\n'


def test_it_answers_as_a_directory_of_wasmtime(
    probe: bytes, run_guest: Runner, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Thirty operations give the same errors, sizes, times and bytes as on a real directory."""
    real = run_guest(probe, "volume", "3", preopens=[(tmp_path_factory.mktemp("real"), "/x")]).stdout
    ours = run_guest(probe, "volume", "3", toml=STDIO + '[storage]\nmemory = "1 MiB"\n').stdout
    assert ours.decode().splitlines() == real.decode().splitlines()
    assert ours.startswith(b"create 0\nwrite 0\n")


def test_it_is_full_at_its_size_and_gives_back_what_was_removed(probe: bytes, run_guest: Runner) -> None:
    """NOSPC at the limit; after unlink and close the same fits again."""
    outcome = run_guest(probe, "fill", "/scratch/x", toml=STDIO + '[storage]\nmemory = 100500\npath = "/scratch"\n')
    assert outcome.stdout == b"10 then 51\n10 then 51\n"


def test_the_package_is_not_shown_where_it_is_not_wanted(probe: bytes, run_guest: Runner) -> None:
    """storage.package = false leaves the data unread."""
    toml = STDIO + "[storage]\npackage = false\n"
    assert b"No such file" in run_guest(probe, "cat", "/package/a", toml=toml, files={"a": b"x"}).stdout
