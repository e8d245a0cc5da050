package compare

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// stored are decisions, the newest first, in pages of so many.
type stored struct {
	all  []domain.Decision
	page int
	err  error
}

func (r *stored) StoredEvents(_ context.Context, scope domain.Scope, q domain.Query) (domain.Page, error) {
	fits, page := search.NewMatcher(q.Where), domain.Page{Complete: true}
	begun := q.After == nil
	for i := range r.all {
		d := &r.all[i]
		if fits.Fits(d) && scope.Includes(d.Tenant) && begun {
			if len(page.Items) == r.page {
				page.Next = domain.CursorOf(&page.Items[r.page-1])
				return page, r.err
			}
			page.Items = append(page.Items, *d)
		}
		begun = begun || d.ID == q.After.ID
	}
	return page, r.err
}

// decided makes decisions of whom the denied ones come from a network and have no ticket.
func decided(n int) (out []domain.Decision) {
	for i := range n {
		d := domain.Decision{
			Tenant: "acme", ID: fmt.Sprint(i), Path: "a/allow", Outcome: domain.OutcomeAllowed, Principal: fmt.Sprint(i),
			ReceivedAt: time.Unix(int64(n-i), 0),
		}
		network, ticket := "office", `"ticket":"t-1",`
		if i%4 == 0 {
			d.Outcome, network, ticket = domain.OutcomeDenied, "guest", ""
		}
		d.Event = fmt.Appendf(nil, `{"decision_id":"%d","path":"a/allow","labels":{"id":"x","zone":"z%d"},"input":{%s
			"network":%q,"roles":["dev","dev","n%d"],"items":[{"kind":"book"},null],"nothing":null}}`,
			i, i%3, ticket, network, i%2)
		out = append(out, d)
	}
	return out
}

func TestContrast(t *testing.T) {
	for _, c := range []struct {
		name, query string
		traits      []string
		a, b        int
	}{
		{"denials against what was allowed", "", []string{
			"input.network=guest 1000/0", "input.network=office 0/2000", "input.ticket=absent 1000/0", "input.ticket=t-1 0/2000",
		}, 1000, 2000},
		{"another outcome", "q=outcome:allowed", []string{
			"input.network=guest 0/1000", "input.network=office 2000/0", "input.ticket=absent 0/1000", "input.ticket=t-1 2000/0",
		}, 2000, 1000},
		{"what is asked for is left out", "q=input.network:guest&against=-input.network:guest", []string{
			"outcome=allowed 0/2000", "outcome=denied 1000/0", "input.ticket=absent 1000/0", "input.ticket=t-1 0/2000",
		}, 1000, 2000},
		{"the same", "q=outcome:denied&against=outcome:denied", nil, 1000, 1000},
		{"against nothing", "q=outcome:denied&against=id:nobody", nil, 1000, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked, err := ParseContrast(c.query, time.Unix(5000, 0))
			require.NoError(t, err)
			got, err := FindContrast(t.Context(), &stored{all: decided(4000), page: 300}, domain.AllTenants(), asked)
			require.NoError(t, err)
			require.True(t, got.Complete && got.A.Complete && got.B.Complete)
			require.Equal(t, []int{c.a, c.b}, []int{got.A.Decisions, got.B.Decisions})
			var traits []string
			for _, tr := range got.Traits {
				if tr.Difference > -0.9 && tr.Difference < 0.9 {
					break
				}
				value := "absent"
				if tr.Value.There {
					value = tr.Value.Text
				}
				traits = append(traits, fmt.Sprintf("%s=%s %d/%d", tr.Field, value, tr.A, tr.B))
			}
			require.ElementsMatch(t, c.traits, traits)
			for _, tr := range got.Traits {
				require.NotContains(t, []string{"label.id", "event.path", "event.decision_id", "input.items.0.kind"}, tr.Field)
			}
		})
	}
}

