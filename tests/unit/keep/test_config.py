"""Enarx.toml: the originals' schema, and every mistake named with its place."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError
from enarx.keep.config import STANDARD_STREAMS, TEMPLATE, Config, Connect, Listen, Standard

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
        ("[[files]]\nkind = 'listen'\nname = 'x'", "files[0].prot: missing, expected a string"),
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
