// The page: reads the study's UID from the address, shows its series, and keeps picture, text and buttons agreed.
//
// Order of loading: study and series list, then the opened series' metadata, then its middle slice, then the rest.
import './style.css';
import { connectControls, lightTool } from './controls';
import { type JsonDataset, Tag, number, text } from './dicom_json';
import { ArchiveError, fetchMetadata, fetchSeries, fetchStudy, isUid } from './dicomweb';
import { type Stack, buildStack, mayHoldPictures } from './frames';
import { Line } from './line';
import { canUndo, deleteMeasurement, forgetHistory, onFrame, undo } from './measurements';
import { cover, explain, goToSignIn, hideNotice, setState, setStatus, showNotice } from './notice';
import { seriesName, showOverlay, showStudy } from './overlay';
import { byId, joined } from './page';
import { Prefetch, type Progress } from './prefetch';
import { SeriesPanel } from './series_panel';
import { Stage, type ToolName } from './stage';
import { Transfers } from './transfer';
import { showTransfer } from './transfer_view';

class Viewer {
  readonly #viewportElement = byId<HTMLDivElement>('viewport');
  readonly #transfers = new Transfers(new Line(), () => this.#showTransfer());
  readonly #stage: Stage;
  readonly #prefetch: Prefetch;
  readonly #stacks = new Map<string, Promise<Stack>>();
  #series: readonly JsonDataset[] = [];
  #panel: SeriesPanel | undefined;
  #open: Stack | undefined;
  #opening = '';
  #modality = '';

