"""A configuration in sentences, for people who must decide whether it says what they meant."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from enarx.steward.config import Config
from enarx.steward.policy import Policy
from enarx.tee.snp.policy import MINIMUM_VERSION
from enarx.web.place import is_loopback

# What the keys of technologies' tables ask. A key that is not here is told by its name and value.
SENTENCES: Final[Mapping[str, str]] = {
    "signer": "the signer of the enclave, or the author key of the guest, is {one_of}",
    "hash": "the measurement is {one_of}",
    "hash_blacklist": "the measurement is {none_of}",
    "enclave_product_id": "the product id (ISVPRODID) is {value}",
    "enclave_security_version": "the security version (ISVSVN) is at least {value}",
    "features": "no attribute is set beside INIT, MODE64BIT and {value}",
    "misc_select": "no bit of MISCSELECT is set beside {value}",
    "xfrm": "no bit of XFRM is set outside {value}",
    "config_id": "CONFIGID is {one_of}",
    "config_svn": "CONFIGSVN is at least {value}",
    "family_id": "the family id is {one_of}",
    "image_id": "the image id is {one_of}",
    "host_data": "the host data is {one_of}",
    "ext_product_id": "the extended product id is {one_of}",
    "rtmr0": "RTMR0 (the virtual firmware's configuration) is {one_of}",
    "rtmr1": "RTMR1 (the kernel, as the firmware loaded it) is {one_of}",
    "rtmr2": "RTMR2 (the kernel's command line and initial files) is {one_of}",
    "rtmr3": "RTMR3 (what the running system measured) is {one_of}",
    "mr_config_id": "MRCONFIGID is {one_of}",
    "mr_owner": "MROWNER is {one_of}",
    "mr_owner_config": "MROWNERCONFIG is {one_of}",
    "mr_seam": "the TDX module (MRSEAM) is {one_of}",
    "mr_service_td": "the service TD, if there is one, is {one_of}",
    "td_attributes": "no attribute of the TD is set beside {value}",
    "xfam": "no bit of XFAM is set outside {value}",
    "allowed_tcb_statuses": "the TCB status is UpToDate or {one_of}",
    "allowed_advisories": "no advisory applies beside {value}",
    "denied_advisories": "of the advisories {value} none applies",
    "minimum_tcb_date": "the TCB level is of {value} or later",
    "minimum_evaluation": "TCB info and QE identity have the evaluation number {value} or higher",
    "fmspc_allow": "the platform family (FMSPC) is {one_of}",
    "fmspc_deny": "the platform family (FMSPC) is {none_of}",
    "ppid_allow": "the processor (PPID) is {one_of}",
    "ppid_deny": "the processor (PPID) is {none_of}",
    "platform_instance_allow": "the platform instance is {one_of}",
    "platform_instance_deny": "the platform instance is {none_of}",
    "allowed_sgx_types": "the memory protection (SGX type) is {one_of}",
    "id_key_digest": "the digest of the guest's id key is {one_of}",
    "id_key_digest_blacklist": "the digest of the guest's id key is {none_of}",
    "abi": "the guest policy's ABI version fits {value}",
    "minimum_report_version": "the report's version is at least {value}",
    "chip_allow": "the chip is {one_of}",
    "chip_deny": "the chip is {none_of}",
    "listed_chips_only": "only on {value} the chip has to be one of chip_allow",
    "vmpl": "the VMPL is {one_of}",
    "required_services": "the SVSM's manifest lists the services {value}",
    "endorsement_keys": "the SHA-256 of the virtual TPM's endorsement key is {one_of}",
    "minimum_guest_svn": "the guest's security version is at least {value}",
    "policy_flags": "of Debug, SingleSocket and SMT the guest's policy has none but {value}, and Debug never",
    "platform_info_flags": "the first byte of PLATFORM_INFO is exactly that of {value} (SME 1, TSME 2)",
    "bootloader": "the boot loader's security version is at least {value}, reported, committed and at launch",
    "tee": "the TEE's security version is at least {value}, reported, committed and at launch",
    "snp": "the SNP firmware's security version is at least {value}, reported, committed and at launch",
    "microcode": "the microcode's security version is at least {value}, reported, committed and at launch",
    "fmc": "the FMC's security version is at least {value}, reported, committed and at launch",
    "denied_products": "the product is {none_of}",
    "allowed_signing_keys": "the report is signed by {one_of}",
    "policy_required": "the guest's policy has the bits {value}",
    "policy_denied": "the guest's policy has none of the bits {value}",
    "platform_required": "PLATFORM_INFO has the bits {value}",
    "platform_denied": "PLATFORM_INFO has none of the bits {value}",
    "launch_mitigations": "the mitigation vector at launch has every bit of the number {value}",
    "hash_size": "measurements of realms have {value} bytes",
    "component_size": "measurements of firmware have {value} bytes",
    "extensible": "the extensible measurements, REM 0 to 3, are among {value}",
    "personalization": "the personalization value is {one_of}",
    "implementation": "the platform's implementation id is {one_of}",
    "components": "every component of the platform's firmware is {one_of}",
    "current_mitigations": "the current mitigation vector has every bit of the number {value}",
}
# Tables from products to values, and the key that says the same for all.
BY_PRODUCT: Final[Mapping[str, str]] = {"minimum_report_versions": "minimum_report_version"}
# Keys that are true or false, in both ways.
FLAGS: Final[Mapping[str, tuple[str, str]]] = {
    "allow_dynamic_platform": ("dynamic platforms may be", "the platform is no dynamic one"),
    "allow_cached_keys": ("platforms with cached keys may be", "the platform has no cached keys"),
    "require_committed_tcb": (
        "the committed TCB is the current one",
        "the committed TCB may be behind the current one",
    ),
    "allow_masked_chip_id": ("a VCEK may sign for a chip that is masked", "a chip under a VCEK is not masked"),
    "allow_sept_ve": ("the host may take pages away with an exception", "SEPT_VE_DISABLE is set"),
    "allow_older_launch": (
        "the TD may have been launched on a platform that would not be acceptable",
        "the platform where the TD was launched is acceptable too",
    ),
    "allow_smt": ("platforms with SMT may be", "the platform has SMT switched off"),
}

# What is asked where a table does not say otherwise: without it, a table would seem to ask less than it does.
_OF_INTEL: Final = (
    ("allowed_tcb_statuses", "the TCB status is UpToDate"),
    ("allowed_advisories", "no advisory applies, unless the TCB status is UpToDate"),
)
_OF_TDX: Final = (
    *_OF_INTEL,
    ("mr_service_td", "there is no service TD"),
    ("allow_sept_ve", FLAGS["allow_sept_ve"][1]),
    ("allow_older_launch", FLAGS["allow_older_launch"][1]),
)
_OF_SNP: Final = (
    ("minimum_report_version", f"the report's version is at least {MINIMUM_VERSION}"),
    ("family_id", "the family id is zero"),
    ("image_id", "the image id is zero"),
    ("host_data", "the host data is zero"),
    ("allow_masked_chip_id", FLAGS["allow_masked_chip_id"][1]),
)
_AT_VMPL_0: Final = (*_OF_SNP, ("vmpl", "the VMPL is 0"))
DEFAULTS: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "sgx": _OF_INTEL,
    "tdx": _OF_TDX,
    "az-tdx": _OF_TDX,
    "snp": _AT_VMPL_0,
    "az-snp": _AT_VMPL_0,
    "snp-svsm": _OF_SNP,
}


def explain(config: Config) -> tuple[str, ...]:
    """The configuration in sentences, for people who must decide whether it says what they meant."""
    policy = config.policy
    said = [_about_service(config), *_about_policy(policy), *_about_grants(policy)]
    said.append(
        {
            "claims": "A request with runtime claims must carry a nonce of this Steward; one of the originals cannot.",
            "always": "Every request must carry a nonce of this Steward, so requests of the originals are refused.",
            "optional": "A nonce is checked where a request carries one; none is asked for.",
        }[policy.nonce]
    )
    if policy.maximum_age is not None:
        seconds = policy.maximum_age.total_seconds()
        said.append(f"Evidence is at most {seconds:g} seconds older than its nonce; without a nonce it is rejected.")
    if config.collateral is not None:
        said.append(f"What evidence lacks comes from {config.collateral}, read again when it changes.")
    if config.state is not None:
        said.append(
            f"What is issued and revoked is remembered in {config.state}; GET /crl serves the list, "
            f"each good for {config.crl_lifetime.total_seconds():g} seconds."
        )
    else:
        said.append("Nothing is remembered, so nothing can be revoked (state = DIRECTORY changes that).")
    said.append(f"Decisions are written to {config.audit or 'standard error'}, a line of JSON each.")
    if config.durable != "state" or config.state is not None:
        said.append(
            {
                "nothing": "Certificates leave before anything is sure to be on the disk.",
                "state": "What is remembered is on the disk before a certificate leaves; the audit log follows.",
                "all": "What is remembered and the audit log are on the disk before a certificate leaves.",
            }[config.durable]
        )
    said.append(f"Nonces are made with {'a key from ' + str(config.nonce_key) if config.nonce_key else 'the CA key'}.")
    said.append(f"{config.workers} process{'es serve' if config.workers > 1 else ' serves'}.")
    if config.proxies:
        said.append(f"Client certificates in headers are believed from {', '.join(map(str, config.proxies))}.")
    said.append(
        {
            "loopback": "GET /metrics is answered to this machine alone.",
            "everybody": "GET /metrics is answered to everybody.",
            "nobody": "GET /metrics is answered to nobody.",
        }[config.metrics]
    )
    said.append(f"The digest of this policy is {policy.digest.hex()}.")
    return tuple(said)


def _about_service(config: Config) -> str:
    origin = config.origin or "the loopback address"
    if config.tls_cert:
        how = f"TLS by the certificate in {config.tls_cert}"
    elif config.tls_from_ca:
        how = "TLS by a certificate of its own CA"
    elif config.behind_proxy or config.addr is None or is_loopback(config.addr):
        how = "TLS ended by a proxy" if config.behind_proxy else "plain HTTP on loopback"
    else:
        how = "plain HTTP, which `serve` refuses there unless --behind-proxy says that a proxy ends TLS,"
    issuer = f"the CA in {config.crt}" if config.crt else "the CA that --dev or --host generates"
    where = f"{config.addr or 'its default address'} port {config.port}"
    domain = config.trust_domain or "the host of its origin"
    return (
        f"Steward listens on {where}, answers for {origin} with {how}, and issues under {issuer}; "
        f"names are of the trust domain {domain}."
    )


def _about_policy(policy: Policy) -> Sequence[str]:
    said = []
    for technology in sorted({t.name: t for t in policy.technologies.values()}.values(), key=lambda t: t.name):
        name = technology.name
        if name == "nil":
            continue
        if name not in policy.configured:
            said.append(f"{technology.title} evidence is rejected: there is no [{name}] table.")
            continue
        asked = _flat(policy.tables.get(name, {}))
        unsaid = [(key, words) for key, words in DEFAULTS.get(name, ()) if key not in policy.tables.get(name, {})]
        condition = " and:" if asked or unsaid else "; nothing else is asked."
        said.append(
            f"{technology.title} evidence is accepted when it is authentic, current, not to be debugged, "
            f"bound to the key{condition}"
        )
        said += [f"  {_sentence(key, value)} ({name}.{key})" for key, value in asked]
        said += [f"  {words} ({name}.{key} is not set)" for key, words in unsaid]
    named = [anchor.sha256.hex()[:16] for anchor in policy.anchors if not anchor.simulated]
    if named:
        said.append(f"Arm platforms are believed whose keys are named here ({', '.join(named)}…).")
    unsafe = policy.unsafe
    if unsafe.accept_nil:
        said.append("UNSAFE: requests without any TEE are certified, as O=UNATTESTED.")
    if unsafe.accept_simulated:
        roots = ", ".join(f"{a.family} {a.sha256.hex()[:16]}…" for a in policy.anchors if a.simulated)
        said.append(f"UNSAFE: simulated vendors are believed ({roots}), and certified as O=SIMULATED.")
    if unsafe.allow_any_measurement:
        said.append("UNSAFE: a technology may be accepted without any measurement to compare with.")
    if unsafe.allow_evaluation_skew:
        said.append("UNSAFE: TCB info and QE identity of different evaluations are accepted together.")
    return said


def _sentence(path: str, value: object) -> str:
    """What one key of a technology's table asks, in words; a key below a product's table is about that product."""
    product, _, key = path.rpartition(".")
    if product == "pcrs":
        return f"PCR{key} is {_one_of(value)}"
    if product in BY_PRODUCT:
        product, key = key, BY_PRODUCT[product]
    words = SENTENCES.get(key, f"{key.replace('_', ' ')} {{is}}")
    if isinstance(value, bool):
        words = FLAGS.get(key, (words, words))[not value]
    said = words.format(value=_plain(value), one_of=_one_of(value), none_of=_none_of(value), **{"is": _is(value)})
    about = product.rpartition(".")[2].replace("_", " ")
    return f"on {about}, {said}" if product else said


def _is(value: object) -> str:
    return f"is {_one_of(value)}"


def _one_of(value: object) -> str:
    items = [_plain(item) for item in value] if isinstance(value, list) else [_plain(value)]
    return items[0] if len(items) == 1 else f"one of {', '.join(items)}" if items else "nothing"


def _none_of(value: object) -> str:
    items = [_plain(item) for item in value] if isinstance(value, list) else [_plain(value)]
    return f"not {items[0]}" if len(items) == 1 else f"none of {', '.join(items)}" if items else "anything"


def _about_grants(policy: Policy) -> Sequence[str]:
    def grant(who: str, lifetime: timedelta, names: Sequence[str], wishes: Sequence[str]) -> str:
        hours = f"{lifetime.total_seconds() / 3600:g} hours"
        own = f"carry {', '.join(names)}" if names else "carry no DNS name"
        more = f", and on request {', '.join(wishes)}" if wishes else ""
        return f"{who} live at most {hours}, never longer than their issuer and collateral, and {own}{more}."

    general = policy.grant
    said = [grant("Certificates", general.lifetime, general.dns_names, general.may_request)]
    for digest, item in policy.grants.items():
        said.append(grant(f"Certificates of workload {digest}", item.lifetime, item.dns_names, item.may_request))
    return said


def _flat(table: Mapping[str, object], prefix: str = "") -> Sequence[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in table.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "nothing"
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
