// Reading the DICOM JSON Model (PS3.18 Annex F) without trusting it.
//
// Everything here returns plain text or numbers; what is missing or malformed becomes '' or undefined, never
// an exception, because one odd attribute must not hide a picture from a doctor.

export interface JsonAttribute {
  readonly vr?: string;
  readonly Value?: readonly unknown[];
  readonly InlineBinary?: string;
  readonly BulkDataURI?: string;
}

/** One data set: attributes by eight-digit tag. */
export type JsonDataset = Readonly<Record<string, JsonAttribute | undefined>>;

/** The tags this viewer reads, by their keyword in PS3.6. */
export const Tag = {
  SOPClassUID: '00080016',
  SOPInstanceUID: '00080018',
  StudyDate: '00080020',
  StudyTime: '00080030',
  AccessionNumber: '00080050',
  Modality: '00080060',
  InstitutionName: '00080080',
  StudyDescription: '00081030',
  SeriesDescription: '0008103E',
  AvailableTransferSyntaxUID: '00083002',
  PatientName: '00100010',
  PatientID: '00100020',
  PatientBirthDate: '00100030',
  PatientSex: '00100040',
  SliceThickness: '00180050',
  ImagerPixelSpacing: '00181164',
  SequenceOfUltrasoundRegions: '00186011',
  RegionSpatialFormat: '00186012',
  RegionDataType: '00186014',
  RegionLocationMinX0: '00186018',
  RegionLocationMinY0: '0018601A',
  RegionLocationMaxX1: '0018601C',
  RegionLocationMaxY1: '0018601E',
  PhysicalUnitsXDirection: '00186024',
  PhysicalUnitsYDirection: '00186026',
  PhysicalDeltaX: '0018602C',
  PhysicalDeltaY: '0018602E',
  StudyInstanceUID: '0020000D',
  SeriesInstanceUID: '0020000E',
  SeriesNumber: '00200011',
  InstanceNumber: '00200013',
  ImagePositionPatient: '00200032',
  ImageOrientationPatient: '00200037',
  FrameOfReferenceUID: '00200052',
  SliceLocation: '00201041',
  NumberOfSeriesRelatedInstances: '00201209',
  SamplesPerPixel: '00280002',
  PhotometricInterpretation: '00280004',
  PlanarConfiguration: '00280006',
  NumberOfFrames: '00280008',
  Rows: '00280010',
  Columns: '00280011',
  PixelSpacing: '00280030',
  PixelAspectRatio: '00280034',
  BitsAllocated: '00280100',
  BitsStored: '00280101',
  HighBit: '00280102',
  PixelRepresentation: '00280103',
  WindowCenter: '00281050',
  WindowWidth: '00281051',
  RescaleIntercept: '00281052',
  RescaleSlope: '00281053',
  RescaleType: '00281054',
  VOILUTFunction: '00281056',
  RedPaletteColorLookupTableDescriptor: '00281101',
  GreenPaletteColorLookupTableDescriptor: '00281102',
  BluePaletteColorLookupTableDescriptor: '00281103',
  RedPaletteColorLookupTableData: '00281201',
  GreenPaletteColorLookupTableData: '00281202',
  BluePaletteColorLookupTableData: '00281203',
  LossyImageCompression: '00282110',
  SharedFunctionalGroupsSequence: '52009229',
  PerFrameFunctionalGroupsSequence: '52009230',
} as const;

/** The first value as text, '' when there is none. Of a person name it is the alphabetic group, if there is one. */
export function text(dataset: JsonDataset, tag: string): string {
  const value = dataset[tag]?.Value?.[0];
  if (typeof value === 'string') return value.trim();
  if (typeof value === 'number') return String(value);
  if (isRecord(value)) {
    const name = value['Alphabetic'] ?? value['Ideographic'] ?? value['Phonetic'];
    return typeof name === 'string' ? name.trim() : '';
  }
  return '';
}

/** The first value as a finite number; strings are accepted because IS and DS may be sent as such (F.2.2). */
export function number(dataset: JsonDataset, tag: string): number | undefined {
  return toNumber(dataset[tag]?.Value?.[0]);
}

/** All values as numbers, or undefined unless there are at least `atLeast` and every one is finite. */
export function numbers(dataset: JsonDataset, tag: string, atLeast = 1): number[] | undefined {
  const values = dataset[tag]?.Value?.map(toNumber);
  if (values === undefined || values.length < atLeast) return undefined;
  return values.every((value) => value !== undefined) ? values : undefined;
}

/** The items of a sequence; empty when absent. */
export function items(dataset: JsonDataset, tag: string): readonly JsonDataset[] {
  return (dataset[tag]?.Value ?? []).filter(isRecord) as unknown as JsonDataset[];
}

/** "DOE^JANE^^DR" as "DOE, Jane Dr"-like display text: components joined, never interpreted as markup. */
export function displayName(personName: string): string {
  const [family = '', given = '', middle = '', prefix = '', suffix = ''] = personName.split('^');
  const rest = [prefix, given, middle, suffix].map((part) => part.trim()).filter(Boolean).join(' ');
  return [family.trim(), rest].filter(Boolean).join(', ');
}

/** DA "19700131" as "1970-01-31"; anything else is shown as it came. */
export function displayDate(date: string): string {
  const parts = /^(\d{4})\.?(\d{2})\.?(\d{2})$/.exec(date);
  return parts ? `${parts[1]}-${parts[2]}-${parts[3]}` : date;
}

/** TM "134502.123" as "13:45". */
export function displayTime(time: string): string {
  const parts = /^(\d{2}):?(\d{2})/.exec(time);
  return parts ? `${parts[1]}:${parts[2]}` : time;
}

function toNumber(value: unknown): number | undefined {
  if (value === null || value === undefined || value === '') return undefined;
  const result = Number(value);
  return Number.isFinite(result) ? result : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
