"""`enarx platform sgx cache-pck`: the certificate of this platform's key, and with it its family, from Intel or a PCCS.

What Intel knows a platform by, only an enclave of its own can tell: Intel's PCKIDRetrievalTool runs it and writes a line
of hexadecimal fields. It is asked anew each time, for one of them changes with the microcode; or a file that it wrote
elsewhere is named. The certificate that comes back is one more document of the cache. Nothing here is believed: whoever
judges a quote verifies the chain.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from enarx.errors import MalformedError, NotFoundError, UnavailableError, UntrustedError

if TYPE_CHECKING:
    from enarx.steward.stock import Kept, Stock
    from enarx.steward.vendors import Pcs

TOOL: Final = "PCKIDRetrievalTool"
PLACE: Final = Path("/opt/intel/sgx-pck-id-retrieval-tool")  # where Intel's package puts it
TOOL_SECONDS: Final = 120
MAX_KEY: Final = 256  # characters of a subscription key
MAX_IDS: Final = 256 * 1024  # bytes: the manifest of a machine of several sockets may follow the fields


def fetch(stock: "Stock", pcs: "Pcs", ids: Path | None, key: str | None) -> "tuple[tuple[Kept, ...], bytes]":
    """Fetch and keep it; also the platform's FMSPC. Raises NotFoundError where Intel does not know the platform."""
    from enarx.pki.certificate import certificates_from_pem
    from enarx.steward.vendors import PlatformId
    from enarx.tee.dcap.pck import Pck
    from enarx.web.files import read_file

    with _written(ids) as file:
        platform = PlatformId.parse(read_file(file, MAX_IDS), str(ids or TOOL))
    try:
        fetched = pcs.pck_certificate(platform, key)
    except NotFoundError:
        raise NotFoundError(
            "Intel has no certificate for this platform; one of several sockets is registered first: "
            "`enarx platform sgx register`"
        ) from None  # which has the identity in its address
    except UntrustedError:
        raise UntrustedError("Intel wants a subscription key for this: --subscription-key FILE") from None
    leaf = certificates_from_pem(fetched.data, fetched.source)[0]
    return stock.keep(fetched), Pck.of(leaf).fmspc


@contextmanager
def _written(ids: Path | None) -> Iterator[Path]:
    """The file with the identity; where none is named, the tool writes one."""
    if ids is not None:
        yield ids
        return
    tool = shutil.which(TOOL) or shutil.which(TOOL, path=str(PLACE))
    if tool is None:
        raise NotFoundError(
            f"{TOOL}: not installed here (Intel's package sgx-pck-id-retrieval-tool); or name what it wrote: --ids FILE"
        )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pckid_retrieval.csv"
        try:
            done = subprocess.run(
                [tool, "-f", str(file)], check=False, capture_output=True, text=True, timeout=TOOL_SECONDS, cwd=folder
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"{TOOL}: {getattr(error, 'strerror', None) or 'did not end'}") from None
        if done.returncode != 0 or not file.exists():
            said = " ".join((done.stderr or done.stdout).split())[:300]
            raise UnavailableError(f"{TOOL}: exit code {done.returncode}: {said or 'it says nothing'}")
        yield file


def read_key(path: Path) -> str:
    """Intel's subscription key in a file that only its owner reads. Raises MalformedError."""
    from enarx.web.files import read_private

    text = read_private(path).decode("ascii", "replace").strip()
    if not text.isalnum() or len(text) > MAX_KEY:
        raise MalformedError(f"{path}: expected a subscription key, at most {MAX_KEY} letters and digits")
    return text
