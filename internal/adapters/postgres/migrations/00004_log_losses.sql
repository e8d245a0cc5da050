-- +goose Up

-- What docket itself finds to be gone is noted too, by the caller "docket", and once: accepted_at is when it was found.
CREATE UNIQUE INDEX log_losses_once ON log_losses (topic, partition, consumer_group, first_offset, last_offset, caller);
