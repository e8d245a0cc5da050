-- +goose Up

-- Which credentials there are, and when they were used. No secret: of a token the first digits of its hash.
CREATE TABLE credentials (
  listener   TEXT NOT NULL,
  how        TEXT NOT NULL,
  name       TEXT NOT NULL,
  id         TEXT NOT NULL,
  tenant     TEXT NOT NULL, -- '' for all
  role       TEXT NOT NULL,
  expires    INTEGER, -- microseconds since 1970, as all instants
  listed     INTEGER, -- when a process had it in its file last
  first_used INTEGER,
  last_used  INTEGER,
  uses       INTEGER NOT NULL,
  address    TEXT NOT NULL,
  PRIMARY KEY (listener, how, name, id, tenant)
) STRICT, WITHOUT ROWID;
