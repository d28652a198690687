// Passkeys between this server's JSON and the browser's WebAuthn, which wants bytes.

const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
  .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

/** Whether this browser has passkeys at all. */
export const arePossible = () => Boolean(window.PublicKeyCredential);

/** Make a passkey by the server's options; what the server is told of it. */
export async function makePasskey(options) {
  const made = await asked(() => navigator.credentials.create({ publicKey: {
    ...options,
    challenge: bytes(options.challenge),
    user: { ...options.user, id: bytes(options.user.id) },
    excludeCredentials: options.excludeCredentials.map((one) => ({ ...one, id: bytes(one.id) })),
  } }));
  return told(made, { attestationObject: text(made.response.attestationObject) });
}

/** Show a passkey by the server's options; what the server is told of it. */
export async function showPasskey(options) {
  const shown = await asked(() => navigator.credentials.get({
    publicKey: { ...options, challenge: bytes(options.challenge), allowCredentials: [] },
  }));
  const { authenticatorData, signature, userHandle } = shown.response;
  return told(shown, {
    authenticatorData: text(authenticatorData), signature: text(signature), userHandle: userHandle && text(userHandle),
  });
}

const told = (credential, response) => ({
  id: credential.id,
  rawId: text(credential.rawId),
  type: credential.type,
  response: { clientDataJSON: text(credential.response.clientDataJSON), ...response },
});

async function asked(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name === "InvalidStateError") throw new Error("This device has a passkey for your account already.");
    if (error.name === "SecurityError") throw new Error("Passkeys do not hold for this address. Open central by its name.");
    throw new Error("Nothing came of it: no passkey was used. Try again.");
  }
}
