// What is written over the image: who, when, which slice, which window, which side is which.
import type { Types } from '@cornerstonejs/core';
import { utilities } from '@cornerstonejs/tools';
import { type JsonDataset, Tag, displayDate, displayName, displayTime, number, text } from './dicom_json';
import { byId, joined, make, setText } from './page';
import { orientation, spacing } from './pixel_facts';
import type { Shown } from './stage';

type Line = readonly [text: string, className?: 'strong' | 'warn'];

/** The header above the tools, from the study's own attributes; the title stays as it is, for browsers keep titles. */
export function showStudy(study: JsonDataset): void {
  setText('patient-name', displayName(text(study, Tag.PatientName)) || 'No name');
  setText('patient-facts', patientFacts(study));
  setText('study-description', text(study, Tag.StudyDescription) || 'Study');
  setText('study-facts', studyFacts(study));
}

/** Corners and edges, from the frame that is on the canvas. */
export function showOverlay(shown: Shown): void {
  const { dataset } = shown.frame;
  fill('corner-patient', [
    [displayName(text(dataset, Tag.PatientName)), 'strong'],
    [text(dataset, Tag.PatientID)],
    [joined(born(dataset), text(dataset, Tag.PatientSex))],
  ]);
  fill('corner-study', [
    [text(dataset, Tag.InstitutionName)],
    [text(dataset, Tag.StudyDescription)],
    [joined(displayDate(text(dataset, Tag.StudyDate)), displayTime(text(dataset, Tag.StudyTime)))],
  ]);
  fill('corner-series', [
    [joined(text(dataset, Tag.Modality), seriesName(dataset))],
    [joined(millimetres('Slice', dataset, Tag.SliceLocation), millimetres('Thickness', dataset, Tag.SliceThickness))],
    [`Image ${shown.index + 1} / ${shown.count}`, 'strong'],
  ]);
  fill('corner-view', [
    [text(dataset, Tag.LossyImageCompression) === '01' ? 'Lossy compressed' : '', 'warn'],
    [spacing(dataset).source === 'detector' ? 'Lengths as on the detector' : '', 'warn'],
    [shown.inverted ? 'Inverted' : ''],
    [`Zoom ${Math.round(100 * shown.zoom)} %`],
    [`W ${rounded(shown.windowWidth)}  L ${rounded(shown.windowCenter)}`, 'strong'],
  ]);
  showEdges(shown);
}

function showEdges({ frame, right, down }: Shown): void {
  const known = orientation(frame.dataset) !== undefined;
  const letters = (direction: Types.Point3, sign: 1 | -1): string => {
    if (!known) return '';
    const [x, y, z] = direction;
    // Small tilts are noise to a reader: one letter, two when really oblique.
    const [nx, ny, nz] = [x, y, z].map((part) => (Math.abs(part) < 0.25 ? 0 : part * sign)) as Types.Point3;
    return utilities.orientation.getOrientationStringLPS([nx, ny, nz]);
  };
  setText('edge-east', letters(right, 1));
  setText('edge-west', letters(right, -1));
  setText('edge-south', letters(down, 1));
  setText('edge-north', letters(down, -1));
}

/** "2 · T1 SAG": number and description of a series. */
export function seriesName(series: JsonDataset): string {
  const seriesNumber = number(series, Tag.SeriesNumber);
  return joined(seriesNumber === undefined ? '' : `Series ${seriesNumber}`, text(series, Tag.SeriesDescription));
}

function patientFacts(study: JsonDataset): string {
  const id = text(study, Tag.PatientID);
  return joined(id && `ID ${id}`, born(study), text(study, Tag.PatientSex));
}

function studyFacts(study: JsonDataset): string {
  const accession = text(study, Tag.AccessionNumber);
  return joined(
    displayDate(text(study, Tag.StudyDate)),
    displayTime(text(study, Tag.StudyTime)),
    accession && `Accession ${accession}`,
  );
}

function born(dataset: JsonDataset): string {
  const date = displayDate(text(dataset, Tag.PatientBirthDate));
  return date && `born ${date}`;
}

function millimetres(label: string, dataset: JsonDataset, tag: string): string {
  const value = number(dataset, tag);
  return value === undefined ? '' : `${label} ${rounded(value)} mm`;
}

function rounded(value: number): string {
  return Math.abs(value) < 10 ? String(Number(value.toFixed(2))) : String(Math.round(value * 10) / 10);
}

function fill(id: string, lines: readonly Line[]): void {
  byId(id).replaceChildren(
    ...lines.filter(([line]) => line !== '').map(([line, className]) => make('p', className ?? '', line)),
  );
}
