-- +goose Up

-- What subjects of erasures are hashed with. It keeps names from being read, not from being tried.
CREATE TABLE erasure_key (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  key BLOB NOT NULL
) STRICT;

-- What may not be kept: decisions about a subject that were made, or received, up to a time. They are in force until
-- nothing from before that time can be in the log any more, unless the job was canceled. Times are in microseconds
-- since 1970.
CREATE TABLE erasures (
  job     TEXT NOT NULL REFERENCES jobs,
  subject BLOB NOT NULL,
  tenants TEXT, -- a JSON array, or null for all
  at      INTEGER NOT NULL,
  until   INTEGER, -- null while that is not known
  PRIMARY KEY (job, subject)
) STRICT, WITHOUT ROWID;
