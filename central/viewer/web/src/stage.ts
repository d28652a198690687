// The picture itself: one Cornerstone stack viewport, its tools, and the questions the page asks of it.
//
// Always true: what `shown()` names is what is on the canvas. Cornerstone keeps the former picture when a frame
// fails to load, which would put one slice under another's number; so a failed frame is reported through
// `onFailure`, and the page covers the canvas until a frame arrives.
import {
  Enums,
  type Types,
  RenderingEngine,
  eventTarget,
  getShouldUseCPURendering,
  imageLoader,
  init as initCore,
  utilities,
} from '@cornerstonejs/core';
import { init as initLoader } from '@cornerstonejs/dicom-image-loader';
import * as tools from '@cornerstonejs/tools';
import { registerFrameLoader } from './frame_loader';
import type { Frame, Stack } from './frames';
import { type RegionStats, regionLines } from './measurements';
import { PixelFacts, greyUnit } from './pixel_facts';
import type { Transfers } from './transfer';

const ENGINE_ID = 'viewer';
const VIEWPORT_ID = 'main';
const TOOL_GROUP_ID = 'main';
const { MouseBindings } = tools.Enums;

/** What the left button does. */
export type ToolName = 'window' | 'zoom' | 'pan' | 'scroll' | 'length' | 'angle' | 'region';

const TOOL_CLASSES = {
  window: tools.WindowLevelTool,
  zoom: tools.ZoomTool,
  pan: tools.PanTool,
  scroll: tools.StackScrollTool,
  length: tools.LengthTool,
  angle: tools.AngleTool,
  region: tools.EllipticalROITool,
} as const;

/** What is on the canvas now. */
export interface Shown {
  readonly frame: Frame;
  readonly index: number;
  readonly count: number;
  readonly windowWidth: number;
  readonly windowCenter: number;
  readonly zoom: number;
  readonly inverted: boolean;
  /** Directions of the picture's right and lower edge in the patient (LPS), when the image has an orientation. */
  readonly right: Types.Point3;
  readonly down: Types.Point3;
}

export interface StageEvents {
  readonly onRendered: () => void;
  readonly onSlice: (index: number) => void;
  readonly onFailure: (imageId: string, error: unknown) => void;
  readonly onMeasurementsChanged: () => void;
}

export class Stage {
  readonly #facts = new PixelFacts();
  readonly #engine: RenderingEngine;
  readonly #viewport: Types.IStackViewport;
  readonly #tools: tools.Types.IToolGroup;
  #stack: Stack | undefined;

