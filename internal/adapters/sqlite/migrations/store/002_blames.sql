-- +goose Up
-- Rows that were blamed at the store, by the minute and by what they failed with. The row without a fingerprint counts all
-- that were judged in that minute. Times are microseconds since 1970.
CREATE TABLE blames (
  minute      INTEGER NOT NULL,
  fingerprint TEXT NOT NULL,
  class       TEXT NOT NULL,
  code        TEXT NOT NULL,
  error       TEXT NOT NULL,
  path        TEXT NOT NULL,
  rows        INTEGER NOT NULL,
  PRIMARY KEY (minute, fingerprint)
) WITHOUT ROWID;

CREATE TABLE blame_acceptances (
  fingerprint TEXT NOT NULL,
  accepted_at INTEGER NOT NULL,
  until       INTEGER NOT NULL,
  who         TEXT NOT NULL,
  reason      TEXT NOT NULL
);

-- When the flood stop was on; it is where a row has no end.
CREATE TABLE flood_stops (
  begun_at INTEGER NOT NULL,
  ended_at INTEGER
);
CREATE UNIQUE INDEX flood_stops_one ON flood_stops (ended_at IS NULL) WHERE ended_at IS NULL;
