-- +goose Up

-- How long decisions are kept: a process that is configured with less does not drop more.
CREATE TABLE retention (
  one     INTEGER PRIMARY KEY CHECK (one = 1),
  seconds INTEGER NOT NULL
);

-- The days that are gone, counted from 1970-01-01. Decisions of them are expired; only a few days may go within 24 hours.
CREATE TABLE dropped_days (
  day        INTEGER PRIMARY KEY,
  dropped_at INTEGER NOT NULL
);
