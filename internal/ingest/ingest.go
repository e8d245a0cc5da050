// Package ingest accepts uploads: it splits a body into events, makes all of them durable in the log, quarantines what
// cannot be accepted, and observes which OPAs upload. It leaves transport, identity and the caps on the wire to its
// caller, and storing decisions to the saver.
package ingest

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/policy"
	"github.com/docket-project/docket/internal/ports"
)

// Service accepts uploads. It is safe for concurrent use.
type Service struct {
	assembler      Assembler
	publishTimeout time.Duration
	log            ports.Publisher
	inventory      *Inventory
	quotas         *policy.Quotas
	events         *prometheus.CounterVec
}

// New makes a Service. publishTimeout bounds Accept: splitting a body and waiting for the log. reg may be nil in tests.
func New(
	a Assembler, publishTimeout time.Duration, log ports.Publisher, inventory *Inventory, quotas *policy.Quotas,
	reg prometheus.Registerer,
) *Service {
	s := &Service{assembler: a, publishTimeout: publishTimeout, log: log, inventory: inventory, quotas: quotas}
	s.events = promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "docket_ingest_events_total",
		Help: "Events of acknowledged uploads, by whether they were accepted, quarantined or, by a policy, dropped.",
	}, []string{"result"})
	for _, result := range []string{"accepted", "quarantined", "dropped"} {
		s.events.WithLabelValues(result)
	}
	return s
}

// LargestUpload is the most that an upload may charge beyond its wire bytes.
func (s *Service) LargestUpload() int {
	return Largest(s.assembler.Limits, s.assembler.Content.Masks())
}

// Largest is the most that an upload may charge beyond its wire bytes: those that it inflates to, what masks make of
// them, where there are any, and what its records weigh beside their events.
func Largest(l domain.Limits, masks bool) int {
	n := l.Inflated + l.Events*recordOverhead
	if masks {
		n += policy.Largest(l.Inflated, l.Events)
	}
	return n
}

// Admit lets an upload in, or a report of an OPA's status, before its body is read. Whoever is let in has to call Done.
// Its error is a *policy.Exceeded.
func (s *Service) Admit(c domain.Caller, report bool) (policy.Admission, error) {
	return s.quotas.Admit(c, report)
}

// Upload is one request to /logs.
type Upload struct {
	// Caller is who uploads, Address where the upload came from, and Partition the {partition} of the path.
	Caller             domain.Caller
	Address, Partition string
	// Wire is the body as received, and Gzipped says to inflate it. The log keeps Wire where the body is quarantined:
	// nobody may write to it again.
	Wire    []byte
	Gzipped bool
	// Charge asks for memory beyond that of Wire, and Large for the time that a large body takes; see Body. Their errors
	// refuse the upload.
	Charge func(bytes int) error
	Large  func(context.Context) (done func(), err error)
	// Admission is what let the upload in.
	Admission policy.Admission
	// Version is the OPA's, from its user agent, where its events do not say.
	Version    string
	ReceivedAt time.Time
}

// ForeignOPA is an upload with decisions of an OPA that its credential is not for. Nothing of it is kept.
type ForeignOPA struct {
	// Caller is the credential's name, and OPA the labels.id; "" where an event has none.
	Caller, OPA string
}

// Error names both.
func (e *ForeignOPA) Error() string {
	return fmt.Sprintf("the credential %s is not for the OPA %q: it may upload for others only (opas=)", e.Caller, e.OPA)
}

// Accept makes an upload durable. After an error nothing is promised and the sender has to send it again: repeating an
// upload stores nothing twice. Errors: a ForeignOPA, and those of ports.Publisher, of Upload.Charge and of
// Upload.Large.
func (s *Service) Accept(ctx context.Context, u Upload) (Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, s.publishTimeout)
	defer cancel()
	a, err := s.assembler.Assemble(ctx, Body{
		Wire: u.Wire, Gzipped: u.Gzipped, Topic: s.assembler.Topics.Decisions, Charge: u.Charge, Large: u.Large,
		Headers: domain.Headers{
			Tenant: u.Caller.Tenant(), OPAPartition: domain.Name(u.Partition), ReceivedAt: u.ReceivedAt,
			Upload:   hex.EncodeToString(s.assembler.Content.Digest(u.Caller.Tenant(), u.Wire)),
			Uploader: domain.Name(u.Caller.Name), RemoteAddress: domain.Name(u.Address),
			TraceParent: traceParent(ctx),
		},
	})
	if err != nil {
		return Receipt{}, err
	}
	events := a.Receipt.Accepted + a.Receipt.Quarantined + a.Receipt.Dropped
	if err := allowed(ctx, u.Caller, a.Senders); err != nil {
		u.Admission.Took(events, a.Bytes) // it was read, and is none of what a log that is away keeps out
		return Receipt{}, err
	}
	if records := a.Records(); len(records) > 0 {
		if err := s.log.Publish(ctx, records); err != nil {
			return Receipt{}, err
		}
	}
	s.events.WithLabelValues("accepted").Add(float64(a.Receipt.Accepted))
	s.events.WithLabelValues("quarantined").Add(float64(a.Receipt.Quarantined))
	s.events.WithLabelValues("dropped").Add(float64(a.Receipt.Dropped))
	s.assembler.Content.Count(a.Policies)
	u.Admission.Took(events, a.Bytes)
	s.inventory.saw(u, a)
	return a.Receipt, nil
}

// allowed reports a ForeignOPA, or ctx's error. What is quarantined names none that could be read.
func allowed(ctx context.Context, caller domain.Caller, senders []domain.Sender) error {
	mayUpload := caller.UploadsOf()
	if mayUpload == nil {
		return nil
	}
	for _, from := range senders {
		if opa := domain.LabelID(from.Labels); !mayUpload(opa) {
			return &ForeignOPA{Caller: caller.Name, OPA: opa}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// traceParent spells docket's own span, if one is recorded.
func traceParent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier.Get("traceparent")
}
