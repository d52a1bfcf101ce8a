"""Answers every request with its method, its path and the size of its body. Built with componentize-py."""

from componentize_py_types import Ok  # type: ignore[import-not-found]  # made by componentize-py
from wit_world import exports  # type: ignore[import-not-found]  # as above
from wit_world.imports.types import (  # type: ignore[import-not-found]  # as above
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)


class IncomingHandler(exports.IncomingHandler):  # type: ignore[misc]  # as above
    def handle(self, request: IncomingRequest, out: ResponseOutparam) -> None:
        size = 0
        with request.consume() as body, body.stream() as stream:
            while True:
                try:
                    size += len(stream.blocking_read(65536))
                except Exception:  # noqa: BLE001 - the end of a stream is an error of a type made by componentize-py
                    break
        response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
        answer = response.body()
        ResponseOutparam.set(out, Ok(response))
        with answer.write() as to:
            to.blocking_write_and_flush(f"{request.method()} {request.path_with_query()} {size}\n".encode())
        OutgoingBody.finish(answer, None)
