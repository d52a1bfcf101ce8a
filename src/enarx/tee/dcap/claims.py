"""What a platform's claims look like to people and programs: JSON values under Intel's names."""

from collections.abc import Mapping
from functools import lru_cache

from enarx.tee.dcap.quote import Quote
from enarx.tee.dcap.tcb import Standing
from enarx.tee.dcap.verify import Platform
from enarx.tee.model import Field, stamp


def describe_platform(quote: Quote, platform: Platform, standing: Standing) -> Mapping[str, Field]:
    """The quote's header, the PCK certificate's statements, the documents used and the standing they give."""
    return {
        "quote": {"version": quote.version, "body_type": quote.body_type, "padding": quote.padding},
        **_platform(platform, standing),
    }


@lru_cache(maxsize=64)
def _platform(platform: Platform, standing: Standing) -> Mapping[str, Field]:
    """What is the same for every quote of a machine."""
    certified = platform.pck
    return {
        "platform": {
            "fmspc": certified.fmspc.hex().upper(),
            "pceid": certified.pce_id.hex().upper(),
            "ppid": certified.ppid.hex(),
            "platform_instance_id": _hex(certified.platform_instance_id),
            "cpusvn": certified.cpu_svn.hex(),
            "components": list(certified.components),
            "pcesvn": certified.pce_svn,
            "sgx_type": certified.sgx_type,
            "dynamic_platform": certified.dynamic_platform,
            "cached_keys": certified.cached_keys,
            "smt_enabled": certified.smt_enabled,
            "pck_issuer": platform.chain[1].common_name,
        },
        "qe": {
            "mrsigner": platform.qe.mr_signer.hex(),
            "isvprodid": platform.qe.product_id,
            "isvsvn": platform.qe.security_version,
        },
        "tcb": {
            "status": standing.status,
            "platform_status": standing.platform_status,
            "qe_status": standing.qe_status,
            "module_status": standing.module_status,
            "lag": list(standing.lag),
            "tcb_info_evaluation": platform.tcb_info.evaluation,
            "qe_identity_evaluation": platform.qe_identity.evaluation,
            "tcb_info_issued": stamp(platform.tcb_info.issue_date),
            "qe_identity_issued": stamp(platform.qe_identity.issue_date),
        },
    }


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
