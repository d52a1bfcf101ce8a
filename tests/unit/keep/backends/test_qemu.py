"""QEMU's command line for each TEE: the golden words, and what is refused before anything starts."""

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from enarx.errors import MalformedError, NotFoundError, UnavailableError
from enarx.keep.backends import Wishes
from enarx.keep.backends.qemu import (
    FIRMWARE_NAME,
    ID_AUTH_NAME,
    ID_BLOCK_NAME,
    INITRAMFS_NAME,
    KERNEL_NAME,
    Monitor,
    Plan,
    Qemu,
    Tee,
    arguments,
)
from enarx.tee.snp.idblock import IdBlock


@pytest.fixture
def image(tmp_path: Path) -> Path:
    for name in (KERNEL_NAME, INITRAMFS_NAME, FIRMWARE_NAME):
        (tmp_path / name).write_bytes(b"\0")
    return tmp_path


def words(image: Path, tee: Tee) -> list[str]:
    plan = Plan(tee=tee, accelerator="tcg" if tee == "none" else "kvm")
    return arguments(image, plan, channel=7, monitor=8, console=Path("/console.log"))


def objects(command: list[str]) -> list[dict[str, object]]:
    return [json.loads(command[at + 1]) for at, word in enumerate(command) if word == "-object"]


def test_a_machine_without_a_tee_has_kernel_initramfs_channel_and_network(image: Path) -> None:
    """Nothing else of the host is in it: no disk, no firmware variables, no shared folder."""
    command = words(image, "none")
    assert command[:6] == ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
    assert command[command.index("-machine") + 1] == "q35"
    assert command[command.index("-append") + 1] == "console=ttyS0 quiet panic=-1 enarx.attester=nil"
    assert not {"-drive", "-hda", "-fsdev", "-virtfs", "-bios", "-object"} & set(command)
    assert "socket,id=keep,fd=7" in command


def test_snp_has_private_memory_hashes_of_the_kernel_and_a_policy_without_debugging(image: Path) -> None:
    """What AMD's hardware is asked for; the command line says that somebody vouches inside."""
    command = words(image, "snp")
    memory, guest = objects(command)
    assert command[command.index("-machine") + 1] == "q35,confidential-guest-support=tee0,memory-backend=ram0"
    assert command[command.index("-accel") + 1] == "kvm"
    assert command[command.index("-append") + 1].endswith("enarx.attester=inside")
    assert memory == {
        "qom-type": "memory-backend-memfd",
        "id": "ram0",
        "size": 768 << 20,
        "share": True,
        "prealloc": False,
    }
    assert guest == {
        "qom-type": "sev-snp-guest",
        "id": "tee0",
        "cbitpos": 51,
        "reduced-phys-bits": 1,
        "policy": 0x30000,
        "kernel-hashes": True,
    }


def test_a_signed_image_hands_over_its_id_block(image: Path) -> None:
    """Block and authentication go to QEMU as base64, and the author's key is used if there is one."""
    block = IdBlock(launch_digest=bytes(range(48)), policy=0x30000).encode()
    auth = bytes((1, 0, 0, 0, 1, 0, 0, 0)) + bytes(4088)
    (image / ID_BLOCK_NAME).write_bytes(block)
    (image / ID_AUTH_NAME).write_bytes(auth)
    _, guest = objects(words(image, "snp"))
    assert guest["id-block"] == base64.b64encode(block).decode()
    assert guest["id-auth"] == base64.b64encode(auth).decode()
    assert guest["author-key-enabled"] is True


def test_without_an_author_qemu_is_not_told_of_one(image: Path) -> None:
    """The firmware would look for a signature that is not there."""
    (image / ID_BLOCK_NAME).write_bytes(IdBlock(launch_digest=bytes(48), policy=0x30000).encode())
    (image / ID_AUTH_NAME).write_bytes(bytes((1, 0, 0, 0)) + bytes(4092))
    _, guest = objects(words(image, "snp"))
    assert guest["author-key-enabled"] is False


def test_a_signature_for_another_policy_is_refused(image: Path) -> None:
    """Here, and not by the firmware after everything was started."""
    (image / ID_BLOCK_NAME).write_bytes(IdBlock(launch_digest=bytes(48), policy=0xB0000).encode())
    (image / ID_AUTH_NAME).write_bytes(bytes(4096))
    with pytest.raises(MalformedError, match="POLICY: expected 0x30000, found 0xb0000"):
        words(image, "snp")


def test_half_a_signature_is_refused(image: Path) -> None:
    """A block without its authentication would be launched unsigned."""
    (image / ID_BLOCK_NAME).write_bytes(bytes(96))
    with pytest.raises(MalformedError, match="or neither"):
        words(image, "snp")


def test_tdx_has_a_split_interrupt_chip_and_a_way_to_quotes(image: Path) -> None:
    """As QEMU 10.1 and later want it."""
    command = words(image, "tdx")
    (guest,) = objects(command)
    assert command[command.index("-machine") + 1] == "q35,kernel-irqchip=split,confidential-guest-support=tee0"
    assert command[command.index("-cpu") + 1] == "host"
    assert guest["qom-type"] == "tdx-guest"


@pytest.mark.parametrize(
    ("tee", "wishes", "error", "message"),
    [
        ("none", Wishes(), NotFoundError, "name an image with --image"),
        ("none", Wishes(image="/nowhere"), NotFoundError, "/nowhere/vmlinuz: not there; `enarx image build"),
        ("none", Wishes(image="/nowhere", accel="xen"), MalformedError, "expected one of kvm, tcg, found 'xen'"),
        ("snp", Wishes(image="/nowhere", accel="tcg"), MalformedError, "a machine with SNP is no emulated one"),
    ],
)
def test_what_cannot_start_is_refused_before(tee: Tee, wishes: Wishes, error: type[Exception], message: str) -> None:
    """Each refusal says what to do."""
    with pytest.raises(error, match=message):
        Qemu(tee=tee).launch(wishes)


def test_a_missing_program_is_a_finding() -> None:
    """`platform info` names the package to install."""
    (program, *_) = Qemu(tee="none", search="/nowhere").data()
    assert (program.ok, program.info) == (False, "not found")
    assert program.advice is not None


@contextmanager
def answering(*lines: str) -> Iterator[Monitor]:
    """A monitor whose QEMU says these lines."""
    ours, theirs = socket.socketpair()
    theirs.sendall("".join(line + "\n" for line in lines).encode())
    theirs.shutdown(socket.SHUT_WR)
    monitor = Monitor(ours)
    try:
        yield monitor
    finally:
        monitor.close()
        theirs.close()


def test_the_monitor_skips_events_and_repeats_complaints() -> None:
    """What the human monitor answers to a line that worked is nothing; anything else is an error."""
    with answering('{"QMP": {}}', '{"return": {}}', '{"event": "RESUME"}', '{"return": ""}') as monitor:
        monitor.human("hostfwd_add net0 tcp:127.0.0.1:1-:1")
    refused = "Could not set up host forwarding rule"
    with (
        answering('{"QMP": {}}', '{"return": {}}', f'{{"return": "{refused}"}}') as monitor,
        pytest.raises(UnavailableError, match=refused),
    ):
        monitor.human("hostfwd_add net0 tcp:127.0.0.1:1-:1")
    with answering('{"QMP": {}}') as monitor, pytest.raises(UnavailableError, match="its monitor"):
        monitor.human("x")
