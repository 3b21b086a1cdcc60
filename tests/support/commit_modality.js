// A modality that asks for storage commitment and takes the report on a port of its own.
//
//   NODE_PATH=build/node/node_modules node commit_modality.js [OPTIONS] HOST PORT CALLING CALLED LISTEN CLASS/UID...
//
//   --late SECONDS    its port is closed at first and opens after so long: a scanner that is switched off
//   --refuse HEX      the first report is answered with this status (0110), later ones with 0000
//   --mute            the first report is never answered; its association stays open until the peer gives up
//   --uid UID         Transaction UID; otherwise a new one (use it to ask twice for the same transaction)
//   --only-listen     no N-ACTION: wait for a report that is still owed from an earlier run
//   --wait SECONDS    ends after so long (30), or 1 s after the first report that it answered with 0000
//
// One line of JSON an event on stdout. Exit 0: a report was taken with 0000. Exit 1: none came in time.
'use strict';
const { parseArgs } = require('util');
const dimse = require('dcmjs-dimse');
const { Client, Dataset, Scp, Server, log } = dimse;
const { NActionRequest } = dimse.requests;
const { CEchoResponse, NEventReportResponse } = dimse.responses;
const { PresentationContextResult, SopClass, Status } = dimse.constants;

const INSTANCE = '1.2.840.10008.1.20.1.1'; // the well-known instance, PS3.4 Annex J
const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    late: { type: 'string', default: '0' },
    refuse: { type: 'string' },
    mute: { type: 'boolean', default: false },
    uid: { type: 'string' },
    'only-listen': { type: 'boolean', default: false },
    wait: { type: 'string', default: '30' },
  },
});
const [host, port, calling, called, listen, ...references] = positionals;
if (!listen || (!references.length && !options['only-listen'])) {
  console.error('usage: commit_modality.js [OPTIONS] HOST PORT CALLING CALLED LISTEN CLASS/UID...');
  process.exit(2);
}
log.disableAll();

const started = Date.now();
const say = (event, facts = {}) =>
  console.log(JSON.stringify({ at: (Date.now() - started) / 1000, event, ...facts }));
const list = (value) => (value === undefined ? [] : [].concat(value));
let reports = 0;

function readReport(request, where) {
  const data = request.getDataset().getElements();
  reports += 1;
  const failed = list(data.FailedSOPSequence);
  say('report', {
    where,
    type: request.getEventTypeId(),
    transaction: data.TransactionUID,
    retrieveAE: data.RetrieveAETitle,
    committed: list(data.ReferencedSOPSequence).map((one) => one.ReferencedSOPInstanceUID),
    failed: failed.map((one) => [one.ReferencedSOPInstanceUID, one.FailureReason.toString(16).padStart(4, '0')]),
  });
}

function answerReport(request, callback, where) {
  readReport(request, where);
  if (reports === 1 && options.mute) return say('not-answered');
  const response = NEventReportResponse.fromRequest(request);
  const refused = reports === 1 && options.refuse;
  response.setStatus(refused ? parseInt(options.refuse, 16) : Status.Success);
  say('answered', { status: response.getStatus().toString(16).padStart(4, '0') });
  callback(response);
  if (!refused) setTimeout(() => process.exit(0), 1000);
}

class Modality extends Scp {
  associationRequested(association) {
    const contexts = association.getPresentationContexts().map(({ id }) => association.getPresentationContext(id));
    say('called', {
      by: association.getCallingAeTitle(),
      as: association.getCalledAeTitle(),
      contexts: contexts.map((context) => ({
        abstract: context.getAbstractSyntaxUid(),
        syntaxes: context.getTransferSyntaxUids(),
        roles: { scu: context.getUserRole(), scp: context.getProviderRole() },
      })),
    });
    for (const context of contexts) {
      context.setResult(PresentationContextResult.Accept, context.getTransferSyntaxUids()[0]);
    }
    this.sendAssociationAccept();
  }

  cEchoRequest(request, callback) {
    const response = CEchoResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  }

  nEventReportRequest(request, callback) {
    answerReport(request, callback, 'new association');
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

function open() {
  const server = new Server(Modality);
  server.on('networkError', (error) => say('server-error', { error: String(error) }));
  server.listen(Number(listen));
  say('listening', { port: Number(listen) });
}

function ask() {
  const request = new NActionRequest(SopClass.StorageCommitmentPushModel, INSTANCE, 1);
  const transaction = options.uid || `2.25.${BigInt(Date.now()) * 1000003n}`;
  request.setDataset(
    new Dataset({
      TransactionUID: transaction,
      ReferencedSOPSequence: references.map((one) => {
        const [ReferencedSOPClassUID, ReferencedSOPInstanceUID] = one.split('/');
        return { ReferencedSOPClassUID, ReferencedSOPInstanceUID };
      }),
    })
  );
  request.on('response', (response) =>
    say('n-action', { transaction, status: response.getStatus().toString(16).padStart(4, '0') })
  );
  const client = new Client();
  client.addRequest(request);
  client.on('networkError', (error) => say('client-error', { error: String(error) }));
  client.on('associationRejected', (result) => say('rejected', result));
  client.on('nEventReportRequest', (event, callback) => answerReport(event, callback, 'same association'));
  client.send(host, Number(port), calling, called);
}

if (Number(options.late) > 0) setTimeout(open, Number(options.late) * 1000);
else open();
if (!options['only-listen']) ask();
setTimeout(() => process.exit(1), Number(options.wait) * 1000);
