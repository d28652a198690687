// How Cornerstone gets a frame: over DICOMweb with this page's own errors, put into a known form, then decoded in a
// worker by the loader's codecs.
import { type Types, imageLoader } from '@cornerstonejs/core';
import { createImage } from '@cornerstonejs/dicom-image-loader';
import { ArchiveError, FRAME_SCHEME, fetchFrame } from './dicomweb';
import type { PixelFacts } from './pixel_facts';
import { inKnownForm } from './pixel_form';

/** Takes over the image ids of this page, for frames `facts` was told of. */
export function registerFrameLoader(facts: PixelFacts): void {
  imageLoader.registerImageLoader(FRAME_SCHEME, (imageId, options) => ({
    promise: load(imageId, facts, options ?? {}),
  }));
}

async function load(imageId: string, facts: PixelFacts, options: object): Promise<Types.IImage> {
  const frame = facts.frameOf(imageId);
  if (frame === undefined) throw new ArchiveError('broken', 'This image belongs to no open series. Reload the page.');
  const { body, transferSyntaxUid } = await fetchFrame(imageId);
  const form = inKnownForm(frame.dataset, transferSyntaxUid, body);
  if (form === undefined) throw undrawable();
  facts.describe(imageId, form.imagePixel);
  try {
    return (await createImage(imageId, form.pixels, transferSyntaxUid, { ...options })) as unknown as Types.IImage;
  } catch {
    throw undrawable();
  }
}

function undrawable(): ArchiveError {
  return new ArchiveError(
    'undrawable',
    'This image is damaged, or coded in a way this viewer cannot read. The archive still holds the original.',
  );
}
