"""`enarx repo`: repositories, where packages are published, and who and which Keeps may have them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from enarx.cli.store import Store, asking, complete_slug, read_file, show_json, store_options
from enarx.errors import MalformedError, RejectedError, UntrustedError

if TYPE_CHECKING:
    from enarx.drawbridge.canonical import Json
    from enarx.drawbridge.management import Found, Management, Place

REPOSITORY: Final = "[HOST/]USER/REPOSITORY"
PLACE: Final = "[HOST/]USER[/REPOSITORY]"
UNITS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group()
def repo() -> None:
    """Repositories: register, look at, and say which Keeps may have them."""


@repo.command()
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.option("--public", is_flag=True, help="Let everybody read it. Without this, only whom you let.")
@store_options
def register(store: Store, *, spec: str, public: bool) -> None:
    """Register REPOSITORY in the name space of USER. It is private unless you say --public."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import RepositorySlug

    slug = RepositorySlug.parse(spec)
    host = store.host(slug.host)
    with asking("Failed to register new repository"), store.connect(host) as http:
        new = Registry(http).put_repository(slug.user, slug.repository, public=public)
    if store.as_json:
        show_json({"repository": f"{host}/{slug.user}/{slug.repository}", "public": public, "new": new})


@repo.command()
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@store_options
def info(store: Store, *, spec: str) -> None:
    """Print whether REPOSITORY is public, and its versions, as JSON."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import RepositorySlug

    slug = RepositorySlug.parse(spec)
    with asking("Failed to retrieve repository information"), store.connect(store.host(slug.host)) as http:
        registry = Registry(http)
        try:
            public = registry.repository(slug.user, slug.repository)
            tags = registry.tags(slug.user, slug.repository)
        except UntrustedError:  # the record is its members' business; a stranger may see versions if everybody may
            tags = registry.tags(slug.user, slug.repository)
            public = True
    show_json({"config": {"public": public}, "tags": [str(tag) for tag in tags]})


@repo.command(name="list")
@click.argument("spec", metavar="[HOST/]USER", shell_complete=complete_slug)
@store_options
def list_(store: Store, *, spec: str) -> None:
    """List the repositories of USER that you may know of."""
    from enarx.drawbridge.names import UserSlug

    slug = UserSlug.parse(spec)
    with _managing(store, slug.host, f"Failed to list the repositories of {slug.user}") as management:
        _show_repositories(store, management.repositories(slug.user))


@repo.command()
@click.argument("words", nargs=-1)
@click.option("--store-host", metavar="HOST", help="Where to search. Default: ENARX_STORE_HOST.")
@store_options
def search(store: Store, *, words: tuple[str, ...], store_host: str | None) -> None:
    """List the repositories whose name has all WORDS: public ones, and those that you may read."""
    with _managing(store, store_host, "Failed to search") as management:
        _show_repositories(store, management.search(" ".join(words)))


@repo.command()
@click.argument("spec", metavar=PLACE, shell_complete=complete_slug)
@store_options
def history(store: Store, *, spec: str) -> None:
    """Print who changed what and when, the oldest change first, after checking that none is missing.

    Of a repository it is everything; of a name space, who became a member of it and who is none any more.

    The last line is the head: who notes it can tell later whether anything before it was altered.
    """
    host, place = _place(spec)
    with _managing(store, host, "Failed to read the history") as management:
        changes = management.history(place)
    head = changes[-1].digest if changes else ""
    if store.as_json:
        show_json({"changes": [change.to_json() for change in changes], "head": head})
        return
    for change in changes:
        detail = " ".join(f"{name}={_told(value)}" for name, value in change.detail.items() if value is not None)
        at = change.at.strftime("%Y-%m-%d %H:%M:%SZ")
        click.echo(_clean(f"{change.number:>5}  {at}  {change.event:<18}  {change.by}  {detail}".rstrip()))
    click.echo(f"head   {head}")


def _told(value: "Json") -> str:
    """A value of a change for people: a digest as it is written elsewhere, what is no text as JSON."""
    from enarx.digest import Digests

    if isinstance(value, dict) and "sha-256" in value:
        return str(Digests.from_json({"sha-256": str(value["sha-256"])}).digests()[0])
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


@repo.command(name="yank")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.option("--reason", default="", help="Why, for whoever asks for a version.")
@store_options
def yank_all(store: Store, *, spec: str, reason: str) -> None:
    """Take every version back that is published so far. `enarx package unyank` lets one be used again."""
    from enarx.drawbridge.names import PackageSlug, RepositorySlug

    slug = RepositorySlug.parse(spec)
    with _managing(store, slug.host, "Failed to yank the repository") as management:
        tags = management.registry.tags(slug.user, slug.repository)
        for tag in tags:
            management.yank(PackageSlug(user=slug.user, repository=slug.repository, tag=tag), reason)
    _done(store, {"yanked": [str(tag) for tag in tags], "reason": reason})


# -- release policy


@repo.group()
def policy() -> None:
    """Which Keeps the packages of a repository are released to."""


@policy.command(name="show")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@store_options
def show_policy(store: Store, *, spec: str) -> None:
    """Print the policy in words, the server's own settings included; with --json as it was set."""
    host, place = _place(spec, repository=True)
    with _managing(store, host, "Failed to read the release policy") as management:
        found = management.policy(place)
    if store.as_json:
        show_json({"policy": found.values, "sentences": list(found.sentences)})
        return
    if found.values is None:
        click.echo("No policy was set; the server decides:")
    for sentence in found.sentences:
        click.echo(_clean(sentence))


