"""What both services need of HTTP.

problems  the one table from error families to RFC 9457 problems, and back
app       the stack around the routes: request id, body limit, errors, health, log without secrets
server    uvicorn with TLS and the holes closed; hands the peer's certificate to the request
workers   the same server in several processes
place     where a server listens and what its origin is, from its configuration
client    strict httpx2: https only, limits, errors translated once
log       events with fields, as JSON lines or text
"""
