// The viewer's only way out: DICOMweb on its own origin, with the browser's session cookie.
//
// No address, token or credential is ever put together here: a UID in the path is all the page knows. Every
// failure becomes one `ArchiveError` that says in plain words what happened and what to do next.
import { type JsonDataset, Tag, text } from './dicom_json';
import { type Part, firstPart } from './multipart';

const ROOT = '/dicom-web';
const DICOM_JSON = 'application/dicom+json';
const FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax';
/** The part of an image id before the colon: frames with this scheme are loaded by frame_loader.ts. */
export const FRAME_SCHEME = 'dicomweb';
/** A UID is digits and dots, at most 64 characters (PS3.5 section 9.1). */
const UID = /^[0-9.]{1,64}$/;

export type Failure = 'signed-out' | 'not-here' | 'unreachable' | 'broken' | 'undrawable';

/** An answer that is not the data asked for. `message` is written for the person at the screen. */
export class ArchiveError extends Error {
  constructor(
    readonly failure: Failure,
    message: string,
    readonly httpStatus?: number,
  ) {
    super(message);
    this.name = 'ArchiveError';
  }
}

export function isUid(value: string): boolean {
  return UID.test(value);
}

/** Study attributes (QIDO-RS, PS3.18 section 10.6); a study one may not see is simply not found. */
export async function fetchStudy(studyUid: string): Promise<JsonDataset> {
  const studies = await getJson(`${ROOT}/studies?StudyInstanceUID=${encodeURIComponent(studyUid)}`);
  const study = studies.find((candidate) => text(candidate, Tag.StudyInstanceUID) === studyUid);
  if (study === undefined) throw errorForStatus(404);
  return study;
}

/** The study's series, in no particular order. */
export function fetchSeries(studyUid: string): Promise<JsonDataset[]> {
  return getJson(`${ROOT}/studies/${studyUid}/series?limit=1000`);
}

/** One data set an instance, without pixels (WADO-RS metadata, PS3.18 section 10.4.1.1.2). */
export function fetchMetadata(studyUid: string, seriesUid: string): Promise<JsonDataset[]> {
  return getJson(`${ROOT}/studies/${studyUid}/series/${seriesUid}/metadata`);
}

/** Bulk data that was too large for the metadata, such as a 16-bit colour table. */
export async function fetchBulkData(uri: string): Promise<Uint8Array> {
  // Only a path of this very archive: a BulkDataURI comes out of a data set and may say anything.
  const address = new URL(uri, window.location.origin);
  if (address.origin !== window.location.origin || !address.pathname.startsWith(`${ROOT}/`)) {
    throw new ArchiveError('broken', 'Part of this image lies outside the archive and was not loaded.');
  }
  const response = await request(address.pathname, 'application/octet-stream');
  return new Uint8Array(await response.arrayBuffer());
}

/** Where the server draws a small picture of a series (PS3.18 section 10.4.1.1.4). */
export function thumbnailUrl(studyUid: string, seriesUid: string): string {
  return `${ROOT}/studies/${studyUid}/series/${seriesUid}/thumbnail`;
}

/** Cornerstone's name for one frame; `frame` counts from 1. What follows the colon is where WADO-RS keeps it. */
export function frameImageId(studyUid: string, seriesUid: string, sopInstanceUid: string, frame: number): string {
  return `${FRAME_SCHEME}:${ROOT}/studies/${studyUid}/series/${seriesUid}/instances/${sopInstanceUid}/frames/${frame}`;
}

/**
 * One frame (PS3.18 section 10.4.1.1.6), in the transfer syntax it is stored in, or rather in another one.
 *
 * Where central cannot give the other one, or not soon, the frame comes as it is stored.
 */
export async function fetchFrame(imageId: string, rather?: string): Promise<Part> {
  const accept = rather === undefined ? `${FRAMES}=*` : `${FRAMES}=${rather}, ${FRAMES}=*; q=0.5`;
  const response = await request(imageId.slice(FRAME_SCHEME.length + 1), accept);
  const part = firstPart(response.headers.get('Content-Type') ?? '', new Uint8Array(await response.arrayBuffer()));
  if (part === undefined) throw unreadable();
  return part;
}

/** What an HTTP status means to the person at the screen. */
export function errorForStatus(status: number): ArchiveError {
  switch (status) {
    case 401:
      return new ArchiveError('signed-out', 'Your session has ended. Please sign in again.', status);
    case 403:
    case 404:
      // Absent and forbidden look alike on purpose, here as in the archive.
      return new ArchiveError('not-here', 'This study is not here, or you may not see it.', status);
    case 429:
    case 503:
      return new ArchiveError('broken', 'The archive is busy. Wait a moment, then try again.', status);
    default:
      return new ArchiveError(
        'broken',
        `The archive could not answer (status ${status}). Try again; if it stays so, tell the administrator.`,
        status,
      );
  }
}

async function getJson(path: string): Promise<JsonDataset[]> {
  const response = await request(path, DICOM_JSON);
  if (response.status === 204) return [];
  try {
    const body: unknown = await response.json();
    if (Array.isArray(body)) return body as JsonDataset[];
  } catch {
    // Falls through: a body that is no JSON and a body that is no list are the same fault.
  }
  throw unreadable();
}

function unreadable(): ArchiveError {
  return new ArchiveError('broken', 'The archive sent an answer this viewer cannot read. Tell the administrator.');
}

async function request(path: string, accept: string): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { headers: { Accept: accept }, credentials: 'same-origin', redirect: 'error' });
  } catch {
    throw new ArchiveError('unreachable', 'The archive does not answer. Check the network, then try again.');
  }
  if (!response.ok) throw errorForStatus(response.status);
  return response;
}
