// node hydrate.mjs REPORT.dcm: what OHIF makes of a structured report, a line per measurement.
// Run in a folder with @cornerstonejs/adapters, its peers and dcmjs. The plane is that of the
// importer's test scan.
import { readFileSync } from "node:fs";
import dcmjs from "dcmjs";
import { metaData } from "@cornerstonejs/core";
import { adaptersSR } from "@cornerstonejs/adapters";

const { buffer } = new Uint8Array(readFileSync(process.argv[2]));
const { DicomMessage, DicomMetaDictionary } = dcmjs.data;
const report = DicomMetaDictionary.naturalizeDataset(DicomMessage.readFile(buffer).dict);
const images = {};
for (const study of [report.CurrentRequestedProcedureEvidenceSequence].flat())
  for (const series of [study.ReferencedSeriesSequence].flat())
    for (const { ReferencedSOPInstanceUID: uid } of [series.ReferencedSOPSequence].flat()) images[`${uid}:1`] = `image:${uid}`;
const plane = {
  frameOfReferenceUID: "1.2.3", rowCosines: [1, 0, 0], columnCosines: [0, 1, 0], imageOrientationPatient: [1, 0, 0, 0, 1, 0],
  imagePositionPatient: [0, 0, 0], rowPixelSpacing: 1, columnPixelSpacing: 1,
};
const get = kind => (kind === "imagePlaneModule" ? plane : undefined);
metaData.addProvider(get, 1);
const tools = adaptersSR.Cornerstone3D.MeasurementReport.generateToolState(report, images, { get }, {});
for (const [tool, list] of Object.entries(tools))
  for (const m of list)
    console.log(tool, m.description, m.sopInstanceUid, m.annotation.data.handles.points.flatMap(p => [p[0], p[1]]).join(","));