func TestContrastIsBounded(t *testing.T) {
	asked, err := ParseContrast("limit=7", time.Unix(5000, 0))
	require.NoError(t, err)
	require.Equal(t, 7, asked.Most)
	all := decided(200)
	for i := range all {
		var b strings.Builder
		for n := range 5000 {
			fmt.Fprintf(&b, `"k%d":"v%d-%d",`, n, n, i)
		}
		all[i].Event = []byte(`{"input":{` + b.String() + `"last":1,"deep":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `}}`)
	}
	got, err := FindContrast(t.Context(), &stored{all: all, page: 1000}, domain.AllTenants(), asked)
	require.NoError(t, err)
	require.Len(t, got.Traits, 7)
	require.True(t, got.Complete)

	_, err = FindContrast(t.Context(), &stored{err: errors.New("away")}, domain.AllTenants(), asked)
	require.EqualError(t, err, "away")
	got, err = FindContrast(t.Context(), &stored{all: decided(10), page: 10}, domain.Tenants("other"), asked)
	require.NoError(t, err)
	require.Empty(t, got.Traits)
}

func TestContrastsAreRefused(t *testing.T) {
	for name, query := range map[string]string{
		"no query":     "q=" + url.QueryEscape("(a"),
		"no other one": "against=" + url.QueryEscape("(a"),
		"two others":   "against=a&against=b",
		"a cursor":     "cursor=x",
		"no limit":     "limit=0",
		"too much":     "limit=1001",
		"a word":       "limit=x",
		"unknown":      "usr=x",
	} {
		_, err := ParseContrast(query, time.Now())
		require.Error(t, err, name)
	}
	now := time.Unix(1e6, 0)
	asked, err := ParseContrast(url.Values{"q": {"since:2h path:x"}, "against": {"path:y"}}.Encode(), now)
	require.NoError(t, err)
	require.Equal(t, asked.A.Since, asked.B.Since)
	asked, err = ParseContrast("since=2h&against="+url.QueryEscape("since:4h until:2h"), now)
	require.NoError(t, err)
	require.Equal(t, asked.A.Since, asked.B.Until)
}

// FuzzLeaves has any event be walked within bounds.
func FuzzLeaves(f *testing.F) {
	f.Add([]byte(`{"input":{"a":[1,"x",{"b":null}],"":{"":2}},"labels":{"id":"x"}}`))
	f.Add([]byte(`{"input":` + strings.Repeat("[", 100)))
	f.Fuzz(func(t *testing.T, event []byte) {
		c := newContrast()
		c.count(0, &domain.Decision{Event: event, Outcome: domain.OutcomeDenied})
		require.LessOrEqual(t, len(c.traits), maxLeaves+len(columnTraits))
		for tr, n := range c.traits {
			require.Equal(t, 1, n[0])
			require.GreaterOrEqual(t, c.present[tr.field][0], 1)
		}
	})
}

// slow has a first page, and then none before it is given up.
type slow struct{ stored }

func (s *slow) StoredEvents(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error) {
	if q.After != nil {
		<-ctx.Done()
		return domain.Page{}, ctx.Err()
	}
	return s.stored.StoredEvents(ctx, scope, q)
}

func TestContrastEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, err := ParseContrast("", time.Unix(5000, 0))
		require.NoError(t, err)
		in, began := &slow{stored{all: decided(200), page: 20}}, time.Now()
		got, err := FindContrast(t.Context(), in, domain.AllTenants(), asked)
		require.NoError(t, err)
		require.Equal(t, contrastTime, time.Since(began))
		for _, side := range []Side{got.A, got.B} {
			require.Equal(t, 20, side.Decisions)
			require.True(t, side.More)
			require.False(t, side.Complete)
		}
		require.NotEmpty(t, got.Traits)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = FindContrast(ctx, in, domain.AllTenants(), asked)
		require.ErrorIs(t, err, context.DeadlineExceeded, "of whoever asks")
	})
}
