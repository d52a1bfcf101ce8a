"""A directory of vendors' documents: filled by hand, renewed from servers that speak as the vendors' do, carried away."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enarx.errors import MalformedError, NotFoundError, RejectedError, UnavailableError, UntrustedError
from enarx.pki import keys
from enarx.pki.certificate import Certificate, pem
from enarx.steward import collateral
from enarx.steward.highest import FILE, Highest
from enarx.steward.issuer import Issuer, development, self_signed
from enarx.steward.stock import Chip, Kept, Stock, Wanted
from enarx.steward.vendors import Kds, Origin, Pcs
from enarx.tee.dcap.simulator import FMSPC, Vendor
from enarx.tee.model import TrustAnchor
from enarx.tee.snp.report import Report
from enarx.tee.snp.simulator import SnpMachine
from enarx.tee.snp.simulator import Vendor as SnpVendor
from enarx.web.client import Client
from tests.values import replace

AT = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Amd:
    """A root that calls itself AMD's for Milan."""

    issuer: Issuer
    number: int = 1

    @classmethod
    def create(cls) -> "Amd":
        key = keys.generate("P-384")
        root = self_signed("ARK-Milan", key, AT, lifetime=timedelta(days=30), path_length=1)
        return cls(issuer=Issuer.of(key, [root]))

    @property
    def anchor(self) -> TrustAnchor:
        root = self.issuer.certificate
        return TrustAnchor(family="amd", sha256=root.sha256, certificate=root.der)

    def crl(self) -> bytes:
        return self.issuer.sign_crl([], number=self.number, begin=AT, end=AT + timedelta(days=30))


@dataclass
class World:
    """Both vendors' servers, what was asked of them, and refusals that are to come first."""

    intel: Vendor
    amd: Amd
    asked: list[str] = field(default_factory=list)
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    beside: dict[str, bytes] = field(default_factory=dict)  # what somebody else made, by path
    headers: dict[str, dict[str, str]] = field(default_factory=dict)  # and what came with it

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self.answer)])

    def answer(self, request: Request) -> Response:
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        self.asked.append(path)
        if self.refusals:
            status, headers = self.refusals.pop(0)
            return Response(status_code=status, headers=headers)
        found = self.documents().get(path)
        return Response(status_code=404) if found is None else Response(found[0], headers=found[1])

    def documents(self) -> dict[str, tuple[bytes, dict[str, str]]]:
        signer = self._chain(self.intel.signer.certificate)
        found: dict[str, tuple[bytes, dict[str, str]]] = {
            "/vcek/v1/Milan/cert_chain": (self.amd.issuer.certificate.to_pem(), {}),
            "/vcek/v1/Milan/crl": (self.amd.crl(), {}),
            "/vcek/v1/Milan/0a0b?blSPL=02&teeSPL=00&snpSPL=08&ucodeSPL=115": (self.amd.issuer.certificate.der, {}),
            "/sgx/certification/v4/rootcacrl": (self.intel.crl("root", AT).hex().encode(), {}),
        }
        for ca in ("platform", "processor"):
            chain = self._chain(getattr(self.intel, ca).certificate)
            path = f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"
            found[path] = (
                self.intel.crl("platform" if ca == "platform" else "processor", AT),
                {"SGX-PCK-CRL-Issuer-Chain": chain},
            )
        identity, info = self.intel.qe_identity(AT, "SGX").body, self.intel.tcb_info(AT, "SGX").body
        found["/sgx/certification/v4/qe/identity"] = (identity, {"SGX-Enclave-Identity-Issuer-Chain": signer})
        found[f"/sgx/certification/v4/tcb?fmspc={FMSPC.hex().upper()}"] = (info, {"TCB-Info-Issuer-Chain": signer})
        return found | {path: (data, self.headers.get(path, {})) for path, data in self.beside.items()}

    def _chain(self, certificate: bytes) -> str:
        return quote((pem("CERTIFICATE", certificate) + pem("CERTIFICATE", self.intel.root.certificate)).decode())

    def origin(self, port: int, patience: float = 60) -> Origin:
        self.clients.append(Client(f"http://127.0.0.1:{port}"))
        return Origin(client=self.clients[-1], patience=patience, sleep=self.waits.append)


