"""`enarx sign`: the signatures of a launch in one file, as the originals wrote it (protocol.md, 3.7).

    {"version": "…", "sev": {"id_block": [96 octets], "id_auth": [4096 octets]}, "sgx": [1808 octets]}

`sev` is there when an image was signed, `sgx` when the body of a SIGSTRUCT was.
"""

import json
from pathlib import Path
from typing import Any, Final

import click

from enarx import __version__
from enarx.cli.image import machine_of
from enarx.cli.key import private_key

FILE: Final = click.Path(path_type=Path)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option("--sgx-key", type=FILE, help="The enclave's signing key (`enarx key sgx create`).")
@click.option("--sgx-body", type=FILE, help="The 128 bytes of a SIGSTRUCT that say what the enclave is.")
@click.option("--sev-id-key", type=FILE, help="The ID key (`enarx key sev create`).")
@click.option("--sev-id-key-signature", type=FILE, help="The author's word for it (`enarx key sev sign`).")
@click.option("--firmware", type=FILE, help="The image's firmware. Default: firmware.fd in DIRECTORY.")
@click.option("--cpus", type=click.IntRange(1, 512), default=1, show_default=True, help="Virtual processors.")
@click.option("--cpu", default="EPYC-v4", show_default=True, help="Their model, in QEMU's words.")
@click.option("--out", type=FILE, help="Write to this file, instead of printing.")
def sign(
    directory: Path | None,
    sgx_key: Path | None,
    sgx_body: Path | None,
    sev_id_key: Path | None,
    sev_id_key_signature: Path | None,
    out: Path | None,
    **machine: Any,  # Any: click's
) -> None:
    """Sign the SEV-SNP launch of the image in DIRECTORY, an SGX enclave, or both, into one file."""
    if (directory is None) != (sev_id_key is None):
        raise click.UsageError("an image's DIRECTORY and --sev-id-key belong together")
    if (sgx_body is None) != (sgx_key is None):
        raise click.UsageError("--sgx-body and --sgx-key belong together")
    if sev_id_key_signature is not None and sev_id_key is None:
        raise click.UsageError("--sev-id-key-signature needs --sev-id-key")
    found: dict[str, Any] = {"version": __version__}  # Any: JSON
    if directory is not None and sev_id_key is not None:
        found["sev"] = _sev(directory, sev_id_key, sev_id_key_signature, machine)
    if sgx_body is not None and sgx_key is not None:
        found["sgx"] = _sgx(sgx_body, sgx_key)
    if len(found) == 1:
        raise click.UsageError(
            "nothing to sign: name an image's DIRECTORY and --sev-id-key, or --sgx-body and --sgx-key"
        )
    text = json.dumps(found, separators=(",", ":"))
    if out is None:
        click.echo(text)
    else:
        out.write_text(text, encoding="ascii")


def _sev(directory: Path, key: Path, vouched: Path | None, machine: dict[str, Any]) -> dict[str, list[int]]:
    from enarx.image import measure as measuring
    from enarx.pki import keys
    from enarx.tee.snp import idblock
    from enarx.web.files import read_file, read_private

    signer = keys.from_pem(read_private(key), str(key))
    launch = measuring.snp(machine_of(directory, machine["firmware"], "snp", machine["cpus"], machine["cpu"]))
    block = idblock.IdBlock(launch_digest=launch, policy=measuring.SNP_POLICY, guest_svn=0).encode()
    auth = idblock.authenticate(block, signer, None if vouched is None else read_file(vouched))
    return {"id_block": list(block), "id_auth": list(auth)}


def _sgx(body: Path, key: Path) -> list[int]:
    from enarx.tee.sgx import sigstruct
    from enarx.web.files import read_file

    return list(sigstruct.sign(read_file(body), sigstruct.require_key(private_key(key))))
