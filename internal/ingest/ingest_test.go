package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var topics = domain.TopicsWithPrefix("docket.")

type publisher func(context.Context, []domain.Record) error

func (p publisher) Publish(ctx context.Context, r []domain.Record) error { return p(ctx, r) }

// recorder keeps what is reported, or fails.
type recorder struct {
	mu  sync.Mutex
	got []domain.Observation
	err error
}

func (r *recorder) RecordOPAs(_ context.Context, s []domain.Observation) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.got = append(r.got, s...)
	}
	return r.err
}

func newService(p publisher) (*Service, *Inventory, *recorder) {
	store := &recorder{}
	inventory := NewInventory(store, slog.New(slog.DiscardHandler))
	return New(
		Assembler{Topics: topics, Limits: domain.DefaultLimits}, Default().PublishTimeout, p, inventory,
		policy.NewQuotas(nil, nil), nil,
	), inventory, store
}

func ofTenant(name string) domain.Caller {
	return domain.Caller{Name: "edge", Tenants: domain.Tenants(name)}
}

func upload(body string) Upload {
	return Upload{Caller: ofTenant("t"), Partition: "p", Wire: []byte(body), ReceivedAt: time.Unix(5, 0).UTC()}
}

func TestAcceptPublishesEverythingAtOnce(t *testing.T) {
	var calls [][]domain.Record
	s, _, _ := newService(func(_ context.Context, r []domain.Record) error { calls = append(calls, r); return nil })
	receipt, err := s.Accept(t.Context(), upload(`[{"decision_id":"a"},7,{"b":1},{`))
	require.NoError(t, err)
	require.Equal(
		t, Receipt{Accepted: 2, Quarantined: 2, Reasons: map[domain.Cause]int{domain.NotObject: 1, domain.Truncated: 1}},
		receipt,
	)
	require.Len(t, calls, 1)
	got := calls[0]
	require.Len(t, got, 4)
	require.Equal(
		t, []string{topics.Decisions, topics.Decisions, topics.DLQ, topics.DLQ},
		[]string{got[0].Topic, got[1].Topic, got[2].Topic, got[3].Topic},
	)
	require.Equal(t, "a", got[0].Key)
	require.Equal(t, `{"decision_id":"a"}`, string(got[0].Value))
	require.Regexp(t, "^sha256:[0-9a-f]{64}$", got[1].Key)
	require.Equal(t, "7", string(got[2].Value))
	require.Equal(t, domain.NotObject, got[2].Headers.Reason)
	require.Equal(t, domain.Invalid, got[2].Headers.ErrorClass)
	require.Equal(t, `[{"decision_id":"a"},7,{"b":1},{`, string(got[3].Value), "the whole body, as it came")
	require.Equal(t, domain.Truncated, got[3].Headers.Reason)
	for _, r := range got {
		require.Equal(t, "t", r.Headers.Tenant)
		require.Equal(t, "p", r.Headers.OPAPartition)
		require.Equal(t, time.Unix(5, 0).UTC(), r.Headers.ReceivedAt)
		require.Len(t, r.Headers.Upload, 64)
	}
}

func TestWireBytesAreQuarantinedOnce(t *testing.T) {
	var got []domain.Record
	s, _, _ := newService(func(_ context.Context, r []domain.Record) error { got = r; return nil })
	huge := `{"x":"` + strings.Repeat("y", domain.MaxQuarantined) + `"}`
	receipt, err := s.Accept(t.Context(), upload("["+huge+","+huge+"]"))
	require.NoError(t, err)
	require.Equal(t, 2, receipt.Quarantined)
	require.Len(t, got, 1)
}

func TestNothingToPublish(t *testing.T) {
	s, inventory, _ := newService(func(context.Context, []domain.Record) error { return errors.New("not called") })
	receipt, err := s.Accept(t.Context(), upload("[]"))
	require.NoError(t, err)
	require.Equal(t, Receipt{Reasons: map[domain.Cause]int{}}, receipt)
	require.Empty(t, inventory.seen)
}

func TestAcceptAnswersInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inventory, _ := newService(func(ctx context.Context, _ []domain.Record) error { <-ctx.Done(); return ctx.Err() })
		start := time.Now()
		_, err := s.Accept(t.Context(), upload(`[{}]`))
		require.Equal(t, domain.Unavailable, domain.ClassOf(err))
		require.Equal(t, Default().PublishTimeout, time.Since(start))
		require.Empty(t, inventory.seen, "what was not acknowledged was not seen")
	})
}

