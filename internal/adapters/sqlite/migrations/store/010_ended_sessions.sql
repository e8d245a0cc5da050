-- +goose Up

-- Sessions of people that were ended before their time. No secret: nobody gets in by an id.
CREATE TABLE ended_sessions (
  id    TEXT PRIMARY KEY,
  until INTEGER NOT NULL -- when it would have ended by itself, in microseconds since 1970
) STRICT, WITHOUT ROWID;
