// Emits every kind of record and watches a job, on stubs made from emitd's protos. Prints what it saw as one
// JSON object; main.go beside it prints the same.
//
//   node main.js ADDRESS JOB_ID PROTO_FOLDER...

'use strict';

const { promisify } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

// The first is beyond what a double can hold, as is the number in the details.
const TIME_UNIX_NANO = '1764000000123456789';
const DETAILS_JSON = '{"order":9007199254740993,"note":"Grüße, 世界"}';

function loadStub(includeDirs) {
  const files = ['emitd/v1/log_service.proto', 'google/rpc/error_details.proto'];
  const definition = protoLoader.loadSync(files, {
    includeDirs,
    keepCase: true,
    enums: String,
    longs: String,
    defaults: true,
    oneofs: true,
    json: true, // unpacks google.protobuf.Any
  });
  return grpc.loadPackageDefinition(definition).emitd.v1.LogService;
}

function auditEvent(sourceIp) {
  return { event_name: 'order.placed', user_id: 'zoë', source_ip: sourceIp, details_json: DETAILS_JSON };
}

async function emitLogLine(emit) {
  const { receipt } = await emit({
    record: { level: 'LEVEL_WARNING', message: 'Grüße, 世界', source: 'polyglot' },
  });
  return { log_delivery: receipt.handlers[0].delivery };
}

async function emitAuditEventTwice(emit, jobId) {
  const record = {
    record_id: `${jobId}/audit`,
    time_unix_nano: TIME_UNIX_NANO,
    trace_id: Buffer.from('0123456789abcdef'),
    audit: auditEvent('203.0.113.7'),
  };
  await emit({ record });
  const { receipt } = await emit({ record });
  return { event_id: receipt.audit.event_id, duplicate: receipt.duplicate };
}

// Sends three records of which the second is bad.
async function emitBatch(emitBatchOf) {
  const response = await emitBatchOf({
    records: [
      { level: 'LEVEL_INFO', message: 'first' },
      { audit: auditEvent('nowhere') },
      { level: 'LEVEL_INFO', message: 'third' },
    ],
  });
  const [refused] = response.errors;
  const violations = refused.status.details.flatMap((detail) => detail.field_violations ?? []);
  return {
    accepted_count: response.accepted_count,
    error_index: refused.index,
    error_code: refused.status.code,
    error_fields: violations.map((violation) => violation.field),
  };
}

async function emitJobReports(emit, jobId) {
  const reports = [
    { job_id: jobId, job_type: 'polyglot', status: 'JOB_STATE_QUEUED' },
    { job_id: jobId, status: 'JOB_STATE_RUNNING', progress: 0 },
    { job_id: jobId, status: 'JOB_STATE_COMPLETED', labels: { team: 'a' } },
  ];
  const revisions = [];
  for (const job of reports) {
    const { receipt } = await emit({ record: { job } });
    revisions.push(Number(receipt.job.revision));
  }
  return { job_revisions: revisions };
}

async function followToEnd(watch) {
  const transitions = [];
  let job;
  for await (const response of watch) {
    transitions.push(...response.transitions.map((transition) => transition.status));
    job = response.job;
  }
  return { transitions, progress: job.progress, ended: job.ended };
}

async function main([address, jobId, ...includeDirs]) {
  const LogService = loadStub(includeDirs);
  const client = new LogService(address, grpc.credentials.createInsecure());
  const emit = promisify(client.emit).bind(client);
  const watch = client.watchJob(
    { job_id: jobId, after_revision: 0, wait_for_creation: true },
    { deadline: Date.now() + 30_000 },
  );
  const summary = {
    ...(await emitLogLine(emit)),
    ...(await emitAuditEventTwice(emit, jobId)),
    ...(await emitBatch(promisify(client.emitBatch).bind(client))),
    ...(await emitJobReports(emit, jobId)),
    ...(await followToEnd(watch)),
  };
  console.log(JSON.stringify(summary));
  client.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