@pytest.fixture(scope="module")
def vendors() -> tuple[Vendor, Amd]:
    return Vendor.create(AT), Amd.create()


@pytest.fixture
def world(vendors: tuple[Vendor, Amd]) -> Iterator[World]:
    made = World(intel=vendors[0], amd=replace(vendors[1]))
    yield made
    for client in made.clients:
        client.close()


def stock(world: World, directory: Path) -> Stock:
    return Stock(directory, [world.intel.anchor(), world.amd.anchor], Highest(directory / FILE))


WANTED = Wanted(products=("Milan",), fmspcs=(FMSPC,), tees=("sgx", "tdx"))


def refresh(world: World, port: int, directory: Path, wanted: Wanted = WANTED) -> tuple[list[Kept], list[str]]:
    origin = world.origin(port)
    items = list(stock(world, directory).refresh(wanted, Kds(origin), Pcs(origin, None)))
    return [item for item in items if isinstance(item, Kept)], [item for item in items if isinstance(item, str)]


def test_everything_is_fetched_and_serves_a_judgement(world: World, start: Callable[..., int], tmp_path: Path) -> None:
    """Chains, CRLs, QE identity and TCB info arrive from both services; what a vendor does not have is told."""
    kept, missing = refresh(world, start(world.app()), tmp_path)
    assert not any(each.note for each in kept)
    assert len(missing) == 3  # VLEK of this product, and both of TDX
    held = collateral.read([tmp_path])
    assert held.passed_over == ()
    assert len(held.endorsements.crls) == 4
    assert {info.chain[0] for info in held.endorsements.tcb_infos} == {world.intel.signer.certificate}
    assert Highest(tmp_path / FILE).floors()["TCB info SGX 00F1C7000000"]
    assert stock(world, tmp_path).wanted() == Wanted(products=("Milan",), fmspcs=(FMSPC,), tees=("sgx",))


def test_newer_documents_replace_older_ones_and_never_the_reverse(
    world: World, start: Callable[..., int], tmp_path: Path
) -> None:
    """After a TCB recovery one document of each series is left; a server that goes back is refused."""
    port = start(world.app())
    refresh(world, port, tmp_path)
    count = len(list(tmp_path.glob("*")))
    before = world.intel
    world.intel, world.amd.number = replace(before.recover(), crl_number=2), 2
    refresh(world, port, tmp_path)
    assert len(list(tmp_path.glob("*"))) == count
    world.amd.number = 1
    with pytest.raises(RejectedError, match=r"CRL of .*ARK-Milan: number 1 is a rollback, 2 was seen before"):
        refresh(world, port, tmp_path, Wanted(products=("Milan",)))
    world.intel = replace(before, crl_number=2)
    with pytest.raises(RejectedError, match="QE identity QE: number 17 is a rollback, 18 was seen before"):
        refresh(world, port, tmp_path, Wanted(tees=("sgx",)))
    with pytest.raises(RejectedError, match="3 documents were not taken: ") as caught:
        refresh(world, port, tmp_path)
    assert len(caught.value.reasons) == 3


def test_a_document_that_somebody_else_signed_is_refused(
    world: World, start: Callable[..., int], tmp_path: Path
) -> None:
    """A server that alters a document is found out when it is fetched."""
    port = start(world.app())
    forged = Vendor.create(AT)
    world.intel = replace(world.intel, signer=replace(world.intel.signer, key=forged.signer.key))
    with pytest.raises(UntrustedError, match="qe/identity: the signature is wrong"):
        refresh(world, port, tmp_path, Wanted(tees=("sgx",)))
    assert not list(tmp_path.glob("qe-identity*"))


