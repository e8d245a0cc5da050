// Package kafka is the durable log on Apache Kafka. It owns its clients, the topics' settings and the group's offsets;
// it leaves what becomes of records to the handlers, and starting anew after a loss to a person.
package kafka

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"golang.org/x/sync/semaphore"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

var _ ports.Log = (*Log)(nil)

// Options configure Open.
type Options struct {
	// Brokers are addresses to start from; the others are found through them.
	Brokers []string
	// Topics are those that docket uses.
	Topics domain.Topics
	// MaxEvent is the longest event that ingest accepts, in bytes. Topics that could not take it do not pass Check.
	MaxEvent int
	// MaxUpload is the longest upload on the wire, in bytes: the data DLQ has to take it whole.
	MaxUpload int64
	// MaxBuffered bounds the bytes that wait for the brokers; beyond it Publish fails at once.
	MaxBuffered int
	// TLS and SASL are how brokers are reached; nil is without.
	TLS  *tls.Config
	SASL sasl.Mechanism
	// Marks is where a group's progress is kept beside its rows; nil keeps none.
	Marks ports.LogMarks
	// Lost is called with acknowledged records that turned out to be gone.
	Lost func(domain.Loss)
	// Stopped is called with a partition that is not consumed any more until docket is started again.
	Stopped func(topic string, partition int32, why error)
	Log     *slog.Logger
}

// What fits into a record of docket's topics, in bytes.
const (
	// LargestEvent is the most that MaxEvent may be.
	LargestEvent = maxMessage - recordOverhead
	// LargestUpload is the longest upload that the data DLQ takes whole.
	LargestUpload = maxDeadMessage - recordOverhead
)

// Limits on time. An answer to OPA is due after 8 s; what a hung broker holds up for longer than requestTimeout is
// asked of another one.
const (
	dialTimeout    = 3 * time.Second
	requestTimeout = 4 * time.Second
	askTimeout     = 2 * time.Second
	// metadataAge is how late new partitions and leaders are noticed without a failure that tells.
	metadataAge = 15 * time.Second
	// producerLinger gathers the uploads of a moment into fewer batches, each of which costs the broker as much as its
	// records. It is also the least that an upload waits: at 1,000 uploads a second 1 ms made their p95 5.7 ms, this 4.5,
	// and none 4.7.
	producerLinger = 500 * time.Microsecond
	// maxRecords bounds the records that wait for the brokers.
	maxRecords = 200_000
	// publishWindow is how many bytes of one publication wait for the brokers at once. A broker is sent one request after
	// the other: without it everybody would wait behind an upload of 50,000 events.
	publishWindow = 1 << 20
	// sentBeside is what a record costs beside its key and value: most of its headers, and the client's own of it.
	sentBeside = 256
	// publishTogether is how many of the client's records are made at once.
	publishTogether = 512
)

// Sizes of the topics' records. A parked record carries its history in its headers.
const (
	maxMessage       = 5 << 20
	maxParkedMessage = maxMessage + 64<<10
	maxDeadMessage   = 16 << 20
	// recordOverhead is what a record's key and headers may take beside the event.
	recordOverhead = 16 << 10
)

// Log is the durable log on Kafka. It is safe for concurrent use.
type Log struct {
	opts   Options
	client *kgo.Client // publishes and asks
	admin  *kadm.Client
	// process is the client id of this process's members of consumer groups.
	process string
	closed  atomic.Bool
	clocks  clocks
	refused atomic.Pointer[refusal] // the last publication, if it failed
	marks   *marker
	memory  *memory // of the consumers
	reads   *memory // of what reads outside of groups, and reading bounds how many do at once
	reading *semaphore.Weighted

	mu     sync.Mutex
	minISR map[string]int // by topic, as far as known
	lost   map[string]bool
}

// Open makes a Log. It does not wait for the brokers: Check and Ready do.
func Open(opts Options) (*Log, error) {
	l := &Log{
		opts: opts, process: newProcessID(), minISR: map[string]int{}, lost: map[string]bool{}, marks: newMarker(opts.Marks),
		memory: newMemory(consumerMemory, groupMemory), reads: newMemory(readerMemory, 0),
		reading: semaphore.NewWeighted(maxReads),
	}
	compress, err := newCompressor()
	if err != nil {
		return nil, &domain.Error{Class: domain.Misconfigured, Op: "set up compression", Text: err.Error(), Err: err}
	}
	client, err := kgo.NewClient(append(l.base(),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // of the key, as the Java clients do
		kgo.WithCompressor(compress),
		kgo.ProducerLinger(producerLinger),
		kgo.MaxBufferedRecords(maxRecords),
		kgo.MaxBufferedBytes(opts.MaxBuffered),
		kgo.ProducerBatchMaxBytesFn(l.maxBatch),
		kgo.ProduceRequestTimeout(requestTimeout),
		kgo.ProducerOnDataLossDetected(func(topic string, partition int32) {
			opts.Lost(unknownLoss("", topic, partition))
			opts.Log.Error(
				"Kafka has lost records that it had acknowledged: the partition's history does not fit to what was produced. "+
					"Look for an unclean leader election or a disk that was replaced",
				"topic",
				topic,
				"partition",
				partition,
			)
		}),
	)...)
	if err != nil {
		return nil, &domain.Error{Class: domain.Misconfigured, Op: "set up the Kafka client", Text: err.Error(), Err: err}
	}
	l.client, l.admin = client, kadm.NewClient(client)
	l.admin.SetTimeoutMillis(int32(requestTimeout.Milliseconds()))
	return l, nil
}