@policy.command(name="set")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@store_options
def set_policy(store: Store, *, spec: str, file: Path) -> None:
    """Set the policy to what FILE says, TOML or JSON, and print it in words.

    \b
      technologies = ["snp", "tdx"]            which TEEs
      measurements = ["<hex>"]                 which Keeps; signers = [...] for who signed them
      tcb_statuses = ["UpToDate"]              which standing of the firmware
      max_age_seconds = 3600                   since the hardware was judged
      require_token = true                     a deploy token, too
      steward = "https://steward.example"      the Steward that its Keeps use
    """  # noqa: D301 - \b is for click
    host, place = _place(spec, repository=True)
    values = read_policy_file(file)
    with _managing(store, host, "Failed to set the release policy") as management:
        management.set_policy(place, values)
        found = management.policy(place)
    if store.as_json:
        show_json({"policy": found.values, "sentences": list(found.sentences)})
        return
    for sentence in found.sentences:
        click.echo(_clean(sentence))


@policy.command(name="remove")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@store_options
def remove_policy(store: Store, *, spec: str) -> None:
    """Go back to what the server decides for repositories that say nothing."""
    host, place = _place(spec, repository=True)
    with _managing(store, host, "Failed to remove the release policy") as management:
        management.remove_policy(place)
    _done(store, {"policy": None})


@policy.command(name="test")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.argument("certificates", type=click.Path(path_type=Path, allow_dash=True))
@store_options
def test_policy(store: Store, *, spec: str, certificates: Path) -> None:
    """Say whether the packages would be released to the Keep whose certificate chain (PEM) is in CERTIFICATES.

    Every reason against it is told. Exit codes: 0 it would be, 77 it would not.
    """
    host, place = _place(spec, repository=True)
    with _managing(store, host, "Failed to test the release policy") as management:
        verdict = management.test_policy(place, read_file(certificates))
    if store.as_json:
        show_json({"accepted": verdict.accepted, "reasons": list(verdict.reasons), "keep": verdict.keep})
    elif verdict.accepted:
        click.echo("This Keep would be given the packages.")
    if not verdict.accepted:
        raise RejectedError(
            f"this Keep would not be given the packages: {'; '.join(verdict.reasons)}", reasons=verdict.reasons
        )


# -- deploy tokens


@repo.group()
def token() -> None:
    """Deploy tokens: a second factor for Keeps, and the right to know of one version."""


@token.command(name="generate")
@click.argument("spec", metavar="[HOST/]USER/REPOSITORY:TAG|@DIGEST", shell_complete=complete_slug)
@click.option("--lifetime", metavar="TIME", default="10m", show_default=True, help="Such as 90s, 10m, 8h, 30d.")
@click.option("--uses", type=click.IntRange(1), help="How many Keeps may use it. Default: as many as come.")
@click.option("--label", default="", help="What it is for, for whoever reads the list.")
@store_options
def generate_token(store: Store, *, spec: str, lifetime: str, uses: int | None, label: str) -> None:
    """Make a token for one version, or for one workload whatever it is called, and print it: once, and never again.

    `enarx deploy` takes it in ENARX_DEPLOY_TOKEN or --token-file.
    """
    from enarx.drawbridge.management import Place
    from enarx.drawbridge.names import PackageSlug

    slug = PackageSlug.parse(spec)
    if slug.tag is not None and slug.digest is not None:
        raise MalformedError(f"token for {spec}: expected :TAG or @DIGEST, found both: a token is for one of them")
    place = Place(user=slug.user, repository=slug.repository)
    with _managing(store, slug.host, "Failed to make a deploy token") as management:
        made = management.make_token(
            place, tag=slug.tag, digest=slug.digest, lifetime=seconds(lifetime), uses=uses, label=label
        )
    if store.as_json:
        show_json({**made.facts, "token": made.text})
        return
    click.echo(made.text)
    click.echo(
        f"enarx: token {made.facts.get('id')}, until {made.facts.get('expires')}; it is not shown again", err=True
    )