def test_a_root_that_is_not_known_is_told_and_nothing_is_remembered(
    world: World, start: Callable[..., int], tmp_path: Path
) -> None:
    """Such documents are kept, for a judgement verifies what it uses, but raise no number."""
    origin = world.origin(start(world.app()))
    bare = Stock(tmp_path, [], Highest(tmp_path / FILE))
    kept = [item for item in bare.refresh(WANTED, Kds(origin), Pcs(origin, None)) if isinstance(item, Kept)]
    assert sum("no root that is trusted here" in item.note for item in kept) == 6
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("status", "headers", "waited"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (503, {"Retry-After": (AT + timedelta(days=-1)).strftime("%a, %d %b %Y %H:%M:%S GMT")}, 0.0),
        (429, {}, 5.0),
        (429, {"Retry-After": "soon"}, 5.0),
        (429, {"Retry-After": "²"}, 5.0),
    ],
)
def test_a_vendor_may_ask_to_wait(
    world: World, start: Callable[..., int], status: int, headers: dict[str, str], waited: float
) -> None:
    """429 and 503 are waited for as long as they say, then asked again."""
    world.refusals.append((status, headers))
    assert Kds(world.origin(start(world.app()))).crl("Milan").suffix == ".crl"
    assert world.waits == [waited]
    assert world.asked == ["/vcek/v1/Milan/crl"] * 2


def test_vendors_that_do_not_answer_are_unavailable(world: World, tmp_path: Path) -> None:
    """However many documents were asked for: to try again later is all that helps."""
    with pytest.raises(UnavailableError, match="documents were not taken"):
        refresh(world, 1, tmp_path, WANTED)


def test_patience_ends(world: World, start: Callable[..., int]) -> None:
    """Who asks for more time than there is gets an error that says so."""
    world.refusals += [(429, {"Retry-After": "40"}), (429, {"Retry-After": "40"})]
    with pytest.raises(UnavailableError, match="answered 429 and asks to wait 40 seconds, more than 20"):
        Kds(world.origin(start(world.app()), patience=60)).crl("Milan")


def test_a_chip_certificate_is_asked_for_by_its_patch_levels(world: World, start: Callable[..., int]) -> None:
    """The form of AMD's query: two digits a level, in AMD's order."""
    kds = Kds(world.origin(start(world.app())))
    levels = {"blSPL": 2, "teeSPL": 0, "snpSPL": 8, "ucodeSPL": 115}
    assert Certificate.parse(kds.vcek("Milan", b"\x0a\x0b", levels).data) == world.amd.issuer.certificate
    with pytest.raises(NotFoundError, match="there is no such document"):
        kds.vcek("Milan", b"\xff", levels)


def test_an_answer_without_its_chain_is_malformed(world: World, start: Callable[..., int]) -> None:
    """A document is worth nothing without who signed it."""
    app = Starlette(routes=[Route("/{path:path}", lambda _: Response(b"{}"))])
    with pytest.raises(MalformedError, match="the answer has no sgx-enclave-identity-issuer-chain"):
        Pcs(world.origin(start(app)), None).qe_identity("sgx")


def test_documents_travel_as_an_archive(world: World, start: Callable[..., int], tmp_path: Path) -> None:
    """What was exported on one machine is added on another, without a network, and says the same."""
    refresh(world, start(world.app()), tmp_path / "one")
    count = stock(world, tmp_path / "one").export(tmp_path / "all.tar")
    first = (tmp_path / "all.tar").read_bytes()
    stock(world, tmp_path / "one").export(tmp_path / "all.tar")
    assert (tmp_path / "all.tar").read_bytes() == first
    assert len(stock(world, tmp_path / "two").add([tmp_path / "all.tar"])) == count
    one, two = (collateral.read([tmp_path / name]).endorsements for name in ("one", "two"))
    assert set(one.crls) == set(two.crls)
    assert set(one.tcb_infos) == set(two.tcb_infos)
    assert Highest(tmp_path / "two" / FILE).floors() == Highest(tmp_path / "one" / FILE).floors()


