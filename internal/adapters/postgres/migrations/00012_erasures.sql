-- +goose Up

-- What subjects of erasures are hashed with. It keeps names from being read, not from being tried.
CREATE TABLE erasure_key (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  key bytea NOT NULL
);

-- What may not be kept: decisions about a subject that were made, or received, up to a time. They are in force until
-- nothing from before that time can be in the log any more, unless the job was canceled.
CREATE TABLE erasures (
  job     text COLLATE "C" NOT NULL REFERENCES jobs,
  subject bytea NOT NULL,
  tenants jsonb, -- a JSON array, or null for all
  at      timestamptz NOT NULL,
  until   timestamptz, -- null while that is not known
  PRIMARY KEY (job, subject)
);
