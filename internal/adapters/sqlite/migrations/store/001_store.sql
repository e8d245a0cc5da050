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

-- Rows that were rejected at the store, by the minute, by tenant and by what they failed with. Rows without a fingerprint
-- count all that were judged in that minute. Times are microseconds since 1970.
CREATE TABLE rejections (
  minute      INTEGER NOT NULL,
  tenant      TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  class       TEXT NOT NULL,
  code        TEXT NOT NULL,
  error       TEXT NOT NULL,
  path        TEXT NOT NULL,
  rows        INTEGER NOT NULL,
  PRIMARY KEY (minute, tenant, fingerprint)
) WITHOUT ROWID;

-- Who said that rows with a fingerprint may be dead-lettered in spite of the guard, until when and why. It counts for the
-- tenants that the caller has: a JSON array, or null for all.
CREATE TABLE rejection_acceptances (
  fingerprint TEXT NOT NULL,
  tenants     TEXT,
  accepted_at INTEGER NOT NULL,
  until       INTEGER NOT NULL,
  caller      TEXT NOT NULL,
  comment     TEXT NOT NULL
);

-- When the dead-letter guard was on; it is where a row has no end.
CREATE TABLE guard_periods (
  begun_at INTEGER NOT NULL,
  ended_at INTEGER
);
CREATE UNIQUE INDEX guard_periods_one ON guard_periods (ended_at IS NULL) WHERE ended_at IS NULL;

-- The index of the dead-letter topics. The bytes stay in the log; copies, by tenant, hash and class, are one row. Times are
-- microseconds since 1970.
CREATE TABLE dead_letters (
  id              TEXT NOT NULL PRIMARY KEY, -- topic:partition:offset of the first copy
  topic           TEXT NOT NULL,             -- where the newest copy stands
  partition       INTEGER NOT NULL,
  "offset"        INTEGER NOT NULL,
  state           TEXT NOT NULL,
  class           TEXT NOT NULL,
  code            TEXT,
  cause           TEXT NOT NULL,
  error           TEXT,
  error_text      TEXT, -- without what differs from row to row
  fingerprint     TEXT NOT NULL,
  attempts        INTEGER NOT NULL,
  tenant          TEXT NOT NULL,
  decision_id     TEXT,
  path            TEXT,
  timestamp       INTEGER, -- the decision's: with tenant and id the key of its row
  decision        INTEGER NOT NULL,
  whole           INTEGER NOT NULL,
  sha256          BLOB NOT NULL,
  bytes           INTEGER NOT NULL,
  upload          TEXT,
  origin          TEXT,
  received_at     INTEGER,
  first_failed_at INTEGER,
  died_at         INTEGER NOT NULL,
  indexed_at      INTEGER NOT NULL,
  changed_at      INTEGER NOT NULL,
  copies          INTEGER NOT NULL,
  replay          TEXT, -- the last job that took it up
  replays         INTEGER NOT NULL
);
CREATE UNIQUE INDEX dead_letters_bytes ON dead_letters (sha256, tenant, class);
CREATE INDEX dead_letters_position ON dead_letters (state, topic, partition, "offset");
CREATE INDEX dead_letters_newest ON dead_letters (died_at, id);
CREATE INDEX dead_letters_state ON dead_letters (state, died_at, id);
CREATE INDEX dead_letters_fingerprint ON dead_letters (fingerprint, died_at);
CREATE INDEX dead_letters_decision ON dead_letters (decision_id) WHERE decision_id IS NOT NULL;

