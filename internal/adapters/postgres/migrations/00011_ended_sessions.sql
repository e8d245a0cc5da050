-- +goose Up

-- Sessions of people that were ended before their time. No secret: nobody gets in by an id.
CREATE TABLE ended_sessions (
  id    text COLLATE "C" PRIMARY KEY,
  until timestamptz NOT NULL -- when it would have ended by itself
);
