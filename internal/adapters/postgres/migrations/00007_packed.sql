-- +goose Up

-- What rows are packed with. They are named by their hash and never change, and the rows of years may need one, so it is
-- never removed. The short name is how a row knows it.
CREATE TABLE dictionaries (
  sha256  bytea PRIMARY KEY CHECK (sha256 = sha256(bytes)),
  tenant  text COLLATE "C" NOT NULL,
  bytes   bytea NOT NULL,
  ratio   double precision NOT NULL,
  made_at timestamptz NOT NULL
);
ALTER TABLE dictionaries ALTER COLUMN bytes SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX dictionaries_name ON dictionaries (substring(sha256 FROM 1 FOR 4));

-- What one process at a time does.
CREATE TABLE leases (
  name  text COLLATE "C" PRIMARY KEY,
  owner text NOT NULL,
  until timestamptz NOT NULL
);

-- The decisions that an OPA was asked for at once.
ALTER TABLE decisions ADD COLUMN batch_decision_id text COLLATE "C";
ALTER TABLE decisions_out_of_window ADD COLUMN batch_decision_id text COLLATE "C";

-- A row has one of the two: its event packed, or as json text.
ALTER TABLE decisions ADD COLUMN packed bytea;
ALTER TABLE decisions ALTER COLUMN packed SET STORAGE EXTERNAL;
ALTER TABLE decisions ALTER COLUMN event DROP NOT NULL;
ALTER TABLE decisions_out_of_window ADD COLUMN packed bytea;
ALTER TABLE decisions_out_of_window ALTER COLUMN packed SET STORAGE EXTERNAL;
ALTER TABLE decisions_out_of_window ALTER COLUMN event DROP NOT NULL;

-- A batch commits only beside the dictionaries that it was packed with: a database that was restored may lack them.
-- +goose StatementBegin
CREATE FUNCTION need_dictionaries(wanted bytea[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT count(*) FROM dictionaries WHERE sha256 = ANY (wanted)) < cardinality(wanted) THEN
    RAISE EXCEPTION USING ERRCODE = 'DK001', MESSAGE = 'a dictionary is not there';
  END IF;
END $$;
-- +goose StatementEnd

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
  batch_decision_id text,
  requested_by text,
  error        text,
  masked       text,
  bundles      jsonb,
  event        json,
  packed       bytea
);
