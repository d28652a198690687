// A certified OpenID provider for tests, on loopback. argv: a JSON object with port, redirect_uri,
// back_to, backchannel_logout_uri, secret, auth_method and jwks.
// Whoever signs on as `name` has the claims that the object's `people` says.

import { Provider } from "oidc-provider";

const { port, redirect_uri, back_to, backchannel_logout_uri, secret, auth_method, jwks, people } = JSON.parse(
  process.argv[2],
);

const provider = new Provider(`http://localhost:${port}`, {
  clients: [{
    client_id: "central", client_secret: secret, redirect_uris: [redirect_uri], post_logout_redirect_uris: [back_to],
    backchannel_logout_uri, backchannel_logout_session_required: true, token_endpoint_auth_method: auth_method,
  }],
  clientAuthMethods: [auth_method],
  jwks,
  cookies: { keys: ["of no matter"] },
  pkce: { required: () => true },
  scopes: ["openid", "profile"],
  claims: { openid: ["sub"], profile: ["preferred_username", "roles", "national_id", "physician_name"] },
  findAccount: (_context, name) => ({
    accountId: name,
    claims: () => ({ sub: name, preferred_username: name, ...people[name] }),
  }),
  features: { devInteractions: { enabled: true }, backchannelLogout: { enabled: true } },
  // By itself it calls nothing on loopback, where the central of a test is, and waits 2.5 s, which a busy machine may need.
  fetch: (url, { dispatcher, signal, ...options }) => fetch(url, options),
});
provider.listen(port, "127.0.0.1", () => console.log("LISTENING"));
