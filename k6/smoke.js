// Is docket there and does it work: a few uploads, and the last one's first decision is looked up in the console, which
// CONSOLE_URL names, with the CONSOLE_TOKEN of a viewer if it wants one.
//
//   k6 run -e CONSOLE_URL=http://127.0.0.1:8081 k6/smoke.js
import exec from 'k6/execution';
import http from 'k6/http';
import { check, fail, sleep } from 'k6';
import { id, send, steady, summaryTrendStats } from './uploads.js';

const console_ = __ENV.CONSOLE_URL || 'http://127.0.0.1:8081';
const seconds = 10;
const rate = 20;

export const options = {
  scenarios: { smoke: steady({ rate, duration: `${seconds}s`, preAllocatedVUs: 5, maxVUs: 5 }) },
  thresholds: {
    checks: ['rate==1'],
    dropped_iterations: ['count==0'],
    'http_req_failed{scenario:smoke}': ['rate==0'],
  },
  summaryTrendStats,
};

export default function () {
  const answer = send(exec.scenario.iterationInTest);
  check(answer, { 'the upload is acknowledged': (a) => a.status === 200 });
}

export function teardown() {
  const headers = __ENV.CONSOLE_TOKEN ? { Authorization: `Bearer ${__ENV.CONSOLE_TOKEN}` } : {};
  const last = id((seconds * rate - 1) * 5);
  let answer;
  for (let i = 0; i < 50; i++) {
    answer = http.get(`${console_}/api/v1/decisions/${last}`, { headers });
    if (answer.status === 200) break;
    sleep(0.2);
  }
  if (!check(answer, { 'its decision is found within 10 s': (a) => a.status === 200 && a.json('decision_id') === last })) {
    fail(`${console_} answers ${answer.status} for the decision ${last}: ${answer.body}`);
  }
}
