// How fast the line to central is, and whether it is thin: worth decoding for.
//
// The browser's own record of each answer is what is measured (Resource Timing), because its clock is not held up when
// this page is busy drawing. What central needs to think is not part of it: only the time in which bytes of a body
// came. Answers that come side by side share the line, so what the others brought meanwhile is counted. A busy central
// sends slowly over any line, so the best of several answers is believed; to be exact the second best, for one may have
// waited in a buffer and seem to have come at once.

/** Below this, frames are asked for coded. central waits for a coding no longer than this speed is worth (frames.py). */
const THIN_BELOW = 2_500_000;
/** Above this, they are asked for as they are stored again. Far from the other: a line that wavers changes nothing. */
const FAST_ABOVE = 5_000_000;
/** Only frames are measured: the program's files and metadata may be packed while they are sent. */
const FRAME = /\/frames\/[0-9]+$/;
/** Smaller bodies come at once on any line: they tell how busy central is. */
const TELLING_BYTES = 16 * 1024;
/** So much is needed before the measure is believed, and so many answers back it looks. */
const ENOUGH_BYTES = 64 * 1024;
const ANSWERS = 8;
/** Browsers never say more than 10 Mbit/s, lest a line be recognised. */
const BROWSERS_FAST_MBITS = 8;
/** What the line was when the former study was open; it tells nothing of any study. */
const REMEMBERED = 'line';

interface Span {
  readonly bytes: number;
  readonly start: number;
  readonly end: number;
}

/** What a browser may know of its line (Network Information API); not every browser says. */
interface Connection {
  readonly downlink?: number;
  readonly saveData?: boolean;
}

/** The one line of this page. */
export class Line {
  readonly #observer: PerformanceObserver;
  #spans: Span[] = [];
  #thin = remembered() ?? saidToBeThin();

  constructor() {
    this.#observer = new PerformanceObserver((list) => this.#take(list.getEntries()));
    this.#observer.observe({ type: 'resource', buffered: true });
  }

  /** Whether images should be asked for coded without loss rather than as they are stored. */
  get thin(): boolean {
    this.#take(this.#observer.takeRecords());
    return this.#thin;
  }

  /** As measured lately; undefined until enough has come. */
  get bytesPerSecond(): number | undefined {
    this.#take(this.#observer.takeRecords());
    return this.#measured();
  }

  #take(entries: readonly PerformanceEntry[]): void {
    for (const entry of entries) {
      if (!(entry instanceof PerformanceResourceTiming) || !this.#tells(entry)) continue;
      this.#spans.push({ bytes: entry.encodedBodySize, start: entry.responseStart, end: entry.responseEnd });
    }
    this.#spans = this.#spans.slice(-ANSWERS);
    const measured = this.#measured();
    if (measured === undefined) return;
    const thin = measured < (this.#thin ? FAST_ABOVE : THIN_BELOW);
    if (thin !== this.#thin) remember(thin);
    this.#thin = thin;
  }

  #tells(entry: PerformanceResourceTiming): boolean {
    // What came out of the browser's own cache has no transfer size.
    return FRAME.test(entry.name) && entry.transferSize > 0 && entry.encodedBodySize >= TELLING_BYTES;
  }

  #measured(): number | undefined {
    const bytes = this.#spans.reduce((sum, span) => sum + span.bytes, 0);
    if (bytes < ENOUGH_BYTES) return undefined;
    const rates = this.#spans.map((span) => rateWhile(span, this.#spans)).sort((a, b) => b - a);
    return rates[1] ?? rates[0];
  }
}

/** Bytes a second of all answers together while `span` lasted. */
function rateWhile(span: Span, all: readonly Span[]): number {
  const bytes = all.reduce((sum, other) => {
    const sharedMs = Math.max(0, Math.min(span.end, other.end) - Math.max(span.start, other.start));
    return sum + (other === span ? span.bytes : (other.bytes * sharedMs) / lastedMs(other));
  }, 0);
  return (1000 * bytes) / lastedMs(span);
}

function lastedMs({ start, end }: Span): number {
  return Math.max(0.1, end - start);
}

function saidToBeThin(): boolean {
  const { downlink, saveData } = (navigator as { connection?: Connection }).connection ?? {};
  return saveData === true || (downlink !== undefined && downlink < BROWSERS_FAST_MBITS);
}

function remembered(): boolean | undefined {
  try {
    const said = sessionStorage.getItem(REMEMBERED);
    return said === null ? undefined : said === 'thin';
  } catch {
    return undefined; // storage that is forbidden is no fault of the line
  }
}

function remember(thin: boolean): void {
  try {
    sessionStorage.setItem(REMEMBERED, thin ? 'thin' : 'fast');
  } catch {
    // As above.
  }
}
