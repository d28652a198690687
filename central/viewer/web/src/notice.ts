// Saying what is wrong, in the middle of the picture or below it, and what to do next.
import { ArchiveError } from './dicomweb';
import { byId, setText } from './page';

export type ViewerState = 'loading' | 'ready' | 'error';

/** The page's one state, readable from outside as `data-viewer-state` on the root element. */
export function setState(state: ViewerState): void {
  document.documentElement.dataset['viewerState'] = state;
}

/** Covers the picture with a sentence; `action` is the one thing to do about it. */
export function showNotice(title: string, sentence: string, action?: { label: string; run: () => void }): void {
  setText('notice-title', title);
  setText('notice-text', sentence);
  const button = byId<HTMLButtonElement>('notice-action');
  button.hidden = action === undefined;
  button.textContent = action?.label ?? '';
  button.onclick = action === undefined ? null : action.run;
  byId('notice').hidden = false;
  cover(true);
}

export function hideNotice(): void {
  byId('notice').hidden = true;
  cover(false);
}

/** While covered, neither picture nor overlay is visible: they may belong to another frame. */
export function cover(covered: boolean): void {
  document.querySelector('.stage')?.classList.toggle('covered', covered);
}

export function setStatus(sentence: string): void {
  setText('status', sentence);
}

/** Anything that was thrown, as an `ArchiveError` with a sentence. */
export function explain(error: unknown): ArchiveError {
  if (error instanceof ArchiveError) return error;
  // Cornerstone wraps what a loader threw.
  if (typeof error === 'object' && error !== null && 'error' in error) return explain(error.error);
  return new ArchiveError('broken', 'The viewer met a fault of its own. Try again; if it stays so, tell the administrator.');
}

/** The session is over: sign in and come back to this very study. */
export function goToSignIn(): void {
  const here = window.location.pathname + window.location.search;
  window.location.assign(`/signin?next=${encodeURIComponent(here)}`);
}
