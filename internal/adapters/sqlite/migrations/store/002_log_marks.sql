-- +goose Up

-- How far consumer groups had come when they last said so: everything in front of next_offset is stored, or durable in
-- its next home. A store that is older or newer than the log is noticed by it.
CREATE TABLE log_marks (
  consumer_group TEXT NOT NULL,
  topic          TEXT NOT NULL,
  topic_id       TEXT NOT NULL,
  partition      INTEGER NOT NULL,
  next_offset    INTEGER NOT NULL,
  PRIMARY KEY (consumer_group, topic, topic_id, partition)
) WITHOUT ROWID;
