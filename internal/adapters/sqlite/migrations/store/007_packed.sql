-- +goose Up

-- What events are packed with; see PostgreSQL's.
CREATE TABLE dictionaries (
  sha256  BLOB PRIMARY KEY,
  tenant  TEXT NOT NULL,
  bytes   BLOB NOT NULL,
  ratio   REAL NOT NULL,
  made_at INTEGER NOT NULL
);
CREATE UNIQUE INDEX dictionaries_name ON dictionaries (substr(sha256, 1, 4));

CREATE TABLE leases (
  name  TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  until INTEGER NOT NULL
);

-- The event has to stay the last column, so the tables are made anew.
CREATE TABLE decisions_new (
  tenant       TEXT NOT NULL,
  decision_id  TEXT NOT NULL,
  timestamp    INTEGER NOT NULL, -- microseconds since 1970; equal to time
  time         INTEGER NOT NULL,
  received_at  INTEGER NOT NULL,
  saved_at     INTEGER NOT NULL,
  outcome      TEXT NOT NULL,
  path         TEXT,
  reason       TEXT,
  principal    TEXT,
  action       TEXT,
  resource     TEXT,
  opa          TEXT,
  app          TEXT,
  trace_id     TEXT,
  batch_decision_id TEXT,
  requested_by TEXT,
  error        TEXT,
  masked       TEXT,
  bundles      TEXT, -- JSON object: name to revision
  sanitised    INTEGER NOT NULL,
  unsearchable INTEGER NOT NULL,
  sha256       BLOB NOT NULL,
  packed       INTEGER NOT NULL, -- whether the event is
  event        BLOB NOT NULL -- the bytes exactly as sent, or packed; last, so that searches need not read over them
);
INSERT INTO decisions_new (
  tenant, decision_id, timestamp, time, received_at, saved_at, outcome, path, reason, principal, action, resource,
  opa, app, trace_id, requested_by, error, masked, bundles, sanitised, unsearchable, sha256, packed, event
) SELECT
  tenant, decision_id, timestamp, time, received_at, saved_at, outcome, path, reason, principal, action, resource,
  opa, app, trace_id, requested_by, error, masked, bundles, sanitised, unsearchable, sha256, 0, event
FROM decisions;
DROP TABLE decisions;
ALTER TABLE decisions_new RENAME TO decisions;
CREATE UNIQUE INDEX decisions_key ON decisions (decision_id, tenant, timestamp);
CREATE INDEX decisions_time ON decisions (time);

CREATE TABLE decisions_out_of_window_new (
  tenant       TEXT NOT NULL,
  decision_id  TEXT NOT NULL,
  timestamp    INTEGER,
  time         INTEGER NOT NULL,
  received_at  INTEGER NOT NULL,
  saved_at     INTEGER NOT NULL,
  outcome      TEXT NOT NULL,
  path         TEXT,
  reason       TEXT,
  principal    TEXT,
  action       TEXT,
  resource     TEXT,
  opa          TEXT,
  app          TEXT,
  trace_id     TEXT,
  batch_decision_id TEXT,
  requested_by TEXT,
  error        TEXT,
  masked       TEXT,
  bundles      TEXT,
  sanitised    INTEGER NOT NULL,
  unsearchable INTEGER NOT NULL,
  sha256       BLOB NOT NULL,
  packed       INTEGER NOT NULL,
  event        BLOB NOT NULL
);
INSERT INTO decisions_out_of_window_new (
  tenant, decision_id, timestamp, time, received_at, saved_at, outcome, path, reason, principal, action, resource,
  opa, app, trace_id, requested_by, error, masked, bundles, sanitised, unsearchable, sha256, packed, event
) SELECT
  tenant, decision_id, timestamp, time, received_at, saved_at, outcome, path, reason, principal, action, resource,
  opa, app, trace_id, requested_by, error, masked, bundles, sanitised, unsearchable, sha256, 0, event
FROM decisions_out_of_window;
DROP TABLE decisions_out_of_window;
ALTER TABLE decisions_out_of_window_new RENAME TO decisions_out_of_window;
CREATE UNIQUE INDEX decisions_out_of_window_key ON decisions_out_of_window (decision_id, tenant);
CREATE INDEX decisions_out_of_window_time ON decisions_out_of_window (time);
CREATE INDEX decisions_out_of_window_received ON decisions_out_of_window (received_at);
