"""The world of the demonstration: simulated machines, a Steward, a Drawbridge, and a publisher with four packages.

    sim/        a vendor and machines in software, which Steward trusts by name under [unsafe]
    taken/      the same made a second time, whose vendors have taken something back: for the attacks
    steward/    the CA that a third party is given; its key is read by one attack alone
    registry/   Drawbridge's store, and the development issuer

`hello` is the example program; `other` is the same with another greeting, released just so; `vault` is released to real
hardware alone; `spoiled` is there to have its stored bytes altered.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final, Self

from enarx.cli.demo import Narrator
from enarx.cli.demo.stage import Server, Stage
from enarx.digest import Digest
from enarx.drawbridge.names import PackageSlug

USER: Final = "alice"
VERSION: Final = "1.0.0"
PACKAGES: Final = ("hello", "other", "vault", "spoiled")
GREETINGS: Final = {
    "other": "This is not the program that you wanted.\n",
    "vault": "For real hardware alone.\n",
    "spoiled": "Soon altered.\n",
}
DATA: Final = ("Enarx.toml", "main.wasm", "greeting.txt")
REVOKED: Final = ("snp.ask", "sgx.pck")
DRAWBRIDGE_TOML: Final = """\
# Everything here is simulated, so it has to be released to simulated Keeps, and to none at all: never do this.
store = "store"

[[steward]]
url = "{steward}"
ca = "{ca}"
tls_ca = "{ca}"

[unsafe]
accept_simulated = true
accept_nil = true
"""
VAULT_POLICY: Final = """\
technologies = ["snp", "sgx", "tdx"]

