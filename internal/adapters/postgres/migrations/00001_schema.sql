-- +goose Up

-- One partition a day (UTC), by the event's own timestamp; docket makes them and drops them whole when they are past the
-- retention. Names, ids and what is matched by prefix are compared byte by byte, which is also what indexes like best.
-- docs/adr/0004 has the measurements behind the order of the key and the kinds of index.
CREATE TABLE decisions (
  timestamp    timestamptz NOT NULL,
  received_at  timestamptz NOT NULL,
  saved_at     timestamptz NOT NULL,
  sanitised    boolean     NOT NULL,
  unsearchable boolean     NOT NULL, -- the event cannot be de-escaped: JSON terms of a search skip the row
  sha256       bytea       NOT NULL,
  tenant       text COLLATE "C" NOT NULL,
  decision_id  text COLLATE "C" NOT NULL,
  outcome      text COLLATE "C" NOT NULL,
  path         text COLLATE "C",
  reason       text COLLATE "C",
  principal    text COLLATE "C",
  action       text COLLATE "C",
  resource     text COLLATE "C",
  opa          text COLLATE "C",
  app          text COLLATE "C",
  trace_id     text COLLATE "C",
  requested_by text COLLATE "C",
  error        text COLLATE "C",
  bundles      jsonb, -- name to revision
  event        json NOT NULL, -- json, not jsonb: the bytes exactly as sent
  PRIMARY KEY (timestamp, tenant, decision_id)
) PARTITION BY RANGE (timestamp);

-- The server's default is three times as slow; a server that was built without lz4 keeps it.
-- +goose StatementBegin
DO $$ BEGIN
  ALTER TABLE decisions ALTER COLUMN event SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;
-- +goose StatementEnd

CREATE INDEX decisions_id ON decisions USING hash (decision_id);

-- Decisions without a timestamp that can be believed: absent, unreadable, or too far in the future. Kept by receipt.
CREATE TABLE decisions_out_of_window (
  timestamp    timestamptz,
  time         timestamptz NOT NULL, -- what they are ordered by: the timestamp or, without one, the receipt
  received_at  timestamptz NOT NULL,
  saved_at     timestamptz NOT NULL,
  sanitised    boolean     NOT NULL,
  unsearchable boolean     NOT NULL,
  sha256       bytea       NOT NULL,
  tenant       text COLLATE "C" NOT NULL,
  decision_id  text COLLATE "C" NOT NULL,
  outcome      text COLLATE "C" NOT NULL,
  path         text COLLATE "C",
  reason       text COLLATE "C",
  principal    text COLLATE "C",
  action       text COLLATE "C",
  resource     text COLLATE "C",
  opa          text COLLATE "C",
  app          text COLLATE "C",
  trace_id     text COLLATE "C",
  requested_by text COLLATE "C",
  error        text COLLATE "C",
  bundles      jsonb,
  event        json NOT NULL,
  PRIMARY KEY (decision_id, tenant)
);
CREATE INDEX decisions_out_of_window_time ON decisions_out_of_window (time);
CREATE INDEX decisions_out_of_window_received ON decisions_out_of_window (received_at);

-- What a batch is sent as: an array of these. An array for each column costs the server half as much again.
CREATE TYPE decision_input AS (
  timestamp    timestamptz,
  received_at  timestamptz,
  sanitised    boolean,
  unsearchable boolean,
  sha256       bytea,
  tenant       text,
  decision_id  text,
  outcome      text,
  path         text,
  reason       text,
  principal    text,
  action       text,
  resource     text,
  opa          text,
  app          text,
  trace_id     text,
  requested_by text,
  error        text,
  bundles      jsonb,
  event        json
);

CREATE TABLE opas (
  tenant          text COLLATE "C" NOT NULL,
  opa             text COLLATE "C" NOT NULL,
  version         text NOT NULL,
  first_upload    timestamptz,
  last_upload     timestamptz,
  upload_interval interval NOT NULL DEFAULT '0',
  uploads         bigint NOT NULL,
  events          bigint NOT NULL,
  status_at       timestamptz,
  status          bytea,
  PRIMARY KEY (tenant, opa)
);

-- Records of the log that somebody gave up: docket log accept-loss.
CREATE TABLE log_losses (
  accepted_at    timestamptz NOT NULL,
  caller         text NOT NULL,
  consumer_group text NOT NULL,
  topic          text NOT NULL,
  partition      integer NOT NULL,
  first_offset   bigint NOT NULL,
  last_offset    bigint NOT NULL
);

