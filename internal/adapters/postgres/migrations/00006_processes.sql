-- +goose Up

-- What docket's processes tell each other of themselves, every few seconds.
CREATE TABLE processes (
  name    text COLLATE "C" PRIMARY KEY,
  role    text NOT NULL,
  host    text NOT NULL,
  started timestamptz NOT NULL,
  seen    timestamptz NOT NULL, -- by this server's clock
  ready   boolean NOT NULL,
  trouble text NOT NULL -- JSON: by role, codes with arguments
);

ALTER TABLE opas ADD COLUMN app text COLLATE "C" NOT NULL DEFAULT '';
