// A storm: 150 users, 7,000 within half a minute, and back. A user uploads about once a second and keeps its connection, as an
// OPA does. What cannot be taken has to be refused cleanly (503 or 429, and when to come again), and ten seconds after the storm
// everything has to be as it was. USERS is how many to reach: k6 needs about 0.5 MB for each.
//
//   k6 run -e USERS=2000 k6/spike.js
import exec from 'k6/execution';
import { sleep } from 'k6';
import { send, summaryTrendStats } from './uploads.js';

const users = Number(__ENV.USERS || 7000);
const base = Number(__ENV.BASE_USERS || 150);
const seconds = { before: 15, rise: 30, storm: 15, fall: 5, rest: 10, after: 30 };
const storm = seconds.before + seconds.rise + seconds.storm + seconds.fall;

export const options = {
  scenarios: {
    spike: {
      executor: 'ramping-vus',
      startVUs: base,
      stages: [
        { target: base, duration: `${seconds.before}s` },
        { target: users, duration: `${seconds.rise}s` },
        { target: users, duration: `${seconds.storm}s` },
        { target: base, duration: `${seconds.fall}s` },
        { target: base, duration: `${seconds.rest + seconds.after}s` },
      ],
      gracefulRampDown: '15s',
      gracefulStop: '15s',
    },
  },
  thresholds: {
    uploads_failed: ['count==0'],
    'http_req_duration{phase:after}': ['p(95)<50'],
    'uploads_refused{phase:after}': ['count==0'],
    // These are here so that the summary has them.
    'http_req_duration{phase:before}': ['max>=0'],
    'http_req_duration{phase:storm}': ['max>=0'],
  },
  summaryTrendStats,
};

function phase() {
  const elapsed = (Date.now() - exec.scenario.startTime) / 1000;
  if (elapsed < seconds.before) return 'before';
  if (elapsed < storm) return 'storm';
  return elapsed < storm + seconds.rest ? 'rest' : 'after';
}

export default function () {
  send(exec.scenario.iterationInTest, { phase: phase() });
  sleep(0.5 + Math.random());
}
