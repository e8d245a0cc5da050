package access

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
	"github.com/docket-project/docket/internal/ports"
)

// Path is that of docket's own decisions.
const Path = "docket/access"

const (
	// queued is how many decisions wait for a log that is away, and together how many are published at once.
	queued   = 10_000
	together = 1000
	// gatherFor is how long a decision waits for others, and lastWords how long the end of a process for the log.
	gatherFor = time.Second
	lastWords = 3 * time.Second
	// publishFor is how long the log may take for one try.
	publishFor = 5 * time.Second
)

// Journal writes docket's own decisions into the log. Nobody waits for it: while the log is away some wait here, and
// what is more is counted and lost. What changes something stands in the audit as well, with what it changed.
type Journal struct {
	// Process is the name of this one, and Version docket's.
	Process, Version string

	log       ports.Publisher
	assembler ingest.Assembler
	waiting   chan []byte
	lost      prometheus.Counter
	logger    *slog.Logger
	say       rate.Sometimes
}

// NewJournal makes one for a log; records go where the assembler's topics say. reg may be nil.
func NewJournal(log ports.Publisher, a ingest.Assembler, reg prometheus.Registerer, logger *slog.Logger) *Journal {
	j := &Journal{
		log: log, assembler: a, waiting: make(chan []byte, queued), logger: logger,
		say: rate.Sometimes{First: 1, Interval: time.Minute},
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "docket_access_unrecorded_total",
			Help: "Decisions about callers that were not written into the log, because it was away for too long.",
		}),
	}
	if reg != nil {
		reg.MustRegister(j.lost)
	}
	return j
}

// event spells a decision as OPA does (https://www.openpolicyagent.org/docs/management-decision-logs).
func (j *Journal) event(input []byte, reasons []string, failed error, at time.Time, took time.Duration) []byte {
	type result struct {
		Allow   bool     `json:"allow"`
		Reasons []string `json:"reasons,omitempty"`
	}
	type fault struct {
		Message string `json:"message"`
	}
	e := struct {
		Labels     map[string]string `json:"labels"`
		DecisionID string            `json:"decision_id"`
		Path       string            `json:"path"`
		Input      json.RawMessage   `json:"input"`
		Result     *result           `json:"result,omitempty"`
		Error      *fault            `json:"error,omitempty"`
		Timestamp  time.Time         `json:"timestamp"`
		Metrics    map[string]int64  `json:"metrics"`
	}{
		Labels:     map[string]string{"id": j.Process, "app": "docket", "version": j.Version},
		DecisionID: newID(), Path: Path, Input: input, Timestamp: at.UTC(),
		Metrics: map[string]int64{"timer_rego_query_eval_ns": took.Nanoseconds()},
	}
	if failed != nil {
		e.Error = &fault{failed.Error()}
	} else {
		e.Result = &result{len(reasons) == 0, reasons}
	}
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // texts, numbers and JSON
	}
	return b
}

// add has an event written, unless too many wait.
func (j *Journal) add(event []byte) {
	select {
	case j.waiting <- event:
	default:
		j.lost.Inc()
		j.say.Do(func() {
			j.logger.Error(
				"decisions about callers are not recorded: the log is away, and too many wait for it; "+
					"docket_access_unrecorded_total counts them", "waiting", queued,
			)
		})
	}
}

// Run writes what is added until ctx is done, and then what waits.
func (j *Journal) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			j.finish(ctx, nil)
			return
		case first := <-j.waiting:
			if events := j.gather(ctx, first); !j.write(ctx, events) {
				j.finish(ctx, events)
				return
			}
		}
	}
}

// finish writes events and what waits at the end, for as long as the end may take, and counts what is lost.
func (j *Journal) finish(ctx context.Context, events [][]byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	lost := 0
	for events = j.taken(events); len(events) > 0; events = j.taken(nil) {
		if !j.write(ctx, events) {
			lost += len(events)
		}
	}
	if lost > 0 {
		j.lose(lost, ctx.Err())
	}
}

// lose counts decisions that are not in the log.
func (j *Journal) lose(events int, why error) {
	j.lost.Add(float64(events))
	j.logger.Error("decisions about callers were not recorded", "lost", events, "error", why)
}

// gather waits a moment for others.
func (j *Journal) gather(ctx context.Context, first []byte) [][]byte {
	wait := time.NewTimer(gatherFor)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
	return j.taken([][]byte{first})
}

// taken adds those that wait.
func (j *Journal) taken(events [][]byte) [][]byte {
	for len(events) < together {
		select {
		case e := <-j.waiting:
			events = append(events, e)
		default:
			return events
		}
	}
	return events
}

// write makes events durable, however often that takes; it returns false where ctx was done before. What the log can
// never take is lost.
func (j *Journal) write(ctx context.Context, events [][]byte) bool {
	body := bytes.Join([][]byte{[]byte("["), bytes.Join(events, []byte(",")), []byte("]")}, nil)
	hash := sha256.Sum256(body)
	a, err := j.assembler.Assemble(context.WithoutCancel(ctx), ingest.Body{
		Wire: body, Topic: j.assembler.Topics.Decisions, Headers: domain.Headers{
			Tenant: domain.SystemTenant, ReceivedAt: time.Now().UTC(), Upload: hex.EncodeToString(hash[:]),
			Uploader: domain.SystemTenant,
		},
	})
	if err != nil {
		j.lose(len(events), err)
		return true
	}
	often := backoff.NewExponentialBackOff(backoff.WithMaxElapsedTime(0), backoff.WithMaxInterval(10*time.Second))
	failing := false
	err = backoff.Retry(func() error {
		// The store takes the same event once, however often it is published.
		within, cancel := context.WithTimeout(ctx, publishFor)
		defer cancel()
		err := j.log.Publish(within, a.Records())
		if err != nil && !failing && ctx.Err() == nil {
			failing = true
			j.logger.Warn("decisions about callers wait: they were not written into the log", "error", err)
		}
		if domain.ClassOf(err) == domain.Invalid {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.WithContext(often, ctx))
	if err != nil && ctx.Err() != nil {
		return false
	}
	if err != nil {
		j.lose(len(events), err)
	}
	return true
}
