// Finding the page's own elements, and putting text into them.
//
// Text from data sets reaches the page through `textContent` only: a PatientName may hold markup, and markup it
// must not become.

/** The element with this id; its absence is a fault of index.html, not of the data. */
export function byId<E extends HTMLElement = HTMLElement>(id: string): E {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`index.html has no #${id}`);
  return element as E;
}

export function setText(id: string, text: string): void {
  byId(id).textContent = text;
}

/** A new element holding text. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  text = '',
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** Non-empty parts with a middle dot between them. */
export function joined(...parts: readonly (string | undefined)[]): string {
  return parts.filter(Boolean).join(' · ');
}
