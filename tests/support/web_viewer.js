// What a viewer's own library does (npm: dicomweb-client, which OHIF uses, and dcmjs): node web_viewer.js URL TOKEN STUDY SERIES INSTANCE [FILE].
// Node has no XMLHttpRequest: one over fetch, with what the library uses of it. The result goes to stdout as JSON.
const fs = require('fs');

globalThis.XMLHttpRequest = class {
  open(method, url) { this.method = method.toUpperCase(); this.url = url; this.sent = {}; this.readyState = 1; }
  setRequestHeader(name, value) { this.sent[name] = Array.isArray(value) ? value.join(', ') : value; }
  getResponseHeader(name) { return this.headers.get(name); }
  getAllResponseHeaders() { return [...this.headers].map(([name, value]) => `${name}: ${value}`).join('\r\n'); }
  async send(body) {
    try {
      const answer = await fetch(this.url, { method: this.method, headers: this.sent, body });
      this.status = answer.status;
      this.headers = answer.headers;
      const bytes = await answer.arrayBuffer();
      this.response = bytes;
      if (this.responseType === 'json') this.response = bytes.byteLength ? JSON.parse(new TextDecoder().decode(bytes)) : null;
      else if (this.responseType !== 'arraybuffer') this.response = new TextDecoder().decode(bytes);
    } catch (error) {
      this.status = 0;
      this.headers = new Headers();
    }
    this.readyState = 4;
    this.onreadystatechange();
  }
};

const { api } = require('dicomweb-client');
const dcmjs = require('dcmjs');
const [, , url, token, study, series, instance, file] = process.argv;
const uids = { studyInstanceUID: study, seriesInstanceUID: series, sopInstanceUID: instance };

async function main() {
  const client = new api.DICOMwebClient({ url, headers: { Authorization: `Bearer ${token}` } });
  const found = {};
  const searched = { queryParams: { PatientName: '*Test*', limit: 101, offset: 0, fuzzymatching: false, includefield: '00081030,00080060,00080090' } };
  found.studies = (await client.searchForStudies(searched)).map(each => each['0020000D'].Value[0]);
  found.series = (await client.searchForSeries({ studyInstanceUID: study, queryParams: { includefield: '0008103E,00080021' } })).length;
  found.instances = (await client.searchForInstances({ studyInstanceUID: study, seriesInstanceUID: series })).length;
  found.nothing = await client.searchForStudies({ queryParams: { PatientID: 'NOBODY' } });
  const metadata = await client.retrieveSeriesMetadata(uids);
  found.metadata = metadata.length;
  const natural = metadata.map(each => dcmjs.data.DicomMetaDictionary.naturalizeDataset(each));
  found.rows = natural[0].Rows;
  found.name = String(natural[0].PatientName?.[0]?.Alphabetic ?? natural[0].PatientName?.Alphabetic ?? natural[0].PatientName);
  found.studyMetadata = (await client.retrieveStudyMetadata(uids)).length;
  found.instanceMetadata = Object.keys(await client.retrieveInstanceMetadata(uids)).length > 0;
  const whole = await client.retrieveInstance(uids);
  const parsed = dcmjs.data.DicomMessage.readFile(whole);
  found.uid = dcmjs.data.DicomMetaDictionary.naturalizeDataset(parsed.dict).SOPInstanceUID;
  found.retrievedSeries = (await client.retrieveSeries(uids)).length;
  found.retrievedStudy = (await client.retrieveStudy(uids)).length;
  found.frame = (await client.retrieveInstanceFrames({ ...uids, frameNumbers: [1] }))[0].byteLength;
  const bulk = `${url}/studies/${study}/series/${series}/${metadata.find(each => each['00080018'].Value[0] === instance)['7FE00010'].BulkDataURI}`;
  found.bulk = (await client.retrieveBulkData({ BulkDataURI: bulk }))[0].byteLength;
  found.bulkRange = (await client.retrieveBulkData({ BulkDataURI: bulk, byteRange: [0, 99] }))[0].byteLength;
  const bytesOf = answer => new Uint8Array(Array.isArray(answer) ? answer[0] : answer);
  found.jpeg = bytesOf(await client.retrieveInstanceRendered({ ...uids, mediaTypes: [{ mediaType: 'image/jpeg' }] }))[0];
  found.png = bytesOf(await client.retrieveInstanceFramesRendered({ ...uids, frameNumbers: [1], mediaTypes: [{ mediaType: 'image/png' }] }))[1];
  if (file) {
    const bytes = fs.readFileSync(file);
    const answer = await client.storeInstances({ datasets: [bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)] });
    found.stored = JSON.parse(typeof answer === 'string' ? answer : new TextDecoder().decode(answer))['00081199'].Value.length;
  }
  console.log(JSON.stringify(found));
}

main().catch(error => { console.error(error.stack ?? error, error.status); process.exit(1); });
