"""The OpenAPI 3.1 description of Drawbridge, made from the table of routes, so that neither has what the other lacks.

It is served at `/openapi.json`, and a test holds the server to it: no answer that is not described, no 500.
"""

from collections.abc import Mapping
from typing import Any, Final

from enarx import __version__
from enarx.attested.relying import MAX_AGE, TCB_STATUSES, TITLES
from enarx.attested.sealing import MEDIA_TYPE as SEALED
from enarx.drawbridge.routes import METHODS, PREFIX, Kind
from enarx.drawbridge.tag import ENTRY_TYPE, JOSE_TYPE
from enarx.drawbridge.tree import DIRECTORY_TYPE
from enarx.web.problems import MEDIA_TYPE as PROBLEM

Json = dict[str, Any]  # Any: a JSON schema has no deeper type

JSON_TYPE: Final = "application/json"
SEMVER: Final = r"^(0|[1-9][0-9]{0,9})\.(0|[1-9][0-9]{0,9})\.(0|[1-9][0-9]{0,9})$"

PATHS: Final[Mapping[Kind, str]] = {
    "user": "/{user}",
    "repository": "/{user}/{repository}",
    "tags": "/{user}/{repository}/_tag",
    "tag": "/{user}/{repository}/_tag/{tag}",
    "tree": "/{user}/{repository}/_tag/{tag}/tree/{path}",
    "search": "/_search",
    "repositories": "/{user}/_repo",
    "members": "/{user}/{repository}/_member",
    "member": "/{user}/{repository}/_member/{label}",
    "policy": "/{user}/{repository}/_policy",
    "policy-test": "/{user}/{repository}/_policy/test",
    "tokens": "/{user}/{repository}/_token",
    "token": "/{user}/{repository}/_token/{label}",
    "yank": "/{user}/{repository}/_yank/{tag}",
    "signers": "/{user}/{repository}/_signer",
    "log": "/{user}/{repository}/_log",
}
MORE_PATHS: Final[Mapping[str, Kind]] = {
    "/{user}/_log": "log",
    "/{user}/_member": "members",
    "/{user}/_member/{label}": "member",
    "/{user}/{repository}/_tag/{tag}/tree": "tree",
}
SUMMARIES: Final[Mapping[Kind, str]] = {
    "user": "The record of a user name: to which subject it belongs",
    "repository": "The record of a repository: public or not",
    "tags": "The versions of a repository, in the order of their precedence",
    "tag": "What a version is bound to: the entry of its tree's root, signed or not",
    "tree": "A directory listing or a file; sealed for a Keep whose certificate names a sealing key",
    "search": "Repositories whose names hold the words: public ones, and the asker's",
    "repositories": "Repositories of a user name: public ones, and the asker's",
    "members": "Who has which role",
    "member": "One member: role, and a user, a subject, or a pattern of claims",
    "policy": "The release policy: which Keeps the repository is released to",
    "policy-test": "Whether the policy would release to the Keep of a certificate, and why not",
    "tokens": "Deploy tokens, without their secrets",
    "token": "One deploy token",
    "yank": "Whether a version was taken back, and why",
    "signers": "The keys of which one has to have signed every new tag",
    "log": "Who changed what, and when: a chain that can be checked",
}

