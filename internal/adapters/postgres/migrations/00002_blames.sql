-- +goose Up

-- Rows that were blamed at the store, by the minute and by what they failed with, over all processes: the flood stop needs
-- their share. The row without a fingerprint counts all that were judged in that minute.
CREATE TABLE blames (
  minute      timestamptz NOT NULL,
  fingerprint text COLLATE "C" NOT NULL,
  class       text NOT NULL,
  code        text NOT NULL,
  error       text NOT NULL,
  path        text NOT NULL,
  rows        bigint NOT NULL,
  PRIMARY KEY (minute, fingerprint)
);

-- Who said that rows with a fingerprint may be dead-lettered in spite of a flood, until when and why.
CREATE TABLE blame_acceptances (
  fingerprint text COLLATE "C" NOT NULL,
  accepted_at timestamptz NOT NULL,
  until       timestamptz NOT NULL,
  who         text NOT NULL,
  reason      text NOT NULL
);
CREATE INDEX blame_acceptances_fingerprint ON blame_acceptances (fingerprint, accepted_at);

-- When the flood stop was on; it is where a row has no end.
CREATE TABLE flood_stops (
  begun_at timestamptz NOT NULL,
  ended_at timestamptz
);
CREATE UNIQUE INDEX flood_stops_one ON flood_stops ((true)) WHERE ended_at IS NULL;
