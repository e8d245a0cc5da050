-- +goose Up
CREATE TABLE decisions (
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
  requested_by TEXT,
  error        TEXT,
  bundles      TEXT, -- JSON object: name to revision
  sanitised    INTEGER NOT NULL,
  unsearchable INTEGER NOT NULL,
  sha256       BLOB NOT NULL,
  event        BLOB NOT NULL -- the bytes exactly as sent; last, so that searches need not read over them
);
CREATE UNIQUE INDEX decisions_key ON decisions (decision_id, tenant, timestamp);
CREATE INDEX decisions_time ON decisions (time);

-- Decisions without a timestamp that can be believed: absent, unreadable, or too far in the future.
CREATE TABLE decisions_out_of_window (
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
  requested_by TEXT,
  error        TEXT,
  bundles      TEXT,
  sanitised    INTEGER NOT NULL,
  unsearchable INTEGER NOT NULL,
  sha256       BLOB NOT NULL,
  event        BLOB NOT NULL
);
CREATE UNIQUE INDEX decisions_out_of_window_key ON decisions_out_of_window (decision_id, tenant);
CREATE INDEX decisions_out_of_window_time ON decisions_out_of_window (time);
CREATE INDEX decisions_out_of_window_received ON decisions_out_of_window (received_at);

CREATE TABLE opas (
  tenant       TEXT NOT NULL,
  opa          TEXT NOT NULL,
  version      TEXT NOT NULL,
  first_upload INTEGER,
  last_upload  INTEGER,
  interval     INTEGER NOT NULL DEFAULT 0, -- microseconds
  uploads      INTEGER NOT NULL,
  events       INTEGER NOT NULL,
  status_at    INTEGER,
  status       BLOB,
  PRIMARY KEY (tenant, opa)
);