[unsafe]
accept_simulated = false
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything that is there once the story begins."""

    stage: Stage
    machine: Path
    revoked: Path
    steward: Server
    steward_ca: Path
    steward_key: Path
    drawbridge: Server
    bundle: Path
    store: Path
    digests: dict[str, Digest]

    @property
    def steward_url(self) -> str:
        return f"https://localhost:{self.steward.port}"

    @property
    def registry(self) -> str:
        return f"localhost:{self.drawbridge.port}"

    def slug(self, package: str) -> str:
        return f"{self.registry}/{USER}/{package}:{VERSION}"

    def parsed(self, package: str) -> PackageSlug:
        return PackageSlug.parse(self.slug(package))

    def deploy(self, package: str, tee: str, machine: Path | None = None) -> list[str]:
        """The words of `enarx deploy` for one of the machines, or for none."""
        place = ["--backend", "nil"]
        if tee != "nil":
            place = ["--backend", "simulated", "--tee", tee, "--machine", str(machine or self.machine)]
        return ["deploy", "--json", "--insecure", *place, "--steward-ca", str(self.steward_ca), self.slug(package)]

    @classmethod
    @contextmanager
    def made(cls, stage: Stage, narrator: Narrator) -> Iterator[Self]:
        """Make it, telling steps 1 and 2. Raises UnavailableError when an actor does not play."""
        home = stage.home
        machine, revoked = home / "sim", home / "taken"
        with ThreadPoolExecutor(2) as pool:
            taken = [option for name in REVOKED for option in ("--revoke", name)]
            list(
                pool.map(
                    lambda words: stage.must("enarx", *words),
                    (
                        ("platform", "simulate", str(machine)),
                        ("platform", "simulate", str(revoked), *taken),
                    ),
                )
            )
        config = _steward_toml(home, machine, revoked)
        steward_ca = home / "steward-ca.pem"
        steward = stage.serve(
            "steward",
            "serve",
            "--dev-dir",
            str(home / "steward"),
            "--config",
            str(config),
            "--port",
            "0",
            "--write-ca",
            str(steward_ca),
            name="steward",
        )
        url = f"https://localhost:{steward.port}"
        narrator.step(1, "steward", f"certifies at {url} what simulated AMD and Intel machines prove", url=url)
        registry_ca = home / "registry-ca.pem"
        registry_toml = home / "drawbridge.toml"
        registry_toml.write_text(DRAWBRIDGE_TOML.format(steward=url, ca=steward_ca))
        drawbridge = stage.serve(
            "drawbridge",
            "serve",
            "--config",
            str(registry_toml),
            "--dev-dir",
            str(home / "registry"),
            "--port",
            "0",
            "--write-ca",
            str(registry_ca),
            name="drawbridge",
        )
        bundle = home / "ca-bundle.pem"
        bundle.write_bytes(steward_ca.read_bytes() + registry_ca.read_bytes())
        registry = f"localhost:{drawbridge.port}"
        narrator.step(
            1, "drawbridge", f"keeps packages at https://{registry}, and is its own identity issuer", url=registry
        )
        stage.use(
            ENARX_CA_BUNDLE=str(bundle),
            ENARX_STORE_HOST=registry,
            ENARX_OIDC_DOMAIN=f"https://{registry}/_issuer",
        )
        yield cls(
            stage=stage,
            machine=machine,
            revoked=revoked,
            steward=steward,
            steward_ca=steward_ca,
            steward_key=home / "steward" / "ca.key",
            drawbridge=drawbridge,
            bundle=bundle,
            store=home / "store",
            digests=_published(stage, registry, narrator),
        )

    def help(self) -> Iterator[str]:
        """How to play on."""
        yield f"Everything is still there. In another shell: export ENARX_CA_BUNDLE={self.bundle}"
        yield f"  enarx package info {self.slug('hello')}"
        yield f"  enarx {' '.join(word for word in self.deploy('hello', 'snp') if word != '--json')}"
        yield f"  enarx verify localhost:PORT --steward-ca {self.steward_ca}"
        yield "Ctrl-C ends it."


def _steward_toml(home: Path, machine: Path, revoked: Path) -> Path:
    """The configuration that `platform simulate` wrote, for both sets of vendors, and for Keeps without a TEE."""
    text = (machine / "steward.toml").read_text()
    for family in ("amd", "intel"):
        roots = f'"{machine}/roots/{family}.pem", "{revoked}/roots/{family}.pem"'
        text = text.replace(f'{family} = ["roots/{family}.pem"]', f"{family} = [{roots}]")
    collateral = home / "collateral"
    for source in (machine, revoked):
        shutil.copytree(source / "collateral", collateral / source.name)
    text = text.replace('collateral = "collateral"', f'collateral = "{collateral}"\nstate = "{home}/issued"')
    config = home / "steward.toml"
    config.write_text(text.replace("accept_simulated = true", "accept_simulated = true\naccept_nil = true"))
    return config


def _published(stage: Stage, registry: str, narrator: Narrator) -> dict[str, Digest]:
    """Log in, register, publish. Gives each package's digest."""
    stage.must("enarx", "user", "login", registry)
    stage.must("enarx", "user", "register", f"{registry}/{USER}")
    narrator.step(2, "publisher", f"logged in, and is {USER} from now on")
    with ThreadPoolExecutor(len(PACKAGES)) as pool:
        published = dict(pool.map(lambda package: _publish(stage, registry, package), PACKAGES))
    policy = stage.home / "vault-policy.toml"
    policy.write_text(VAULT_POLICY)
    stage.must("enarx", "repo", "policy", "set", f"{registry}/{USER}/vault", str(policy))
    narrator.step(
        2, "publisher", f"published {USER}/hello:{VERSION}: a small web server in WebAssembly, Enarx.toml, a data file"
    )
    narrator.shown(f"{published['hello']}")
    narrator.step(
        2,
        "publisher",
        f"published {USER}/other, {USER}/vault and {USER}/spoiled; vault is released to real hardware alone",
    )
    return published


def _publish(stage: Stage, registry: str, package: str) -> tuple[str, Digest]:
    folder = stage.home / "packages" / package
    folder.mkdir(parents=True)
    example = files("enarx.examples").joinpath("hello-keep")
    for name in DATA:
        (folder / name).write_bytes(example.joinpath(name).read_bytes())
    toml = folder / "Enarx.toml"
    toml.write_text(toml.read_text().replace("port = 8443", "port = 0  # any that is free"))
    if package in GREETINGS:
        (folder / "greeting.txt").write_text(GREETINGS[package])
    place = f"{registry}/{USER}/{package}"
    stage.must("enarx", "repo", "register", place)
    stage.must("enarx", "package", "publish", f"{place}:{VERSION}", str(folder))
    return package, Digest.parse(stage.must("enarx", "tree", "digest", str(folder)).strip())
