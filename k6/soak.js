// The reference rate for as long as one has patience, half an hour unless DURATION says more: for leaks, and what grows slowly.
//
//   k6 run -e DURATION=8h k6/soak.js
import { steady, summaryTrendStats, upload } from './uploads.js';

export const options = {
  scenarios: { soak: steady({ duration: __ENV.DURATION || '30m' }) },
  thresholds: {
    dropped_iterations: ['count==0'],
    http_req_failed: ['rate==0'],
    http_req_duration: ['p(95)<=10'],
  },
  summaryTrendStats,
};

export default upload;
