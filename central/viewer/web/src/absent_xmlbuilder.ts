// Stands in for `xmlbuilder2`, which VTK's XML writer imports and no DICOM path ever calls (vite.config.ts).

/** Refuses: nothing in this viewer writes VTK XML files. */
export function create(): never {
  throw new Error('VTK XML files are not part of this viewer');
}
