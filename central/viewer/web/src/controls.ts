// Buttons and keys. Each names an intention; what it does to the picture is the page's business (main.ts).
import { byId, make } from './page';
import { CT_PRESETS, type WindowPreset } from './presets';
import type { ToolName } from './stage';

export interface Intentions {
  select(tool: ToolName): void;
  scrollBy(slices: number): void;
  goToEnd(end: 'first' | 'last'): void;
  goTo(index: number): void;
  openNeighbour(step: 1 | -1): void;
  applyPreset(preset: WindowPreset): void;
  invert(): void;
  reset(): void;
  deleteMeasurement(): void;
  undo(): void;
}

const TOOL_KEYS: Readonly<Record<string, ToolName>> = {
  w: 'window',
  z: 'zoom',
  p: 'pan',
  s: 'scroll',
  l: 'length',
  a: 'angle',
  e: 'region',
};

/** Lights the button of the tool on the left mouse button. */
export function lightTool(selected: ToolName): void {
  for (const button of toolButtons()) {
    const checked = button.dataset['tool'] === selected;
    button.setAttribute('aria-checked', String(checked));
    button.tabIndex = checked ? 0 : -1;
  }
}

export function connectControls(intentions: Intentions): void {
  for (const button of toolButtons()) {
    button.addEventListener('click', () => intentions.select(button.dataset['tool'] as ToolName));
  }
  byId('invert').addEventListener('click', () => intentions.invert());
  byId('reset').addEventListener('click', () => intentions.reset());
  byId('delete').addEventListener('click', () => intentions.deleteMeasurement());
  byId('undo').addEventListener('click', () => intentions.undo());
  byId('help').addEventListener('click', showHelp);
  byId('presets').replaceChildren(...CT_PRESETS.map((preset) => presetButton(preset, intentions)));

  const slider = byId<HTMLInputElement>('slider');
  slider.addEventListener('input', () => intentions.goTo(slider.valueAsNumber - 1));
  document.addEventListener('keydown', (event) => onKey(event, intentions));
}

function presetButton(preset: WindowPreset, intentions: Intentions): HTMLButtonElement {
  const button = make('button', '');
  button.type = 'button';
  button.title = `${preset.name}: width ${preset.width}, level ${preset.center} (${preset.key})`;
  button.append(make('kbd', '', preset.key), make('span', '', preset.name));
  button.addEventListener('click', () => intentions.applyPreset(preset));
  return button;
}

function onKey(event: KeyboardEvent, intentions: Intentions): void {
  if (byId<HTMLDialogElement>('help-dialog').open || event.altKey) return;
  const command = event.ctrlKey || event.metaKey ? commandFor(event) : actionFor(event);
  if (command === undefined) return;
  command(intentions);
  event.preventDefault();
}

function commandFor(event: KeyboardEvent): ((intentions: Intentions) => void) | undefined {
  return event.key.toLowerCase() === 'z' ? (intentions) => intentions.undo() : undefined;
}

function actionFor(event: KeyboardEvent): ((intentions: Intentions) => void) | undefined {
  // Arrow keys move between the tools while one of them has the focus, as radio buttons do.
  const focused = document.activeElement;
  if (focused instanceof HTMLElement && focused.dataset['tool'] !== undefined && event.key.startsWith('Arrow')) {
    return (intentions) => selectNeighbourTool(focused, /Right|Down/.test(event.key) ? 1 : -1, intentions);
  }
  const preset = CT_PRESETS.find(({ key }) => key === event.key);
  if (preset !== undefined) return (intentions) => intentions.applyPreset(preset);
  const tool = TOOL_KEYS[event.key.toLowerCase()];
  if (tool !== undefined) return (intentions) => intentions.select(tool);
  switch (event.key) {
    case 'ArrowUp':
    case 'ArrowLeft':
      return (intentions) => intentions.scrollBy(-1);
    case 'ArrowDown':
    case 'ArrowRight':
      return (intentions) => intentions.scrollBy(1);
    case 'PageUp':
      return (intentions) => intentions.scrollBy(-10);
    case 'PageDown':
      return (intentions) => intentions.scrollBy(10);
    case 'Home':
      return (intentions) => intentions.goToEnd('first');
    case 'End':
      return (intentions) => intentions.goToEnd('last');
    case '[':
      return (intentions) => intentions.openNeighbour(-1);
    case ']':
      return (intentions) => intentions.openNeighbour(1);
    case 'i':
    case 'I':
      return (intentions) => intentions.invert();
    case 'r':
    case 'R':
      return (intentions) => intentions.reset();
    case 'Delete':
    case 'Backspace':
      return (intentions) => intentions.deleteMeasurement();
    case '?':
      return showHelp;
    default:
      return undefined;
  }
}

function selectNeighbourTool(from: HTMLElement, step: 1 | -1, intentions: Intentions): void {
  const buttons = toolButtons();
  const next = buttons[(buttons.indexOf(from as HTMLButtonElement) + step + buttons.length) % buttons.length];
  next?.focus();
  if (next !== undefined) intentions.select(next.dataset['tool'] as ToolName);
}

function toolButtons(): HTMLButtonElement[] {
  return [...document.querySelectorAll<HTMLButtonElement>('button[data-tool]')];
}

function showHelp(): void {
  byId<HTMLDialogElement>('help-dialog').showModal();
}
