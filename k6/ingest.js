// The reference scenario: 1,000 uploads a second for a minute, at a constant rate of arrivals.
//
//   k6 run k6/ingest.js
//   k6 run -e UPLOAD_URL=https://docket.example:8080/logs -e TOKEN=… -e RATE=500 -e DURATION=5m k6/ingest.js
import { steady, summaryTrendStats, upload } from './uploads.js';

export const options = {
  scenarios: { ingest: steady() },
  thresholds: {
    dropped_iterations: ['count==0'],
    http_req_failed: ['rate==0'],
    http_req_duration: ['p(95)<=6', 'p(99)<=30'],
  },
  summaryTrendStats,
};

export default upload;