_TEXT: Final = {"type": "string"}
_HASH: Final = {"type": "string", "pattern": "^([0-9a-fA-F]{64}|[0-9a-fA-F]{96}|[0-9a-fA-F]{128})$"}
_DIGESTS: Final[Json] = {
    "type": "object",
    "properties": {
        name: {"type": "string", "contentEncoding": "base64"} for name in ("sha-224", "sha-256", "sha-384", "sha-512")
    },
    "additionalProperties": False,
}
SCHEMAS: Final[Mapping[str, Json]] = {
    "User": {
        "type": "object",
        "properties": {"subject": {"type": "string", "minLength": 1, "maxLength": 1000}},
        "required": ["subject"],
        "additionalProperties": False,
    },
    "Repository": {
        "type": "object",
        "properties": {"public": {"type": "boolean"}},
        "required": ["public"],
        "additionalProperties": False,
    },
    "Entry": {
        "type": "object",
        "properties": {"digest": _DIGESTS, "length": {"type": "integer", "minimum": 0}, "type": _TEXT},
        "required": ["digest", "length", "type"],
    },
    "Directory": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/Entry"}},
    "Signed": {"type": "object", "description": "A JWS in its general or flattened JSON form (RFC 7515, 7.2)"},
    "Tags": {"type": "array", "items": _TEXT},
    "Found": {
        "type": "object",
        "properties": {
            "repositories": {"type": "array", "items": {"type": "object"}},
            "after": {"type": ["string", "null"]},
        },
        "required": ["repositories"],
    },
    "Members": {
        "type": "object",
        "properties": {
            "owner": {"type": ["object", "null"]},
            "members": {"type": "array", "items": {"type": "object"}},
        },
        "required": ["owner", "members"],
    },
    "Member": {
        "type": "object",
        "properties": {
            "name": _TEXT,
            "role": {"enum": ["reader", "publisher", "owner"]},
            "user": _TEXT,
            "issuer": _TEXT,
            "subject": _TEXT,
            "claims": {"type": "object", "additionalProperties": _TEXT},
        },
        "required": ["role"],
    },
    "Policy": {
        "type": "object",
        "properties": {
            "technologies": {"type": "array", "items": {"enum": list(TITLES)}},
            "measurements": {"type": "array", "items": _HASH},
            "signers": {"type": "array", "items": _HASH},
            "tcb_statuses": {"type": "array", "items": {"enum": list(TCB_STATUSES)}},
            "trust_domains": {"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9._-]{1,255}$"}},
            "max_age_seconds": {"type": "integer", "minimum": 1, "maximum": MAX_AGE},
            "require_token": {"type": "boolean"},
            "steward": _TEXT,
            "unsafe": {
                "type": "object",
                "properties": {f"accept_{name}": {"type": "boolean"} for name in ("simulated", "nil", "debug")},
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    },
    "PolicyShown": {
        "type": "object",
        "properties": {"policy": {"type": ["object", "null"]}, "sentences": {"type": "array", "items": _TEXT}},
        "required": ["policy", "sentences"],
    },
    "Verdict": {
        "type": "object",
        "properties": {
            "accepted": {"type": "boolean"},
            "reasons": {"type": "array", "items": _TEXT},
            "keep": {"type": ["object", "null"]},
        },
        "required": ["accepted", "reasons", "keep"],
    },
    "TokenOrder": {
        "type": "object",
        "properties": {
            "tag": _TEXT,
            "digest": _TEXT,
            "lifetime": {"type": "integer", "minimum": 1},
            "uses": {"type": ["integer", "null"], "minimum": 1},
            "label": _TEXT,
        },
        "additionalProperties": False,
    },
    "Token": {
        "type": "object",
        "properties": {"id": _TEXT, "token": {"type": "string", "description": "Shown this once"}},
        "required": ["id"],
    },
    "Tokens": {
        "type": "object",
        "properties": {"tokens": {"type": "array", "items": {"$ref": "#/components/schemas/Token"}}},
        "required": ["tokens"],
    },
    "Yanked": {"type": "object", "properties": {"yanked": {"type": ["string", "null"]}}, "required": ["yanked"]},
    "Reason": {
        "type": "object",
        "properties": {"reason": {"type": "string", "maxLength": 500}},
        "additionalProperties": False,
    },
    "Signers": {
        "type": "object",
        "properties": {"signers": {"type": "array", "items": {"type": "object"}}},
        "required": ["signers"],
    },
    "SignersSet": {"type": "object", "additionalProperties": _TEXT},
    "Log": {
        "type": "object",
        "properties": {"changes": {"type": "array", "items": {"type": "object"}}},
        "required": ["changes"],
    },
    "Problem": {
        "type": "object",
        "properties": {"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT},
        "required": ["type", "title", "status", "detail"],
    },
}

_READ: Final[Mapping[Kind, Mapping[str, str]]] = {
    "user": {JSON_TYPE: "User"},
    "repository": {JSON_TYPE: "Repository"},
    "tags": {JSON_TYPE: "Tags"},
    "tag": {ENTRY_TYPE: "Entry", JOSE_TYPE: "Signed"},
    "search": {JSON_TYPE: "Found"},
    "repositories": {JSON_TYPE: "Found"},
    "members": {JSON_TYPE: "Members"},
    "member": {JSON_TYPE: "Member"},
    "policy": {JSON_TYPE: "PolicyShown"},
    "tokens": {JSON_TYPE: "Tokens"},
    "token": {JSON_TYPE: "Token"},
    "yank": {JSON_TYPE: "Yanked"},
    "signers": {JSON_TYPE: "Signers"},
    "log": {JSON_TYPE: "Log"},
}
_WRITTEN: Final[Mapping[Kind, Mapping[str, str]]] = {
    "user": {JSON_TYPE: "User"},
    "repository": {JSON_TYPE: "Repository"},
    "tag": {ENTRY_TYPE: "Entry", JOSE_TYPE: "Signed"},
    "member": {JSON_TYPE: "Member"},
    "policy": {JSON_TYPE: "Policy", "application/toml": ""},
    "policy-test": {"application/x-pem-file": ""},
    "tokens": {JSON_TYPE: "TokenOrder"},
    "yank": {JSON_TYPE: "Reason"},
    "signers": {JSON_TYPE: "SignersSet"},
}
_REFUSALS: Final = {
    "400": "Something in the request is malformed",
    "401": "No token, a wrong one, one without the scope, or nothing that the asker may know of",
    "403": "A genuine certificate that does not open this",
    "404": "Nothing there, said to who belongs to the name space",
    "405": "Not a method of this resource",
    "412": "What is here is not what If-Match or If-None-Match expects",
    "408": "The body came too slowly",
    "413": "Too large",
    "429": "Too often; Retry-After says when to come back",
    "501": "A newer protocol than ours",
    "503": "Storage, an issuer or a revocation list is not at hand",
}
_WRITE_REFUSALS: Final = {
    "409": "There already, and not the same",
    "415": "Another media type than this resource has, or a Content-Encoding",
    "422": "JSON that is not the record it should be",
}


def document(origin: str) -> Json:
    """The whole description, for the server at `origin`."""
    paths: Json = {PREFIX + path: _item(kind, path) for kind, path in PATHS.items()}
    paths |= {PREFIX + path: _item(kind, path) for path, kind in MORE_PATHS.items()}
    ok = {"200": {"description": "It serves"}}
    paths["/health"] = {"get": {"summary": "Whether it is there", "responses": ok, "security": []}}
    ready = {
        "200": _answer("Every request can be answered", {JSON_TYPE: ""}),
        "503": _answer("Not now", {JSON_TYPE: "", "text/plain": ""}),
    }
    paths["/ready"] = {"get": {"summary": "Whether it can do its work", "responses": ready, "security": []}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Drawbridge",
            "version": __version__,
            "description": "A registry whose answers can be checked, and that releases private packages to attested Keeps alone.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": origin}],
        "security": [{}, {"token": []}, {"certificate": []}],
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An access token of a trusted issuer, or a deploy token",
                },
                "certificate": {"type": "mutualTLS", "description": "A Keep's certificate by a trusted Steward"},
            },
        },
    }


