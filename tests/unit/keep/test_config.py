"""Enarx.toml: the originals' schema, and every mistake named with its place."""

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError
from enarx.keep.config import (
    STANDARD_STREAMS,
    Config,
    Connect,
    Limits,
    Listen,
    Log,
    Overridable,
    Peers,
    Standard,
    Storage,
    Wishes,
)
from enarx.keep.network import Network
from enarx.keep.settings import SETTINGS, TEMPLATE

SAMPLE = """
steward = "https://steward.example"
args = ["one", "two"]
env = { A = "1" }

[[files]]
kind = "stdin"

[[files]]
name = "X"
kind = "listen"
prot = "tls"
port = 9000

[[files]]
kind = "stdout"

[[files]]
kind = "null"

[[files]]
kind = "stderr"

[[files]]
kind = "connect"
host = "example.com"
prot = "tcp"
"""

LISTEN = "[[files]]\nkind = 'listen'\nname = 'web'\nprot = 'tls'\nport = 8443\n"


def test_a_sample_of_every_kind_gives_names_defaults_and_order() -> None:
    """The six entries are read in order, names and ports defaulted as the originals do."""
    config = Config.parse(SAMPLE)
    assert [file.name for file in config.files] == ["stdin", "X", "stdout", "null", "stderr", "example.com"]
    assert config.files[1] == Listen(name="X", prot="tls", addr="::", port=9000)
    assert config.files[5] == Connect(name="example.com", prot="tcp", host="example.com", port=80)
    assert config.steward == "https://steward.example"
    assert config.args == ("one", "two")
    assert dict(config.env) == {"A": "1"}
    assert config.uses_tls


def test_no_configuration_gives_stdio_and_an_empty_one_gives_nothing() -> None:
    """Without Enarx.toml a program has three streams; with an empty one it has no descriptor."""
    assert Config().files == STANDARD_STREAMS
    assert Config.parse("").files == ()


@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.replace("# ", ""), re.sub("(?m)^# ", "", TEMPLATE)])
def test_the_template_parses_as_it_stands_and_uncommented(template: str) -> None:
    """What `config init` writes is valid before and after its comments are taken away."""
    config = Config.parse(template)
    assert config.files[:3] == STANDARD_STREAMS


