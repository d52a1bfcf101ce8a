"""Who vouches inside a Keep, chosen by the words that its launcher gave it. Only what was chosen is imported."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from enarx.errors import MalformedError
from enarx.keep.backends.api import Attester, Measure


def attester(words: Sequence[str], measure: Measure) -> Attester:
    """Raises MalformedError, NotFoundError, and UnavailableError where nobody vouches.

    nil                            nobody
    simulated TECHNOLOGY MACHINE   a machine in software
    enclave                        the processor, from inside an SGX enclave
    inside [NAME=PLACE]…           the TEE of this confidential VM, and where it is asked: `tsm`, `tpm`, `metadata`;
                                   `documents` is a directory of vendors' documents, and `svsm` what an SVSM
                                   beneath it is to vouch for: `all` its services, or the `vtpm`
    """
    match list(words):
        case ["nil"]:
            from enarx.keep.backends.nil import NilAttester  # noqa: PLC0415 - see above

            return NilAttester()
        case ["simulated", technology, path]:
            from enarx.keep.backends.simulated import Directory  # noqa: PLC0415 - see above

            return Directory.open(Path(path)).attester(technology, measure)
        case ["enclave"]:
            from enarx.keep.backends import enclave  # noqa: PLC0415 - see above

            return enclave.attester()
        case ["inside", *places]:
            return _inside(dict(place.partition("=")[::2] for place in places))
    raise MalformedError(f"attester: unknown: {' '.join(words)[:100]!r}")


def _inside(places: Mapping[str, str]) -> Attester:
    from enarx.keep.backends import guest, inside, tsm  # noqa: PLC0415 - see above
    from enarx.keep.backends.azure import METADATA  # noqa: PLC0415 - see above

    unknown = places.keys() - {"tsm", "tpm", "metadata", "documents", "svsm"}
    if unknown:
        raise MalformedError(f"attester: inside: unknown: {' '.join(sorted(unknown))[:100]!r}")
    interface = tsm.Tsm(root=Path(places.get("tsm", tsm.ROOT)))
    found = guest.attester(
        Path(places["documents"]) if "documents" in places else None,
        interface=interface,
        tpm=Path(places.get("tpm", inside.TPM)),
        metadata=places.get("metadata", METADATA),
    )
    if "svsm" not in places:
        return found
    from enarx.keep.backends import svsm  # noqa: PLC0415 - see above

    return svsm.attester(found, interface, places["svsm"])