-- Rows that were rejected at the store, by the minute, by tenant and by what they failed with, over all processes: the
-- dead-letter guard needs their share. Rows without a fingerprint count all that were judged in that minute.
CREATE TABLE rejections (
  minute      timestamptz NOT NULL,
  tenant      text COLLATE "C" NOT NULL,
  fingerprint text COLLATE "C" NOT NULL,
  class       text NOT NULL,
  code        text NOT NULL,
  error       text NOT NULL,
  path        text NOT NULL,
  rows        bigint NOT NULL,
  PRIMARY KEY (minute, tenant, fingerprint)
);

-- Who said that rows with a fingerprint may be dead-lettered in spite of the guard, until when and why. It counts for the
-- tenants that the caller has: a JSON array, or null for all.
CREATE TABLE rejection_acceptances (
  fingerprint text COLLATE "C" NOT NULL,
  tenants     jsonb,
  accepted_at timestamptz NOT NULL,
  until       timestamptz NOT NULL,
  caller      text NOT NULL,
  comment     text NOT NULL
);
CREATE INDEX rejection_acceptances_fingerprint ON rejection_acceptances (fingerprint, accepted_at);

-- When the dead-letter guard was on; it is where a row has no end.
CREATE TABLE guard_periods (
  begun_at timestamptz NOT NULL,
  ended_at timestamptz
);
CREATE UNIQUE INDEX guard_periods_one ON guard_periods ((true)) WHERE ended_at IS NULL;

-- The index of the dead-letter topics. The bytes stay in the log; copies, by tenant, hash and class, are one row.
CREATE TABLE dead_letters (
  id              text COLLATE "C" PRIMARY KEY, -- topic:partition:offset of the first copy
  topic           text COLLATE "C" NOT NULL,    -- where the newest copy stands
  partition       integer NOT NULL,
  "offset"        bigint  NOT NULL,
  state           text COLLATE "C" NOT NULL,
  class           text COLLATE "C" NOT NULL,
  code            text COLLATE "C",
  cause           text COLLATE "C" NOT NULL,
  error           text,
  error_text      text, -- without what differs from row to row
  fingerprint     text COLLATE "C" NOT NULL,
  attempts        integer NOT NULL,
  tenant          text COLLATE "C" NOT NULL,
  decision_id     text COLLATE "C",
  path            text COLLATE "C",
  timestamp       timestamptz, -- the decision's: with tenant and id the key of its row
  decision        boolean NOT NULL,
  whole           boolean NOT NULL,
  sha256          bytea NOT NULL,
  bytes           integer NOT NULL,
  upload          text,
  origin          text,
  received_at     timestamptz,
  first_failed_at timestamptz,
  died_at         timestamptz NOT NULL,
  indexed_at      timestamptz NOT NULL,
  changed_at      timestamptz NOT NULL,
  copies          integer NOT NULL,
  replay          text COLLATE "C", -- the last job that took it up
  replays         integer NOT NULL
);
CREATE UNIQUE INDEX dead_letters_bytes ON dead_letters (sha256, tenant, class);
CREATE INDEX dead_letters_position ON dead_letters (state, topic, partition, "offset");
CREATE INDEX dead_letters_newest ON dead_letters (died_at, id);
CREATE INDEX dead_letters_fingerprint ON dead_letters (fingerprint, died_at);
CREATE INDEX dead_letters_decision ON dead_letters (decision_id) WHERE decision_id IS NOT NULL;

-- What the groups count, kept by triggers: nobody waits for a million rows to be counted.
CREATE TABLE dead_letter_counts (
  fingerprint text COLLATE "C" NOT NULL,
  tenant      text COLLATE "C" NOT NULL,
  topic       text COLLATE "C" NOT NULL,
  state       text COLLATE "C" NOT NULL,
  cause      text COLLATE "C" NOT NULL,
  class       text COLLATE "C" NOT NULL,
  code        text COLLATE "C",
  error_text  text,
  path        text COLLATE "C",
  letters     bigint NOT NULL,
  first_at    timestamptz NOT NULL,
  last_at     timestamptz NOT NULL,
  PRIMARY KEY (fingerprint, tenant, topic, state, cause)
);