// base are the options that every client has.
func (l *Log) base() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(
			l.opts.Brokers...),
		kgo.ClientID("docket"),
		kgo.DialTimeout(dialTimeout),
		kgo.RequestTimeoutOverhead(requestTimeout),
		kgo.MetadataMaxAge(metadataAge),
		kgo.MetadataMinAge(500 * time.Millisecond),
		kgo.RetryBackoffFn(
			func(fails int) time.Duration { return min(time.Duration(fails)*50*time.Millisecond, time.Second) },
		),
		kgo.WithLogger(clientLog{l.opts.Log}),
	}
	if l.opts.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(l.opts.TLS))
	}
	if l.opts.SASL != nil {
		opts = append(opts, kgo.SASL(l.opts.SASL))
	}
	return opts
}

// maxBatch is the longest batch that a topic takes.
func (l *Log) maxBatch(topic string) int32 {
	switch topic {
	case l.opts.Topics.Parking:
		return maxParkedMessage
	case l.opts.Topics.DLQ, l.opts.Topics.ParkingDLQ, l.opts.Topics.Held:
		return maxDeadMessage
	default:
		return maxMessage
	}
}

// Close ends the client. What was not acknowledged yet may or may not become durable.
func (l *Log) Close() error {
	if l.closed.CompareAndSwap(false, true) {
		l.client.Close()
	}
	return nil
}

// publication is one call to Publish: it is done once every record is acknowledged or given up.
type publication struct {
	left   atomic.Int64
	err    atomic.Pointer[error]
	done   chan struct{}
	window *semaphore.Weighted // of publishWindow; nil where all of it fits
}

// weight is what a record takes of the window.
func weight(key string, value []byte) int64 {
	return min(int64(len(key)+len(value)+sentBeside), publishWindow)
}

// acked is called by the client for each record, one after the other.
func (p *publication) acked(r *kgo.Record, err error) {
	if err != nil {
		err = classify("publish to "+r.Topic, err)
		p.err.CompareAndSwap(nil, &err)
	}
	if p.window != nil {
		p.window.Release(weight(string(r.Key), r.Value))
	}
	if p.left.Add(-1) == 0 {
		close(p.done)
	}
}

// refusal is a publication that failed.
type refusal struct {
	err error
	at  time.Time
}

// refusedFor is how long a publication that failed speaks for the next ones. A process that is not ready gets none by
// which it could prove itself, so the brokers are asked again then.
const refusedFor = 10 * time.Second

// Publish makes records durable on every in-sync replica; see ports.Publisher. The client goes on trying until ctx is
// done, and after that with what it has already sent.
func (l *Log) Publish(ctx context.Context, records []domain.Record) error {
	if len(records) == 0 {
		return nil
	}
	err := l.publish(ctx, records)
	if errors.Is(err, kerr.UnknownTopicID) { // it was deleted and made anew: the client knows the old one
		l.client.PurgeTopicsFromProducing(topicsOf(records)...)
		err = l.publish(ctx, records)
	}
	switch domain.ClassOf(err) {
	case domain.Unavailable, domain.Misconfigured:
		l.refused.Store(&refusal{err, time.Now()})
	case domain.Invalid, domain.Canceled: // says nothing about others
	case domain.Unknown:
		if err == nil && l.refused.Load() != nil {
			l.refused.Store(nil)
		}
	}
	return err
}

// topicsOf are those that records go to, each once.
func topicsOf(records []domain.Record) (topics []string) {
	for _, r := range records {
		if !slices.Contains(topics, r.Topic) {
			topics = append(topics, r.Topic)
		}
	}
	return topics
}

