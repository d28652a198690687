// Loads the rest of a stack, nearest slice first, while a person already looks at the middle one. Once they scroll, what
// lies ahead of them counts as nearer than what lies behind.
//
// Few frames are under way at a time, so a slice asked for by scrolling shares the line with few, and at most
// `BUDGET_BYTES` are fetched ahead, so a huge series does not push its own beginning out of the cache.

const BUDGET_BYTES = 640 * 2 ** 20;
/** A slice behind is as far as one so many times farther ahead: people do turn round. */
const BEHIND = 3;

export interface Progress {
  readonly loaded: number;
  readonly failed: number;
  readonly wanted: number;
}

export class Prefetch {
  #imageIds: readonly string[] = [];
  #state: ('waiting' | 'loading' | 'loaded' | 'failed')[] = [];
  #current = 0;
  #direction: 1 | -1 | 0 = 0;
  #wanted = 0;
  #running = 0;
  #generation = 0;

  constructor(
    private readonly load: (imageId: string) => Promise<unknown>,
    private readonly parallel: () => number,
    private readonly onProgress: (progress: Progress) => void,
    private readonly onFailure: (error: unknown) => void,
  ) {}

  /** Starts over with another stack; what is under way for the former one is ignored when it arrives. */
  start(imageIds: readonly string[], current: number, bytesPerFrame: number): void {
    this.#generation += 1;
    this.#imageIds = imageIds;
    this.#state = imageIds.map(() => 'waiting');
    this.#current = current;
    this.#direction = 0;
    this.#wanted = Math.min(imageIds.length, Math.max(1, Math.floor(BUDGET_BYTES / Math.max(1, bytesPerFrame))));
    this.#running = 0;
    this.#advance();
  }

  stop(): void {
    this.start([], 0, 1);
  }

  /** The person scrolled: what is near `current` comes next. */
  moveTo(current: number): void {
    if (current !== this.#current) this.#direction = current > this.#current ? 1 : -1;
    this.#current = current;
    this.#advance();
  }

  retryFailed(): void {
    this.#state = this.#state.map((state) => (state === 'failed' ? 'waiting' : state));
    this.#advance();
  }

  #advance(): void {
    for (let index = this.#next(); this.#running < this.parallel() && index !== undefined; index = this.#next()) {
      void this.#fetch(index);
    }
    this.#report();
  }

  async #fetch(index: number): Promise<void> {
    const generation = this.#generation;
    const imageId = this.#imageIds[index];
    if (imageId === undefined) return;
    this.#state[index] = 'loading';
    this.#running += 1;
    let outcome: 'loaded' | 'failed' = 'loaded';
    let failure: unknown;
    try {
      await this.load(imageId);
    } catch (error) {
      outcome = 'failed';
      failure = error;
    }
    if (generation !== this.#generation) return;
    this.#state[index] = outcome;
    this.#running -= 1;
    if (outcome === 'failed') this.onFailure(failure);
    if (generation === this.#generation) this.#advance();
  }

  /** The waiting frame nearest to the current one, within the budget. */
  #next(): number | undefined {
    if (this.#count('loaded') + this.#running >= this.#wanted && this.#state[this.#current] !== 'waiting') {
      return undefined;
    }
    let nearest: number | undefined;
    this.#state.forEach((state, index) => {
      if (state !== 'waiting') return;
      if (nearest === undefined || this.#farness(index) < this.#farness(nearest)) nearest = index;
    });
    return nearest;
  }

  #farness(index: number): number {
    const distance = index - this.#current;
    return distance * this.#direction < 0 ? BEHIND * Math.abs(distance) : Math.abs(distance);
  }

  #report(): void {
    this.onProgress({ loaded: this.#count('loaded'), failed: this.#count('failed'), wanted: this.#wanted });
  }

  #count(wanted: string): number {
    return this.#state.reduce((sum, state) => sum + (state === wanted ? 1 : 0), 0);
  }
}
