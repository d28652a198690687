// How frames come: as they are stored, or coded without loss where the line is thin. And what is told about it.
//
// Always true: only lossless codings are asked for. What cannot be had coded, or not decoded here, comes as stored; the
// reader sees the same pixels, later, and finds the reason in the details at the foot of the page.
import { type JsonDataset, Tag, number, text } from './dicom_json';
import type { Line } from './line';

export const HTJ2K_LOSSLESS = '1.2.840.10008.1.2.4.201';
const NATIVE = /^1\.2\.840\.10008\.1\.2(\.1|\.1\.99)?$/;
/** After so many coded frames that this browser could not read, none is asked for any more. */
const MOST_UNREADABLE = 3;

/** How one frame came. */
export type Came = 'stored' | 'coded' | 'not-ready' | 'unreadable';

/** What came for one series. */
export interface Tally {
  readonly images: Readonly<Record<Came, number>>;
  /** Bytes that crossed the line, those of frames that could not be read included. */
  readonly bytes: number;
  /** What the coded ones crossed as, and what they would have been. */
  readonly codedBytes: number;
  readonly codedFromBytes: number;
}

const NOTHING: Tally = {
  images: { stored: 0, coded: 0, 'not-ready': 0, unreadable: 0 },
  bytes: 0,
  codedBytes: 0,
  codedFromBytes: 0,
};

export class Transfers {
  readonly #tallies = new Map<string, Tally>();
  #unreadable = 0;

  constructor(
    readonly line: Line,
    private readonly onChange: () => void,
  ) {}

  /** Whether a frame is asked for coded: the line is thin, and central may have it coded. */
  wantsCoded(dataset: JsonDataset): boolean {
    return this.#unreadable < MOST_UNREADABLE && gainsByCoding(dataset) && this.line.thin;
  }

  note(dataset: JsonDataset, came: Came, bytes: number): void {
    const seriesUid = text(dataset, Tag.SeriesInstanceUID);
    const former = this.of(seriesUid);
    if (came === 'unreadable') this.#unreadable += 1;
    const coded = came === 'coded';
    this.#tallies.set(seriesUid, {
      images: { ...former.images, [came]: former.images[came] + 1 },
      bytes: former.bytes + bytes,
      codedBytes: former.codedBytes + (coded ? bytes : 0),
      codedFromBytes: former.codedFromBytes + (coded ? nativeBytes(dataset) : 0),
    });
    this.onChange();
  }

  of(seriesUid: string): Tally {
    return this.#tallies.get(seriesUid) ?? NOTHING;
  }
}

/** How a frame came that was asked for coded: central leaves compressed ones as they are, which is no failure. */
export function cameAs(transferSyntaxUid: string): Came {
  if (transferSyntaxUid === HTJ2K_LOSSLESS) return 'coded';
  return NATIVE.test(transferSyntaxUid) ? 'not-ready' : 'stored';
}

/** Greys of 8 or 16 bits: of the rest central codes nothing. */
function gainsByCoding(dataset: JsonDataset): boolean {
  return (
    /^MONOCHROME[12]$/.test(text(dataset, Tag.PhotometricInterpretation)) &&
    [8, 16].includes(number(dataset, Tag.BitsAllocated) ?? 0)
  );
}

function nativeBytes(dataset: JsonDataset): number {
  const pixels = (number(dataset, Tag.Rows) ?? 0) * (number(dataset, Tag.Columns) ?? 0);
  return (pixels * (number(dataset, Tag.BitsAllocated) ?? 16)) / 8;
}