func (l *Log) publish(ctx context.Context, records []domain.Record) error {
	if err := ctx.Err(); err != nil {
		return classify("publish to "+records[0].Topic, err)
	}
	p := &publication{done: make(chan struct{})}
	p.left.Store(int64(len(records)))
	acked, weights := p.acked, int64(0)
	for i := range records {
		weights += weight(records[i].Key, records[i].Value)
	}
	if weights > publishWindow {
		p.window = semaphore.NewWeighted(publishWindow)
	}
	late := func() error {
		return classify(
			fmt.Sprintf(
				"publish %d records to %s: the brokers did not acknowledge all of them in time", len(records), records[0].Topic,
			),
			ctx.Err(),
		)
	}
	var out []kgo.Record
	var keys []byte
	var headers []kgo.RecordHeader
	for i := range records {
		r := &records[i]
		if len(out) == 0 { // what was acknowledged of a long publication can go while the rest waits
			out = make([]kgo.Record, min(publishTogether, len(records)-i))
			keys = make([]byte, 0, keyBytes(records[i:i+len(out)]))
		}
		if i == 0 || r.Headers != records[i-1].Headers { // the events of an upload share theirs
			headers = encode(r.Headers)
		}
		at := len(keys)
		keys = append(keys, r.Key...)
		out[0] = kgo.Record{Topic: r.Topic, Key: keys[at:], Value: r.Value, Headers: headers}
		if p.window != nil && p.window.Acquire(ctx, weight(r.Key, r.Value)) != nil {
			return late()
		}
		l.client.TryProduce(ctx, &out[0], acked)
		out = out[1:]
	}
	select {
	case <-p.done:
		if err := p.err.Load(); err != nil {
			return *err
		}
		return nil
	case <-ctx.Done():
		return late()
	}
}

// keyBytes is how long the keys of records are together.
func keyBytes(records []domain.Record) (n int) {
	for i := range records {
		n += len(records[i].Key)
	}
	return n
}

func encode(h domain.Headers) []kgo.RecordHeader {
	pairs, length := h.Encode(), 0
	for _, p := range pairs {
		length += len(p.Value)
	}
	out, values := make([]kgo.RecordHeader, len(pairs)), make([]byte, 0, length)
	for i, p := range pairs {
		at := len(values)
		values = append(values, p.Value...)
		out[i] = kgo.RecordHeader{Key: p.Name, Value: values[at:]}
	}
	return out
}

// decode makes docket's record of the client's. Its value is a copy: the client's is a part of its whole batch, which
// would stay in memory for as long as one record of it does.
func decode(r *kgo.Record) domain.Record {
	pairs := make([]domain.Header, len(r.Headers))
	for i, h := range r.Headers {
		pairs[i] = domain.Header{Name: h.Key, Value: string(h.Value)}
	}
	return domain.Record{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, WrittenAt: r.Timestamp.UTC(), Key: string(r.Key),
		Value: bytes.Clone(r.Value), Headers: domain.DecodeHeaders(pairs),
	}
}

// Ready asks the brokers whether uploads can be published: every partition of the decisions topic has a leader that
// answers, and as many replicas in sync as it has to. A publication that has just failed knows better.
func (l *Log) Ready(ctx context.Context) error {
	if l.closed.Load() {
		return domain.Errorf(domain.Canceled, "the log is closed")
	}
	if r := l.refused.Load(); r != nil && time.Since(r.at) < refusedFor {
		return r.err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	topic := l.opts.Topics.Decisions
	meta, err := l.admin.Metadata(ctx, topic)
	if err != nil {
		return classify("ask Kafka for "+topic, err)
	}
	details := meta.Topics[topic]
	if details.Err != nil {
		return classify("ask Kafka for "+topic, details.Err)
	}
	minISR, err := l.minInSync(ctx, topic)
	if err != nil {
		return err
	}
	for _, p := range details.Partitions.Sorted() {
		switch {
		case p.Err != nil && !errors.Is(p.Err, kerr.ReplicaNotAvailable):
			return classify(fmt.Sprintf("partition %d of %s", p.Partition, topic), p.Err)
		case len(p.ISR) < min(minISR, len(p.Replicas)): // as Kafka counts
			return domain.Errorf(
				domain.Unavailable, "partition %d of %s has %d of at least %d replicas in sync", p.Partition, topic, len(p.ISR),
				minISR,
			)
		}
	}
	ends, err := l.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	return classify("ask the leaders of "+topic, err)
}

// minInSync is the topic's min.insync.replicas, as it was when it was last asked for.
func (l *Log) minInSync(ctx context.Context, topic string) (int, error) {
	l.mu.Lock()
	n := l.minISR[topic]
	l.mu.Unlock()
	if n > 0 {
		return n, nil
	}
	settings, err := l.settings(ctx, topic)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.minISR[topic] = settings[topic].minInSync()
	return l.minISR[topic], nil
}

// clientLog passes on what the client finds wrong, as debugging information: docket's own messages tell people.
type clientLog struct{ log *slog.Logger }

func (clientLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (c clientLog) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	c.log.Debug("the Kafka client says", append([]any{"text", msg}, keyvals...)...)
}
