// Deleting and restoring what was measured.
//
// Measurements live in the page only: nothing is written to the archive. Cornerstone keeps the history; a deletion
// is put into it here, so that one undo stack covers drawing, moving and deleting.
import { utilities } from '@cornerstonejs/core';
import { type Types, AnnotationTool, annotation } from '@cornerstonejs/tools';

const history = (): typeof utilities.HistoryMemo.DefaultHistoryMemo => utilities.HistoryMemo.DefaultHistoryMemo;

/** What Cornerstone found inside a region; lengths are in what `spacing` says. */
export interface RegionStats {
  readonly area?: number;
  readonly areaUnit?: string;
  readonly mean?: number;
  readonly stdDev?: number;
  readonly min?: number;
  readonly max?: number;
}

/** A region in two lines: "Mean 41.2 HU, SD 3.4" first, for that is what it is drawn for. */
export function regionLines(stats: RegionStats | undefined, unit: string): string[] {
  if (stats?.mean === undefined || stats.area === undefined) return [];
  const shown = (value: number | undefined): string => (value === undefined ? '?' : value.toFixed(1));
  return [
    `Mean ${shown(stats.mean)}${unit && ` ${unit}`}, SD ${shown(stats.stdDev)}`,
    `${shown(stats.min)} to ${shown(stats.max)}, ${shown(stats.area)} ${stats.areaUnit ?? ''}`,
  ];
}

/** Measurements drawn on one frame, oldest first. */
export function onFrame(imageId: string): Types.Annotation[] {
  return annotation.state.getAllAnnotations().filter((drawn) => drawn.metadata?.referencedImageId === imageId);
}

/** Deletes what is selected, else what was drawn last on this frame; returns how many went. */
export function deleteMeasurement(element: HTMLDivElement, imageId: string): number {
  const here = onFrame(imageId);
  const selected = here.filter((drawn) => annotation.selection.isAnnotationSelected(drawn.annotationUID ?? ''));
  const doomed = selected.length > 0 ? selected : here.slice(-1);
  for (const drawn of doomed) {
    if (drawn.annotationUID === undefined) continue;
    AnnotationTool.createAnnotationMemo(element, drawn, { deleting: true });
    annotation.state.removeAnnotation(drawn.annotationUID);
  }
  return doomed.length;
}

export function canUndo(): boolean {
  return history().canUndo;
}

/** Takes back the last drawing, change or deletion; nothing when there is none. */
export function undo(): void {
  history().undo();
}

/** A measurement belongs to the series it was drawn on; its history ends when another series is opened. */
export function forgetHistory(): void {
  history().size = history().size;
}
