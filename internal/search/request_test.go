package search

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func TestParseRequest(t *testing.T) {
	for _, c := range []struct {
		name         string
		params       url.Values
		since, until time.Time
		where        string
	}{
		{"nothing", url.Values{}, now.Add(-24 * time.Hour), time.Time{}, ""},
		{
			"a parameter and a query", url.Values{"q": {"tenant:a"}, "outcome": {"denied"}},
			now.Add(-24 * time.Hour), time.Time{}, "tenant:a outcome:denied",
		},
		{"an id as a parameter", url.Values{"trace_id": {"x"}}, time.Time{}, time.Time{}, "trace_id:x"},
		{"the beginning of an id", url.Values{"decision_id": {"x*"}}, now.Add(-24 * time.Hour), time.Time{}, "id:x*"},
		{"an id and until", url.Values{"q": {"id:x"}, "until": {"1h"}}, time.Time{}, now.Add(-time.Hour), "id:x"},
		{"an id as a parameter beside a query", url.Values{"q": {"tenant:a"}, "trace_id": {"x"}}, time.Time{}, time.Time{},
			"tenant:a trace_id:x"},
		{"an id and since", url.Values{"q": {"id:x"}, "since": {"1h"}}, now.Add(-time.Hour), time.Time{}, "id:x"},
		{
			"a query with a time beside an id", url.Values{"q": {"since:2h"}, "trace_id": {"x"}},
			now.Add(-2 * time.Hour), time.Time{}, "trace_id:x",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseRequest(c.params.Encode(), now)
			require.NoError(t, err)
			require.True(t, c.since.Equal(got.Since), got.Since)
			require.True(t, c.until.Equal(got.Until), got.Until)
			require.Equal(t, c.where, String(domain.Filter{Where: got.Where}))
		})
	}
}

// twoReadings answers a search for ids and one for a text, in pages.
type twoReadings struct{ ids, texts []domain.Page }

func (r *twoReadings) Search(_ context.Context, _ domain.Scope, q domain.Query) (domain.Page, error) {
	pages := &r.texts
	if len(q.Where.Args) > 0 {
		pages = &r.ids
	}
	page := (*pages)[0]
	*pages = (*pages)[1:]
	return page, nil
}

// TestReadings has a word that looks like an id: the text is looked for once there is no such id on any page, and from
// the beginning.
func TestReadings(t *testing.T) {
	at := &domain.Cursor{Time: now, Tenant: "a", ID: "x"}
	some := []domain.Decision{{ID: "found"}}
	next := func(items []domain.Decision) domain.Page {
		c := *at
		return domain.Page{Items: items, Next: &c, LookedAt: 1}
	}
	end := func(items []domain.Decision) domain.Page {
		return domain.Page{Items: items, Complete: true, LookedAt: 1}
	}
	for _, c := range []struct {
		name       string
		ids, texts []domain.Page
		found      int
	}{
		{"an id", []domain.Page{end(some)}, nil, 1},
		{"an id over two pages", []domain.Page{next(some), end(some)}, nil, 2},
		{"an id, and nothing on the last page", []domain.Page{next(some), end(nil)}, nil, 1},
		{"a text", []domain.Page{end(nil)}, []domain.Page{end(some)}, 1},
		{"a text over two pages", []domain.Page{end(nil)}, []domain.Page{next(some), end(some)}, 2},
		{"a text, behind two pages without the id", []domain.Page{next(nil), end(nil)}, []domain.Page{end(some)}, 1},
		{"an id on the second page", []domain.Page{next(nil), end(some)}, nil, 1},
		{"neither", []domain.Page{next(nil), next(nil), end(nil)}, []domain.Page{next(nil), end(nil)}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked, err := ParseRequest("q=4bf92f3577b34da6a3ce929d0e0e4736", now)
			require.NoError(t, err)
			r := &twoReadings{c.ids, c.texts}
			found := 0
			for {
				page, err := Find(t.Context(), r, domain.AllTenants(), asked)
				require.NoError(t, err)
				found += len(page.Items)
				if page.Next == nil {
					break
				}
				asked.After, err = domain.ParseCursor(page.Next.String())
				require.NoError(t, err)
			}
			require.Equal(t, c.found, found)
			require.Empty(t, r.ids)
			require.Empty(t, r.texts)
		})
	}
}
