package domain

// Mark is how far a consumer group had come in one partition of the log, as its store knows it: everything in front of
// Offset is stored, or durable in its next home. Offsets that a group has committed are forgotten by Kafka after a week
// without members, and do not go back when a store is restored; marks are kept beside the rows.
type Mark struct {
	Group string
	Topic string
	// TopicID tells a topic from one of the same name that was made anew.
	TopicID   string
	Partition int32
	Offset    int64
}

// MarkStep is a mark that moves on.
type MarkStep struct {
	Mark
	// Before is where the store is known to have had it, or 0, and History the store's history by then.
	Before  int64
	History string
}
