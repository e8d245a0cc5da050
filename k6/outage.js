// The reference scenario while the database is away, for the whole run or for a part of it: uploads must not notice. Who stops
// the database is not this script's business (`make load SCENARIO=outage` does). P95 is the most that the 95th percentile may
// be, in milliseconds: what it is with a database and a half more, or 5 ms more.
//
//   k6 run -e P95=11 k6/outage.js
import { steady, summaryTrendStats, upload } from './uploads.js';

export const options = {
  scenarios: { outage: steady() },
  thresholds: {
    dropped_iterations: ['count==0'],
    http_req_failed: ['rate==0'],
    http_req_duration: [`p(95)<=${__ENV.P95 || 11}`],
  },
  summaryTrendStats,
};

export default upload;
