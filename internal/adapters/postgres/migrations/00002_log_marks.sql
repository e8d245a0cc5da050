-- +goose Up

-- How far consumer groups had come when they last said so: everything in front of next_offset is stored, or durable in
-- its next home. A group that has lost its committed offsets goes on there, and a store that was restored is noticed.
CREATE TABLE log_marks (
  consumer_group text COLLATE "C" NOT NULL,
  topic          text COLLATE "C" NOT NULL,
  topic_id       text COLLATE "C" NOT NULL,
  partition      integer NOT NULL,
  next_offset    bigint NOT NULL,
  marked_at      timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (consumer_group, topic, topic_id, partition)
);