def test_documents_are_added_under_names_that_say_what_they_are(tmp_path: Path, world: World) -> None:
    """`collateral add` copies documents; a file that is none is refused, and then nothing is copied."""
    good, bad = tmp_path / "good.pem", tmp_path / "bad.pem"
    good.write_bytes(development("One", AT).certificate.to_pem())
    bad.write_bytes(b"nothing")
    with pytest.raises(MalformedError, match=r"bad.pem: not a certificate"):
        stock(world, tmp_path / "pool").add([good, bad])
    assert not (tmp_path / "pool").exists()
    (kept,) = stock(world, tmp_path / "pool").add([good])
    assert kept.target.name.startswith("certificate-one-")
    (kept, again) = stock(world, tmp_path / "pool2").add([tmp_path / "pool", good])
    assert kept.target == again.target
    (tmp_path / "not.tar").write_bytes(b"x" * 1024)
    with pytest.raises(MalformedError, match="not a tar archive"):
        stock(world, tmp_path / "pool").add([tmp_path / "not.tar"])


def test_of_several_files_the_one_that_is_wrong_is_named(tmp_path: Path, world: World) -> None:
    """Whether it is no document at all, or one that cannot be read further; and then nothing was copied."""
    second = b'{"tcbInfo":{"version":2,"tcbLevels":[]},"signature":"%s"}' % (b"ab" * 64)
    (tmp_path / "good.crl").write_bytes(world.amd.crl())
    stock = Stock(tmp_path / "docs", [world.amd.anchor], Highest())
    for name, data, why in (("v2.json", second, "found version 2"), ("x", b"x", "not a certificate")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MalformedError, match=rf"{name}: .*{why}"):
            stock.add([tmp_path / "good.crl", tmp_path / name])
    assert list((tmp_path / "docs").glob("*.der")) == []


def test_older_documents_are_not_added_again(tmp_path: Path, world: World) -> None:
    """A CRL of a lower number than one that was added is a rollback."""
    world.amd.number = 5
    (tmp_path / "new.crl").write_bytes(world.amd.crl())
    world.amd.number = 4
    (tmp_path / "old.crl").write_bytes(world.amd.crl())
    stock(world, tmp_path / "pool").add([tmp_path / "new.crl"])
    with pytest.raises(RejectedError, match="number 4 is a rollback, 5 was seen before"):
        stock(world, tmp_path / "pool").add([tmp_path / "old.crl"])


@pytest.mark.parametrize(("product", "fmc"), [("Milan", False), ("Turin", True)])
def test_a_report_says_which_certificate_it_needs(product: str, fmc: bool) -> None:
    """The chip and its reported TCB, in the layout of the product; Turin's chips have short ids, and an FMC in front."""
    vendor = SnpVendor.create(AT, product=product)
    report = Report.parse(SnpMachine.create(vendor, AT, measurement=bytes(48)).report(bytes(64)))
    chip = Chip.of(report)
    assert (chip.product, chip.hwid) == (product, report.chip_id[: 8 if fmc else 64])
    assert list(chip.levels) == [*(["fmcSPL"] if fmc else []), "blSPL", "teeSPL", "snpSPL", "ucodeSPL"]
    assert bytes(chip.levels.values())[:2] == report.reported_tcb[:2]
    with pytest.raises(MalformedError, match="the chip id is masked"):
        Chip.of(replace(report, chip_id=bytes(64)))
    with pytest.raises(MalformedError, match="does not say which product made it"):
        Chip.of(replace(report, cpuid=None))
    assert Chip.of(replace(report, cpuid=None), product) == chip


def test_the_certificate_of_a_chip_is_fetched(world: World, start: Callable[..., int], tmp_path: Path) -> None:
    """`refresh` asks for the chips that it was told of."""
    levels = {"blSPL": 2, "teeSPL": 0, "snpSPL": 8, "ucodeSPL": 115}
    wanted = Wanted(chips=(Chip(product="Milan", hwid=b"\x0a\x0b", levels=levels),))
    (kept,), missing = refresh(world, start(world.app()), tmp_path, wanted)
    assert kept.documents[0].title == "ARK-Milan"
    assert missing == []
