-- +goose Up

-- How long decisions are kept, for all processes: one that is configured with less does not drop more.
CREATE TABLE retention (
  one     boolean PRIMARY KEY DEFAULT true CHECK (one),
  seconds bigint NOT NULL,
  set_at  timestamptz NOT NULL DEFAULT now()
);

-- The days that are gone. Decisions of them are expired; only a few days may go within 24 hours.
CREATE TABLE dropped_days (
  day        date PRIMARY KEY,
  dropped_at timestamptz NOT NULL
);
