"""What Intel's technologies share: quotes, the PCK certificate, TCB info and QE identity, TCB levels, the root.

quote enclave quoted    bytes to fields             pck collateral    Intel's statements about platforms
verify tcb              authentic, and how patched  policy claims     acceptable, and what people see of it
roots/                  the one root, pinned        simulator         Intel in software
"""

from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

from enarx.tee.model import TrustAnchor


@lru_cache(maxsize=1)
def anchors() -> tuple[TrustAnchor, ...]:
    """Intel's SGX Root CA as the package carries it; verification compares its key, so either edition will do."""
    data = files(__name__).joinpath("roots", "intel-sgx-root-ca.der").read_bytes()
    return (TrustAnchor(family="intel", sha256=sha256(data).digest(), certificate=data),)
