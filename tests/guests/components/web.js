// Answers every request with its path. Built with componentize-js for wasi:http/proxy.
import { IncomingRequest, ResponseOutparam, OutgoingBody, OutgoingResponse, Fields } from 'wasi:http/types@0.2.12';
export const incomingHandler = { handle(req, out) {
  const r = new OutgoingResponse(new Fields()); r.setStatusCode(200);
  const body = r.body(); ResponseOutparam.set(out, { tag: 'ok', val: r });
  const s = body.write(); s.blockingWriteAndFlush(new TextEncoder().encode('js ' + (req.pathWithQuery() || '') + '\n'));
  s[Symbol.dispose](); OutgoingBody.finish(body, undefined);
} };