def test_the_uncommented_template_has_its_sockets() -> None:
    """Uncommenting the template yields the listener on 12345 and the connection to localhost 23456."""
    config = Config.parse(re.sub("(?m)^# ", "", TEMPLATE))
    assert config.files[3:] == (
        Listen(name="web", prot="tls", addr="127.0.0.1", port=12345),
        Connect(name="upstream", prot="tls", host="localhost", port=23456),
    )
    assert config.steward == "https://localhost:8444"
    assert len(config.args) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[files]]\nkind = 'stdin'\nname = 'a:b'", "Enarx.toml:3: files[0].name: file name must not contain ':'"),
        (
            "[[files]]\nkind='null'\n[[files]]\nkind='listen'\nname='x'",
            "Enarx.toml:3: files[1].prot: missing, expected a string",
        ),
        ("[[files]]\nkind = 'listen'\nprot = 'tls'", "files[0].name: missing, expected a string"),
        ("[[files]]\nkind = 'listen'\nname='x'\nprot = 'udp'", "files[0].prot: expected 'tcp' or 'tls', found 'udp'"),
        (
            "[[files]]\nkind = 'listen'\nname='x'\nprot='tls'\nport=65536",
            "files[0].port: expected an integer from 0 to 65535",
        ),
        ("[[files]]\nkind = 'connect'\nprot='tls'", "files[0].host: missing"),
        ("[[files]]\nkind = 'connect'\nprot='tcp'\nhost='::1'", "cannot serve as the name"),
        ("[[files]]\nkind = 'socket'", "expected one of null, stdin, stdout, stderr, listen, connect, found 'socket'"),
        ("[[files]]\nkind = 'stdin'\nport = 1", "Enarx.toml:3: files[0].port: unknown key"),
        ("arg = []", "Enarx.toml:1: arg: unknown key; did you mean 'args'?"),
        ("steward = 'steward.example'", "steward: expected a URL such as https://steward.example"),
        ("steward = 'https://[x'", "steward: expected a URL"),
        ('args = ["a\\u0000b"]', "args[0]: must not contain a NUL"),
        ('env = { "A=B" = "1" }', "expected a name without '='"),
        ("env = { A = 1 }", "env.A: expected a string, found an integer"),
        ("[[files]]\nkind = 'connect'\nprot='tcp'\nhost='a b'", "files[0].host: expected a host name"),
        ("[files]\nmemory = '1 MiB'", "Enarx.toml:1: files: expected entries under [[files]], found a table"),
        ("[network]\noutgoin = []", "Enarx.toml:2: network.outgoin: unknown key; did you mean 'outgoing'?"),
        ("[network]\noutgoing = ['a:1', 'b']", "Enarx.toml:2: network.outgoing[1]: expected host:port, found 'b'"),
        ("[network]\nincoming = [1, 'x']", "network.incoming[1]: expected a port, a range such as 8000-8010"),
        ("[network]\nincoming = [true]", "network.incoming[0]: expected a string, found a boolean"),
        (LISTEN + "[network]\nincoming = [80]", "Enarx.toml:5: files[0].port: 'web' listens on port 8443, which"),
        (LISTEN + "client = 'some'", "files[0].client: expected one of none, any, attested, found 'some'"),
        (LISTEN + "client = 'any'", 'files[0].roots: missing: client = "any" needs the CAs that vouch for clients'),
        (LISTEN + "roots = ['ca.pem']", 'files[0].client: expected "any" or "attested" where roots, pins or'),
        (LISTEN + "pins = ['00']", "files[0].pins[0]: expected 32 bytes of hex, found 1"),
        (LISTEN + "alpn = ['']", "files[0].alpn[0]: expected 1 to 255 ASCII letters"),
        (LISTEN + "client='attested'\nroots=['x']\nattestation={tech=[]}", "files[0].attestation.tech: unknown key"),
        (LISTEN.replace("tls", "tcp") + "alpn = ['h2']", 'files[0].alpn: expected only where prot = "tls"'),
        ("[storage]\npath = '/x'", "Enarx.toml:1: storage.memory: missing, expected the size of the private directory"),
        ("[storage]\nmemory = '1 XB'", "storage.memory: expected bytes, or a size such as '64 MiB', found '1 XB'"),
        ("[storage]\nmemory = 1\npath = '/../x'", "storage.path: expected an absolute path such as /tmp"),
        (
            "[limits]\nmemory = 1.5",
            "Enarx.toml:2: limits.memory: expected bytes, or a size such as '64 MiB', found 1.5",
        ),
        ("[limits]\nmemory = 1", "limits.memory: expected an integer from 65536"),
        ("[limits]\nfuels = 1", "limits.fuels: unknown key; did you mean 'fuel'?"),
        ("[limits]\nseconds = 0", "limits.seconds: expected an integer from 1"),
        ("[certificate]\nlifetime = 1", "certificate.lifetime: expected an integer from 60"),
        ("[certificate]\nnames = ['a', 'b c']", "certificate.names[1]: expected a DNS name, found 'b c'"),
        ("[identity]\npath = 'x'", "identity.path: expected an absolute path such as /enarx, found 'x'"),
        ("[log]\nlevel = 'loud'", "log.level: expected one of off, error, warn, info, debug, found 'loud'"),
        ("[deploy]\nenv = 'A'", "deploy.env: expected a list of names, or '*' for all of them, found 'A'"),
    ],
)
def test_every_mistake_is_named_with_its_place(text: str, message: str) -> None:
    """A configuration that says what it may not say is refused with path and reason."""
    with pytest.raises(MalformedError, match=re.escape(message)):
        Config.parse(text)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_configuration_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the reader, it answers with a value or with MalformedError."""
    try:
        Config.parse(data)
    except MalformedError:
        return


def test_the_new_tables_are_read() -> None:
    """Every setting of ours arrives where it belongs."""
    config = Config.parse(re.sub("(?m)^# ", "", TEMPLATE))
    assert config.network.allows_outgoing("a.example.org", 443)
    assert not config.network.allows_outgoing("a.example.org", 80)
    assert config.storage == Storage(package=True, memory=64 << 20, path="/tmp")  # noqa: S108 - a name inside the program's world
    assert config.limits == Limits(
        memory=512 << 20, instances=64, fuel=10**12, seconds=86400, request_seconds=60, output=1 << 30, descriptors=4096
    )
    assert config.certificate == Wishes(lifetime=3600, names=("app.example.org",))
    assert config.identity == "/enarx"
    assert config.compiler == "winch"
    assert config.log == Log(level="info")
    assert config.deploy == Overridable(args=True, env=frozenset({"GREETING"}), ports=True, network=True)
    assert Config.parse("[deploy]\nenv = '*'").deploy.env is None


def test_without_lists_a_program_reaches_what_its_files_name() -> None:
    """An empty list is nothing at all; no list is what `files` says."""
    connect = "[[files]]\nkind='connect'\nprot='tcp'\nhost='Db.example'\nport=5432\n"
    assert Config.parse(connect).may_reach("db.example", 5432)
    assert not Config.parse(connect).may_reach("db.example", 80)
    assert not Config().may_reach("db.example", 5432)
    assert Config.parse(LISTEN).may_listen(8443)
    assert not Config.parse(LISTEN).may_listen(80)
    assert Config.parse("[network]\nincoming = ['*']").may_listen(80)


def test_every_setting_has_its_sentence_and_no_sentence_is_about_nothing() -> None:
    """What `config explain` knows is what the reader accepts, and the reference documents it."""
    paths = {setting.path for setting in SETTINGS}
    reference = (Path(__file__).resolve().parents[3] / "docs" / "enarx-toml.md").read_text()
    for setting in SETTINGS:
        assert f"`{setting.path}`" in reference
        assert setting.text in reference
    tables = {"network": Network, "storage": Storage, "limits": Limits, "certificate": Wishes, "log": Log}
    for name, table in {**tables, "deploy": Overridable}.items():
        fields = {f"{name}.{item.name}" for item in dataclasses.fields(table) if item.name != "narrowed"}
        assert {path for path in paths if path.startswith(f"{name}.")} == fields
    keys = {"kind", *(item.name for kind in (Listen, Connect, Peers) for item in dataclasses.fields(kind))} - {"peers"}
    assert {path.removeprefix("files.") for path in paths if path.startswith("files.")} == keys


VALUES = st.sampled_from(
    ["''", "'x'", "0", "70000", "true", "[]", "{}", "1.5", "'stdin'", "'listen'", "'tls'", "'a:b'"]
)


@given(st.dictionaries(st.sampled_from(["kind", "name", "prot", "addr", "host", "port", "other"]), VALUES))
def test_any_file_table_is_a_descriptor_or_malformed(table: dict[str, str]) -> None:
    """A files entry of any keys and values is one of the known kinds or refused."""
    text = "[[files]]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
    try:
        (file,) = Config.parse(text).files
    except MalformedError:
        return
    assert isinstance(file, Standard | Listen | Connect)
