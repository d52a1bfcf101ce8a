// Answers every request with its path. For GET /ask/PORT/PATH it sends "ping" to localhost:PORT first, and answers with
// what came back. Built with componentize-js.
import { Fields, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam } from 'wasi:http/types@0.2.0';
import { handle } from 'wasi:http/outgoing-handler@0.2.0';

function say(body, text) {
  const stream = body.write();
  stream.blockingWriteAndFlush(new TextEncoder().encode(text));
  stream[Symbol.dispose]();
  OutgoingBody.finish(body, undefined);
}

function ask(port, path) {
  const request = new OutgoingRequest(new Fields());
  request.setMethod({ tag: 'post' });
  request.setScheme({ tag: 'HTTP' });
  request.setAuthority('localhost:' + port);
  request.setPathWithQuery('/' + path);
  const body = request.body();
  const future = handle(request, undefined);
  say(body, 'ping');
  const ready = future.subscribe();
  ready.block();
  ready[Symbol.dispose]();
  const response = future.get().val.val;
  const stream = response.consume().stream();
  let text = response.status() + ' ';
  try {
    for (;;) text += new TextDecoder().decode(stream.blockingRead(1000n));
  } catch {
    return text; // the end of the stream
  }
}

function answer(path) {
  const [, what, port, rest] = path.split('/');
  if (what !== 'ask') return 'js ' + path;
  try {
    return ask(port, rest);
  } catch (error) {
    return 'error ' + JSON.stringify(error.payload || String(error));
  }
}

export const incomingHandler = {
  handle(request, out) {
    const response = new OutgoingResponse(new Fields());
    const body = response.body();
    ResponseOutparam.set(out, { tag: 'ok', val: response });
    say(body, answer(request.pathWithQuery() || '') + '\n');
  },
};