  constructor(
    readonly element: HTMLDivElement,
    transfers: Transfers,
    private readonly events: StageEvents,
  ) {
    initCore({ rendering: { webGlContextCount: 1 }, debug: { statsOverlay: false } });
    initLoader({ maxWebWorkers: Math.max(1, Math.min(4, Math.floor((navigator.hardwareConcurrency || 2) / 2))) });
    tools.init();
    this.#facts.register();
    registerFrameLoader(this.#facts, transfers);
    styleMeasurements();

    this.#engine = new RenderingEngine(ENGINE_ID);
    this.#engine.enableElement({
      viewportId: VIEWPORT_ID,
      element,
      type: Enums.ViewportType.STACK,
      defaultOptions: { background: [0, 0, 0] },
    });
    this.#viewport = this.#engine.getViewport(VIEWPORT_ID) as Types.IStackViewport;
    this.#tools = makeToolGroup(this.#facts);
    this.select('window');
    this.#listen();
  }

  /** True when there is no WebGL: slower, same picture. */
  get drawsInSoftware(): boolean {
    return getShouldUseCPURendering();
  }

  /** Shows a stack, its middle slice first. */
  async open(stack: Stack): Promise<void> {
    this.#stack = stack;
    await this.#facts.add(stack.frames);
    const middle = Math.floor((stack.frames.length - 1) / 2);
    await this.#viewport.setStack(
      stack.frames.map((frame) => frame.imageId),
      middle,
    );
    // A different series is a different picture: zoom and shift of the former one do not apply.
    this.#viewport.resetCamera();
    this.#viewport.render();
  }

  /** Fetches and decodes one frame into the cache. */
  async load(imageId: string): Promise<void> {
    const options = {
      requestType: Enums.RequestType.Prefetch,
      priority: 0,
      // The software path draws colour with an alpha channel, WebGL without; a cached frame must fit its path.
      useRGBA: this.drawsInSoftware,
    };
    await imageLoader.loadAndCacheImage(imageId, options);
  }

  shown(): Shown | undefined {
    const image = this.#viewport.getCornerstoneImage();
    const index = this.#stack?.frames.findIndex((frame) => frame.imageId === image?.imageId) ?? -1;
    const frame = this.#stack?.frames[index];
    const { voiRange, invert } = this.#viewport.getProperties();
    if (frame === undefined || voiRange === undefined) return undefined;
    const { windowWidth, windowCenter } = utilities.windowLevel.toWindowLevel(voiRange.lower, voiRange.upper);
    const { viewUp = [0, -1, 0], viewPlaneNormal = [0, 0, -1] } = this.#viewport.getCamera();
    return {
      frame,
      index,
      count: this.#stack?.frames.length ?? 0,
      windowWidth,
      windowCenter,
      zoom: this.#viewport.getZoom(),
      inverted: invert ?? false,
      right: cross(viewUp, viewPlaneNormal),
      down: [-viewUp[0], -viewUp[1], -viewUp[2]],
    };
  }

  /** The slice the viewport is at or on its way to. */
  get target(): number {
    return this.#viewport.getTargetImageIdIndex();
  }

  /** The slice that was asked for last; it is on the canvas unless it is still loading or failed. */
  get current(): number {
    return this.#viewport.getCurrentImageIdIndex();
  }

  goTo(index: number): void {
    if (this.#stack === undefined || this.#stack.frames.length === 0) return;
    const last = this.#stack.frames.length - 1;
    void utilities.jumpToSlice(this.element, {
      imageIndex: Math.max(0, Math.min(last, index)),
      debounceLoading: true,
    });
  }

  /** Asks for the current frame once more, after a failure. */
  async again(): Promise<void> {
    await this.#viewport.setImageIdIndex(this.#viewport.getCurrentImageIdIndex());
  }

  select(name: ToolName): void {
    for (const tool of Object.values(TOOL_CLASSES)) {
      this.#tools.setToolPassive(tool.toolName, { removeAllBindings: true });
    }
    // Middle button, right button, wheel and fingers keep their meaning whatever the left button does. Pinch works
    // only while exactly one tool holds the two-finger binding.
    const bindings: Record<ToolName, tools.Types.IToolBinding[]> = {
      window: [],
      zoom: [{ mouseButton: MouseBindings.Secondary }, { numTouchPoints: 2 }],
      pan: [{ mouseButton: MouseBindings.Auxiliary }],
      scroll: [{ mouseButton: MouseBindings.Wheel }, { numTouchPoints: 3 }],
      length: [],
      angle: [],
      region: [],
    };
    bindings[name].push({ mouseButton: MouseBindings.Primary }, { numTouchPoints: 1 });
    for (const [tool, held] of Object.entries(bindings) as [ToolName, tools.Types.IToolBinding[]][]) {
      if (held.length > 0) this.#tools.setToolActive(TOOL_CLASSES[tool].toolName, { bindings: held });
    }
  }

  setWindow(width: number, center: number): void {
    this.#viewport.setProperties({ voiRange: utilities.windowLevel.toLowHighRange(width, center) });
    this.#viewport.render();
  }

  invert(): void {
    this.#viewport.setProperties({ invert: !this.#viewport.getProperties().invert });
    this.#viewport.render();
  }

  /** The window of the file, the whole image in sight; the slice and the measurements stay. */
  reset(): void {
    this.#viewport.resetProperties();
    this.#viewport.resetCamera();
    this.#viewport.render();
  }

  redraw(): void {
    this.#viewport.render();
  }

  resize(): void {
    this.#engine.resize(true, true);
  }

  #listen(): void {
    const { Events } = Enums;
    this.element.addEventListener(Events.IMAGE_RENDERED, () => this.events.onRendered());
    this.element.addEventListener(Events.STACK_NEW_IMAGE, () => {
      this.events.onSlice(this.#viewport.getCurrentImageIdIndex());
    });
    eventTarget.addEventListener(Events.IMAGE_LOAD_ERROR, ((event: CustomEvent<unknown>) => {
      const detail = event.detail;
      if (typeof detail !== 'object' || detail === null || !('imageId' in detail)) return;
      const { imageId, error } = detail as { imageId: string; error?: unknown };
      this.events.onFailure(imageId, error);
    }) as EventListener);
    const measured = tools.Enums.Events;
    for (const name of [measured.ANNOTATION_COMPLETED, measured.ANNOTATION_REMOVED, measured.ANNOTATION_MODIFIED]) {
      eventTarget.addEventListener(name, () => this.events.onMeasurementsChanged());
    }
  }
}

function makeToolGroup(facts: PixelFacts): tools.Types.IToolGroup {
  for (const tool of Object.values(TOOL_CLASSES)) tools.addTool(tool);
  const group = tools.ToolGroupManager.createToolGroup(TOOL_GROUP_ID);
  if (group === undefined) throw new Error(`a tool group called ${TOOL_GROUP_ID} exists already`);
  for (const tool of Object.values(TOOL_CLASSES)) group.addTool(tool.toolName);
  // The library binds bare Z and Y to undo and redo; here Z is zoom, and controls.ts alone reads the keyboard.
  group.setToolConfiguration(tools.LengthTool.toolName, {
    actions: { undo: { bindings: [] }, redo: { bindings: [] } },
  });
  group.setToolConfiguration(tools.EllipticalROITool.toolName, {
    getTextLines: ({ cachedStats }: { cachedStats: Record<string, RegionStats | undefined> }, target: string) => {
      const frame = facts.frameOf(target.slice(target.indexOf(':') + 1));
      return regionLines(cachedStats[target], frame === undefined ? '' : greyUnit(frame.dataset));
    },
  });
  group.addViewport(VIEWPORT_ID, ENGINE_ID);
  return group;
}

function styleMeasurements(): void {
  const { style } = tools.annotation.config;
  style.setDefaultToolStyles({
    ...style.getDefaultToolStyles(),
    global: {
      ...style.getDefaultToolStyles().global,
      color: 'rgb(255, 214, 102)',
      colorHighlighted: 'rgb(126, 214, 255)',
      colorSelected: 'rgb(126, 214, 255)',
      textBoxColor: 'rgb(255, 214, 102)',
      textBoxColorHighlighted: 'rgb(126, 214, 255)',
      textBoxColorSelected: 'rgb(126, 214, 255)',
      textBoxFontFamily: 'system-ui, sans-serif',
      textBoxFontSize: '14px',
      lineWidth: '1.5',
    },
  });
}

function cross(a: Types.Point3, b: Types.Point3): Types.Point3 {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}
