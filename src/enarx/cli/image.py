"""`enarx image`: make, measure and sign the image of a Keep's virtual machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from enarx.errors import RejectedError

if TYPE_CHECKING:
    from enarx.image.lock import Lock
    from enarx.image.measure import Machine

FILE: Final = click.Path(path_type=Path, dir_okay=False)
FOLDER: Final = click.Path(path_type=Path, file_okay=False)
CACHE: Final = click.option(
    "--cache", type=FOLDER, help="Where packages are kept. Default: this program's cache directory."
)


@click.group()
def image() -> None:
    """The measured image of a Keep's virtual machine."""


@image.command()
@click.argument("directory", type=FOLDER)
@click.option("--lock", "lock_file", type=FILE, help="Build exactly what this file names. Default: today's packages.")
@CACHE
def build(directory: Path, lock_file: Path | None, cache: Path | None) -> None:
    """Build kernel and initramfs into DIRECTORY, with the lock that names every package in them.

    The same lock and the same enarx give the same bytes wherever they are built. No root is needed; apt and pip fetch the
    packages. Afterwards `enarx image measure` prints what a policy has to list.
    """
    from enarx.image.build import LOCK_NAME
    from enarx.image.build import build as make
    from enarx.image.lock import resolve
    from enarx.web.files import require_folder

    require_folder(directory)
    kept = cache or _cache()
    lock = resolve(kept) if lock_file is None else _read_lock(lock_file)
    made = make(lock, kept)
    made.write(directory, lock)
    for name, digest in made.digests.items():
        click.echo(f"{digest}  {directory / name}")
    click.echo(f"{len(lock.debs)} Debian packages and {len(lock.wheels)} wheels, named in {directory / LOCK_NAME}")


@image.command()
@click.argument("directory", type=FOLDER)
@click.option("--tee", type=click.Choice(["snp", "tdx"]), required=True, help="Which TEE will launch it.")
@click.option("--firmware", type=FILE, help="The firmware. Default: firmware.fd in DIRECTORY.")
@click.option("--cpus", type=click.IntRange(1, 512), help="Virtual processors (SEV-SNP). Default: 1.")
@click.option("--cpu", help="Their model, in QEMU's words (SEV-SNP). Default: EPYC-v4.")
def measure(
    directory: Path, tee: Literal["snp", "tdx"], firmware: Path | None, cpus: int | None, cpu: str | None
) -> None:
    """Print the digest that a TEE will measure of DIRECTORY, as a fragment of steward.toml.

    A firmware that does not check the kernel it is handed is refused: its digest would say nothing about the image.
    """
    from enarx.image import measure as measuring
    from enarx.image.firmware import of_file

    if tee == "tdx" and (cpus is not None or cpu is not None):
        raise click.UsageError("--cpus and --cpu are for --tee snp: MRTD is of the firmware alone")
    machine = machine_of(directory, firmware, tee, cpus or 1, cpu or "EPYC-v4")
    if tee == "snp":
        click.echo(measuring.fragment(machine, launch=measuring.snp(machine), trust=None), nl=False)
        return
    data = machine.firmware.read_bytes()
    with of_file(machine.firmware):
        trust = measuring.mrtd(data)
    click.echo(measuring.fragment(machine, launch=None, trust=trust), nl=False)
    click.echo(f"# MRTD where the host's kernel measures in two passes: {measuring.mrtd(data, two_passes=True).hex()}")
    for name, digest in measuring.tdx_events(machine).items():
        click.echo(f"# event log, {name.replace('_', ' ')}, SHA-384: {digest}")


@image.command()
@click.argument("directory", type=FOLDER)
@click.option("--id-key", type=FILE, required=True, help="The ID key (`enarx key sev create`).")
@click.option("--id-key-signature", type=FILE, help="The author's word for it (`enarx key sev sign`).")
@click.option("--firmware", type=FILE, help="The firmware. Default: firmware.fd in DIRECTORY.")
@click.option("--cpus", type=click.IntRange(1, 512), default=1, show_default=True, help="Virtual processors.")
@click.option("--cpu", default="EPYC-v4", show_default=True, help="Their model, in QEMU's words.")
@click.option("--guest-svn", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="GUEST_SVN.")
def sign(
    directory: Path,
    id_key: Path,
    id_key_signature: Path | None,
    firmware: Path | None,
    cpus: int,
    cpu: str,
    guest_svn: int,
) -> None:
    """Sign the SEV-SNP launch of DIRECTORY: id-block.bin and id-auth.bin, which `enarx deploy` hands to QEMU.

    Reports of such a launch carry the digests of the ID key and the author's key, which a policy can ask for instead of
    listing every measurement.
    """
    from enarx.keep.backends.qemu import ID_AUTH_NAME, ID_BLOCK_NAME
    from enarx.tee.snp import idblock
    from enarx.web.files import write_file

    block = measured_block(directory, guest_svn, firmware=firmware, cpus=cpus, cpu=cpu)
    auth = id_auth(block, id_key, id_key_signature)
    write_file(directory / ID_BLOCK_NAME, block)
    write_file(directory / ID_AUTH_NAME, auth)
    click.echo(f"launch digest {idblock.IdBlock.parse(block).launch_digest.hex()}")
    for owner, digest in idblock.digests(auth).items():
        click.echo(f"{owner:<13} {digest.hex()}")