-- +goose StatementBegin
CREATE FUNCTION dead_letters_came() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO dead_letter_counts AS c
    SELECT fingerprint, tenant, topic, state, cause, min(class), min(code), min(error_text), min(path), count(*), min(died_at), max(died_at)
    FROM came GROUP BY fingerprint, tenant, topic, state, cause ORDER BY fingerprint, tenant, topic, state, cause
  ON CONFLICT (fingerprint, tenant, topic, state, cause) DO UPDATE SET
    letters = c.letters + excluded.letters, first_at = least(c.first_at, excluded.first_at), last_at = greatest(c.last_at, excluded.last_at);
  RETURN NULL;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION dead_letters_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO dead_letter_counts AS c
    SELECT fingerprint, tenant, topic, state, cause, min(class), min(code), min(error_text), min(path), sum(n), min(died_at), max(died_at)
    FROM (SELECT *, 1 AS n FROM came UNION ALL SELECT *, -1 FROM went) b
    GROUP BY fingerprint, tenant, topic, state, cause ORDER BY fingerprint, tenant, topic, state, cause
  ON CONFLICT (fingerprint, tenant, topic, state, cause) DO UPDATE SET
    letters = c.letters + excluded.letters, first_at = least(c.first_at, excluded.first_at), last_at = greatest(c.last_at, excluded.last_at);
  RETURN NULL;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION dead_letters_went() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE dead_letter_counts c SET letters = c.letters - b.n
    FROM (SELECT fingerprint, tenant, topic, state, cause, count(*) AS n FROM went GROUP BY fingerprint, tenant, topic, state, cause) b
    WHERE (c.fingerprint, c.tenant, c.topic, c.state, c.cause) = (b.fingerprint, b.tenant, b.topic, b.state, b.cause);
  RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER came AFTER INSERT ON dead_letters REFERENCING NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION dead_letters_came();
CREATE TRIGGER changed AFTER UPDATE ON dead_letters REFERENCING NEW TABLE AS came OLD TABLE AS went FOR EACH STATEMENT EXECUTE FUNCTION dead_letters_changed();
CREATE TRIGGER went AFTER DELETE ON dead_letters REFERENCING OLD TABLE AS went FOR EACH STATEMENT EXECUTE FUNCTION dead_letters_went();

CREATE TABLE jobs (
  id          text COLLATE "C" PRIMARY KEY,
  kind        text NOT NULL,
  lane        text COLLATE "C" NOT NULL, -- those of one lane are worked on one at a time
  dry_run     boolean NOT NULL,
  filter      text NOT NULL, -- versioned JSON, spelled the same for the same filter
  tenants     jsonb,         -- whose dead letters it may touch: a JSON array, or null for all
  rate        double precision NOT NULL,
  max         bigint NOT NULL,
  max_replays integer NOT NULL,
  stop_ratio  double precision NOT NULL,
  comment     text NOT NULL,
  caller      text NOT NULL,
  state       text COLLATE "C" NOT NULL,
  message     text NOT NULL, -- JSON: a code with arguments
  matched     bigint NOT NULL,
  done        bigint NOT NULL,
  stored      bigint NOT NULL,
  failed      bigint NOT NULL,
  reparsed    bigint NOT NULL,
  skipped     bigint NOT NULL,
  base_done   bigint NOT NULL, -- when it was last resumed
  base_failed bigint NOT NULL,
  after_topic     text COLLATE "C" NOT NULL, -- the last position that was dealt with
  after_partition integer NOT NULL,
  after_offset    bigint NOT NULL,
  report      text,
  created_at  timestamptz NOT NULL,
  started_at  timestamptz,
  finished_at timestamptz,
  owner       text,
  lease_until timestamptz
);
CREATE INDEX jobs_newest ON jobs (created_at);
-- Two jobs that do the same at once would only be in each other's way. The states are those that are not over.
CREATE UNIQUE INDEX jobs_once ON jobs (kind, md5(filter), coalesce(md5(tenants::text), ''))
  WHERE NOT dry_run AND state IN ('pending', 'running', 'paused', 'stopped');

CREATE TABLE audit (
  at      timestamptz NOT NULL,
  caller  text NOT NULL,
  tenants jsonb, -- the caller's: who has all of these sees the entry
  action  text NOT NULL,
  target  text NOT NULL,
  filter  text NOT NULL,
  matched bigint NOT NULL,
  done    bigint NOT NULL,
  failed  bigint NOT NULL,
  comment text NOT NULL,
  outcome text NOT NULL -- JSON: a code with arguments
);
CREATE INDEX audit_newest ON audit (at);
-- +goose StatementBegin
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit is append-only';
END $$;
-- +goose StatementEnd
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
