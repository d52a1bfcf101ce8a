"""Drawbridge: a registry whose answers can be checked.

From the bottom: `names` and `canonical` (what may be written, and how), `tree` (the Merkle tree of a package), `tag`
(a version bound to a root), `store` (where bytes are kept), `layout` and `registry` (what is kept, checked against
what it hangs from), `access` and `auth` (who may), `http` and `client` (the wire, from both sides).
"""
