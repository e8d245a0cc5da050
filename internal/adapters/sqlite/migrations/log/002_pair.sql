-- +goose Up

-- Which log this is, so that a store knows whether it was filled from it.
CREATE TABLE identity (id TEXT NOT NULL);

-- How far the store was known to have been saved when this was committed: a store that has less is an older one.
ALTER TABLE commits ADD COLUMN store_mark INTEGER NOT NULL DEFAULT 0;
