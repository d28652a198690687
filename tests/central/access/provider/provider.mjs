// A certified OpenID provider for tests, on loopback. argv: a JSON object with port, redirect_uri, back_to, secret and jwks.
// Whoever signs on as `name` has the claims that the object's `people` says.

import { Provider } from "oidc-provider";

const { port, redirect_uri, back_to, secret, jwks, people } = JSON.parse(process.argv[2]);

const provider = new Provider(`http://localhost:${port}`, {
  clients: [{
    client_id: "central", client_secret: secret, redirect_uris: [redirect_uri], post_logout_redirect_uris: [back_to],
  }],
  jwks,
  cookies: { keys: ["of no matter"] },
  pkce: { required: () => true },
  scopes: ["openid", "profile"],
  claims: { openid: ["sub"], profile: ["preferred_username", "roles", "national_id", "physician_name"] },
  findAccount: (_context, name) => ({
    accountId: name,
    claims: () => ({ sub: name, preferred_username: name, ...people[name] }),
  }),
  features: { devInteractions: { enabled: true } },
});
provider.listen(port, "127.0.0.1", () => console.log("LISTENING"));
