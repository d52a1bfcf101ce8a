"""The first generation's published vectors for keys and signatures (Enarx 0.7): inputs, and digests of what comes out.

The keys are known to everybody and sign nothing. Signatures are deterministic, so an output is its SHA-256 here; of each
some bytes stand beside it as they were published.
"""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

AUTHOR: Final = 0x7599C61C7B6A2F904619ECCDE7823B449D1A55C3D0933905C747BF3BB6019617D0AA8ADA6A23196B0A33B670A94A0E7D
ID: Final = 0xDD0CED82A1326326B9160F7ED2ECF4408CA5AF96CA7D118AEE7D09CFAE1B6C531EA47D5ACB3251CDD40C436E1B95C899
SGX_P: Final = int(
    "e6d1e5ca519c9c097c07490f8c81efea33fbb02a6c0045dd9f58f54d5f30a1c691d136755341a073905fc4abc460f24e"
    "b90b12ecd282f65746362752f501ef3c040ee8517a2a2899b7a2785ce5bc8d0d19060d14a1686ae83424a67acdcf39ff"
    "732236626517c9cf62e13d8d63a21f660074773ea28e980185ff0a8b3598bc5324e9c8229cf985c7247d5a5ccb69e2e0"
    "924bafc29019431d33df7f0dd0a9b1e02fe12eb543e551c55bc271b16ca7c527e797efb1fcf60383801ec6df47b1aec5",
    16,
)
SGX_Q: Final = int(
    "e64fbda369b50bfce10d129ceac0b959a03c9f5e9ff9a75dd9064d93957b597e985f1caa4148d0af19dd70c74b24893f"
    "ac9538d3a6334985eff1a23dbd8cdca235e74e3c5cb28df7195784439af954fb0da3bb4d7d44e381e72c64f89c5c2f4a"
    "688cbc3400d96c54456c9732947699272286ed0b1601429a7a808dffbc60bf484757bcd67a268c038c6f2979e6918d3e"
    "dd3ebebba29f8acf2cdd9769aae2add0e3aaaad618717b07d839f153389e9bac18ea1a9c300926973d0a8cef68b7964f",
    16,
)

AUTHOR_DIGEST: Final = (
    "0dd83a8c088945ea8577ff94c29ddda82488ddf8b5723299b5b01ef28f10be5388be7af8aa00b06dd9deaeddc74b487a"
)
ID_DIGEST: Final = "0ea04f87205f95585f8037850f37104470ac2d79ca42033057fa56926a8ee3f06313f6da3742e2115222d1205ca0a1fe"
SGX_DIGEST: Final = "298037d88782e022e019b3020745b78aa40ed95c77da4bf7f3253d3a44c4fd7e"

KEY_SIGNATURE: Final = "ea0bc4e558afac8711d8f41f7b595e627cdd898983f82dafb7f4a7e9ace22127"
KEY_SIGNATURE_BEGIN: Final = bytes((241, 130, 101, 138, 166, 71, 88, 213, 16, 19, 152, 20, 233, 229, 89, 12))

ID_BLOCK: Final = bytes.fromhex(
    "ffa5915db811e386a67c50634ad22c494efde1ffec98bd8ac26da29d46db51884f184659be2774795dec36d639dffcec"
    "010000000000000000000000000000000100000000000000000000000000000001000000010000000000030000000000"
)
ID_AUTH: Final = "7e94e896e1e17d93235187750a9331fc34908d9b99a938c315816b5336e2612a"
ID_AUTH_S_END: Final = bytes((5, 221, 51, 59, 161, 244, 184, 136, 132, 50, 97))  # of the block's signature, at 173

SGX_BODY: Final = bytes.fromhex(
    "0000000000000000000000000000000000000000000000000000000004000000000000000300000000000000040000000000000003000000"
    "000000007cffc3b4f639db733b62f0d4af8fa66228eea02f8ce609b4f3f6c46ea99f707f0000000000000000000000000000000000000000"
    "00000000000000000000000000ea0100"
)
SIGSTRUCT: Final = "aee7ea06d434fbeae7e3e322358b72eae1f34170a5841f66c417abf3c2e2f9ec"
SIGSTRUCT_SIGNATURE: Final = bytes((173, 149, 138, 232, 89, 146, 229, 219, 43, 200, 96, 160))  # at 516


def write_keys(folder: Path) -> None:
    """`author`, `id` and `sgx`, as files that only their owner may read."""
    p, q = SGX_P, SGX_Q
    n, d = p * q, pow(3, -1, (p - 1) * (q - 1))
    parts = (rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q))
    sgx = rsa.RSAPrivateNumbers(p, q, d, *parts, rsa.RSAPublicNumbers(3, n)).private_key()
    made = {
        "author": ec.derive_private_key(AUTHOR, ec.SECP384R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        "id": ec.derive_private_key(ID, ec.SECP384R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        "sgx": sgx.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
    }
    for name, data in made.items():
        file = folder / name
        file.touch(0o600)
        file.write_bytes(data)
