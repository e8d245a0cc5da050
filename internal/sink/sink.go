// Package sink is the way from a batch of records to the store, for the saver and for the parking role: the writer, the
// breaker, the isolation of rejected rows, the dead-letter guard, the dry run, and the table from a verdict to a
// record's next home. It leaves batches, commits and redelivery to its callers, and statements to the store.
//
// A row is rejected only when it fails alone in a transaction of its own and a probe on a fresh connection succeeds
// right afterwards. A probe clears all rows that failed alone since the one before, at most a second earlier: one probe
// for each row would make good rows late, because a probe is a new connection. Where rejected rows are frequent, a
// failed batch is split by their share instead of into halves. What cannot be isolated in time is parked as
// unavailable.
//
// The dead-letter guard shares its counts through the store, by the minute, because it has to hold for all processes at
// once and across restarts. A process that has heard nothing for 10 s parks rejected rows: a wrong dead letter costs
// more than a wait. A row counts once, however often it is tried. The guard spends no attempt and keeps no row from
// being stored; it replaces a dead letter by a wait.
//
// Every process that has a store probes it: about once a second while the store is away, and once in 8 s when nobody
// asked it. A saver without traffic, and the console, so find out that the store is away, and that it is back. The
// limiter of concurrent batches begins with half of its ceiling, at start and whenever the store comes back.
package sink
