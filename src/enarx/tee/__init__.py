"""What a TEE says, whether it is authentic, and whether it is acceptable.

model       the words: Evidence, Endorsements, TrustAnchor, Claims, Checks, Appraisal, Technology
appraise    parse → verify → bind → accept, in the only order there is
snp  sgx    one folder a technology: report (bytes), verify (authentic?), policy (acceptable?), simulator, TECHNOLOGY
dcap        what Intel's technologies share
nil         no TEE, accepted only where configuration says so by name
"""