func TestInventory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inventory, store := newService(func(context.Context, []domain.Record) error { return nil })
		ctx, cancel := context.WithCancel(t.Context())
		go inventory.Run(ctx)
		synctest.Wait() // it reports once at the start
		event := `[{"labels":{"id":"opa-1","version":"1.22.2"}},{"labels":{"id":"opa-1","version":"1.22.2"},"x":1}]`
		for range 3 {
			_, err := s.Accept(t.Context(), upload(event))
			require.NoError(t, err)
		}
		require.NoError(t, inventory.Status(ofTenant("t"), "", []byte(`{"labels":{"id":"opa-1"},"x":1}`), time.Unix(9, 0)))
		require.NoError(t, inventory.Status(ofTenant("t"), "", []byte(`no JSON`), time.Unix(9, 0)))
		require.NoError(t, inventory.Status(ofTenant("t"), "", []byte(`{"labels":{}}`), time.Unix(9, 0)))
		time.Sleep(reportEvery + time.Millisecond)
		synctest.Wait()
		require.Len(t, store.got, 1)
		require.Equal(t, domain.Observation{
			Tenant: "t", OPA: "opa-1", Version: "1.22.2", First: time.Unix(5, 0).UTC(), Last: time.Unix(5, 0).UTC(),
			Uploads: 3, Events: 6, Status: []byte(`{"labels":{"id":"opa-1"},"x":1}`), StatusAt: time.Unix(9, 0),
		}, store.got[0])

		// While the store is away observations add up, and the last report comes when the inventory ends.
		store.err = errors.New("away")
		for range 2 {
			_, err := s.Accept(t.Context(), upload(event))
			require.NoError(t, err)
			time.Sleep(2 * reportEvery)
		}
		synctest.Wait()
		store.mu.Lock()
		store.err = nil
		store.mu.Unlock()
		cancel()
		synctest.Wait()
		require.Len(t, store.got, 2)
		require.EqualValues(t, 2, store.got[1].Uploads)
	})
}

func TestInventoryOfACollector(t *testing.T) {
	s, inventory, store := newService(func(context.Context, []domain.Record) error { return nil })
	_, err := s.Accept(t.Context(), upload(`[{"labels":{"id":"a"}},{"labels":{"id":"b"}},{"labels":{"id":"a"}},{}]`))
	require.NoError(t, err)
	require.NoError(t, inventory.report(t.Context()))
	got := map[string][2]int64{}
	for _, o := range store.got {
		got[o.OPA] = [2]int64{o.Uploads, o.Events}
	}
	require.Equal(t, map[string][2]int64{"a": {1, 2}, "b": {1, 1}, "": {1, 1}}, got)
}

// TestInventedIDs has more ids than anybody has OPAs, each of them once, and a few real OPAs among them.
func TestInventedIDs(t *testing.T) {
	_, inventory, store := newService(nil)
	observe := func(tenant, opa string) {
		inventory.add(domain.Observation{Tenant: tenant, OPA: opa, Uploads: 1, Events: 2, First: time.Unix(1, 0),
			Last: time.Unix(1, 0), Version: "1.0"})
	}
	got := map[string]int64{}
	for round := range 5 {
		for n := range 5_000 {
			observe("a", fmt.Sprint(round, "-", n))
			if n%10 == 0 {
				observe("a", fmt.Sprint("real-", n))
			}
		}
		observe("b", "alone")
		require.LessOrEqual(t, len(inventory.seen), 2*domain.MaxOPAs+2)
		store.got = nil
		require.NoError(t, inventory.report(t.Context()))
		for _, o := range store.got {
			got[o.Tenant+"/"+o.OPA] += o.Events
		}
	}
	require.LessOrEqual(t, len(got), freely+500+2, "the first thousand, the real ones, and the others")
	for n := 0; n < 5_000; n += 10 {
		require.GreaterOrEqual(t, got[fmt.Sprint("a/real-", n)], int64(2*3), "it came again, and was told apart from then on")
	}
	require.EqualValues(t, 10, got["b/alone"], "another tenant's ids are no business of this one")
	var sum int64
	for _, events := range got {
		sum += events
	}
	require.EqualValues(t, 5*(5_000+500+1)*2, sum, "every event is counted somewhere")
}

// TestInventoryIsBounded has ids that come again and again, with long status reports, while the store is away.
func TestInventoryIsBounded(t *testing.T) {
	_, inventory, store := newService(nil)
	store.err = errors.New("away")
	for range 3 {
		for i := range domain.MaxOPAs + 500 {
			inventory.add(
				domain.Observation{OPA: fmt.Sprint(i), Uploads: 1, Status: make([]byte, maxStatus), StatusAt: time.Unix(1, 0)},
			)
		}
		require.Error(t, inventory.report(t.Context()))
		require.LessOrEqual(t, len(inventory.seen), domain.MaxOPAs+1)
		bytes := 0
		for _, s := range inventory.seen {
			bytes += len(s.Status)
		}
		require.LessOrEqual(t, bytes, maxStatuses)
	}
	require.Equal(t, domain.MaxOPAs, len(inventory.tenants[""].known))
	now := time.Now()
	for opa := range inventory.tenants[""].known {
		inventory.tenants[""].known[opa] = now.Add(-2 * quietFor)
	}
	inventory.add(domain.Observation{OPA: "1", Uploads: 1})
	inventory.tenants[""].turn(now)
	require.Len(t, inventory.tenants[""].known, 1, "those that are quiet make room")
}

