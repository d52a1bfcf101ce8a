"""`enarx config`: write an Enarx.toml to start from, check one, and say what one means."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

from enarx.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from enarx.keep.config import Config, File, Limits, Peers
    from enarx.keep.network import Network

Json = str | int | bool | None | list["Json"] | dict[str, "Json"]


class Description(TypedDict):
    """What `config check --json` prints."""

    steward: str | None
    compiler: str
    args: list[str]
    env: dict[str, str]
    files: list[dict[str, Json]]
    network: dict[str, Json]
    storage: dict[str, Json]
    limits: dict[str, Json]
    certificate: dict[str, Json]
    identity: str | None
    log: dict[str, Json]
    deploy: dict[str, Json]


@click.group()
def config() -> None:
    """Write and check Enarx.toml, the file that says what a program is given."""


@config.command()
def init() -> None:
    """Write ./Enarx.toml with every setting explained.

    An existing file is left alone, and the command fails.
    """
    from enarx.keep.settings import TEMPLATE

    try:
        with Path("Enarx.toml").open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError as error:
        raise ConflictError('"Enarx.toml" does already exist.') from error


@config.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("Enarx.toml"))
@click.option("--json", "as_json", is_flag=True, help="Print the checked settings as JSON.")
def check(file: Path, *, as_json: bool) -> None:
    """Check FILE (default Enarx.toml) and print what the program will be given."""
    checked = _read(file)
    if as_json:
        click.echo(json.dumps(describe(checked), indent=2))
        return
    described = describe(checked)
    click.echo("argv   " + " ".join(["main.wasm", *checked.args]))
    click.echo("env    " + " ".join([f"{name}={value}" for name, value in checked.env.items()] or ["-"]))
    for number, entry in enumerate(described["files"]):
        details = " ".join(f"{key}={_flat(value)}" for key, value in entry.items())
        click.echo(f"fd {number:<3} {details}")
    standard = describe(type(checked)())
    for table in ("compiler", "network", "storage", "limits", "certificate", "identity", "log", "deploy"):
        for line in _changed(table, described[table], standard[table]):
            click.echo(line)


@config.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("Enarx.toml"))
@click.option("--key", metavar="KEY", help="Explain this key, such as limits.memory, or all below it, instead of FILE.")
def explain(file: Path, *, key: str | None) -> None:
    """Say in words what FILE (default Enarx.toml) gives a program, or what a KEY means."""
    if key is not None:
        _explain_key(key)
        return
    for line in explanation(_read(file)):
        click.echo(line)


def _explain_key(key: str) -> None:
    import difflib

    from enarx.keep.settings import SETTINGS, find

    found = find(key)
    if not found:
        known = {setting.path for setting in SETTINGS} | {setting.path.partition(".")[0] for setting in SETTINGS}
        near = difflib.get_close_matches(key, sorted(known), n=1)
        raise NotFoundError(f"no key {key!r} in Enarx.toml" + (f"; did you mean {near[0]!r}?" if near else ""))
    for setting in found:
        click.echo(f"{setting.path}  ({setting.kind}; default {setting.default})\n    {setting.text}")


def _read(file: Path) -> "Config":
    from enarx.keep.config import Config

    try:
        text = file.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{file}: {error.strerror}") from error
    return Config.parse(text, source=str(file))


def _flat(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _changed(table: str, found: object, standard: object) -> Iterator[str]:
    """A line for each setting of a table that is not what holds without it."""
    if isinstance(found, dict) and isinstance(standard, dict):
        for key, value in found.items():
            if value != standard[key]:
                yield f"{table}.{key} = {json.dumps(value)}"
    elif found != standard:
        yield f"{table} = {json.dumps(found)}"


def describe(checked: "Config") -> Description:
    """The settings as JSON values, defaults filled in."""
    from dataclasses import asdict

    deploy = checked.deploy
    return {
        "steward": checked.steward,
        "compiler": checked.compiler,
        "args": list(checked.args),
        "env": dict(checked.env),
        "files": [_file(file) for file in checked.files],
        "network": _network(checked.network),
        "storage": asdict(checked.storage),
        "limits": asdict(checked.limits),
        "certificate": {"lifetime": checked.certificate.lifetime, "names": list(checked.certificate.names)},
        "identity": checked.identity,
        "log": asdict(checked.log),
        "deploy": {
            "args": deploy.args,
            "env": "*" if deploy.env is None else list[Json](sorted(deploy.env)),
            "ports": deploy.ports,
            "network": deploy.network,
        },
    }


def _file(file: "File") -> dict[str, Json]:
    from enarx.keep.config import Connect, Listen

    if isinstance(file, Listen):
        made: dict[str, Json] = {"name": file.name, "prot": file.prot, "addr": file.addr, "port": file.port}
        return made | _peers(file.peers) | {"kind": "listen"}
    if isinstance(file, Connect):
        made = {"name": file.name, "prot": file.prot, "host": file.host, "port": file.port}
        return made | _peers(file.peers) | {"kind": "connect"}
    return {"kind": file.kind, "name": file.name}


def _peers(peers: "Peers") -> dict[str, Json]:
    made: dict[str, Json] = {}
    if peers.client != "none":
        made["client"] = peers.client
    if peers.roots:
        made["roots"] = [root.splitlines()[0] for root in peers.roots]
    if peers.pins:
        made["pins"] = list[Json](sorted(pin.hex() for pin in peers.pins))
    if peers.attestation is not None:
        made["attestation"] = True
    if peers.alpn:
        made["alpn"] = list[Json](peers.alpn)
    return made


def _network(lists: "Network") -> dict[str, Json]:
    return {
        name: None if rules is None else list[Json](str(rule) for rule in rules)
        for name, rules in (("incoming", lists.incoming), ("outgoing", lists.outgoing))
    }


def explanation(checked: "Config") -> Iterator[str]:
    """What a program gets, in sentences."""
    yield "It starts as " + " ".join(json.dumps(argument) for argument in ("main.wasm", *checked.args)) + "."
    names = ", ".join(checked.env) or "nothing else"
    yield f"Its environment has FD_COUNT={len(checked.files)}, FD_NAMES, and {names}."
    if not checked.files:
        yield "It has no descriptors: what it prints goes nowhere."
    for number, file in enumerate(checked.files):
        yield f"Descriptor {number}, {file.name!r}, {_sentence(file)}."
    yield from _about_network(checked)
    if checked.storage.package:
        yield "It can read the package's other files under /package, and change nothing there."
    if checked.storage.memory is not None:
        yield f"It has an empty directory {checked.storage.path} of at most {checked.storage.memory} bytes, in memory."
    if checked.compiler == "winch":
        yield "It is compiled by Winch: it starts sooner and computes more slowly."
    yield from _about_limits(checked.limits)
    if checked.certificate.lifetime is not None:
        yield f"Its certificate should last {checked.certificate.lifetime} seconds, if the Steward grants that."
    if checked.certificate.names:
        yield f"Its certificate should name {', '.join(checked.certificate.names)}, if the Steward grants that."
    if checked.identity is not None:
        yield f"It finds its certificate and what was attested in {checked.identity}, and can ask for signatures and keys."
    yield f"The Keep logs at level {checked.log.level}, as {checked.log.format}."
    yield from _about_deploy(checked)


def _about_limits(limits: "Limits") -> Iterator[str]:
    from enarx.keep.config import DEFAULT_REQUEST_SECONDS

    for value, sentence in (
        (limits.memory, "Its memory grows to at most {} bytes."),
        (limits.fuel, "It is stopped after about {} instructions."),
        (limits.seconds, "It is stopped after {} seconds."),
        (
            None if limits.request_seconds == DEFAULT_REQUEST_SECONDS else limits.request_seconds,
            "A request to it is stopped after {} seconds.",
        ),
        (limits.output, "It is stopped when it has printed {} bytes."),
    ):
        if value is not None:
            yield sentence.format(value)
    yield f"It has at most {limits.instances} threads or instances and {limits.descriptors} open descriptors."


def _sentence(file: "File") -> str:
    from enarx.keep.config import Connect, Listen

    tls = "TLS done by the Keep" if getattr(file, "prot", None) == "tls" else "plain TCP"
    if isinstance(file, Listen):
        clients = {"none": "", "any": ", clients show a certificate", "attested": ", clients are attested Keeps"}
        return f"accepts connections on {file.addr} port {file.port}, {tls}{clients[file.peers.client]}"
    if isinstance(file, Connect):
        peer = "the peer is an attested Keep" if file.peers.attestation else f"the peer proves that it is {file.host}"
        if file.peers.pins:
            peer = f"the peer has one of {len(file.peers.pins)} keys" + (f" and {peer}" if file.peers.roots else "")
        return f"is connected to {file.host} port {file.port}, {tls}" + (f", {peer}" if file.prot == "tls" else "")
    kinds = {"null": "is empty and swallows what is written"}
    return kinds.get(file.kind, f"is the {file.kind} of whoever started it")


def _about_network(checked: "Config") -> Iterator[str]:
    for rules, verb in ((checked.network.incoming, "listen on"), (checked.network.outgoing, "reach")):
        if rules is None:
            yield f"It can {verb} what its descriptors name, and nothing else."
        else:
            yield f"It can {verb} {', '.join(map(str, rules)) or 'nothing'}, and nothing else."


def _about_deploy(checked: "Config") -> Iterator[str]:
    deploy = checked.deploy
    may = [name for name, allowed in (("replace arguments", deploy.args), ("choose ports", deploy.ports)) if allowed]
    if deploy.env is None or deploy.env:
        may.append("set " + ("any variable" if deploy.env is None else ", ".join(sorted(deploy.env))))
    if deploy.network:
        may.append("narrow the network lists")
    yield f"Whoever deploys it may {', '.join(may) or 'change nothing'}."
