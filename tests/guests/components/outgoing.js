// GET /PORT/PATH sends "ping" to localhost:PORT and answers with what came back. Built with componentize-js.
import { ResponseOutparam, OutgoingBody, OutgoingResponse, Fields, OutgoingRequest } from 'wasi:http/types@0.2.12';
import { handle } from 'wasi:http/outgoing-handler@0.2.12';
export const incomingHandler = { handle(req, out) {
  const [port, path] = req.pathWithQuery().slice(1).split('/');
  let text = '';
  try {
    const o = new OutgoingRequest(new Fields());
    o.setMethod({tag:'post'}); o.setScheme({tag:'HTTP'}); o.setAuthority('localhost:' + port); o.setPathWithQuery('/' + path);
    const ob = o.body(); const w = ob.write(); w.blockingWriteAndFlush(new TextEncoder().encode('ping')); w[Symbol.dispose](); 
    const f = handle(o, undefined);
    OutgoingBody.finish(ob, undefined);
    const p = f.subscribe(); p.block(); p[Symbol.dispose]();
    const r = f.get().val.val;
    text = r.status() + ' ';
    const b = r.consume(); const s = b.stream();
    try { for (;;) text += new TextDecoder().decode(s.blockingRead(1000n)); } catch (e) {}
  } catch (e) { text = 'error ' + JSON.stringify(e.payload || String(e)); }
  const r = new OutgoingResponse(new Fields()); const body = r.body(); ResponseOutparam.set(out, { tag: 'ok', val: r });
  const s = body.write(); s.blockingWriteAndFlush(new TextEncoder().encode(text + '\n'));
  s[Symbol.dispose](); OutgoingBody.finish(body, undefined);
} };
