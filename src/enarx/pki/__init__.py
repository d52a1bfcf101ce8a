"""Certificates, revocation lists and requests (RFC 5280, RFC 2986), without opinions about whose.

certificate   our own strict reader, for vendors issue what a library may refuse (serial number 0)
crl           revocation lists: parse, and look up a serial
chain         signatures and paths: who issued whom, at one moment
csr           certification requests with proof of possession
keys          key pairs on P-256 and P-384
"""