-- What the groups count, kept by triggers: nobody waits for a million rows to be counted.
CREATE TABLE dead_letter_counts (
  fingerprint TEXT NOT NULL,
  tenant      TEXT NOT NULL,
  topic       TEXT NOT NULL,
  state       TEXT NOT NULL,
  cause      TEXT NOT NULL,
  class       TEXT NOT NULL,
  code        TEXT,
  error_text  TEXT,
  path        TEXT,
  letters     INTEGER NOT NULL,
  first_at    INTEGER NOT NULL,
  last_at     INTEGER NOT NULL,
  PRIMARY KEY (fingerprint, tenant, topic, state, cause)
) WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER dead_letters_came AFTER INSERT ON dead_letters BEGIN
  INSERT INTO dead_letter_counts VALUES (NEW.fingerprint, NEW.tenant, NEW.topic, NEW.state, NEW.cause, NEW.class, NEW.code,
    NEW.error_text, NEW.path, 1, NEW.died_at, NEW.died_at)
    ON CONFLICT DO UPDATE SET letters = letters + 1, first_at = min(first_at, excluded.first_at), last_at = max(last_at, excluded.last_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER dead_letters_changed AFTER UPDATE ON dead_letters BEGIN
  UPDATE dead_letter_counts SET letters = letters - 1
    WHERE fingerprint = OLD.fingerprint AND tenant = OLD.tenant AND topic = OLD.topic AND state = OLD.state AND cause = OLD.cause;
  INSERT INTO dead_letter_counts VALUES (NEW.fingerprint, NEW.tenant, NEW.topic, NEW.state, NEW.cause, NEW.class, NEW.code,
    NEW.error_text, NEW.path, 1, NEW.died_at, NEW.died_at)
    ON CONFLICT DO UPDATE SET letters = letters + 1, first_at = min(first_at, excluded.first_at), last_at = max(last_at, excluded.last_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER dead_letters_went AFTER DELETE ON dead_letters BEGIN
  UPDATE dead_letter_counts SET letters = letters - 1
    WHERE fingerprint = OLD.fingerprint AND tenant = OLD.tenant AND topic = OLD.topic AND state = OLD.state AND cause = OLD.cause;
END;
-- +goose StatementEnd

CREATE TABLE jobs (
  id          TEXT NOT NULL PRIMARY KEY,
  kind        TEXT NOT NULL,
  lane        TEXT NOT NULL, -- those of one lane are worked on one at a time
  dry_run     INTEGER NOT NULL,
  filter      TEXT NOT NULL, -- versioned JSON, spelled the same for the same filter
  tenants     TEXT,         -- whose dead letters it may touch: a JSON array, or null for all
  rate        REAL NOT NULL,
  max         INTEGER NOT NULL,
  max_replays INTEGER NOT NULL,
  stop_ratio  REAL NOT NULL,
  comment     TEXT NOT NULL,
  caller      TEXT NOT NULL,
  state       TEXT NOT NULL,
  message     TEXT NOT NULL, -- JSON: a code with arguments
  matched     INTEGER NOT NULL,
  done        INTEGER NOT NULL,
  stored      INTEGER NOT NULL,
  failed      INTEGER NOT NULL,
  reparsed    INTEGER NOT NULL,
  skipped     INTEGER NOT NULL,
  base_done   INTEGER NOT NULL, -- when it was last resumed
  base_failed INTEGER NOT NULL,
  after_topic     TEXT NOT NULL, -- the last position that was dealt with
  after_partition INTEGER NOT NULL,
  after_offset    INTEGER NOT NULL,
  report      TEXT,
  created_at  INTEGER NOT NULL,
  started_at  INTEGER,
  finished_at INTEGER,
  owner       TEXT,
  lease_until INTEGER
);
CREATE INDEX jobs_newest ON jobs (created_at);
-- Two jobs that do the same at once would only be in each other's way. The states are those that are not over.
CREATE UNIQUE INDEX jobs_once ON jobs (kind, filter, coalesce(tenants, ''))
  WHERE NOT dry_run AND state IN ('pending', 'running', 'paused', 'stopped');

CREATE TABLE audit (
  at      INTEGER NOT NULL,
  caller  TEXT NOT NULL,
  tenants TEXT, -- the caller's: who has all of these sees the entry
  action  TEXT NOT NULL,
  target  TEXT NOT NULL,
  filter  TEXT NOT NULL,
  matched INTEGER NOT NULL,
  done    INTEGER NOT NULL,
  failed  INTEGER NOT NULL,
  comment TEXT NOT NULL,
  outcome TEXT NOT NULL -- JSON: a code with arguments
);
CREATE INDEX audit_newest ON audit (at);
-- +goose StatementBegin
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
-- +goose StatementEnd