  constructor(private readonly studyUid: string) {
    this.#stage = new Stage(this.#viewportElement, this.#transfers, {
      onRendered: () => this.#onRendered(),
      onSlice: (index) => this.#prefetch.moveTo(index),
      onFailure: (imageId, error) => this.#onFrameFailure(imageId, error),
      onMeasurementsChanged: () => this.#showMeasurementButtons(),
    });
    this.#prefetch = new Prefetch(
      (imageId) => this.#stage.load(imageId),
      () => (this.#transfers.line.thin ? 2 : 4),
      (progress) => this.#showProgress(progress),
      (error) => {
        if (explain(error).failure === 'signed-out') goToSignIn();
      },
    );
    this.#connect();
  }

  /** Reads the study and opens its first series that has pictures. */
  async start(): Promise<void> {
    const [study, series] = await Promise.all([fetchStudy(this.studyUid), fetchSeries(this.studyUid)]);
    showStudy(study);
    this.#series = series
      .filter((entry) => isUid(text(entry, Tag.SeriesInstanceUID)))
      .sort((a, b) => (number(a, Tag.SeriesNumber) ?? Infinity) - (number(b, Tag.SeriesNumber) ?? Infinity));
    this.#panel = new SeriesPanel(this.studyUid, this.#series, (seriesUid) => void this.openSeries(seriesUid));
    for (const entry of this.#series.filter(mayHoldPictures)) {
      const seriesUid = text(entry, Tag.SeriesInstanceUID);
      if ((await this.#stackOf(seriesUid)).frames.length > 0) return this.openSeries(seriesUid);
    }
    const first = this.#series[0];
    if (first !== undefined) return this.openSeries(text(first, Tag.SeriesInstanceUID));
    throw new ArchiveError('not-here', 'This study holds no series yet. If it is still being sent, reload in a while.');
  }

  async openSeries(seriesUid: string): Promise<void> {
    this.#opening = seriesUid;
    this.#prefetch.stop();
    this.#panel?.mark(seriesUid);
    setState('loading');
    setStatus('Loading…');
    hideNotice();
    cover(true);
    try {
      const stack = await this.#stackOf(seriesUid);
      if (this.#opening !== seriesUid) return;
      await this.#show(stack);
    } catch (error) {
      this.#stacks.delete(seriesUid);
      if (this.#opening === seriesUid) fail(error, () => void this.openSeries(seriesUid));
    }
  }

  async #show(stack: Stack): Promise<void> {
    this.#open = stack;
    forgetHistory();
    this.#showTransfer();
    const first = stack.frames[0];
    this.#modality = first === undefined ? '' : text(first.dataset, Tag.Modality);
    byId('presets').hidden = this.#modality !== 'CT';
    const slider = byId<HTMLInputElement>('slider');
    slider.max = String(Math.max(1, stack.frames.length));
    slider.hidden = stack.frames.length < 2;
    this.#viewportElement.dataset['slice'] = '0';
    this.#viewportElement.dataset['slices'] = String(stack.frames.length);
    if (first === undefined) {
      showNotice('No pictures in this series', `It holds ${stack.leftOut.join(' and ') || 'nothing yet'}.`);
      setStatus('');
      setState('ready');
      return;
    }
    await this.#stage.open(stack);
    if (this.#open !== stack) return;
    this.#prefetch.start(
      stack.frames.map((frame) => frame.imageId),
      this.#stage.target,
      bytesPerFrame(first.dataset),
    );
  }

  /** The series' frames, asked for once; a failure is not remembered. */
  #stackOf(seriesUid: string): Promise<Stack> {
    let stack = this.#stacks.get(seriesUid);
    if (stack === undefined) {
      stack = fetchMetadata(this.studyUid, seriesUid).then((all) => buildStack(this.studyUid, seriesUid, all));
      stack.catch(() => this.#stacks.delete(seriesUid));
      this.#stacks.set(seriesUid, stack);
    }
    return stack;
  }

  #onRendered(): void {
    const shown = this.#stage.shown();
    // A render that belongs to the former series, or to no picture at all, changes nothing.
    if (shown === undefined || shown.frame !== this.#open?.frames[shown.index]) return;
    if (shown.index !== this.#stage.current) return;
    hideNotice();
    showOverlay(shown);
    this.#viewportElement.dataset['slice'] = String(shown.index + 1);
    this.#viewportElement.setAttribute(
      'aria-label',
      joined(seriesName(shown.frame.dataset), `image ${shown.index + 1} of ${shown.count}`),
    );
    byId<HTMLInputElement>('slider').valueAsNumber = shown.index + 1;
    byId('invert').setAttribute('aria-pressed', String(shown.inverted));
    this.#showMeasurementButtons();
    setState('ready');
  }

  #onFrameFailure(imageId: string, error: unknown): void {
    const index = this.#open?.frames.findIndex((frame) => frame.imageId === imageId) ?? -1;
    // A prefetched frame that failed is counted below the picture; only the one asked for covers it.
    if (index < 0 || index !== this.#stage.current) return;
    this.#viewportElement.dataset['slice'] = String(index + 1);
    byId<HTMLInputElement>('slider').valueAsNumber = index + 1;
    fail(error, () => void this.#stage.again(), `Image ${index + 1} cannot be shown`);
  }

  #showProgress({ loaded, failed, wanted }: Progress): void {
    const total = this.#open?.frames.length ?? 0;
    this.#viewportElement.dataset['loaded'] = String(loaded);
    const bar = byId('progress');
    bar.setAttribute('aria-valuemax', String(wanted));
    bar.setAttribute('aria-valuenow', String(loaded));
    bar.classList.toggle('done', loaded + failed >= wanted);
    (bar.firstElementChild as HTMLElement).style.width = `${(100 * loaded) / Math.max(1, wanted)}%`;
    byId('retry').hidden = failed === 0;
    const images = total === 1 ? '1 image' : `${total} images`;
    setStatus(
      joined(
        loaded + failed < wanted ? `Loading ${loaded} of ${images}` : images,
        failed > 0 ? `${failed} could not be loaded` : '',
        this.#open && this.#open.leftOut.length > 0 ? `not shown: ${this.#open.leftOut.join(', ')}` : '',
        this.#stage.drawsInSoftware ? 'drawn without graphics hardware' : '',
      ),
    );
  }

  #showTransfer(): void {
    const { line } = this.#transfers;
    const tally = this.#transfers.of(this.#open?.seriesUid ?? '');
    showTransfer({ tally, bytesPerSecond: line.bytesPerSecond, thin: line.thin });
  }

  #showMeasurementButtons(): void {
    const imageId = this.#stage.shown()?.frame.imageId;
    byId<HTMLButtonElement>('delete').disabled = imageId === undefined || onFrame(imageId).length === 0;
    byId<HTMLButtonElement>('undo').disabled = !canUndo();
  }

  #connect(): void {
    const select = (tool: ToolName): void => {
      this.#stage.select(tool);
      lightTool(tool);
    };
    connectControls({
      select,
      scrollBy: (slices) => this.#stage.goTo(this.#stage.target + slices),
      goTo: (index) => this.#stage.goTo(index),
      goToEnd: (end) => this.#stage.goTo(end === 'first' ? 0 : Infinity),
      openNeighbour: (step) => {
        const at = this.#series.findIndex((entry) => text(entry, Tag.SeriesInstanceUID) === this.#opening);
        const next = this.#series[at + step];
        if (next !== undefined) void this.openSeries(text(next, Tag.SeriesInstanceUID));
      },
      applyPreset: (preset) => {
        if (this.#modality === 'CT') this.#stage.setWindow(preset.width, preset.center);
      },
      invert: () => this.#stage.invert(),
      reset: () => this.#stage.reset(),
      deleteMeasurement: () => {
        const imageId = this.#stage.shown()?.frame.imageId;
        if (imageId !== undefined) deleteMeasurement(this.#viewportElement, imageId);
        this.#stage.redraw();
      },
      undo: () => {
        undo();
        this.#stage.redraw();
      },
    });
    byId('retry').addEventListener('click', () => this.#prefetch.retryFailed());
    new ResizeObserver(() => this.#stage.resize()).observe(this.#viewportElement);
    lightTool('window');
  }
}

/** Ends in a sentence on screen, or at the sign-in page. */
function fail(error: unknown, again?: () => void, title = 'This cannot be shown'): void {
  const reason = explain(error);
  if (reason.failure === 'signed-out') return goToSignIn();
  showNotice(title, reason.message, wayOut(reason, again));
  setStatus('');
  setState('error');
}

/** The one thing that may help: a frame no decoder reads will not get better by asking again. */
function wayOut(reason: ArchiveError, again?: () => void): { label: string; run: () => void } | undefined {
  if (reason.failure === 'undrawable') return undefined;
  if (reason.failure === 'not-here') {
    return { label: 'Back to the studies', run: () => window.location.assign('/') };
  }
  return again && { label: 'Try again', run: again };
}

function bytesPerFrame(dataset: JsonDataset): number {
  const pixels = (number(dataset, Tag.Rows) ?? 0) * (number(dataset, Tag.Columns) ?? 0);
  const samples = number(dataset, Tag.SamplesPerPixel) ?? 1;
  // Rescaled greys are kept as 16 bits or floats: four bytes a sample is the safe side.
  return pixels * (samples > 1 ? samples : 4);
}

/** A fault nobody caught must not leave a page that seems to load for ever. */
function onUncaught(reason: unknown): void {
  // Cornerstone rejects more than one promise for one failed frame: those failures have been told already, and may
  // belong to a series that was left meanwhile.
  if (reason instanceof ArchiveError) return;
  if (document.documentElement.dataset['viewerState'] === 'loading') {
    fail(reason, () => window.location.reload(), 'This cannot be shown');
  }
}

async function main(): Promise<void> {
  const studyUid = new URLSearchParams(window.location.search).get('study') ?? '';
  if (!isUid(studyUid)) throw new ArchiveError('not-here', 'The address names no study. Open one from the list.');
  await new Viewer(studyUid).start();
}

window.addEventListener('unhandledrejection', (event) => onUncaught(event.reason));
window.addEventListener('error', (event) => onUncaught(event.error));
main().catch((error: unknown) => fail(error, () => window.location.reload(), 'This study cannot be shown'));
