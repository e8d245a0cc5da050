-- +goose Up

-- It reads every day, and takes the time that it takes.
SET LOCAL statement_timeout = 0;

-- Which ranges of 32 pages may have a value: 24 ms for one that a day of a million rows has once, where a scan takes
-- 680, and next to nothing to write. The filters of a range have to fit into one tuple of 8 KB, or inserts fail with
-- 54000; they are sized for the 400 rows or so that 32 pages hold, and TestFiltersFit holds them to it. docket itself has
-- new ranges summarised (Store.Tend): autosummarize drops requests. docs/adr/0005 has what else was measured.
CREATE INDEX decisions_bloom ON decisions USING brin (
  principal         text_bloom_ops (n_distinct_per_range = 400, false_positive_rate = 0.005),
  resource          text_bloom_ops (n_distinct_per_range = 400, false_positive_rate = 0.005),
  trace_id          text_bloom_ops (n_distinct_per_range = 400, false_positive_rate = 0.005),
  requested_by      text_bloom_ops (n_distinct_per_range = 400, false_positive_rate = 0.005),
  batch_decision_id text_bloom_ops (n_distinct_per_range = 200, false_positive_rate = 0.005),
  opa               text_bloom_ops (n_distinct_per_range = 100, false_positive_rate = 0.005)
) WITH (pages_per_range = 32, autosummarize = off);

-- Most decisions are allowed, and most questions are about the others.
CREATE INDEX decisions_not_allowed ON decisions (timestamp) WHERE outcome <> 'allowed';
