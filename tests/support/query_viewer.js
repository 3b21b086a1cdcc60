// A viewer that asks Edge: C-FIND at STUDY level, C-GET and C-MOVE of a study, by dcmjs-dimse.
//
//   NODE_PATH=build/node/node_modules node query_viewer.js HOST PORT CALLING CALLED STUDY_UID [MOVE_DESTINATION]
//
// One line of JSON an answer on stdout: {"what": "find" | "get" | "move" | "store", "status": "ff00", ...}.
'use strict';
const dimse = require('dcmjs-dimse');
const { Client, log } = dimse;
const { CFindRequest, CGetRequest, CMoveRequest } = dimse.requests;
const { CStoreResponse } = dimse.responses;
const { PresentationContextResult, SopClass, Status, TransferSyntax, StorageClass } = dimse.constants;

const [host, port, calling, called, study, destination] = process.argv.slice(2);
log.disableAll();
const tell = (what, more) => console.log(JSON.stringify({ what, ...more }));
const hex = (response) => response.getStatus().toString(16).padStart(4, '0');

function ask(request, what, more = () => ({})) {
  return new Promise((resolve) => {
    const client = new Client();
    request.on('response', (response) => tell(what, { status: hex(response), ...more(response) }));
    client.addRequest(request);
    client.on('cStoreRequest', (given, callback) => {
      tell('store', { status: '0000', uid: given.getDataset().getElement('SOPInstanceUID') });
      const response = CStoreResponse.fromRequest(given);
      response.setStatus(Status.Success);
      callback(response);
    });
    client.on('closed', resolve);
    client.on('networkError', (error) => { tell('error', { error: String(error) }); resolve(); });
    client.send(host, Number(port), calling, called);
  });
}

(async () => {
  const keys = { StudyInstanceUID: study, PatientName: '', ModalitiesInStudy: '', NumberOfStudyRelatedInstances: '' };
  await ask(CFindRequest.createStudyFindRequest(keys), 'find', (response) => {
    const found = response.getDataset();
    return found ? { name: found.getElement('PatientName'), count: found.getElement('NumberOfStudyRelatedInstances') } : {};
  });
  await ask(CGetRequest.createStudyGetRequest(study), 'get', (r) => ({ completed: r.getCompleted(), failed: r.getFailures() }));
  if (destination) {
    await ask(CMoveRequest.createStudyMoveRequest(destination, study), 'move', (r) => ({ completed: r.getCompleted() }));
  }
})();
