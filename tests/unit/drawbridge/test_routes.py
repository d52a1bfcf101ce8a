"""The path grammar of the originals, and ours beside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.drawbridge.routes import Target, UnsupportedVersionError, parse
from enarx.errors import MalformedError, NotFoundError


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/v0.1.0/user", "user"),
        ("/apiv0.1.0/user", "user"),
        ("///api///v0.4.3/user/", "user"),
        ("/api/v0.1.0/user/_anything/at/all", "user"),
        ("/api/v0.1.0/user/repo", "repository"),
        ("/api/v0.1.0/user/repo/_tag", "tags"),
        ("/api/v0.1.0/user/repo/_tag/1.0.0-rc.1+build", "tag"),
        ("/api/v0.1.0/user/repo/_tag/1.0.0/tree", "tree"),
        ("/api/v0.1.0/user/repo/_tag/1.0.0/tree/", "tree"),
        ("/api/v0.1.0/user/repo/_tag/1.0.0/tree/a/_b/c.wasm", "tree"),
        ("/api/v0.1.0/_search", "search"),
        ("/api/v0.1.0/user/_repo", "repositories"),
        ("/api/v0.1.0/user/_member", "members"),
        ("/api/v0.1.0/user/_member/alice", "member"),
        ("/api/v0.1.0/user/repo/_member", "members"),
        ("/api/v0.1.0/user/repo/_member/alice", "member"),
        ("/api/v0.1.0/user/repo/_policy", "policy"),
        ("/api/v0.1.0/user/repo/_policy/test", "policy-test"),
        ("/api/v0.1.0/user/repo/_token", "tokens"),
        ("/api/v0.1.0/user/repo/_token/abc", "token"),
        ("/api/v0.1.0/user/repo/_yank/1.0.0", "yank"),
        ("/api/v0.1.0/user/repo/_log", "log"),
    ],
)
def test_what_a_path_names(path: str, kind: str) -> None:
    """Each resource by its path; slashes in front, and what follows a bare user, mean nothing."""
    assert parse(path).kind == kind


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("/", NotFoundError, "Route `/` not found"),
        ("/foo/v0.1.0/user", NotFoundError, "not found"),
        ("/api/0.1.0/user", NotFoundError, "not found"),
        ("/api/v0.1.0", NotFoundError, "not found"),
        ("/api/v0.1.0/", NotFoundError, "not found"),
        ("/api/v0.1.0//_tag", NotFoundError, "not found"),
        ("/api/v0.1.0/_tag", NotFoundError, "not found"),
        ("/api/v1/user", MalformedError, "Failed to parse API version: expected a semantic version"),
        ("/api/v/user", MalformedError, "Failed to parse API version"),
        ("/api/v0.1.0/us%20er", MalformedError, "Failed to parse user name"),
        ("/api/v0.1.0/us.er", MalformedError, "Failed to parse user name"),
        ("/api/v0.1.0/user/repo/", MalformedError, "Failed to parse repository name"),
        ("/api/v0.1.0/user/repo/more", MalformedError, "Failed to parse repository name"),
        ("/api/v0.1.0/user/re%70o", MalformedError, "Failed to parse repository name"),
        ("/api/v0.1.0/user/repo/_tag/", MalformedError, "Failed to parse tag name"),
        ("/api/v0.1.0/user/repo/_tag/v1.0.0", MalformedError, "Failed to parse tag name"),
        ("/api/v0.1.0/user/repo/_tag/1.0.0/", NotFoundError, "Route not found on repository"),
        ("/api/v0.1.0/user/repo/_tag/1.0.0/other", NotFoundError, "Route not found on repository"),
        ("/api/v0.1.0/user/repo/_other", NotFoundError, "Route not found on repository"),
        ("/api/v0.1.0/user/repo/_policy/", NotFoundError, "Route not found on repository"),
        ("/api/v0.1.0/user/repo/_tag/1.0.0/tree/a//b", MalformedError, "Failed to parse tree path"),
        ("/api/v0.1.0/user/repo/_tag/1.0.0/tree/../b", MalformedError, "Failed to parse tree path"),
        ("/api/v0.1.0/user/repo/_tag/1.0.0/tree/%2e%2e", MalformedError, "Failed to parse tree path"),
        ("/api/v0.1.0/user/repo/_tag/1.0.0/tree/a%2Fb", MalformedError, "Failed to parse tree path"),
        ("/api/v0.1.0/user/repo/_member/../x", NotFoundError, "Route not found on repository"),
        ("/api/v0.1.0/user/_member/..", MalformedError, "label: expected letters"),
    ],
)
def test_what_names_nothing(path: str, error: type[Exception], text: str) -> None:
    """404 for what is no route, 400 for a name that is none."""
    with pytest.raises(error, match=text):
        parse(path)


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        ("0.0.1", True),
        ("0.1.0", True),
        ("0.4.3", True),
        ("0.4.99", True),
        ("0.4.3-rc.1", True),
        ("0.5.0", False),
        ("0.5.0-rc.1", False),
        ("1.0.0", False),
        ("1.0.0+build", False),
    ],
)
def test_only_a_newer_protocol_is_refused(version: str, accepted: bool) -> None:
    """501 where a major version, or in 0.x a minor one, is beyond ours."""
    path = f"/api/v{version}/user"
    if accepted:
        assert parse(path).kind == "user"
    else:
        with pytest.raises(UnsupportedVersionError):
            parse(path)


@given(
    st.text(max_size=60),
    st.sampled_from(["/", "/api/v0.1.0/", "/api/v0.1.0/u/r/_", "/api/v0.1.0/u/r/_tag/1.0.0/tree/"]),
)
def test_any_path_is_a_target_or_an_error_of_ours(text: str, prefix: str) -> None:
    """Whatever stands in a request line, it means something or is refused."""
    try:
        found = parse(prefix + text)
    except (NotFoundError, MalformedError):
        return
    assert isinstance(found, Target)
