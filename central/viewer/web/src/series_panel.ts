// The list of series on the left: one button a series, with a small picture drawn by the server.
import { type JsonDataset, Tag, number, text } from './dicom_json';
import { thumbnailUrl } from './dicomweb';
import { mayHoldPictures } from './frames';
import { byId, make } from './page';
import { seriesName } from './overlay';

export class SeriesPanel {
  readonly #buttons = new Map<string, HTMLButtonElement>();

  constructor(studyUid: string, series: readonly JsonDataset[], onOpen: (seriesUid: string) => void) {
    const entries = series.map((entry) => {
      const seriesUid = text(entry, Tag.SeriesInstanceUID);
      const button = make('button', '');
      button.type = 'button';
      button.dataset['series'] = seriesUid;
      button.append(picture(studyUid, seriesUid, entry), ...caption(entry));
      button.addEventListener('click', () => onOpen(seriesUid));
      this.#buttons.set(seriesUid, button);
      const item = document.createElement('li');
      item.append(button);
      return item;
    });
    byId('series').replaceChildren(...entries);
  }

  /** Marks the open series and brings its button into sight. */
  mark(seriesUid: string): void {
    for (const [uid, button] of this.#buttons) button.setAttribute('aria-current', String(uid === seriesUid));
    this.#buttons.get(seriesUid)?.scrollIntoView({ block: 'nearest' });
  }
}

function picture(studyUid: string, seriesUid: string, series: JsonDataset): HTMLElement {
  const frame = make('div', 'thumbnail', text(series, Tag.Modality) || '?');
  if (mayHoldPictures(series)) {
    // The modality stands behind the picture, and in its place when there is none.
    const image = make('img', '');
    image.alt = '';
    image.loading = 'lazy';
    image.addEventListener('load', () => image.classList.add('loaded'));
    image.addEventListener('error', () => image.remove());
    image.src = thumbnailUrl(studyUid, seriesUid);
    frame.append(image);
  }
  return frame;
}

function caption(series: JsonDataset): HTMLElement[] {
  const count = number(series, Tag.NumberOfSeriesRelatedInstances);
  const facts = make('div', 'facts');
  facts.append(
    make('span', '', text(series, Tag.Modality)),
    make('span', '', count === undefined ? '' : count === 1 ? '1 object' : `${count} objects`),
  );
  return [make('div', 'name', seriesName(series) || 'Unnamed series'), facts];
}
