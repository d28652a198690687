// The foot of the page: how much of the series came, how fast, and in which form; more of it on request.
import { byId, joined, make, setText } from './page';
import type { Tally } from './transfer';

/** What is told of the series that is open. */
export interface TransferFacts {
  readonly tally: Tally;
  readonly bytesPerSecond: number | undefined;
  /** Whether the next images will be asked for coded. */
  readonly thin: boolean;
}

export function showTransfer({ tally, bytesPerSecond, thin }: TransferFacts): void {
  const { coded } = tally.images;
  const view = byId('transfer');
  view.hidden = tally.bytes === 0;
  view.dataset['coded'] = String(coded);
  view.dataset['stored'] = String(asStored(tally.images));
  setText(
    'transfer-summary',
    joined(megabytes(tally.bytes), speed(bytesPerSecond), coded > 0 ? 'coded losslessly' : ''),
  );
  byId('transfer-details').replaceChildren(
    ...sentences(tally, bytesPerSecond, thin).map((sentence) => make('p', '', sentence)),
  );
}

function sentences({ images, bytes, codedBytes, codedFromBytes }: Tally, measured: number | undefined, thin: boolean): string[] {
  const { coded } = images;
  const stored = asStored(images);
  const lines = [
    measured === undefined ? 'The line: not measured yet.' : `The line: ${speed(measured)}, as the last images came.`,
    thin
      ? 'That is thin: images are asked for coded without loss (HTJ2K). The pixels are the same, bit for bit.'
      : 'That is fast: images are asked for as they are stored, which spares decoding.',
  ];
  if (coded > 0) {
    lines.push(`${counted(coded)} came coded: ${megabytes(codedBytes)} instead of ${megabytes(codedFromBytes)}.`);
  }
  if (stored > 0) lines.push(`${counted(stored)} came as stored: ${megabytes(bytes - codedBytes)}.`);
  if (images['not-ready'] > 0) {
    lines.push(`Of those ${images['not-ready']} because central had no coding in time.`);
  }
  if (images.unreadable > 0) {
    lines.push(`Of those ${images.unreadable} because this browser could not read the coding.`);
  }
  return lines;
}

function asStored(images: Tally['images']): number {
  return images.stored + images['not-ready'] + images.unreadable;
}

function counted(images: number): string {
  return images === 1 ? '1 image' : `${images} images`;
}

function megabytes(bytes: number): string {
  const value = bytes / 1e6;
  return `${value.toFixed(value < 10 ? 1 : 0)} MB`;
}

/** Lines are known by their bits. */
function speed(bytesPerSecond: number | undefined): string {
  if (bytesPerSecond === undefined) return '';
  const megabits = (8 * bytesPerSecond) / 1e6;
  if (megabits >= 1000) return 'over 1 Gbit/s';
  return `${megabits.toFixed(megabits < 10 ? 1 : 0)} Mbit/s`;
}
