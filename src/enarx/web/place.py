"""Where a server is, as its configuration says: what it binds, and the origin by which its clients know it.

The same rules for every server of ours: plain HTTP stays on loopback unless a proxy ends TLS in front, and an origin
is a scheme and a host in lower case, nothing after.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from enarx.toml import ConfigError, Table


def listen(document: Table, default_port: int) -> tuple[str | None, int]:
    """`listen = "ADDRESS:PORT"`; no address when it is not there. Raises ConfigError."""
    text = document.string("listen", None)
    if text is None:
        return None, default_port
    try:
        parts = urlsplit(f"//{text}")
        addr, port = parts.hostname, parts.port
    except ValueError as error:
        raise document.error("listen", f'expected "ADDRESS:PORT", found {text!r}') from error
    if not addr or port is None or parts.netloc != text:
        raise document.error("listen", f'expected "ADDRESS:PORT", found {text!r}')
    return addr, port


def origin(document: Table, flag: str | None) -> str | None:
    """`origin`, or the flag in its place. Raises ConfigError."""
    written = document.string("origin", None)
    url = flag or written
    if url is None:
        return None
    parts = urlsplit(url)
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    bare = f"{parts.scheme}://{parts.netloc}" == url and url == url.lower() and "@" not in url
    if not secure or not bare or not parts.hostname:
        raise document.error("origin", f'expected "https://HOST[:PORT]" in lower case and nothing after, found {url!r}')
    return url


def require_loopback(source: str, addr: str) -> None:
    """Raises ConfigError where plain HTTP would leave the machine."""
    if not is_loopback(addr):
        raise ConfigError(
            f"{source}: plain HTTP on {addr} would be seen by everybody: "
            "give tls_cert and tls_key, or say --behind-proxy, or listen on 127.0.0.1"
        )


def local_origin(source: str, addr: str, port: int, *, tls: bool) -> str:
    """What the origin is when nobody said so. Raises ConfigError where that can not be known."""
    if not is_loopback(addr):
        raise ConfigError(f'{source}: origin: missing, expected the URL clients use: "https://HOST[:PORT]"')
    return f"{'https' if tls else 'http'}://localhost:{port}"


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address) is this machine talking to itself."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
