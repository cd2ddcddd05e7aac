// Emits a log line, an audit event and the reports of a job, and watches the job to its end.
//
//   node example.js 127.0.0.1:50051

'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { promisify } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

// A descriptor set has all that the contract imports; with .proto files, give their folders as `includeDirs`.
const CONTRACT = path.join(__dirname, '..', '..', 'protos', 'released', 'emitd.v1.binpb');
const definition = protoLoader.loadFileDescriptorSetFromBuffer(fs.readFileSync(CONTRACT), {
  enums: String,
  longs: String, // 64-bit numbers do not fit into JavaScript's
  defaults: true,
  oneofs: true,
});
const { LogService } = grpc.loadPackageDefinition(definition).emitd.v1;

// One record of each kind, the job's last report at the end. A record_id makes sending a record again harmless.
function records(jobId) {
  return [
    { record_id: `${jobId}/log`, level: 'LEVEL_INFO', message: 'hello from Node', source: 'node-example' },
    {
      record_id: `${jobId}/audit`,
      source: 'node-example',
      audit: {
        event_name: 'example.run',
        user_id: 'node',
        source_ip: '127.0.0.1',
        details_json: JSON.stringify({ language: 'javascript' }),
      },
    },
    {
      record_id: `${jobId}/running`,
      job: { job_id: jobId, job_type: 'example', status: 'JOB_STATE_RUNNING', progress: 40 },
    },
    { record_id: `${jobId}/completed`, job: { job_id: jobId, status: 'JOB_STATE_COMPLETED' } },
  ];
}

// What EMITD_TLS, EMITD_CA_FILE, EMITD_CERT_FILE and EMITD_KEY_FILE say, as they do for emitd's own clients.
const { env } = process;
const isTls = env.EMITD_TLS === 'true' || Boolean(env.EMITD_CA_FILE || env.EMITD_CERT_FILE);

function channelCredentials() {
  if (!isTls) return grpc.credentials.createInsecure();
  const read = (path) => (path ? fs.readFileSync(path) : null);
  return grpc.credentials.createSsl(read(env.EMITD_CA_FILE), read(env.EMITD_KEY_FILE), read(env.EMITD_CERT_FILE));
}

// The token of EMITD_TOKEN, or of EMITD_TOKEN_FILE, which is read for each call, so that it may be renewed.
function token() {
  return env.EMITD_TOKEN_FILE ? fs.readFileSync(env.EMITD_TOKEN_FILE, 'utf8').trim() : env.EMITD_TOKEN;
}

function withToken(options, nextCall) {
  return new grpc.InterceptingCall(nextCall(options), {
    start(metadata, listener, next) {
      if (token()) metadata.set('authorization', `Bearer ${token()}`);
      next(metadata, listener);
    },
  });
}

async function main(address) {
  if (token() && !isTls && !/^(localhost|127\.[\d.]+|\[::1\]):\d+$|^unix:/.test(address)) {
    throw new Error('a token in plain text does not leave this machine: set EMITD_CA_FILE, or EMITD_TLS=true');
  }
  const client = new LogService(address, channelCredentials(), { interceptors: [withToken] });
  const emit = promisify(client.emit).bind(client);
  const jobId = `example-${Date.now()}`;
  try {
    for (const record of records(jobId)) {
      const { receipt } = await emit({ record });
      console.log('accepted:', receipt.record_id);
    }
    // Every change of the job's status from its first report on; the stream ends when the job has ended.
    for await (const response of client.watchJob({ job_id: jobId, after_revision: 0 })) {
      for (const transition of response.transitions) {
        console.log(jobId, transition.status, transition.progress);
      }
    }
  } finally {
    client.close();
  }
}

main(process.argv[2] ?? '127.0.0.1:50051').catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
