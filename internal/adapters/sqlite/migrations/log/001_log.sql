-- +goose Up
CREATE TABLE topics (
  number      INTEGER PRIMARY KEY,
  name        TEXT NOT NULL UNIQUE,
  first_offset INTEGER NOT NULL DEFAULT 0,
  next_offset INTEGER NOT NULL DEFAULT 0
);

-- id = topic number << 44 | offset: one b-tree in log order, and a rowid table, because rows are long.
CREATE TABLE records (
  id         INTEGER PRIMARY KEY,
  written_at INTEGER NOT NULL, -- microseconds since 1970
  checksum   INTEGER NOT NULL, -- CRC-32C over id, written_at, key, headers and value
  key        TEXT NOT NULL,
  headers    TEXT NOT NULL,    -- JSON array of names and values
  value      BLOB NOT NULL
);

CREATE TABLE commits (
  consumer_group TEXT NOT NULL,
  topic          INTEGER NOT NULL,
  next_offset    INTEGER NOT NULL,
  PRIMARY KEY (consumer_group, topic)
) WITHOUT ROWID;

-- What an operator accepted as lost, for the audit.
CREATE TABLE losses (
  accepted_at  INTEGER NOT NULL,
  topic        TEXT NOT NULL,
  first_offset INTEGER NOT NULL,
  last_offset  INTEGER NOT NULL,
  reason       TEXT NOT NULL
);
