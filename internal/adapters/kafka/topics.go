package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// partitions of every topic: as many as there can ever be consumers that work at once.
	partitions = 12
	// Retention of decisions and of parked ones, which must not be shorter; and of dead letters and held ones.
	retention    = 7 * 24 * time.Hour
	dlqRetention = 30 * 24 * time.Hour
)

// logAppendTime has the brokers give each record its time.
const logAppendTime = "LogAppendTime"

// Weakness is a way in which what is acknowledged is less safe than docket promises.
type Weakness struct {
	// Text says it in words.
	Text string
	// Unreplicated says that the loss of a single broker may cost acknowledged records.
	Unreplicated bool
}

// wanted are the settings a topic is created with, for a number of brokers.
func (l *Log) wanted(topic string, brokers int) (replicas int16, settings map[string]*string) {
	replicas, minISR, kept := int16(min(brokers, 3)), 1, retention
	if replicas == 3 {
		minISR = 2
	}
	switch topic {
	case l.opts.Topics.DLQ, l.opts.Topics.ParkingDLQ, l.opts.Topics.Held:
		kept = dlqRetention
	}
	return replicas, map[string]*string{
		"min.insync.replicas":            kadm.StringPtr(strconv.Itoa(minISR)),
		"unclean.leader.election.enable": kadm.StringPtr("false"),
		"cleanup.policy":                 kadm.StringPtr("delete"),
		"max.message.bytes":              kadm.StringPtr(strconv.Itoa(int(l.maxBatch(topic)))),
		"retention.ms":                   kadm.StringPtr(strconv.FormatInt(kept.Milliseconds(), 10)),
		// Time alone decides what is kept, and the brokers' clocks: a producer's would have a record deleted at once, or
		// refused.
		"retention.bytes":        kadm.StringPtr("-1"),
		"message.timestamp.type": kadm.StringPtr(logAppendTime),
	}
}

// Migrate creates the topics that are missing, and returns their names. Those that are there are never altered.
func (l *Log) Migrate(ctx context.Context) (created []string, err error) {
	meta, err := l.admin.Metadata(ctx, l.opts.Topics.All()...)
	if err != nil {
		return nil, classify("ask Kafka for its topics", err)
	}
	for _, topic := range l.opts.Topics.All() {
		if t, ok := meta.Topics[topic]; ok && t.Err == nil {
			continue
		}
		replicas, settings := l.wanted(topic, len(meta.Brokers))
		_, err := l.admin.CreateTopic(ctx, partitions, replicas, settings, topic)
		if errors.Is(err, kerr.TopicAlreadyExists) { // another process was faster
			continue
		}
		if err != nil {
			return created, classify("create topic "+topic, err)
		}
		created = append(created, topic)
	}
	for len(created) > 0 && ctx.Err() == nil {
		if l.everywhere(ctx, meta.Brokers.NodeIDs(), created) == nil && l.known(ctx, created...) == nil { // and our own cache
			break
		}
		sleep(ctx, 50*time.Millisecond)
	}
	return created, classify("wait for the new topics", ctx.Err())
}

