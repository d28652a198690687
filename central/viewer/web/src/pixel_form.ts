// Bringing rare forms of pixel data into one the decoders know, and naming those that stay out of reach.
//
// Cornerstone's loader shows some forms wrongly instead of failing (found by comparing every picture of pydicom's
// test files with pydicom's own reading). A wrong picture is worse than none, so each of them is either put right
// here or refused.
import { type JsonDataset, Tag, number, text } from './dicom_json';

const RLE_LOSSLESS = '1.2.840.10008.1.2.5';
const JPEG_BASELINE = '1.2.840.10008.1.2.4.50';
const JPEG_2000 = /^1\.2\.840\.10008\.1\.2\.4\.(9[0-3]|20[1-3])$/;
const NATIVE = new Set(['1.2.840.10008.1.2', '1.2.840.10008.1.2.1', '1.2.840.10008.1.2.1.99']);

/** MPEG-2, MPEG-4 and HEVC transfer syntaxes: streams, not frames. */
const VIDEO = /^1\.2\.840\.10008\.1\.2\.4\.10[0-8](\.|$)/;

/** Pixels the decoders read correctly, and what has to be said differently about them than the data set does. */
export interface KnownForm {
  readonly pixels: Uint8Array<ArrayBuffer>;
  readonly imagePixel: Readonly<Record<string, unknown>>;
}

/**
 * What kind of thing an instance is when it is not a picture this viewer draws; undefined when it is one.
 *
 * The transfer syntax is what the archive announces with the metadata, '' where it announces none; then a form that
 * depends on it is refused when the first frame arrives (`inKnownForm`).
 */
export function whyNotDrawable(
  dataset: JsonDataset,
  transferSyntaxUid: string,
): 'document' | 'video' | 'segmentation' | 'unusual' | undefined {
  if (!number(dataset, Tag.Rows) || !number(dataset, Tag.Columns)) return 'document';
  if (VIDEO.test(transferSyntaxUid)) return 'video';
  const bitsAllocated = number(dataset, Tag.BitsAllocated) ?? 0;
  const samples = number(dataset, Tag.SamplesPerPixel) ?? 1;
  if (bitsAllocated === 1) return 'segmentation';
  const isPalette = text(dataset, Tag.PhotometricInterpretation) === 'PALETTE COLOR';
  // Segmented tables (PS3.3 C.7.9.2) are not expanded here.
  if (isPalette && dataset[Tag.RedPaletteColorLookupTableData] === undefined) return 'unusual';
  if (transferSyntaxUid === RLE_LOSSLESS && (bitsAllocated > 16 || (samples > 1 && bitsAllocated > 8))) return 'unusual';
  if (bitsAllocated > 32 || (samples !== 1 && samples !== 3)) return 'unusual';
  return undefined;
}

/** A frame as it came, in the transfer syntax it came in; undefined when no decoder here reads it correctly. */
export function inKnownForm(
  dataset: JsonDataset,
  transferSyntaxUid: string,
  body: Uint8Array<ArrayBuffer>,
): KnownForm | undefined {
  if (whyNotDrawable(dataset, transferSyntaxUid) !== undefined) return undefined;
  if (JPEG_2000.test(transferSyntaxUid) && contradictsSign(dataset, body)) return undefined;
  if (NATIVE.has(transferSyntaxUid) && number(dataset, Tag.SamplesPerPixel) === 3) {
    const eightBits = { bitsAllocated: 8, bitsStored: 8, highBit: 7 };
    if (text(dataset, Tag.PhotometricInterpretation) === 'YBR_FULL_422') {
      const imagePixel = { ...eightBits, photometricInterpretation: 'RGB', planarConfiguration: 0 };
      return { pixels: from422(body), imagePixel };
    }
    if ((number(dataset, Tag.BitsAllocated) ?? 8) > 8) {
      return { pixels: toEightBits(dataset, body), imagePixel: eightBits };
    }
  }
  if (transferSyntaxUid === JPEG_BASELINE && text(dataset, Tag.PhotometricInterpretation) === 'RGB') {
    return { pixels: withoutColourTransform(body), imagePixel: {} };
  }
  return { pixels: body, imagePixel: {} };
}

