"""Enarx: WebAssembly in hardware-isolated Keeps. The map of the house, in reading order.

errors, digest, binary, der, toml   the words and the readers everything is made of
pki         certificates, CRLs and requests, without opinions about whose
attested    what travels: runtime claims, the attestation result, sealed bodies, relying parties
tee         what a TEE says, whether it is authentic, whether it is acceptable
web         what both services need of HTTP
steward     evidence in, certificate out
drawbridge  a registry whose answers can be checked
keep        a workload running where its host cannot look
cli         parse, call one function, print, exit

Imports point down this list reversed (`pyproject.toml`, import contracts). ARCHITECTURE.md says why.
"""

from typing import Final

__all__ = ["__version__"]

_NAME: Final = "enarx"


def __getattr__(name: str) -> str:
    """`__version__`, looked up when somebody asks: that takes longer than starting a small program."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - see above

    try:
        return version(_NAME)
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+source"