@image.command()
@click.argument("directory", type=FOLDER)
@click.option("--lock", "lock_file", type=FILE, help="Build exactly what this file names. Default: today's packages.")
@CACHE
def container(directory: Path, lock_file: Path | None, cache: Path | None) -> None:
    """Build a container image with steward, drawbridge and enarx into DIRECTORY, in the OCI layout.

    There is no base image and no registry of images is asked for anything. Load it, for example, with
    `skopeo copy oci:DIRECTORY docker-daemon:enarx:VERSION` or `podman load -i` of a tar archive of DIRECTORY.
    """
    from enarx.image.build import LOCK_NAME
    from enarx.image.container import build as make
    from enarx.image.lock import resolve_container
    from enarx.web.files import require_folder

    require_folder(directory)
    kept = cache or _cache()
    lock = resolve_container(kept) if lock_file is None else _read_lock(lock_file)
    made = make(lock, kept)
    made.write(directory)
    (directory / LOCK_NAME).write_text(lock.encode())
    click.echo(f"sha256:{made.manifest}  {directory}")


@image.command()
@click.argument("directory", type=FOLDER)
@click.option(
    "--size", metavar="SIZE", help="Of the enclave, with --no-edmm: 512M, 1G or another power of two. Default: 1G."
)
@click.option("--no-edmm", is_flag=True, help="For processors that cannot add memory later: SGX1.")
def gramine(directory: Path, size: str | None, no_edmm: bool) -> None:
    """Write the manifest of an SGX enclave for Gramine into DIRECTORY, with the commands that sign it.

    What is measured are the files of this machine's interpreter and of this installation.
    """
    from enarx.image.gramine import MANIFEST_NAME, Layout, is_size, manifest
    from enarx.web.files import require_folder

    if size is not None and not no_edmm:
        raise click.UsageError("--size is for --no-edmm: with EDMM an enclave grows as it needs")
    if size is not None and not is_size(size):
        raise click.UsageError(f"--size: expected a power of two in M or G, such as 512M or 1G, found {size!r}")
    require_folder(directory)
    template = directory / f"{MANIFEST_NAME}.template"
    template.write_text(manifest(Layout.of_this_machine(), size=size or "1G", edmm=not no_edmm))
    click.echo(f"{template}")
    click.echo("Then, where Gramine is installed:")
    click.echo(f"  cd {directory}")
    click.echo(f"  gramine-manifest {MANIFEST_NAME}.template {MANIFEST_NAME}")
    click.echo(f"  gramine-sgx-sign --key KEY --manifest {MANIFEST_NAME} --output {MANIFEST_NAME}.sgx")
    click.echo("KEY is one of `enarx key sgx create`; the second command prints MRENCLAVE for [sgx] hash.")


@image.command()
@click.argument("firmware", type=FILE)
def lint(firmware: Path) -> None:
    """Say whether a digest of FIRMWARE would bind kernel, initramfs and command line."""
    from enarx.image.firmware import MAX_FIRMWARE, VERIFIER, of_file
    from enarx.image.firmware import lint as look
    from enarx.web.files import read_file

    data = read_file(firmware, MAX_FIRMWARE)
    with of_file(firmware):
        found = look(data)
    click.echo(f"reserves a page for kernel hashes (SEV-SNP): {'yes' if found.kernel_hashes else 'no'}")
    for name in VERIFIER:
        click.echo(f"compares the hash of the {name}: {'yes' if name in found.verified else 'no'}")
    click.echo(f"has TDX metadata: {'yes' if found.tdx else 'no'}")
    if not found.binds_kernel:
        raise RejectedError(f"{firmware}: an SEV-SNP digest of it would say nothing about the kernel")


def machine_of(directory: Path, firmware: Path | None, tee: str, cpus: int, cpu: str) -> "Machine":
    from enarx.image.build import INITRAMFS_NAME, KERNEL_NAME
    from enarx.image.measure import Machine
    from enarx.keep.backends.qemu import FIRMWARE_NAME, command_line
    from enarx.web.files import require_file

    parts = [firmware or directory / FIRMWARE_NAME, directory / KERNEL_NAME, directory / INITRAMFS_NAME]
    for part in parts:
        require_file(part)
    return Machine(
        firmware=parts[0], kernel=parts[1], initramfs=parts[2], command_line=command_line(tee), cpus=cpus, cpu=cpu
    )


def measured_block(directory: Path, guest_svn: int, *, firmware: Path | None, cpus: int, cpu: str) -> bytes:
    """The ID block of an image, as it will be launched."""
    from enarx.image import measure as measuring
    from enarx.tee.snp import idblock

    launch = measuring.snp(machine_of(directory, firmware, "snp", cpus, cpu))
    return idblock.IdBlock(launch_digest=launch, policy=measuring.SNP_POLICY, guest_svn=guest_svn).encode()


def id_auth(block: bytes, key: Path, vouched: Path | None) -> bytes:
    """An ID block's authentication by the key in a file, and what its author's word adds."""
    from enarx.pki import keys
    from enarx.tee.snp import idblock
    from enarx.web.files import read_file, read_private

    signer = keys.from_pem(read_private(key), str(key))
    return idblock.authenticate(block, signer, None if vouched is None else read_file(vouched))


def _read_lock(file: Path) -> "Lock":
    from enarx.image.lock import MAX_LOCK, Lock
    from enarx.web.files import read_file

    return Lock.parse(read_file(file, MAX_LOCK), source=str(file))


def _cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("enarx")) / "packages"