def _item(kind: Kind, path: str) -> Json:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters = [_parameter(name) for name in names]
    return {"parameters": parameters, **{method.lower(): _operation(kind, method, path) for method in METHODS[kind]}}


def _parameter(name: str) -> Json:
    schemas: Mapping[str, Json] = {
        "user": {"type": "string", "pattern": "^[0-9A-Za-z]+$", "maxLength": 255},
        "repository": {"type": "string", "pattern": "^[0-9A-Za-z-]+$", "maxLength": 255},
        "tag": {"type": "string", "pattern": SEMVER, "description": "SemVer 2.0.0"},
        "path": {"type": "string", "pattern": "^[0-9A-Za-z_-]+$", "description": "Names joined by slashes"},
        "label": {"type": "string", "pattern": "^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$"},
    }
    return {"name": name, "in": "path", "required": True, "schema": schemas[name]}


def _operation(kind: Kind, method: str, path: str) -> Json:
    operation: Json = {
        "summary": SUMMARIES[kind],
        "operationId": f"{method.lower()}{path.replace('/', '-').replace('{', '').replace('}', '')}",
        "responses": {**_successes(kind, method), **_refusals(method)},
    }
    if kind == "search":
        operation["parameters"] = [
            {
                "name": name,
                "in": "query",
                "schema": {"type": "integer", "minimum": 1, "maximum": 100} if name == "limit" else _TEXT,
            }
            for name in ("q", "after", "limit")
        ]
    if method in {"PUT", "POST"}:
        content = {JSON_TYPE: {}, DIRECTORY_TYPE: {}, "*/*": {}} if kind == "tree" else _content(_WRITTEN[kind])
        operation["requestBody"] = {"required": True, "content": content}
        if kind in {"user", "repository", "tag", "tree"}:
            required = kind in {"tag", "tree"}
            operation["parameters"] = [
                {
                    "name": "Content-Digest",
                    "in": "header",
                    "required": required,
                    "schema": _TEXT,
                    "description": "RFC 9530",
                }
            ]
    return operation


def _successes(kind: Kind, method: str) -> Json:
    if method == "DELETE":
        return {"204": {"description": "Done"}}
    if kind == "tokens" and method == "POST":
        return {"201": _answer("Made", {JSON_TYPE: "Token"})}
    if kind == "policy-test":
        return {"200": _answer("The verdict", {JSON_TYPE: "Verdict"})}
    if method == "PUT":
        found: Json = {"200": {"description": "There already, and the same"}, "201": {"description": "Created"}}
        if kind == "tree":
            found["202"] = {"description": "A part arrived; Upload-Offset says where to go on"}
        return found
    content = {DIRECTORY_TYPE: "Directory", SEALED: "", "*/*": ""} if kind == "tree" else _READ[kind]
    found = {"200": {"description": "Found"} if method == "HEAD" else _answer("Found", content)}
    if kind in {"user", "repository", "tags", "tag", "tree"}:
        found["304"] = {"description": "Not changed"}
    if kind == "tree":
        found |= {"206": {"description": "A range"}, "416": {"description": "A range outside"}}
    return found


def _refusals(method: str) -> Json:
    listed = {**_REFUSALS, **(_WRITE_REFUSALS if method in {"PUT", "POST"} else {})}
    content = {} if method == "HEAD" else {"content": _content({"text/plain": "", PROBLEM: "Problem"})}
    return {code: {"description": told, **content} for code, told in sorted(listed.items())}


def _answer(told: str, content: Mapping[str, str]) -> Json:
    return {"description": told, "content": _content(content)}


def _content(named: Mapping[str, str]) -> Json:
    return {kind: {"schema": {"$ref": f"#/components/schemas/{name}"}} if name else {} for kind, name in named.items()}
