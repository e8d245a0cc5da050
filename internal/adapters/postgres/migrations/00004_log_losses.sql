-- +goose Up

-- What docket itself finds to be gone is noted too, without a caller: accepted_at is when it was found last. Whoever was
-- refused while accepting, and repeated it, has noted the same twice.
DELETE FROM log_losses a USING log_losses b WHERE a.ctid > b.ctid
  AND (a.topic, a.partition, a.consumer_group, a.first_offset, a.last_offset, a.caller) =
      (b.topic, b.partition, b.consumer_group, b.first_offset, b.last_offset, b.caller);
CREATE UNIQUE INDEX log_losses_once ON log_losses (topic, partition, consumer_group, first_offset, last_offset, caller);
