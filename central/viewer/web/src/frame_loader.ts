// How Cornerstone gets a frame: over DICOMweb with this page's own errors, put into a known form, then decoded in a
// worker by the loader's codecs. Coded where the line is thin (transfer.ts); whatever is wrong with that, as stored.
import { type Types, imageLoader } from '@cornerstonejs/core';
import { createImage } from '@cornerstonejs/dicom-image-loader';
import { type JsonDataset, Tag, number } from './dicom_json';
import { ArchiveError, FRAME_SCHEME, fetchFrame } from './dicomweb';
import type { Frame } from './frames';
import type { Part } from './multipart';
import type { PixelFacts } from './pixel_facts';
import { inKnownForm } from './pixel_form';
import { HTJ2K_LOSSLESS, type Transfers, cameAs } from './transfer';

/** Takes over the image ids of this page, for frames `facts` was told of. */
export function registerFrameLoader(facts: PixelFacts, transfers: Transfers): void {
  imageLoader.registerImageLoader(FRAME_SCHEME, (imageId, options) => ({
    promise: load(imageId, facts, transfers, options ?? {}),
  }));
}

async function load(
  imageId: string,
  facts: PixelFacts,
  transfers: Transfers,
  options: object,
): Promise<Types.IImage> {
  const frame = facts.frameOf(imageId);
  if (frame === undefined) throw new ArchiveError('broken', 'This image belongs to no open series. Reload the page.');
  if (!transfers.wantsCoded(frame.dataset)) return loadAsStored(frame, facts, transfers, options, 'stored');
  const part = await fetchFrame(imageId, HTJ2K_LOSSLESS);
  const came = cameAs(part.transferSyntaxUid);
  try {
    const image = await decoded(frame, part, facts, options);
    transfers.note(frame.dataset, came, part.body.length);
    return image;
  } catch (error) {
    if (came !== 'coded') throw error;
    return loadAsStored(frame, facts, transfers, options, 'unreadable', part.body.length);
  }
}

async function loadAsStored(
  frame: Frame,
  facts: PixelFacts,
  transfers: Transfers,
  options: object,
  came: 'stored' | 'unreadable',
  lostBytes = 0,
): Promise<Types.IImage> {
  const part = await fetchFrame(frame.imageId);
  transfers.note(frame.dataset, came, part.body.length + lostBytes);
  return decoded(frame, part, facts, options);
}

async function decoded(frame: Frame, part: Part, facts: PixelFacts, options: object): Promise<Types.IImage> {
  const { imageId, dataset } = frame;
  const form = inKnownForm(dataset, part.transferSyntaxUid, part.body);
  if (form === undefined) throw undrawable();
  facts.describe(imageId, form.imagePixel);
  let image: Types.IImage;
  try {
    image = (await createImage(imageId, form.pixels, part.transferSyntaxUid, { ...options })) as unknown as Types.IImage;
  } catch {
    throw undrawable();
  }
  if (!isOfItsSize(image, dataset)) throw undrawable();
  return image;
}

/**
 * A codestream has a size of its own: were it another, every millimetre would be wrong. Of a broken one the decoder
 * makes an image without pixels, and no error.
 */
function isOfItsSize(image: Types.IImage, dataset: JsonDataset): boolean {
  const { rows, columns } = image;
  const cells = image.getPixelData().length / (rows * columns);
  return rows === number(dataset, Tag.Rows) && columns === number(dataset, Tag.Columns) && cells >= 1;
}

function undrawable(): ArchiveError {
  return new ArchiveError(
    'undrawable',
    'This image is damaged, or coded in a way this viewer cannot read. The archive still holds the original.',
  );
}
