// Named windows for CT, in Hounsfield units, on the number keys.

export interface WindowPreset {
  readonly key: string;
  readonly name: string;
  readonly width: number;
  readonly center: number;
}

export const CT_PRESETS: readonly WindowPreset[] = [
  { key: '1', name: 'Brain', width: 80, center: 40 },
  { key: '2', name: 'Subdural', width: 215, center: 75 },
  { key: '3', name: 'Bone', width: 2500, center: 480 },
  { key: '4', name: 'Lung', width: 1500, center: -600 },
  { key: '5', name: 'Abdomen', width: 400, center: 50 },
];
