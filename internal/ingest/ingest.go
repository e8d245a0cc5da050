// Package ingest accepts uploads: it splits a body into events, makes all of them durable in the log, puts aside what
// cannot be accepted, and remembers which OPAs it has seen. It leaves transport, identity, inflating and the caps on
// the wire to its caller, and storing decisions to the saver.
package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/propagation"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// DefaultPublishTimeout leaves a second of the 8 s that an answer may take: OPA itself waits 10 s for one.
const DefaultPublishTimeout = 7 * time.Second

// Config configures a Service.
type Config struct {
	Topics domain.Topics
	Limits domain.Limits
	// PublishTimeout bounds Accept: splitting the body and waiting for the log.
	PublishTimeout time.Duration
}

// Service accepts uploads. It is safe for concurrent use.
type Service struct {
	cfg    Config
	log    ports.Publisher
	roster *Roster
	events *prometheus.CounterVec
}

// New makes a Service; reg may be nil in tests.
func New(cfg Config, log ports.Publisher, roster *Roster, reg prometheus.Registerer) *Service {
	s := &Service{cfg: cfg, log: log, roster: roster, events: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "docket_ingest_events_total",
		Help: "Events of acknowledged uploads, by whether they were accepted or put aside.",
	}, []string{"result"})}
	for _, result := range []string{"accepted", "quarantined"} {
		s.events.WithLabelValues(result)
	}
	return s
}

// Upload is one request to /logs.
type Upload struct {
	// Tenant is the credential's, and Partition the {partition} of the path.
	Tenant    string
	Partition string
	// Wire is the body as received. The log keeps it when the body is put aside: nobody may write to it again.
	Wire []byte
	// Body inflates Wire. It reports a body that is at fault as *domain.BodyError.
	Body io.Reader
	// SizeHint is the expected inflated length, or 0.
	SizeHint int
	// Reserve asks for bytes of memory beyond those of Wire and Body, which their readers account for; its error refuses
	// the upload. Many tiny events cost more than their bytes.
	Reserve func(bytes int) error
	// Version is the OPA's, from its user agent, where its events do not say.
	Version    string
	ReceivedAt time.Time
}

// recordOverhead is about what a record weighs beside its event.
const recordOverhead = 512

// Receipt is the answer to an upload whose every byte is durable.
type Receipt struct {
	Accepted    int
	Quarantined int
	Reasons     map[domain.Reason]int
}

// Accept makes an upload durable. After an error nothing is promised and the sender has to send it again: repeating an
// upload stores nothing twice. Errors: those of ports.Publisher and of Body.
func (s *Service) Accept(ctx context.Context, u Upload) (Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	batch, err := domain.ParseBatch(u.Body, u.SizeHint, s.cfg.Limits)
	if err != nil {
		return Receipt{}, err
	}
	if err := u.Reserve((len(batch.Events) + len(batch.Quarantined)) * recordOverhead); err != nil {
		return Receipt{}, err
	}
	records, receipt := s.records(ctx, u, batch)
	if len(records) > 0 {
		if err := s.log.Publish(ctx, records); err != nil {
			return Receipt{}, err
		}
	}
	s.events.WithLabelValues("accepted").Add(float64(receipt.Accepted))
	s.events.WithLabelValues("quarantined").Add(float64(receipt.Quarantined))
	s.roster.saw(u, batch, receipt)
	return receipt, nil
}

// records turns a batch into what is published: one record an event, one for everything that was put aside with bytes
// of its own, and one for each reason to put the wire bytes aside.
func (s *Service) records(ctx context.Context, u Upload, batch domain.Batch) ([]domain.Record, Receipt) {
	sum := sha256.Sum256(u.Wire)
	headers := domain.Headers{
		Tenant: u.Tenant, OPAPartition: domain.Name(u.Partition), ReceivedAt: u.ReceivedAt, Upload: hex.EncodeToString(sum[:]), TraceParent: traceParent(ctx),
	}
	receipt := Receipt{Accepted: len(batch.Events), Quarantined: len(batch.Quarantined), Reasons: map[domain.Reason]int{}}
	records := make([]domain.Record, 0, len(batch.Events)+len(batch.Quarantined))
	for _, e := range batch.Events {
		records = append(records, domain.Record{Topic: s.cfg.Topics.Decisions, Key: e.ID, Value: e.Raw, Headers: headers})
	}
	wire := map[domain.Reason]bool{}
	for _, q := range batch.Quarantined {
		receipt.Reasons[q.Reason]++
		h := headers
		h.Reason, h.ErrorClass = q.Reason, domain.Invalid
		r := domain.Record{Topic: s.cfg.Topics.DLQ, Value: q.Raw, Headers: h}
		if q.Raw == nil {
			if wire[q.Reason] {
				continue
			}
			wire[q.Reason] = true
			r.Value, r.Key = u.Wire, "sha256:"+headers.Upload
		} else {
			sum := sha256.Sum256(q.Raw)
			r.Key = "sha256:" + hex.EncodeToString(sum[:])
		}
		records = append(records, r)
	}
	return records, receipt
}

// traceParent spells docket's own span, if one is recorded.
func traceParent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier.Get("traceparent")
}