_create = copy(generate_token)  # the word that the other groups have for it
_create.hidden = True
token.add_command(_create, "create")


@token.command(name="info")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.argument("name", metavar="ID")
@store_options
def token_info(store: Store, *, spec: str, name: str) -> None:
    """Print what the token ID is for, as JSON; never the token itself."""
    host, place = _place(spec, repository=True)
    with _managing(store, host, "Failed to read the deploy token") as management:
        show_json(dict(management.token(place, name)))


@token.command(name="list")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@store_options
def list_tokens(store: Store, *, spec: str) -> None:
    """List the tokens: what for, until when, how many uses are left. The tokens themselves nobody can list."""
    host, place = _place(spec, repository=True)
    with _managing(store, host, "Failed to list the deploy tokens") as management:
        found = management.tokens(place)
    if store.as_json:
        show_json([dict(item) for item in found])
        return
    for item in found:
        what = item.get("tag") or item.get("digest")
        left = "any number of uses" if item.get("left") is None else f"{item['left']} uses left"
        click.echo(
            _clean(f"{item.get('id')}  for {what}  until {item.get('expires')}  {left}  {item.get('label')}".rstrip())
        )


@token.command()
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.argument("name", metavar="ID")
@store_options
def revoke(store: Store, *, spec: str, name: str) -> None:
    """Take the token ID back; the list tells the ids."""
    host, place = _place(spec, repository=True)
    with _managing(store, host, "Failed to revoke the deploy token") as management:
        management.revoke_token(place, name)
    _done(store, {"revoked": name})


# -- members


@repo.group()
def member() -> None:
    """Who may read, publish or own: people, and machines by the claims of their tokens."""


@member.command(name="list")
@click.argument("spec", metavar=PLACE, shell_complete=complete_slug)
@store_options
def list_members(store: Store, *, spec: str) -> None:
    """List the members of a repository, or of a whole name space."""
    host, place = _place(spec)
    with _managing(store, host, "Failed to list the members") as management:
        owner, members = management.members(place)
    if store.as_json:
        show_json({"owner": owner, "members": [dict(item) for item in members]})
        return
    if isinstance(owner, Mapping):
        click.echo(_clean(f"owner      {owner.get('subject')} at {owner.get('issuer')}"))
    for item in members:
        who = item.get("subject") or " ".join(f"{key}={text}" for key, text in _claims(item).items())
        click.echo(_clean(f"{item.get('role'):<9}  {who} at {item.get('issuer')}  ({item.get('name')})"))


@member.command(name="add")
@click.argument("spec", metavar=PLACE, shell_complete=complete_slug)
@click.argument("name")
@click.option("--role", type=click.Choice(["reader", "publisher", "owner"]), required=True, help="What they may do.")
@click.option("--user", "user_name", metavar="USER", help="Whoever has this user name here.")
@click.option("--subject", help="Whoever the issuer knows by this subject.")
@click.option("--issuer", metavar="NAME", help="What the server calls the issuer. Default: yours.")
@click.option(
    "--claim", "claims", multiple=True, metavar="CLAIM=PATTERN", help="A machine's claim; * is anything. Repeatable."
)
@store_options
def add_member(
    store: Store,
    *,
    spec: str,
    name: str,
    role: str,
    user_name: str | None,
    subject: str | None,
    issuer: str | None,
    claims: tuple[str, ...],
) -> None:
    """Make somebody a member under a NAME of your choice, or change what the member of that name may do.

    \b
      enarx repo member add alice/hello bob --role publisher --user bob
      enarx repo member add alice/hello ci --role publisher --issuer github \\
          --claim repository=alice/hello --claim ref=refs/heads/main
    """  # noqa: D301 - \b is for click
    if sum((user_name is not None, subject is not None, bool(claims))) != 1:
        raise click.UsageError("expected one of --user, --subject and --claim")
    if user_name is not None and issuer is not None:
        raise click.UsageError("--issuer is for --subject and --claim; a user name is known by itself")
    who = {"user": user_name, "subject": subject, "issuer": issuer, "claims": _pairs(claims, "CLAIM=PATTERN") or None}
    host, place = _place(spec)
    with _managing(store, host, "Failed to set the member") as management:
        management.set_member(
            place, name, {"role": role, **{key: value for key, value in who.items() if value is not None}}
        )
    _done(store, {"member": name, "role": role})


