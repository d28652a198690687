// How Cornerstone gets a frame: over DICOMweb with this page's own errors, put into a known form, then decoded in a
// worker by the loader's codecs.
import { type Types, imageLoader } from '@cornerstonejs/core';
import { createImage } from '@cornerstonejs/dicom-image-loader';
import { FRAME_SCHEME, ArchiveError, fetchFrame } from './dicomweb';
import type { Frame } from './frames';
import { normalize } from './pixel_form';

/** Takes over the image ids of this page. `frameOf` finds the frame an image id stands for. */
export function registerFrameLoader(frameOf: (imageId: string) => Frame | undefined): void {
  imageLoader.registerImageLoader(FRAME_SCHEME, (imageId, options) => ({
    promise: load(imageId, frameOf(imageId), options ?? {}),
  }));
}

async function load(imageId: string, frame: Frame | undefined, options: object): Promise<Types.IImage> {
  if (frame === undefined) throw new ArchiveError('broken', 'This image belongs to no open series. Reload the page.');
  const { body, transferSyntaxUid } = await fetchFrame(imageId);
  const pixels = normalize(frame.dataset, transferSyntaxUid, body);
  if (pixels === undefined) throw unreadable();
  try {
    return (await createImage(imageId, pixels, transferSyntaxUid, { ...options })) as unknown as Types.IImage;
  } catch {
    throw unreadable();
  }
}

function unreadable(): ArchiveError {
  return new ArchiveError(
    'broken',
    'This image is damaged, or coded in a way this viewer cannot read. The archive still holds the original.',
  );
}
