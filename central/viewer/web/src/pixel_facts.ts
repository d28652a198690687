// What Cornerstone must know about a frame before it can decode, measure and place it.
//
// Cornerstone asks for named modules by image id. The answers are made here from the DICOM JSON metadata and from
// nothing else, so that wrong geometry has one place to be wrong in. A length in millimetres is only ever offered
// when the data set carries a spacing: see `spacing`.
import { metaData } from '@cornerstonejs/core';
import { type JsonDataset, Tag, items, number, numbers, text } from './dicom_json';
import { fetchBulkData } from './dicomweb';
import type { Frame } from './frames';

type Modules = Readonly<Record<string, unknown>>;

/** Where a frame's millimetres come from; anything but 'patient' is said on screen. */
export type SpacingSource = 'patient' | 'detector' | 'none';

interface Spacing {
  readonly rowMm: number;
  readonly columnMm: number;
  readonly source: SpacingSource;
}

const PALETTES = [
  ['red', Tag.RedPaletteColorLookupTableDescriptor, Tag.RedPaletteColorLookupTableData],
  ['green', Tag.GreenPaletteColorLookupTableDescriptor, Tag.GreenPaletteColorLookupTableData],
  ['blue', Tag.BluePaletteColorLookupTableDescriptor, Tag.BluePaletteColorLookupTableData],
] as const;

/** Answers Cornerstone's questions about every frame it was told of. */
export class PixelFacts {
  readonly #modules = new Map<string, Modules>();
  readonly #frames = new Map<string, Frame>();

