-- +goose Up

-- It reads every day, and takes the time that it takes.
SET LOCAL statement_timeout = 0;

-- How many decisions there are, by the minute, hour or day that begins at "at". A batch appends what it has stored, in its
-- own transaction; what was appended is folded once a minute by one process (Store.Tend). Any sum over rows of both kinds
-- is exact. A day's go with the day.
CREATE TABLE decision_counts (
  at        timestamptz NOT NULL,
  seconds   integer NOT NULL, -- how long it counts: 60, 3600 or 86400
  folded    boolean NOT NULL,
  tenant    text COLLATE "C" NOT NULL,
  path      text COLLATE "C" NOT NULL, -- '' for none; '(others)' for those beyond 1,000 of a tenant and day
  outcome   text COLLATE "C" NOT NULL,
  decisions bigint NOT NULL
) PARTITION BY RANGE (at);
CREATE UNIQUE INDEX decision_counts_folded ON decision_counts (at, seconds, tenant, path, outcome) WHERE folded;
CREATE INDEX decision_counts_fresh ON decision_counts (at) WHERE NOT folded;

-- Logical replication of all tables would keep docket from changing a table that has no key.
ALTER TABLE decision_counts REPLICA IDENTITY FULL;
ALTER TABLE log_losses REPLICA IDENTITY FULL;
ALTER TABLE rejection_acceptances REPLICA IDENTITY FULL;
ALTER TABLE guard_periods REPLICA IDENTITY FULL;

-- What is there already is counted once.
-- +goose StatementBegin
DO $$
DECLARE
  day record;
BEGIN
  FOR day IN SELECT c.oid, c.relname::text, pg_get_expr(c.relpartbound, c.oid) AS bound
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'decisions'::regclass AND c.relname ~ '^decisions_\d{8}$'
  LOOP
    EXECUTE format('CREATE TABLE %I PARTITION OF decision_counts %s', replace(day.relname, 'decisions_', 'decision_counts_'), day.bound);
    EXECUTE format('ALTER TABLE %I REPLICA IDENTITY FULL', replace(day.relname, 'decisions_', 'decision_counts_'));
    EXECUTE format('INSERT INTO decision_counts SELECT date_trunc(''hour'', timestamp, ''UTC''), 3600, true, tenant, coalesce(path, ''''),
      outcome, count(*) FROM %s GROUP BY 1, 4, 5, 6', day.oid::regclass);
  END LOOP;
END $$;
-- +goose StatementEnd
