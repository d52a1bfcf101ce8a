// A certified OpenID provider on loopback. usage: node provider.mjs PORT AUDIENCE
// POST /test/turn {"audience": text, "clock": seconds} makes it sign with a new key from then on, for that audience,
// with a clock that is so much off.
// The port is printed once it listens. PORT 0 takes a free one.
import http from 'node:http';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import Provider from 'oidc-provider';

const [port, audience] = process.argv.slice(2);
const scope = 'users repositories tags'.split(' ').map((name) => `manage:drawbridge_${name}`).join(' ');
const ttl = 600;
const now = Date.now;

function provider(issuer, { audience: aud = audience, clock = 0 } = {}) {
  Date.now = () => now() + clock * 1000;
  const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const keys = [{ ...pair.privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'ES256' }];
  const made = new Provider(issuer, {
    jwks: { keys },
    clients: [
      {
        client_id: 'enarx',
        token_endpoint_auth_method: 'none',
        grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: 'ES256',
      },
      {
        client_id: 'ci',
        client_secret: 'hush',
        token_endpoint_auth_method: 'client_secret_basic',
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: 'ES256',
      },
    ],
    scopes: ['openid', 'offline_access', 'profile'],
    ttl: { AccessToken: ttl, ClientCredentials: ttl },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    features: {
      deviceFlow: { enabled: true },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'https://resource.example',
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope,
          audience: aud,
          accessTokenTTL: ttl,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  });
  made.on('server_error', (_, error) => console.error(error));
  return made;
}

let current;
const server = http.createServer((request, response) => {
  if (request.url !== '/test/turn') return current.callback()(request, response);
  let body = '';
  request.on('data', (chunk) => { body += chunk; });
  request.on('end', () => {
    current = provider(current.issuer, JSON.parse(body));
    response.writeHead(204).end();
  });
});
server.listen(Number(port), '127.0.0.1', () => {
  current = provider(`http://127.0.0.1:${server.address().port}`);
  console.log(server.address().port);
});