  /** Goes in front of Cornerstone's own providers, which guess where metadata is missing. */
  register(): void {
    metaData.addProvider((type: string, imageId: string) => this.#modules.get(imageId)?.[type], 10_000);
  }

  frameOf(imageId: string): Frame | undefined {
    return this.#frames.get(imageId);
  }

  /** Corrects what is said about a frame's pixels, once they are here and had to be put into another form. */
  describe(imageId: string, changes: Modules): void {
    const modules = this.#modules.get(imageId);
    if (modules === undefined) return;
    const imagePixelModule = { ...(modules['imagePixelModule'] as Modules), ...changes };
    this.#modules.set(imageId, { ...modules, imagePixelModule });
  }

  /** Makes a stack's frames known; fetches colour tables that did not fit into the metadata. */
  async add(frames: readonly Frame[]): Promise<void> {
    const tables = new Map<JsonDataset, Promise<Modules>>();
    for (const frame of frames) {
      if (this.#modules.has(frame.imageId)) continue;
      let palette = tables.get(frame.dataset);
      if (palette === undefined) {
        palette = paletteTables(frame.dataset);
        tables.set(frame.dataset, palette);
      }
      this.#frames.set(frame.imageId, frame);
      this.#modules.set(frame.imageId, modulesOf(frame, await palette));
    }
  }
}

/**
 * Millimetres between pixel centres, down and across.
 *
 * PixelSpacing is in the patient. ImagerPixelSpacing (projection radiography, PS3.3 C.8.11.7) is on the detector and
 * too large by the magnification. With neither, distances stay in pixels, in the right aspect.
 */
export function spacing(dataset: JsonDataset): Spacing {
  for (const [tag, source] of [
    [Tag.PixelSpacing, 'patient'],
    [Tag.ImagerPixelSpacing, 'detector'],
  ] as const) {
    const [rowMm = 0, columnMm = 0] = numbers(dataset, tag, 2) ?? [];
    if (rowMm > 0 && columnMm > 0) return { rowMm, columnMm, source };
  }
  const [vertical = 1, horizontal = 1] = numbers(dataset, Tag.PixelAspectRatio, 2) ?? [];
  const aspect = vertical > 0 && horizontal > 0 ? vertical / horizontal : 1;
  return { rowMm: aspect, columnMm: 1, source: 'none' };
}

/** What greys are in: Hounsfield units only where the data set rescales to them, whatever the modality is called. */
export function greyUnit(dataset: JsonDataset): string {
  const type = text(dataset, Tag.RescaleType);
  const isCt = text(dataset, Tag.Modality) === 'CT' && number(dataset, Tag.RescaleIntercept) !== undefined;
  return type === 'HU' || (isCt && type === '') ? 'HU' : '';
}

/** Row and column direction cosines, when the data set has usable ones. */
export function orientation(dataset: JsonDataset): number[] | undefined {
  const cosines = numbers(dataset, Tag.ImageOrientationPatient, 6);
  if (cosines === undefined) return undefined;
  const length = (start: number): number => Math.hypot(...cosines.slice(start, start + 3));
  return Math.abs(length(0) - 1) < 0.01 && Math.abs(length(3) - 1) < 0.01 ? cosines.slice(0, 6) : undefined;
}

function modulesOf(frame: Frame, palette: Modules): Modules {
  const { dataset } = frame;
  return {
    imagePixelModule: { ...imagePixel(dataset), ...palette },
    imagePlaneModule: imagePlane(frame),
    voiLutModule: voiLut(dataset),
    modalityLutModule: {
      rescaleIntercept: number(dataset, Tag.RescaleIntercept),
      rescaleSlope: number(dataset, Tag.RescaleSlope),
      rescaleType: text(dataset, Tag.RescaleType) || undefined,
    },
    generalSeriesModule: {
      modality: text(dataset, Tag.Modality),
      seriesInstanceUID: text(dataset, Tag.SeriesInstanceUID),
      studyInstanceUID: text(dataset, Tag.StudyInstanceUID),
      seriesNumber: number(dataset, Tag.SeriesNumber),
    },
    generalImageModule: {
      sopInstanceUID: text(dataset, Tag.SOPInstanceUID),
      instanceNumber: number(dataset, Tag.InstanceNumber),
    },
    sopCommonModule: {
      sopClassUID: text(dataset, Tag.SOPClassUID),
      sopInstanceUID: text(dataset, Tag.SOPInstanceUID),
    },
    calibrationModule: ultrasoundCalibration(dataset),
  };
}

function imagePixel(dataset: JsonDataset): Modules {
  const bitsAllocated = number(dataset, Tag.BitsAllocated) ?? 16;
  const bitsStored = number(dataset, Tag.BitsStored) ?? bitsAllocated;
  const samplesPerPixel = number(dataset, Tag.SamplesPerPixel) ?? 1;
  return {
    samplesPerPixel,
    photometricInterpretation:
      text(dataset, Tag.PhotometricInterpretation) || (samplesPerPixel === 3 ? 'RGB' : 'MONOCHROME2'),
    rows: number(dataset, Tag.Rows),
    columns: number(dataset, Tag.Columns),
    bitsAllocated,
    bitsStored,
    highBit: number(dataset, Tag.HighBit) ?? bitsStored - 1,
    pixelRepresentation: number(dataset, Tag.PixelRepresentation) ?? 0,
    planarConfiguration: number(dataset, Tag.PlanarConfiguration) ?? 0,
  };
}

function imagePlane({ dataset, frameNumber }: Frame): Modules {
  const { rowMm, columnMm, source } = spacing(dataset);
  const cosines = orientation(dataset) ?? [1, 0, 0, 0, 1, 0];
  return {
    // Measurements belong to a frame of reference; an image without one is its own.
    frameOfReferenceUID:
      text(dataset, Tag.FrameOfReferenceUID) || `${text(dataset, Tag.SOPInstanceUID)}#${frameNumber}`,
    rows: number(dataset, Tag.Rows),
    columns: number(dataset, Tag.Columns),
    imageOrientationPatient: cosines,
    rowCosines: cosines.slice(0, 3),
    columnCosines: cosines.slice(3, 6),
    imagePositionPatient: numbers(dataset, Tag.ImagePositionPatient, 3) ?? [0, 0, 0],
    sliceThickness: number(dataset, Tag.SliceThickness),
    sliceLocation: number(dataset, Tag.SliceLocation),
    pixelSpacing: [rowMm, columnMm],
    rowPixelSpacing: rowMm,
    columnPixelSpacing: columnMm,
    // Cornerstone's word for "the millimetres are invented": lengths are then given in pixels.
    usingDefaultValues: source === 'none',
  };
}

function voiLut(dataset: JsonDataset): Modules {
  let windowCenter = numbers(dataset, Tag.WindowCenter);
  let windowWidth = numbers(dataset, Tag.WindowWidth);
  if (windowCenter === undefined || windowWidth === undefined || (windowWidth[0] ?? 0) <= 0) {
    // Air and padding would stretch a CT's full range to a grey fog: soft tissue is the useful start.
    const isCt = text(dataset, Tag.Modality) === 'CT' && number(dataset, Tag.RescaleIntercept) !== undefined;
    windowCenter = isCt ? [40] : undefined;
    windowWidth = isCt ? [400] : undefined;
  }
  return { windowCenter, windowWidth, voiLUTFunction: text(dataset, Tag.VOILUTFunction) || undefined };
}

/** Regions of an ultrasound image with their physical units (PS3.3 C.8.5.5): where lengths become centimetres. */
function ultrasoundCalibration(dataset: JsonDataset): Modules | undefined {
  const regions = items(dataset, Tag.SequenceOfUltrasoundRegions).map((region) => ({
    regionSpatialFormat: number(region, Tag.RegionSpatialFormat),
    regionDataType: number(region, Tag.RegionDataType),
    regionLocationMinX0: number(region, Tag.RegionLocationMinX0),
    regionLocationMinY0: number(region, Tag.RegionLocationMinY0),
    regionLocationMaxX1: number(region, Tag.RegionLocationMaxX1),
    regionLocationMaxY1: number(region, Tag.RegionLocationMaxY1),
    physicalUnitsXDirection: number(region, Tag.PhysicalUnitsXDirection),
    physicalUnitsYDirection: number(region, Tag.PhysicalUnitsYDirection),
    physicalDeltaX: number(region, Tag.PhysicalDeltaX),
    physicalDeltaY: number(region, Tag.PhysicalDeltaY),
  }));
  return regions.length > 0 ? { sequenceOfUltrasoundRegions: regions } : undefined;
}

async function paletteTables(dataset: JsonDataset): Promise<Modules> {
  if (text(dataset, Tag.PhotometricInterpretation) !== 'PALETTE COLOR') return {};
  const modules: Record<string, unknown> = {};
  for (const [color, descriptorTag, dataTag] of PALETTES) {
    const descriptor = numbers(dataset, descriptorTag, 3);
    const bytes = await binary(dataset, dataTag);
    if (descriptor === undefined || bytes === undefined) continue;
    // 0 stands for 65,536 entries (PS3.3 C.7.6.3.1.5).
    const entries = descriptor[0] || 65_536;
    modules[`${color}PaletteColorLookupTableDescriptor`] = [entries, ...descriptor.slice(1)];
    modules[`${color}PaletteColorLookupTableData`] = paletteEntries(bytes, entries);
  }
  return modules;
}

/** A table's entries as they are stored: bytes when that is what fits, else 16-bit words, little endian. */
function paletteEntries(bytes: Uint8Array, entries: number): number[] {
  if (bytes.byteLength < 2 * entries) return Array.from(bytes.subarray(0, entries));
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: entries }, (_, index) => words.getUint16(2 * index, true));
}

async function binary(dataset: JsonDataset, tag: string): Promise<Uint8Array | undefined> {
  const attribute = dataset[tag];
  if (attribute?.InlineBinary !== undefined) {
    return Uint8Array.from(atob(attribute.InlineBinary), (character) => character.charCodeAt(0));
  }
  return attribute?.BulkDataURI === undefined ? undefined : fetchBulkData(attribute.BulkDataURI);
}
