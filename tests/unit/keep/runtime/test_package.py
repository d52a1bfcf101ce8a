"""The package's data under /package: readable, unchangeable, and nothing beyond it."""

from collections.abc import Callable

import pytest

from .conftest import Runner

FILES = {"a.txt": b"0123456789", "sub/b.txt": b"below", "sub/deep/c": b""}
STDIO = '[[files]]\nkind="stdin"\n[[files]]\nkind="stdout"\n[[files]]\nkind="stderr"\n'


def test_libc_finds_the_data_by_its_path(probe: bytes, run_guest: Runner) -> None:
    """open("/package/…") works as on any system, wherever the descriptor stands."""
    assert run_guest(probe, "cat", "/package/a.txt", files=FILES).stdout == b"0123456789"
    many = STDIO + '[[files]]\nkind="null"\n' * 3
    assert run_guest(probe, "cat", "/package/sub/b.txt", files=FILES, toml=many).stdout == b"below"
    assert b"No such file" in run_guest(probe, "cat", "/etc/passwd", files=FILES).stdout
    assert b"env FD_COUNT=3\n" in run_guest(probe, "environment", files=FILES).stdout


def test_positions_and_vectors(probe: bytes, run_guest: Runner) -> None:
    """read, seek, tell and pread agree about where they are."""
    assert run_guest(probe, "reading", "3", files=FILES).stdout.decode().splitlines() == [
        "read 0 10 012 3456789",
        "seek end 0 8",
        "read 0 2 89",
        "read 0 0",
        "seek before 28",
        "seek set 0 1",
        "pread 0 3 456",
        "tell 0 1",
        "pread past 0 0",
    ]


@pytest.mark.parametrize("small", [(), ("small",)])
def test_directories_are_listed_whole(probe: bytes, run_guest: Runner, small: tuple[str, ...]) -> None:
    """readdir gives every name once, with buffers of any size."""
    assert run_guest(probe, "list", "/package", *small, files=FILES).stdout == b". 3\n.. 3\na.txt 4\nsub 3\n"


def test_every_attempt_to_change_something_is_refused(probe: bytes, run_guest: Runner) -> None:
    """Create, truncate, rename, link, unlink, set times: ROFS (69), and writing to an open file as well."""
    found = run_guest(probe, "changing", "3", files=FILES).stdout.split()
    assert set(found) <= {b"69"}


def test_paths_mean_what_they_mean_to_wasmtime(
    probe: bytes, run_guest: Runner, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Stat, open, directory and readlink answer as wasmtime's own directory of the same files."""
    root = tmp_path_factory.mktemp("same")
    for path, content in FILES.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    ours = run_guest(probe, "paths", "3", files=FILES).stdout
    native = run_guest(probe, "paths", "3", preopens=[(root, "/package")]).stdout
    assert ours.decode().splitlines() == native.decode().splitlines()


def test_a_go_program_scans_descriptors_and_finds_the_data(
    compile_go: Callable[[str], bytes], run_guest: Runner
) -> None:
    """Go's start-up scan passes over sockets and null devices, and its os package reads /package."""
    toml = STDIO + '[[files]]\nkind="null"\n[[files]]\nkind="listen"\nname="x"\nprot="tcp"\naddr="127.0.0.1"\nport=0\n'
    outcome = run_guest(compile_go("reader"), toml=toml, files=FILES)
    assert outcome.stderr == b""
    assert outcome.stdout.decode().splitlines() == ["a.txt 10", "sub dir", "below", "write refused true"]


def test_a_rust_program_scans_descriptors_and_finds_the_data(
    compile_rust: Callable[[str], bytes], run_guest: Runner
) -> None:
    """Rust's standard library finds /package among other descriptors."""
    toml = STDIO + '[[files]]\nkind="null"\n'
    outcome = run_guest(compile_rust("reader"), toml=toml, files=FILES)
    assert outcome.stderr == b""
    assert outcome.stdout.decode().splitlines() == ["a.txt 10", "sub dir", "below", "write refused true"]
