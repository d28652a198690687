// Bringing rare forms of pixel data into one the decoders know, and naming those that stay out of reach.
//
// Cornerstone's loader shows some forms wrongly instead of failing (found by comparing every picture of pydicom's
// test files with pydicom's own reading). A wrong picture is worse than none, so each of them is either put right
// here or refused by `whyNotDrawable` before it is asked for.
import { type JsonDataset, Tag, number, text } from './dicom_json';

const RLE_LOSSLESS = '1.2.840.10008.1.2.5';
const JPEG_BASELINE = '1.2.840.10008.1.2.4.50';
const JPEG_2000 = /^1\.2\.840\.10008\.1\.2\.4\.(9[0-3]|20[1-3])$/;
const NATIVE = new Set(['1.2.840.10008.1.2', '1.2.840.10008.1.2.1', '1.2.840.10008.1.2.1.99']);

/** MPEG-2, MPEG-4 and HEVC transfer syntaxes: streams, not frames. */
const VIDEO = /^1\.2\.840\.10008\.1\.2\.4\.10[0-8](\.|$)/;

/** What kind of thing an instance is when it is not a picture this viewer draws; undefined when it is one. */
export function whyNotDrawable(dataset: JsonDataset): 'document' | 'video' | 'segmentation' | 'unusual' | undefined {
  if (!number(dataset, Tag.Rows) || !number(dataset, Tag.Columns)) return 'document';
  const transferSyntaxUid = text(dataset, Tag.AvailableTransferSyntaxUID);
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

/** True when `normalize` turns the frames of this data set into 8-bit RGB. */
function becomesRgb(dataset: JsonDataset, transferSyntaxUid: string): boolean {
  if (!NATIVE.has(transferSyntaxUid) || number(dataset, Tag.SamplesPerPixel) !== 3) return false;
  return isSubsampled(dataset) || (number(dataset, Tag.BitsAllocated) ?? 8) > 8;
}

/** What the pixels are described as once `normalize` has seen them. */
export function describedAs(dataset: JsonDataset): Readonly<Record<string, unknown>> {
  // Big endian and deflated data sets are sent as Explicit VR Little Endian.
  const encapsulated = /^1\.2\.840\.10008\.1\.2\.(4|5|8|1\.98)/.test(text(dataset, Tag.AvailableTransferSyntaxUID));
  if (encapsulated || !becomesRgb(dataset, '1.2.840.10008.1.2.1')) return {};
  const photometricInterpretation = isSubsampled(dataset) ? 'RGB' : text(dataset, Tag.PhotometricInterpretation);
  return {
    bitsAllocated: 8,
    bitsStored: 8,
    highBit: 7,
    photometricInterpretation,
    planarConfiguration: isSubsampled(dataset) ? 0 : (number(dataset, Tag.PlanarConfiguration) ?? 0),
  };
}

/** The frame's bytes in a form the decoders read correctly; undefined when there is none. */
export function normalize(
  dataset: JsonDataset,
  transferSyntaxUid: string,
  body: Uint8Array<ArrayBuffer>,
): Uint8Array<ArrayBuffer> | undefined {
  if (becomesRgb(dataset, transferSyntaxUid)) return isSubsampled(dataset) ? from422(body) : toEightBits(dataset, body);
  if (transferSyntaxUid === JPEG_BASELINE && text(dataset, Tag.PhotometricInterpretation) === 'RGB') {
    return withoutColourTransform(body);
  }
  if (JPEG_2000.test(transferSyntaxUid) && contradictsSign(dataset, body)) return undefined;
  return body;
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

function isSubsampled(dataset: JsonDataset): boolean {
  return text(dataset, Tag.PhotometricInterpretation) === 'YBR_FULL_422';
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
