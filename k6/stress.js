// Steps of a constant rate, each higher than the one before, until uploads are dropped or take too long: the knee. A step is
// a scenario of its own, so that the summary tells each one's figures. The run ends with the first step that fails.
//
//   k6 run -e FIRST=500 -e STEP=500 -e STEPS=6 k6/stress.js
import exec from 'k6/execution';
import { send, steady, summaryTrendStats } from './uploads.js';

const first = Number(__ENV.FIRST || 500);
const step = Number(__ENV.STEP || 500);
const steps = Number(__ENV.STEPS || 6);
const length = Number(__ENV.SECONDS || 20); // of each step
const pause = 11; // behind each step, so that every upload of it is answered: they may take 10 s
const limit = Number(__ENV.P95 || 50); // ms

const scenarios = {};
const thresholds = {};
const before = {}; // iterations of all earlier steps: numbers are unique over the run
let sum = 0;
for (let i = 0; i < steps; i++) {
  const name = `at_${first + i * step}`;
  scenarios[name] = steady({ rate: first + i * step, duration: `${length}s`, startTime: `${i * (length + pause)}s`, gracefulStop: `${pause}s` });
  thresholds[`http_req_duration{scenario:${name}}`] = [{ threshold: `p(95)<${limit}`, abortOnFail: true, delayAbortEval: `${i * (length + pause) + length + pause - 1}s` }];
  thresholds[`dropped_iterations{scenario:${name}}`] = [{ threshold: 'count==0', abortOnFail: true, delayAbortEval: `${i * (length + pause) + length + pause - 1}s` }];
  thresholds[`uploads_accepted{scenario:${name}}`] = ['count>=0'];
  before[name] = sum;
  sum += (first + i * step) * length * 2; // twice: a step may not start more than it was asked for, but let it not matter
}

export const options = { scenarios, thresholds, summaryTrendStats };

export default function () {
  send(before[exec.scenario.name] + exec.scenario.iterationInTest);
}
