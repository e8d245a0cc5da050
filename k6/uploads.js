// Uploads as OPA makes them: a gzip body with one to five decisions of about 1.2 KB. Whoever imports this gets one upload an
// iteration; a scenario only says when. Ids are numbered over the whole run, so that a checker can tell from the
// numbers of the uploads that were acknowledged which decisions have to be stored (bench/tally.go does).
import exec from 'k6/execution';
import http from 'k6/http';
import { SharedArray } from 'k6/data';
import { Counter } from 'k6/metrics';
import { constant, gzipped } from './gzip.js';

const url = __ENV.UPLOAD_URL || 'http://127.0.0.1:8080/logs';
const rate = Number(__ENV.RATE || 1000);
const duration = __ENV.DURATION || '60s';

// Most decisions of an upload. The decisions of iteration i have the numbers from i * perUpload on.
const perUpload = 5;

// Seven hex digits that tell this run's ids from every other run's. Every virtual user evaluates this file, hence the array
// that all of them share.
const run = new SharedArray('run', () => [__ENV.RUN || Math.floor(Math.random() * 2 ** 28).toString(16).padStart(7, '0')])[0];

// Write a line for each upload: its number, the answer's status (0 is none), when it came, in Unix milliseconds, and the
// milliseconds it took. A checker reads them from --console-output.
const ledger = __ENV.LEDGER !== undefined;

const params = {
  headers: {
    'Content-Type': 'application/json',
    'Content-Encoding': 'gzip',
    'User-Agent': 'Open-Policy-Agent/1.22.2 (linux, amd64)',
    ...(__ENV.TOKEN ? { Authorization: `Bearer ${__ENV.TOKEN}` } : {}),
  },
  timeout: '10s', // OPA's
  responseType: 'none',
};

// Refused are answers that docket may give when it is asked for too much: an OPA keeps its decisions and comes again.
const refused = new Counter('uploads_refused');
// Failed are all others: an error, an answer that never came, a status that loses OPA's decisions.
const failed = new Counter('uploads_failed');
const accepted = new Counter('uploads_accepted');

// An id is as scattered as a UUID: eight digits that depend on its number, the run, and the number.
const middle = `-${run.slice(0, 4)}-4${run.slice(4)}-8000-0000`;
const middleParts = constant(middle);

function begin(n) {
  return (Math.imul(n, 2654435761) >>> 0).toString(16).padStart(8, '0');
}

function end(n) {
  return n.toString(16).padStart(8, '0');
}

export function id(n) {
  return begin(n) + middle + end(n);
}

// size is how many decisions the upload of an iteration has: one to five, three on average.
function size(iteration) {
  return (iteration % perUpload) + 1;
}

// send makes the upload of an iteration, once. Tags go to its metrics.
export function send(iteration, tags) {
  const begins = [];
  const ends = [];
  for (let k = 0; k < size(iteration); k++) {
    begins.push(begin(iteration * perUpload + k));
    ends.push(end(iteration * perUpload + k));
  }
  const body = gzipped(begins, middleParts, ends, new Date().toISOString(), iteration);
  const answer = http.post(url, body, tags ? { ...params, tags } : params);
  if (answer.status === 200) {
    accepted.add(1, tags);
  } else {
    const clean = (answer.status === 503 || answer.status === 429) && answer.headers['Retry-After'] !== undefined;
    (clean ? refused : failed).add(1, tags);
  }
  if (ledger) {
    console.log(`${iteration} ${answer.status} ${Date.now()} ${answer.timings.duration}`);
  }
  return answer;
}

// upload is the default function of scenarios with one executor.
export function upload() {
  send(exec.scenario.iterationInTest);
}

// Trends are told as the published figures of such services are.
export const summaryTrendStats = ['avg', 'min', 'med', 'p(90)', 'p(95)', 'p(99)', 'max'];

// steady is a constant rate of arrivals, whatever the answers do. All virtual users are made beforehand: a user that has to
// be made first would count as an upload that was dropped.
export function steady(more) {
  return { executor: 'constant-arrival-rate', rate, timeUnit: '1s', duration, preAllocatedVUs: 256, maxVUs: 256, gracefulStop: '15s', ...more };
}
