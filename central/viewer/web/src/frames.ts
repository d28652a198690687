// From a series' metadata to the stack a person scrolls through.
//
// A stack is a list of frames in anatomical order. Instances that hold no picture this viewer can draw (reports,
// encapsulated PDF, presentation states, video) are left out and counted, so that the page can say so.
import { type JsonDataset, Tag, items, number, numbers, text } from './dicom_json';
import { frameImageId, isUid } from './dicomweb';
import { whyNotDrawable } from './pixel_form';

/** One frame of one instance, with the functional groups that apply to it already merged in. */
export interface Frame {
  readonly imageId: string;
  readonly dataset: JsonDataset;
  readonly frameNumber: number;
  readonly numberOfFrames: number;
}

export interface Stack {
  readonly seriesUid: string;
  readonly frames: readonly Frame[];
  /** What was left out, in words: "1 document or report". */
  readonly leftOut: readonly string[];
}

/** Series of these modalities never hold pictures (PS3.3 section C.7.3.1.1.1). */
const NON_IMAGE_MODALITIES = new Set([
  'AU', 'DOC', 'ECG', 'EPS', 'FID', 'HD', 'KO', 'PLAN', 'PR', 'REG', 'RESP', 'RTPLAN', 'RTRECORD', 'RTSTRUCT', 'SMR',
  'SR', 'TEXTUREMAP', 'M3D',
]);

const IN_WORDS = {
  document: ['document or report', 'documents or reports'],
  video: ['video', 'videos'],
  segmentation: ['segmentation', 'segmentations'],
  unusual: ['image in a form this viewer cannot draw', 'images in a form this viewer cannot draw'],
} as const;

export function mayHoldPictures(series: JsonDataset): boolean {
  return !NON_IMAGE_MODALITIES.has(text(series, Tag.Modality));
}

/** Sort, expand multi-frame instances, and set aside what cannot be drawn. */
export function buildStack(studyUid: string, seriesUid: string, metadata: readonly JsonDataset[]): Stack {
  const drawable: JsonDataset[] = [];
  const counts = new Map<keyof typeof IN_WORDS, number>();
  for (const dataset of metadata) {
    const reason = isUid(text(dataset, Tag.SOPInstanceUID))
      ? whyNotDrawable(dataset, text(dataset, Tag.AvailableTransferSyntaxUID))
      : 'unusual';
    if (reason === undefined) drawable.push(dataset);
    else counts.set(reason, (counts.get(reason) ?? 0) + 1);
  }
  const frames = inOrder(drawable).flatMap((dataset) => framesOf(studyUid, seriesUid, dataset));
  const leftOut = [...counts].map(([reason, count]) => `${count} ${IN_WORDS[reason][count === 1 ? 0 : 1]}`);
  return { seriesUid, frames, leftOut };
}

function framesOf(studyUid: string, seriesUid: string, dataset: JsonDataset): Frame[] {
  const sopInstanceUid = text(dataset, Tag.SOPInstanceUID);
  const numberOfFrames = Math.max(1, Math.floor(number(dataset, Tag.NumberOfFrames) ?? 1));
  const perFrame = items(dataset, Tag.PerFrameFunctionalGroupsSequence);
  const shared = items(dataset, Tag.SharedFunctionalGroupsSequence)[0];
  return Array.from({ length: numberOfFrames }, (_, index) => ({
    imageId: frameImageId(studyUid, seriesUid, sopInstanceUid, index + 1),
    dataset: mergeGroups(dataset, shared, perFrame[index]),
    frameNumber: index + 1,
    numberOfFrames,
  }));
}

/** Enhanced objects keep geometry and grey-scale one level down, in functional group macros (PS3.3 C.7.6.16). */
function mergeGroups(
  dataset: JsonDataset,
  shared: JsonDataset | undefined,
  perFrame: JsonDataset | undefined,
): JsonDataset {
  if (shared === undefined && perFrame === undefined) return dataset;
  const merged: Record<string, JsonDataset[string]> = { ...dataset };
  for (const groups of [shared, perFrame]) {
    for (const macro of Object.keys(groups ?? {})) Object.assign(merged, items(groups ?? {}, macro)[0]);
  }
  return merged;
}

/** By position along the normal where every slice has its own place on one axis, else by Instance Number. */
function inOrder(instances: readonly JsonDataset[]): JsonDataset[] {
  const byNumber = [...instances].sort(
    (a, b) =>
      (number(a, Tag.InstanceNumber) ?? Infinity) - (number(b, Tag.InstanceNumber) ?? Infinity) ||
      text(a, Tag.SOPInstanceUID).localeCompare(text(b, Tag.SOPInstanceUID)),
  );
  const places = placesAlongNormal(byNumber);
  if (places === undefined) return byNumber;
  const order = byNumber.map((_, index) => index).sort((a, b) => (places[a] ?? 0) - (places[b] ?? 0));
  // The scanner's own direction of reading is kept: only gaps and jumps in its numbering are repaired.
  if ((places[0] ?? 0) > (places[places.length - 1] ?? 0)) order.reverse();
  return order.map((index) => byNumber[index]).filter((instance) => instance !== undefined);
}

/** Distance of each slice along the common normal in mm; undefined unless parallel and all different. */
function placesAlongNormal(instances: readonly JsonDataset[]): number[] | undefined {
  const first = instances[0] && numbers(instances[0], Tag.ImageOrientationPatient, 6);
  if (first === undefined || instances.length < 2) return undefined;
  const [rx = 0, ry = 0, rz = 0, cx = 0, cy = 0, cz = 0] = first;
  const normal = [ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx];
  const places: number[] = [];
  for (const instance of instances) {
    const position = numbers(instance, Tag.ImagePositionPatient, 3);
    const orientation = numbers(instance, Tag.ImageOrientationPatient, 6);
    if (position === undefined || orientation === undefined) return undefined;
    if (orientation.some((cosine, index) => Math.abs(cosine - (first[index] ?? 0)) > 1e-3)) return undefined;
    places.push(position.reduce((sum, value, axis) => sum + value * (normal[axis] ?? 0), 0));
  }
  const distinct = new Set(places.map((place) => place.toFixed(2)));
  return distinct.size === places.length ? places : undefined;
}
