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
  who            text NOT NULL,
  consumer_group text NOT NULL,
  topic          text NOT NULL,
  partition      integer NOT NULL,
  first_offset   bigint NOT NULL,
  last_offset    bigint NOT NULL
);
