"""Steward turns hardware evidence into an ordinary certificate; after that nobody needs to know about hardware.

profile     the shape of an issued certificate; nothing else decides it
issuer      the CA key, and the only calls that sign with it
policy      one table per technology; deny by default; what is unsafe says so
request     a certification request taken apart: evidence, runtime claims, nothing else
nonce       freshness without memory
revocation  what the operator took back, and the list that says so
authority   request → appraisal → profile → issuer: the spine
collateral  vendors' documents in a directory
written     bytes that travelled as text
highest     the highest numbers of vendors' documents, so that a rollback is refused
durable     one flush to the disk for all who wait
ledger      what was issued and taken back, in a directory
config      steward.toml and flags
explain     a configuration in sentences
stock       a directory of those documents to keep: add, refresh, export
vendors     where vendors publish them
metrics     what operators watch
reload      what changes without a restart
runner      a configuration put to work
token       the CA key in a security module
setup       making and renewing a CA on disk
audit       one line a decision
est         the bodies of EST
http        POST /, GET /, EST, the CRL: media types and status, nothing more
client      what a Keep needs of a Steward
offline     the judge without the server
"""