// everywhere is nil once every broker knows the topics: they learn of new ones one after the other, and whichever is
// asked next may be the last.
func (l *Log) everywhere(ctx context.Context, brokers []int32, topics []string) error {
	req := kmsg.NewPtrMetadataRequest()
	for _, topic := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kadm.StringPtr(topic)
		req.Topics = append(req.Topics, t)
	}
	for _, id := range brokers {
		resp, err := req.RequestWith(ctx, l.client.Broker(int(id)))
		if err != nil {
			return err
		}
		for _, t := range resp.Topics {
			if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check compares the topics with what docket needs, and alters nothing. An error means that docket cannot work with
// them: Misconfigured, or Unavailable without an answer. Weak lists what makes an acknowledged decision less safe than
// docket promises.
func (l *Log) Check(ctx context.Context) (weak []Weakness, err error) {
	names := l.opts.Topics.All()
	meta, err := l.admin.Metadata(ctx, names...)
	if err != nil {
		return nil, classify("ask Kafka for its topics", err)
	}
	for _, topic := range names {
		if err := meta.Topics[topic].Err; errors.Is(err, kerr.UnknownTopicOrPartition) {
			return nil, &domain.Error{Class: domain.Misconfigured, Code: kerr.UnknownTopicOrPartition.Message, Err: err,
				Text: fmt.Sprintf("topic %s is missing: create docket's topics with docket migrate", topic)}
		} else if err != nil {
			return nil, classify("ask Kafka for topic "+topic, err)
		}
	}
	settings, err := l.settings(ctx, names...)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	for topic, has := range settings {
		l.minISR[topic] = has.minInSync()
	}
	l.mu.Unlock()
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	less := weaknesses{}
	for _, topic := range names {
		has, need := settings[topic], int64(l.opts.MaxEvent+recordOverhead)
		if topic == l.opts.Topics.DLQ {
			need = max(need, l.opts.MaxUpload+recordOverhead) // quarantined whole
		}
		if n := has.number("max.message.bytes", 0); n < need {
			bad(
				"topic %s takes records of %d bytes, and docket may have to write %d: raise its max.message.bytes, or lower "+
					"max_event_bytes and max_wire_bytes",
				topic,
				n,
				need,
			)
		}
		if policy := has["cleanup.policy"]; policy != "delete" {
			bad("topic %s has cleanup.policy=%s, which drops records that share a key: set it to delete", topic, policy)
		}
		replicas := partitions
		for _, p := range meta.Topics[topic].Partitions {
			replicas = min(replicas, len(p.Replicas))
		}
		if replicas < 3 {
			less.add(topic, true, "%d replicas of at least 3", replicas)
		} else if n := has.minInSync(); n < 2 {
			less.add(topic, true, "min.insync.replicas=%d, so that what is acknowledged may be on one broker only", n)
		}
		if has["unclean.leader.election.enable"] == "true" {
			less.add(
				topic, true, "unclean.leader.election.enable=true, so that a broker which missed records may become their leader",
			)
		}
		if n := has.number("retention.bytes", -1); n >= 0 {
			less.add(
				topic, false, "retention.bytes=%d, so that Kafka deletes records by size before they are consumed: set it to -1", n,
			)
		}
		if kind := has["message.timestamp.type"]; kind != logAppendTime {
			less.add(
				topic, false, "message.timestamp.type=%s, so that the clock of a producer decides how long a record is kept: "+
					"set it to %s", kind, logAppendTime,
			)
		}
	}
	if d, p := settings[l.opts.Topics.Decisions].retention(), settings[l.opts.Topics.Parking].retention(); p < d {
		bad(
			"topic %s keeps records for less time than %s: an outage would outlast what is parked; raise its retention.ms",
			l.opts.Topics.Parking, l.opts.Topics.Decisions,
		)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "%w", err)
	}
	return append(less.words(), l.clocks.weakness(time.Now())...), nil
}

// weaknesses are the topics that share one.
type weaknesses map[Weakness][]string

func (w weaknesses) add(topic string, unreplicated bool, format string, args ...any) {
	what := Weakness{fmt.Sprintf(format, args...), unreplicated}
	w[what] = append(w[what], topic)
}

func (w weaknesses) words() []Weakness {
	var out []Weakness
	for what, topics := range w {
		out = append(out, Weakness{"the topics " + strings.Join(topics, ", ") + " have " + what.Text, what.Unreplicated})
	}
	slices.SortFunc(out, func(a, b Weakness) int { return strings.Compare(a.Text, b.Text) })
	return out
}

// topicSettings are a topic's settings in force.
type topicSettings map[string]string

func (s topicSettings) number(name string, absent int64) int64 {
	n, err := strconv.ParseInt(s[name], 10, 64)
	if err != nil {
		return absent
	}
	return n
}

func (s topicSettings) minInSync() int { return int(s.number("min.insync.replicas", 1)) }

// retention is retention.ms, where -1 is for ever.
func (s topicSettings) retention() uint64 { return uint64(s.number("retention.ms", -1)) }

func (l *Log) settings(ctx context.Context, topics ...string) (map[string]topicSettings, error) {
	resources, err := l.admin.DescribeTopicConfigs(ctx, topics...)
	if err != nil {
		return nil, classify("ask Kafka for the settings of its topics", err)
	}
	out := map[string]topicSettings{}
	for _, r := range resources {
		if errors.Is(r.Err, kerr.TopicAuthorizationFailed) {
			return nil, &domain.Error{
				Class: domain.Misconfigured, Code: kerr.TopicAuthorizationFailed.Message, Op: "ask Kafka for the settings of " +
					r.Name, Err: r.Err, Text: "docket's account may not read them, and so does not know whether the topic is safe: " +
					"allow it DescribeConfigs on this topic (kafka-acls --add --operation DescribeConfigs --topic …)",
			}
		}
		if r.Err != nil {
			return nil, classify("ask Kafka for the settings of "+r.Name, r.Err)
		}
		s := topicSettings{}
		for _, c := range r.Configs {
			s[c.Key] = c.MaybeValue()
		}
		out[r.Name] = s
	}
	return out, nil
}

// segmentAge is how long Kafka writes to a segment where segment.ms does not say (a week), and so how much older than
// its retention a record may become: segments go as a whole.
const segmentAge = 7 * 24 * time.Hour

// Retention is how long topics keep records, at the most; see ports.Log.
func (l *Log) Retention(ctx context.Context, topics ...string) (map[string]time.Duration, error) {
	settings, err := l.settings(ctx, topics...)
	if err != nil {
		return nil, err
	}
	out := map[string]time.Duration{}
	for topic, s := range settings {
		kept, segment := s.number("retention.ms", -1), s.number("segment.ms", segmentAge.Milliseconds())
		const most = int64(100 * 365 * 24 * time.Hour / time.Millisecond)
		if kept < 0 || kept > most || segment > most {
			out[topic] = ports.Forever
			continue
		}
		out[topic] = time.Duration(kept+segment) * time.Millisecond
	}
	return out, nil
}

// known is an error unless the topics exist.
func (l *Log) known(ctx context.Context, topics ...string) error {
	meta, err := l.admin.Metadata(ctx, topics...)
	if err != nil {
		return classify("ask Kafka for its topics", err)
	}
	for _, topic := range topics {
		if err := meta.Topics[topic].Err; err != nil {
			return classify("consume "+topic, err)
		}
	}
	return nil
}