@member.command(name="remove")
@click.argument("spec", metavar=PLACE, shell_complete=complete_slug)
@click.argument("name")
@store_options
def remove_member(store: Store, *, spec: str, name: str) -> None:
    """Remove the member of that NAME; the list tells the names."""
    host, place = _place(spec)
    with _managing(store, host, "Failed to remove the member") as management:
        management.remove_member(place, name)
    _done(store, {"removed": name})


# -- who has to sign


@repo.group()
def signers() -> None:
    """Keys of which one has to have signed each new version."""


@signers.command(name="show")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@store_options
def show_signers(store: Store, *, spec: str) -> None:
    """List the keys by name and id (RFC 7638); with --json the keys, too."""
    host, place = _place(spec, repository=True)
    with _managing(store, host, "Failed to read the signers") as management:
        found = management.signers(place)
    if store.as_json:
        show_json([dict(item) for item in found])
        return
    for item in found:
        click.echo(_clean(f"{item.get('name')}  {item.get('id')}"))
    if not found:
        click.echo("Nobody has to sign.")


@signers.command(name="set")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.argument("keys", nargs=-1, metavar="[NAME=KEY]...")
@store_options
def set_signers(store: Store, *, spec: str, keys: tuple[str, ...]) -> None:
    """Replace the keys by these files (PEM or JWK), under a NAME each; without any, nobody has to sign.

    From then on `enarx package publish --sign` with one of them makes a version. What is published already stays.
    Of a private key only its public half is sent.
    """
    from enarx.drawbridge.signing import SigningKey

    host, place = _place(spec, repository=True)
    named = [SigningKey.parse(name, read_file(Path(file))) for name, file in _pairs(keys, "NAME=KEY").items()]
    with _managing(store, host, "Failed to set the signers") as management:
        management.set_signers(place, named)
    _done(store, {"signers": [key.name for key in named]})


# -- what they share


def read_policy_file(file: Path) -> dict[str, Any]:  # Any: TOML or JSON, checked here as the server does
    """A release policy that means something. Raises MalformedError with the line, or the key."""
    from enarx import toml
    from enarx.drawbridge import canonical
    from enarx.drawbridge.access import ReleasePolicy

    data = read_file(file)
    if data.lstrip().startswith(b"{"):
        values = canonical.members(canonical.parse(data, str(file)), str(file))
        table = toml.Table(source=str(file), text="", path="", values=values)
    else:
        table = toml.parse(data, source=str(file))
    ReleasePolicy.from_table(table)
    table.end()
    return dict(table.values)


def seconds(text: str) -> int:
    """`90s`, `10m`, `8h`, `30d`, or a number of seconds. Raises MalformedError."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if found is None:
        raise MalformedError(f"--lifetime: expected a time such as 90s, 10m, 8h or 30d, found {text[:40]!r}")
    return int(found[1]) * UNITS[found[2] or "s"]


@contextmanager
def _managing(store: Store, host: str | None, what: str) -> "Iterator[Management]":
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.management import Management

    with asking(what), store.connect(store.host(host)) as http:
        yield Management(Registry(http))


def _place(spec: str, *, repository: bool = False) -> "tuple[str | None, Place]":
    """Host, if there is one, and the repository, or the name space where that is enough."""
    from enarx.drawbridge.management import Place
    from enarx.drawbridge.names import RepositorySlug, UserSlug

    if repository or not _is_user(spec):
        slug = RepositorySlug.parse(spec)
        return slug.host, Place(user=slug.user, repository=slug.repository)
    user = UserSlug.parse(spec)
    return user.host, Place(user=user.user)


def _is_user(spec: str) -> bool:
    """`a/b` is a repository unless `a` can only be a host; a lone word is a user."""
    first, slash, rest = spec.partition("/")
    return not slash or ("/" not in rest and (":" in first or "." in first or first == "localhost"))


def _show_repositories(store: Store, found: "Sequence[Found]") -> None:
    if store.as_json:
        show_json([item.to_json() for item in found])
        return
    for item in found:
        role = f"  ({item.role})" if item.role else ""
        click.echo(f"{item.user}/{item.name}  {'public' if item.public else 'private'}{role}")


def _pairs(texts: Sequence[str], form: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or name in found:
            raise click.UsageError(f"expected {form}, each name once, found {text!r}")
        found[name] = value
    return found


def _claims(item: Mapping[str, object]) -> Mapping[str, object]:
    found = item.get("claims")
    return found if isinstance(found, Mapping) else {}


def _done(store: Store, value: Mapping[str, object]) -> None:
    """Silent for people, as the originals are; an object for programs."""
    if store.as_json:
        show_json(value)


def _clean(text: str) -> str:
    """A stranger's words, made safe for a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