/**
 * Whether a JPEG 2000 stream and its data set disagree on signed pixels.
 *
 * Such files exist; decoded as either of the two says, air turns white. The sign is the top bit of Ssiz in the SIZ
 * segment, which follows the start of the codestream at once (ISO/IEC 15444-1 A.5.1).
 */
function contradictsSign(dataset: JsonDataset, jpeg2000: Uint8Array): boolean {
  const boxes = jpeg2000.subarray(0, 512);
  const start = boxes.findIndex((byte, at) => byte === 0xff && boxes[at + 1] === 0x4f && boxes[at + 2] === 0xff);
  const ssiz = jpeg2000[start + 42];
  if (start < 0 || ssiz === undefined || number(dataset, Tag.SamplesPerPixel) !== 1) return false;
  return ssiz >> 7 !== (number(dataset, Tag.PixelRepresentation) ?? 0);
}

/** Y1 Y2 Cb Cr for each two pixels (PS3.3 C.7.6.3.1.2) to R G B for each. */
function from422(ybr: Uint8Array): Uint8Array<ArrayBuffer> {
  const rgb = new Uint8ClampedArray((ybr.length / 2) * 3);
  for (let from = 0, to = 0; from + 3 < ybr.length; from += 4) {
    const cb = (ybr[from + 2] ?? 128) - 128;
    const cr = (ybr[from + 3] ?? 128) - 128;
    for (const y of [ybr[from] ?? 0, ybr[from + 1] ?? 0]) {
      rgb[to++] = y + 1.402 * cr;
      rgb[to++] = y - 0.344136 * cb - 0.714136 * cr;
      rgb[to++] = y + 1.772 * cb;
    }
  }
  return new Uint8Array(rgb.buffer);
}

/** Colour is drawn with eight bits: the upper ones of what is stored. */
function toEightBits(dataset: JsonDataset, body: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const bitsAllocated = number(dataset, Tag.BitsAllocated) ?? 16;
  const shift = (number(dataset, Tag.BitsStored) ?? bitsAllocated) - 8;
  const words = bitsAllocated === 32 ? new Uint32Array(body.buffer) : new Uint16Array(body.buffer);
  return Uint8Array.from(words, (word) => word >>> shift);
}

/**
 * Says in the JPEG stream that its colours are RGB already.
 *
 * Without an Adobe marker a JPEG decoder takes three components for YCbCr; the data set, which knows better, is not
 * consulted. The marker (APP14 with transform 0) goes right behind the start of the image.
 */
function withoutColourTransform(jpeg: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  if (hasAdobeMarker(jpeg)) return jpeg;
  const marker = [0xff, 0xee, 0, 14, 0x41, 0x64, 0x6f, 0x62, 0x65, 0, 100, 0, 0, 0, 0, 0];
  const marked = new Uint8Array(jpeg.length + marker.length);
  marked.set(jpeg.subarray(0, 2));
  marked.set(marker, 2);
  marked.set(jpeg.subarray(2), 2 + marker.length);
  return marked;
}

/** Walks the segments before the scan looking for an APP14 long enough to be heeded by decoders. */
function hasAdobeMarker(jpeg: Uint8Array): boolean {
  for (let at = 2; at + 3 < jpeg.length && jpeg[at] === 0xff; ) {
    const kind = jpeg[at + 1];
    const length = 256 * (jpeg[at + 2] ?? 0) + (jpeg[at + 3] ?? 0);
    if (kind === 0xee && length >= 14) return true;
    if (kind === 0xda) return false;
    at += 2 + length;
  }
  return false;
}
