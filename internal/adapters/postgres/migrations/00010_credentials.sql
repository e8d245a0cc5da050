-- +goose Up

-- Which credentials there are, and when they were used. No secret: of a token the first digits of its hash.
CREATE TABLE credentials (
  listener   text COLLATE "C" NOT NULL,
  how        text COLLATE "C" NOT NULL,
  name       text COLLATE "C" NOT NULL,
  id         text COLLATE "C" NOT NULL,
  tenant     text COLLATE "C" NOT NULL, -- '' for all
  role       text NOT NULL,
  expires    timestamptz,
  listed     timestamptz, -- when a process had it in its file last
  first_used timestamptz,
  last_used  timestamptz,
  uses       bigint NOT NULL,
  address    text NOT NULL,
  PRIMARY KEY (listener, how, name, id, tenant)
);
