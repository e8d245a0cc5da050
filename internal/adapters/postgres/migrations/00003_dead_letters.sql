-- +goose Up

-- The index of the dead-letter topics. The bytes stay in the log; copies, by tenant, hash and class, are one row.
CREATE TABLE dead_letters (
  id              text COLLATE "C" PRIMARY KEY, -- topic:partition:offset of the first copy
  topic           text COLLATE "C" NOT NULL,    -- where the newest copy stands
  partition       integer NOT NULL,
  "offset"        bigint  NOT NULL,
  state           text COLLATE "C" NOT NULL,
  class           text COLLATE "C" NOT NULL,
  code            text COLLATE "C",
  reason          text COLLATE "C" NOT NULL,
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
CREATE INDEX dead_letters_place ON dead_letters (state, topic, partition, "offset");
CREATE INDEX dead_letters_newest ON dead_letters (died_at, id);
CREATE INDEX dead_letters_fingerprint ON dead_letters (fingerprint, died_at);
CREATE INDEX dead_letters_decision ON dead_letters (decision_id) WHERE decision_id IS NOT NULL;

-- What the groups count, kept by triggers: nobody waits for a million rows to be counted.
CREATE TABLE dead_letter_counts (
  fingerprint text COLLATE "C" NOT NULL,
  tenant      text COLLATE "C" NOT NULL,
  topic       text COLLATE "C" NOT NULL,
  state       text COLLATE "C" NOT NULL,
  reason      text COLLATE "C" NOT NULL,
  class       text COLLATE "C" NOT NULL,
  code        text COLLATE "C",
  error_text  text,
  path        text COLLATE "C",
  letters     bigint NOT NULL,
  first_at    timestamptz NOT NULL,
  last_at     timestamptz NOT NULL,
  PRIMARY KEY (fingerprint, tenant, topic, state, reason)
);

-- +goose StatementBegin
CREATE FUNCTION dead_letters_came() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO dead_letter_counts AS c
    SELECT fingerprint, tenant, topic, state, reason, min(class), min(code), min(error_text), min(path), count(*), min(died_at), max(died_at)
    FROM came GROUP BY fingerprint, tenant, topic, state, reason ORDER BY fingerprint, tenant, topic, state, reason
  ON CONFLICT (fingerprint, tenant, topic, state, reason) DO UPDATE SET
    letters = c.letters + excluded.letters, first_at = least(c.first_at, excluded.first_at), last_at = greatest(c.last_at, excluded.last_at);
  RETURN NULL;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION dead_letters_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO dead_letter_counts AS c
    SELECT fingerprint, tenant, topic, state, reason, min(class), min(code), min(error_text), min(path), sum(n), min(died_at), max(died_at)
    FROM (SELECT *, 1 AS n FROM came UNION ALL SELECT *, -1 FROM went) b
    GROUP BY fingerprint, tenant, topic, state, reason ORDER BY fingerprint, tenant, topic, state, reason
  ON CONFLICT (fingerprint, tenant, topic, state, reason) DO UPDATE SET
    letters = c.letters + excluded.letters, first_at = least(c.first_at, excluded.first_at), last_at = greatest(c.last_at, excluded.last_at);
  RETURN NULL;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION dead_letters_went() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE dead_letter_counts c SET letters = c.letters - b.n
    FROM (SELECT fingerprint, tenant, topic, state, reason, count(*) AS n FROM went GROUP BY fingerprint, tenant, topic, state, reason) b
    WHERE (c.fingerprint, c.tenant, c.topic, c.state, c.reason) = (b.fingerprint, b.tenant, b.topic, b.state, b.reason);
  RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER came AFTER INSERT ON dead_letters REFERENCING NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION dead_letters_came();
CREATE TRIGGER changed AFTER UPDATE ON dead_letters REFERENCING NEW TABLE AS came OLD TABLE AS went FOR EACH STATEMENT EXECUTE FUNCTION dead_letters_changed();
CREATE TRIGGER went AFTER DELETE ON dead_letters REFERENCING OLD TABLE AS went FOR EACH STATEMENT EXECUTE FUNCTION dead_letters_went();

CREATE TABLE replays (
  id          text COLLATE "C" PRIMARY KEY,
  kind        text NOT NULL,
  dry_run     boolean NOT NULL,
  filter      text NOT NULL, -- as a query string
  rate        double precision NOT NULL,
  max         bigint NOT NULL,
  max_replays integer NOT NULL,
  stop_ratio  double precision NOT NULL,
  reason      text NOT NULL,
  who         text NOT NULL,
  state       text NOT NULL,
  message     text NOT NULL,
  matched     bigint NOT NULL,
  done        bigint NOT NULL,
  stored      bigint NOT NULL,
  failed      bigint NOT NULL,
  reparsed    bigint NOT NULL,
  skipped     bigint NOT NULL,
  base_done   bigint NOT NULL, -- when it was last resumed
  base_failed bigint NOT NULL,
  after_topic     text COLLATE "C" NOT NULL, -- the last place that was dealt with
  after_partition integer NOT NULL,
  after_offset    bigint NOT NULL,
  report      text,
  created_at  timestamptz NOT NULL,
  started_at  timestamptz,
  finished_at timestamptz,
  owner       text,
  lease_until timestamptz
);
CREATE INDEX replays_newest ON replays (created_at);
-- Two jobs that do the same at once would only be in each other's way.
CREATE UNIQUE INDEX replays_once ON replays (kind, md5(filter)) WHERE NOT dry_run AND state IN ('pending', 'running', 'paused', 'stopped');

CREATE TABLE audit (
  at      timestamptz NOT NULL,
  who     text NOT NULL,
  action  text NOT NULL,
  target  text NOT NULL,
  filter  text NOT NULL,
  matched bigint NOT NULL,
  done    bigint NOT NULL,
  failed  bigint NOT NULL,
  reason  text NOT NULL,
  outcome text NOT NULL
);
CREATE INDEX audit_newest ON audit (at);
-- +goose StatementBegin
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit is append-only';
END $$;
-- +goose StatementEnd
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
