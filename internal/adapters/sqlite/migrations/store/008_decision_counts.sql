-- +goose Up

-- How many decisions there are, by the minute, hour or day that begins at "at"; see PostgreSQL's.
CREATE TABLE decision_counts (
  at        INTEGER NOT NULL, -- microseconds since 1970
  seconds   INTEGER NOT NULL,
  folded    INTEGER NOT NULL, -- 0 where a batch has put it; its path may be one too many
  tenant    TEXT NOT NULL,
  path      TEXT NOT NULL,
  outcome   TEXT NOT NULL,
  decisions INTEGER NOT NULL,
  PRIMARY KEY (at, seconds, folded, tenant, path, outcome)
) WITHOUT ROWID;

INSERT INTO decision_counts SELECT time - (time % 3600000000 + 3600000000) % 3600000000, 3600, 1, tenant, coalesce(path, ''), outcome, count(*)
FROM decisions GROUP BY 1, 4, 5, 6;
