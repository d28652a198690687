// Taking the one frame out of a multipart/related answer (RFC 2387, PS3.18 section 8.7.3).

export interface Part {
  readonly body: Uint8Array<ArrayBuffer>;
  readonly transferSyntaxUid: string;
}

const HEADER_END = [13, 10, 13, 10];
/** What a part without a transfer syntax is in, by PS3.18 section 8.7.3.3.2. */
const EXPLICIT_VR_LITTLE_ENDIAN = '1.2.840.10008.1.2.1';

/** The first part of a body, or the body itself when it is not multipart; undefined when it is malformed. */
export function firstPart(contentType: string, body: Uint8Array<ArrayBuffer>): Part | undefined {
  if (!/^multipart\//i.test(contentType)) return { body, transferSyntaxUid: transferSyntax(contentType) };
  const boundary = parameter(contentType, 'boundary');
  const headerEnd = indexOf(body, HEADER_END, 0);
  if (boundary === undefined || headerEnd < 0) return undefined;
  const headers = new TextDecoder('latin1').decode(body.subarray(0, headerEnd));
  const start = headerEnd + HEADER_END.length;
  // From the end: compressed pixels may hold any bytes, the closing delimiter's included.
  const delimiter = [...`\r\n--${boundary}`].map((character) => character.charCodeAt(0));
  const end = lastIndexOf(body, delimiter, start);
  if (end < 0) return undefined;
  const partType = /^content-type:(.*)$/im.exec(headers)?.[1] ?? '';
  return { body: body.slice(start, end), transferSyntaxUid: transferSyntax(partType) };
}

function transferSyntax(contentType: string): string {
  return parameter(contentType, 'transfer-syntax') ?? EXPLICIT_VR_LITTLE_ENDIAN;
}

/** A parameter of a header value, with or without quotes. */
function parameter(header: string, name: string): string | undefined {
  const found = new RegExp(`;\\s*${name}\\s*=\\s*(?:"([^"]*)"|([^;\\s]+))`, 'i').exec(header);
  return found?.[1] ?? found?.[2];
}

function indexOf(bytes: Uint8Array, wanted: readonly number[], from: number): number {
  for (let at = from; at <= bytes.length - wanted.length; at += 1) {
    if (wanted.every((byte, offset) => bytes[at + offset] === byte)) return at;
  }
  return -1;
}

function lastIndexOf(bytes: Uint8Array, wanted: readonly number[], from: number): number {
  for (let at = bytes.length - wanted.length; at >= from; at -= 1) {
    if (wanted.every((byte, offset) => bytes[at + offset] === byte)) return at;
  }
  return -1;
}
