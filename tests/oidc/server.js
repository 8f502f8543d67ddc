// oidc-provider on a free loopback port: a real OpenID Connect server. Around it: people who log in by their name alone, and
// `/control` for what a test changes: people, keys, lifetimes.
import http from "node:http";
import { generateKeyPairSync, randomUUID } from "node:crypto";
import Provider from "oidc-provider";

const people = new Map(); // name -> claims
let nonceInDeviceFlow = false; // as Keycloak does; oidc-provider leaves it out
let away = false;
let keysAsked = 0;
let kinds = ["RS256"];
let provider;
let callback;
let keys = [];
let issuer;

function key(alg) {
  const [kind, options] = { RS256: ["rsa", { modulusLength: 2048 }], ES256: ["ec", { namedCurve: "P-256" }], EdDSA: ["ed25519", {}] }[alg];
  const { privateKey } = generateKeyPairSync(kind, options);
  return { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg };
}

function client(id, alg, more = {}) {
  return {
    client_id: id,
    application_type: "native",
    token_endpoint_auth_method: "none",
    redirect_uris: ["http://127.0.0.1/callback"],
    grant_types: ["authorization_code", "urn:ietf:params:oauth:grant-type:device_code"],
    response_types: ["code"],
    id_token_signed_response_alg: alg,
    ...more,
  };
}

// The keys of a provider are fixed when it is made; a rotation makes another one, with the same issuer and adapter.
function start(lifetimes = {}) {
  provider = new Provider(issuer, {
    jwks: { keys },
    clients: [
      client("remit-cli", kinds[0]),
      client("other-app", kinds[0]),
      client("remit-worker", kinds[0], {
        application_type: "web",
        token_endpoint_auth_method: "client_secret_basic",
        client_secret: "a secret: with+odd%letters",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
      }),
    ],
    claims: { openid: ["sub", "roles", "realm_access", "https://remit.example/roles"], email: ["email", "email_verified"], profile: ["name"] },
    conformIdTokenClaims: false,
    enabledJWA: { idTokenSigningAlgValues: ["RS256", "ES256", "EdDSA", "HS256"] },
    features: {
      devInteractions: { enabled: false },
      deviceFlow: { enabled: true, successSource: (ctx) => (ctx.body = "done") },
      clientCredentials: { enabled: true },
      resourceIndicators: { enabled: false },
    },
    pkce: { required: () => true },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, ...people.get(id) }) }),
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    ttl: { IdToken: 600, AccessToken: 600, ClientCredentials: 600, Interaction: 600, Session: 600, Grant: 600, DeviceCode: 600, ...lifetimes },
    cookies: { keys: ["of a test"] },
  });
  callback = provider.callback();
}

// Asks who you are; the answer is the name, and all that the client asked for is granted.
async function interaction(request, response) {
  const details = await provider.interactionDetails(request, response);
  if (request.method === "GET") {
    response.setHeader("content-type", "text/html");
    return response.end('<form method="post"><input name="name"></form>');
  }
  const name = new URLSearchParams(await read(request)).get("name");
  if (!people.has(name)) {
    return provider.interactionFinished(request, response, { error: "access_denied", error_description: "nobody" }, { mergeWithLastSubmission: false });
  }
  const grant = new provider.Grant({ accountId: name, clientId: details.params.client_id });
  grant.addOIDCScope(details.params.scope);
  const grantId = await grant.save();
  if (details.deviceCode && nonceInDeviceFlow) {
    const code = await provider.DeviceCode.find(details.deviceCode, { ignoreSessionBinding: true });
    code.nonce = code.params.nonce;
    await code.save();
  }
  await provider.interactionFinished(request, response, { login: { accountId: name }, consent: { grantId } }, { mergeWithLastSubmission: false });
}

async function read(request) {
  let body = "";
  for await (const part of request) body += part;
  return body;
}

async function control(request, response) {
  const given = JSON.parse((await read(request)) || "{}");
  const what = request.url.slice("/control/".length);
  if (what === "person") given.claims ? people.set(given.name, given.claims) : people.delete(given.name);
  else if (what === "rotate") {
    kinds = [given.alg ?? "RS256"];
    keys = [key(kinds[0]), ...(given.keep ? keys : [])];
    start(given.lifetimes);
  } else if (what === "device") nonceInDeviceFlow = given.nonce;
  else if (what === "away") away = given.away;
  else if (what === "asked") return response.end(JSON.stringify(keysAsked));
  else if (what === "keys") return response.end(JSON.stringify(keys));
  response.end("{}");
}

const server = http.createServer(async (request, response) => {
  try {
    if (request.url.startsWith("/control/")) return await control(request, response);
    if (request.url === "/jwks") keysAsked += 1;
    if (away) return request.socket.destroy();
    if (request.url.startsWith("/interaction/")) return await interaction(request, response);
    return callback(request, response);
  } catch (error) {
    response.statusCode = 500;
    response.end(String(error));
  }
});

server.listen(0, "127.0.0.1", () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  keys = [key("RS256")];
  start();
  console.log(`listening on ${issuer}`);
});