// TestCrowdOfUploads is TestInventedIDs through uploads: in a crowd, the labels of a real OPA are read once they come
// again.
func TestCrowdOfUploads(t *testing.T) {
	s, inventory, store := newService(func(context.Context, []domain.Record) error { return nil })
	send := func(id string) {
		_, err := s.Accept(t.Context(), upload(fmt.Sprintf(`[{"labels":{"id":%q,"version":"1.22.2"}}]`, id)))
		require.NoError(t, err)
	}
	events := map[string]int64{}
	for round := range 3 {
		for n := range 2 * freely {
			send(fmt.Sprint("made-up-", round, "-", n))
		}
		send("real")
		send("real")
		store.got = nil
		require.NoError(t, inventory.report(t.Context()))
		for _, o := range store.got {
			events[o.OPA] += o.Events
		}
	}
	require.Len(t, events, freely+2)
	require.EqualValues(t, 4, events["real"], "from the second report on")
	require.EqualValues(t, 5*freely+2, events[domain.OtherOPAs])
}

// TestManyUnknownSenders has an upload of thousands of ids, as no OPA makes one: a few are read, the rest is counted.
func TestManyUnknownSenders(t *testing.T) {
	s, inventory, store := newService(func(context.Context, []domain.Record) error { return nil })
	var events []string
	for n := range 2_000 {
		events = append(events, fmt.Sprintf(`{"labels":{"id":"made-up-%d"}}`, n))
	}
	_, err := s.Accept(t.Context(), upload("["+strings.Join(events, ",")+"]"))
	require.NoError(t, err)
	require.NoError(t, inventory.report(t.Context()))
	require.Len(t, store.got, maxUnread+1)
	var sum int64
	for _, o := range store.got {
		sum += o.Events
		if o.OPA == domain.OtherOPAs {
			require.EqualValues(t, 1, o.Uploads)
		}
	}
	require.EqualValues(t, 2_000, sum)
}

// BenchmarkInventory is what an upload of one event costs the inventory: of 200 OPAs, and with an id of its own.
func BenchmarkInventory(b *testing.B) {
	for name, ids := range map[string]int{"200 OPAs": 200, "an id of its own": 1 << 40} {
		b.Run(name, func(b *testing.B) {
			_, inventory, _ := newService(nil)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				raw := fmt.Appendf(nil, `{"app":"shop","env":"prod","id":"4f0c1d2e-9a1b-4c3d-8e5f-%012d","version":"1.22.2"}`, n%ids)
				inventory.saw(Upload{Caller: ofTenant("t")}, Assembly{
					Receipt: Receipt{Accepted: 1}, Senders: []domain.Sender{{Labels: raw, Events: 1}},
				})
				if n%100_000 == 0 {
					_ = inventory.report(b.Context())
				}
			}
		})
	}
}

// TestForeignOPAs has uploads by a credential that is for some OPAs only. What the column opa would say is what counts.
func TestForeignOPAs(t *testing.T) {
	published := 0
	s, inventory, _ := newService(func(context.Context, []domain.Record) error { published++; return nil })
	caller := ofTenant("t")
	caller.OPAs = []string{"edge-*", "core"}
	for name, c := range map[string]struct{ labels, foreign string }{
		"one of its own":                   {`{"id":"edge-1"}`, ""},
		"one that is named":                {`{"id":"core"}`, ""},
		"another":                          {`{"id":"victim"}`, "victim"},
		"one that begins like it":          {`{"id":"core-2"}`, "core-2"},
		"the last id stands":               {`{"id":"edge-1","id":"victim"}`, "victim"},
		"an id in other letters":           {`{"id":"victim","ID":"edge-1"}`, "victim"},
		"an id in other letters beside it": {`{"ID":"victim","id":"edge-1"}`, ""},
		"escaped":                          {`{"id":"\u0076ictim"}`, "victim"},
		"an escaped key":                   {`{"id":"edge-1","\u0069d":"victim"}`, "victim"},
		"a number":                         {`{"id":7}`, "7"},
		"none":                             {`{}`, ""},
		"no object":                        {`["edge-1"]`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			refused := c.foreign != "" || name == "none" || name == "no object"
			projector, err := domain.NewProjector(nil)
			require.NoError(t, err)
			event := `{"labels":` + c.labels + `}`
			row := projector.Project(domain.Record{Value: []byte(event)})
			require.Equal(t, refused, !caller.UploadsOf()(row.OPA), "as the row says: %q", row.OPA)

			published = 0
			u := upload(`[{"labels":{"id":"edge-9"}},` + event + `]`)
			u.Caller = caller
			_, err = s.Accept(t.Context(), u)
			var foreign *ForeignOPA
			require.Equal(t, refused, errors.As(err, &foreign), "%v", err)
			if refused {
				require.Zero(t, published, "nothing of it is kept")
				require.Equal(t, c.foreign, foreign.OPA)
			}
			err = inventory.Status(caller, "", []byte(event), time.Unix(9, 0))
			require.Equal(t, c.foreign != "", errors.As(err, &foreign), "a status that names no OPA is not kept anyway: %v", err)
		})
	}
}
