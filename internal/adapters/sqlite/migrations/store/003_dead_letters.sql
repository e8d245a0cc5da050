-- +goose Up
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
  reason          TEXT NOT NULL,
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
CREATE INDEX dead_letters_place ON dead_letters (state, topic, partition, "offset");
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
  reason      TEXT NOT NULL,
  class       TEXT NOT NULL,
  code        TEXT,
  error_text  TEXT,
  path        TEXT,
  letters     INTEGER NOT NULL,
  first_at    INTEGER NOT NULL,
  last_at     INTEGER NOT NULL,
  PRIMARY KEY (fingerprint, tenant, topic, state, reason)
) WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER dead_letters_came AFTER INSERT ON dead_letters BEGIN
  INSERT INTO dead_letter_counts VALUES (NEW.fingerprint, NEW.tenant, NEW.topic, NEW.state, NEW.reason, NEW.class, NEW.code, NEW.error_text, NEW.path, 1, NEW.died_at, NEW.died_at)
    ON CONFLICT DO UPDATE SET letters = letters + 1, first_at = min(first_at, excluded.first_at), last_at = max(last_at, excluded.last_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER dead_letters_changed AFTER UPDATE ON dead_letters BEGIN
  UPDATE dead_letter_counts SET letters = letters - 1
    WHERE fingerprint = OLD.fingerprint AND tenant = OLD.tenant AND topic = OLD.topic AND state = OLD.state AND reason = OLD.reason;
  INSERT INTO dead_letter_counts VALUES (NEW.fingerprint, NEW.tenant, NEW.topic, NEW.state, NEW.reason, NEW.class, NEW.code, NEW.error_text, NEW.path, 1, NEW.died_at, NEW.died_at)
    ON CONFLICT DO UPDATE SET letters = letters + 1, first_at = min(first_at, excluded.first_at), last_at = max(last_at, excluded.last_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER dead_letters_went AFTER DELETE ON dead_letters BEGIN
  UPDATE dead_letter_counts SET letters = letters - 1
    WHERE fingerprint = OLD.fingerprint AND tenant = OLD.tenant AND topic = OLD.topic AND state = OLD.state AND reason = OLD.reason;
END;
-- +goose StatementEnd

CREATE TABLE replays (
  id          TEXT NOT NULL PRIMARY KEY,
  kind        TEXT NOT NULL,
  dry_run     INTEGER NOT NULL,
  filter      TEXT NOT NULL, -- as a query string
  rate        REAL NOT NULL,
  max         INTEGER NOT NULL,
  max_replays INTEGER NOT NULL,
  stop_ratio  REAL NOT NULL,
  reason      TEXT NOT NULL,
  who         TEXT NOT NULL,
  state       TEXT NOT NULL,
  message     TEXT NOT NULL,
  matched     INTEGER NOT NULL,
  done        INTEGER NOT NULL,
  stored      INTEGER NOT NULL,
  failed      INTEGER NOT NULL,
  reparsed    INTEGER NOT NULL,
  skipped     INTEGER NOT NULL,
  base_done   INTEGER NOT NULL, -- when it was last resumed
  base_failed INTEGER NOT NULL,
  after_topic     TEXT NOT NULL, -- the last place that was dealt with
  after_partition INTEGER NOT NULL,
  after_offset    INTEGER NOT NULL,
  report      TEXT,
  created_at  INTEGER NOT NULL,
  started_at  INTEGER,
  finished_at INTEGER,
  owner       TEXT,
  lease_until INTEGER
);
CREATE INDEX replays_newest ON replays (created_at);
-- Two jobs that do the same at once would only be in each other's way.
CREATE UNIQUE INDEX replays_once ON replays (kind, filter) WHERE NOT dry_run AND state IN ('pending', 'running', 'paused', 'stopped');

CREATE TABLE audit (
  at      INTEGER NOT NULL,
  who     TEXT NOT NULL,
  action  TEXT NOT NULL,
  target  TEXT NOT NULL,
  filter  TEXT NOT NULL,
  matched INTEGER NOT NULL,
  done    INTEGER NOT NULL,
  failed  INTEGER NOT NULL,
  reason  TEXT NOT NULL,
  outcome TEXT NOT NULL
);
CREATE INDEX audit_newest ON audit (at);
-- +goose StatementBegin
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
-- +goose StatementEnd
