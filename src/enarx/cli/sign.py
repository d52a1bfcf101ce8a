"""`enarx sign`: the signatures of a launch in one file, as the originals wrote it (protocol.md, 3.7).

    {"version": "…", "sev": {"id_block": [96 octets], "id_auth": [4096 octets]}, "sgx": [1808 octets]}

`sev` is there when an image or an ID block was signed, `sgx` when the body of a SIGSTRUCT was. Signing is deterministic:
the same input gives the same file.
"""

import json
from pathlib import Path
from typing import Any, Final

import click

from enarx import __version__
from enarx.cli.image import id_auth, measured_block
from enarx.cli.key import private_key

FILE: Final = click.Path(path_type=Path)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option("--sgx-key", type=FILE, help="The enclave's signing key (`enarx key sgx create`).")
@click.option("--sgx-body", type=FILE, help="The 128 bytes of a SIGSTRUCT that say what the enclave is.")
@click.option("--sev-id-block", type=FILE, help="The 96 bytes of an ID block, instead of an image to measure.")
@click.option("--sev-id-key", type=FILE, help="The ID key (`enarx key sev create`).")
@click.option("--sev-id-key-signature", type=FILE, help="The author's word for it (`enarx key sev sign`).")
@click.option("--firmware", type=FILE, help="The image's firmware. Default: firmware.fd in DIRECTORY.")
@click.option("--cpus", type=click.IntRange(1, 512), default=1, show_default=True, help="Virtual processors.")
@click.option("--cpu", default="EPYC-v4", show_default=True, help="Their model, in QEMU's words.")
@click.option("--guest-svn", type=click.IntRange(0, 2**32 - 1), help="GUEST_SVN of the image. Default: 0.")
@click.option("--out", type=FILE, help="Write to this file, instead of printing.")
def sign(
    directory: Path | None,
    sgx_key: Path | None,
    sgx_body: Path | None,
    sev_id_block: Path | None,
    sev_id_key: Path | None,
    sev_id_key_signature: Path | None,
    guest_svn: int | None,
    out: Path | None,
    **machine: Any,  # Any: click's
) -> None:
    """Sign the SEV-SNP launch of the image in DIRECTORY, an SGX enclave, or both, into one file."""
    if directory is not None and sev_id_block is not None:
        raise click.UsageError("an image's DIRECTORY or --sev-id-block, not both")
    if (directory is None and sev_id_block is None) != (sev_id_key is None):
        raise click.UsageError("an image's DIRECTORY (or --sev-id-block) and --sev-id-key belong together")
    if guest_svn is not None and directory is None:
        raise click.UsageError("--guest-svn is for an image's DIRECTORY; an ID block has its own")
    if (sgx_body is None) != (sgx_key is None):
        raise click.UsageError("--sgx-body and --sgx-key belong together")
    if sev_id_key_signature is not None and sev_id_key is None:
        raise click.UsageError("--sev-id-key-signature needs --sev-id-key")
    found: dict[str, Any] = {"version": __version__}  # Any: JSON
    if sev_id_key is not None:
        block = _block(sev_id_block) if directory is None else measured_block(directory, guest_svn or 0, **machine)
        found["sev"] = _sev(block, sev_id_key, sev_id_key_signature)
    if sgx_body is not None and sgx_key is not None:
        found["sgx"] = _sgx(sgx_body, sgx_key)
    if len(found) == 1:
        raise click.UsageError(
            "nothing to sign: name an image's DIRECTORY (or --sev-id-block) and --sev-id-key, or --sgx-body and --sgx-key"
        )
    from enarx.web.files import write_file

    text = json.dumps(found, separators=(",", ":"))
    if out is None:
        click.echo(text)
    else:
        write_file(out, text.encode())


def _block(file: Path | None) -> bytes:
    """An ID block that somebody else made."""
    from enarx.tee.snp.idblock import BLOCK_SIZE, IdBlock
    from enarx.web.files import read_file

    data = b"" if file is None else read_file(file, BLOCK_SIZE)
    IdBlock.parse(data)
    return data


def _sev(block: bytes, key: Path, vouched: Path | None) -> dict[str, list[int]]:
    return {"id_block": list(block), "id_auth": list(id_auth(block, key, vouched))}


def _sgx(body: Path, key: Path) -> list[int]:
    from enarx.tee.sgx import sigstruct
    from enarx.web.files import read_file

    return list(sigstruct.sign(read_file(body), sigstruct.require_key(private_key(key))))
