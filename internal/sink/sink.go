// Package sink takes batches of records to the store: it saves them, finds the rows that the store rejects when a batch
// fails, guards the dead-letter topics, and says where each record goes next. The saver and the parking role use it alike.
// It leaves gathering, committing and redelivery to the log, and when to try again what waits to its callers.
package sink
