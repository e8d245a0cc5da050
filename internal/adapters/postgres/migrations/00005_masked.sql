-- +goose Up

-- Which of reason, principal, action and resource a mask of OPA's replaced.
ALTER TABLE decisions ADD COLUMN masked text COLLATE "C";
ALTER TABLE decisions_out_of_window ADD COLUMN masked text COLLATE "C";

-- Its columns have an order, and a new one can only be added behind the last. A saver of an older docket waits from here
-- on (42804), and loses nothing.
DROP TYPE decision_input;
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
  masked       text,
  bundles      jsonb,
  event        json
);
