-- +goose Up

-- What docket's processes tell each other of themselves, every few seconds.
CREATE TABLE processes (
  name    TEXT PRIMARY KEY,
  role    TEXT NOT NULL,
  host    TEXT NOT NULL,
  started INTEGER NOT NULL,
  seen    INTEGER NOT NULL,
  ready   INTEGER NOT NULL,
  trouble TEXT NOT NULL -- JSON: by role, codes with arguments
);

ALTER TABLE opas ADD COLUMN app TEXT NOT NULL DEFAULT '';
