-- +goose Up

-- Records of the log that are known to be gone before they were done.
CREATE TABLE log_losses (
  found_at       INTEGER NOT NULL,
  caller         TEXT NOT NULL,
  consumer_group TEXT NOT NULL,
  topic          TEXT NOT NULL,
  partition      INTEGER NOT NULL,
  first_offset   INTEGER NOT NULL,
  last_offset    INTEGER NOT NULL,
  PRIMARY KEY (topic, partition, consumer_group, first_offset, last_offset, caller)
);
