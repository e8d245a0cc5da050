package porttest

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// phrase is what the events of these cases share.
const phrase = `"labels":{"app":"shop","env":"prod","region":"eu-central-1"},"path":"http/authz/allow"`

// phrased makes a row whose event has the phrase, and nothing that s2 could shorten without a dictionary.
func (h *StoreHarness) phrased(n int) domain.Decision {
	return h.row(n, func(d *domain.Decision) {
		d.Event = fmt.Appendf(nil, `{%s,"n":"%x"}`, phrase, sha256.Sum256(fmt.Append(nil, n)))
	})
}

func dictionaryOf(text string) domain.Dictionary {
	return domain.NewDictionary("default", s2.MakeDict([]byte(text), nil).Bytes(), 0.4)
}

// add keeps a dictionary under a lease.
func (h *StoreHarness) add(t *testing.T, d domain.Dictionary) {
	t.Helper()
	lease := domain.Lease{Name: "dictionaries", Owner: "me"}
	held, err := h.Decisions.TakeLease(t.Context(), lease, time.Minute)
	require.NoError(t, err)
	require.True(t, held)
	added, err := h.Decisions.AddDictionary(t.Context(), lease, d)
	require.NoError(t, err)
	require.True(t, added)
}

// same requires that events come back as they were, alone and in a page.
func (h *StoreHarness) same(t *testing.T, rows ...domain.Decision) {
	t.Helper()
	page, err := h.Decisions.StoredEvents(t.Context(), domain.AllTenants(), domain.Query{Limit: 100})
	require.NoError(t, err)
	paged := map[string]string{}
	for _, d := range page.Items {
		paged[d.ID] = string(d.Event)
	}
	for _, want := range rows {
		got := h.get(t, want.ID)
		require.Len(t, got, 1)
		require.Equal(t, string(want.Event), string(got[0].Event))
		require.Equal(t, string(want.Event), paged[want.ID])
	}
}

func storeDictionaries(t *testing.T, h *StoreHarness) {
	require.Empty(t, h.newest(t))
	plain := h.phrased(1)
	h.save(t, domain.Saved, plain)
	bare := h.EventBytes(t, plain.ID)

	first := dictionaryOf(phrase)
	h.add(t, first)
	require.Equal(t, first.Bytes, h.newest(t)["default"].Bytes)
	require.InDelta(t, 0.4, h.newest(t)["default"].Ratio, 1e-9)
	require.WithinDuration(t, h.Now, h.newest(t)["default"].MadeAt, time.Second)
	packed := h.phrased(2)
	h.save(t, domain.Saved, packed)
	require.Less(t, h.EventBytes(t, packed.ID), bare-60, "it is packed without its tenant's dictionary")
	other := h.row(3, func(d *domain.Decision) { d.Tenant, d.Event = "acme", packed.Event })
	h.save(t, domain.Saved, other)
	require.GreaterOrEqual(t, h.EventBytes(t, other.ID), bare-10, "it is packed with another tenant's dictionary")

	h.Now = h.Now.Add(48 * time.Hour)
	second := dictionaryOf(phrase + `,"n":"`)
	h.add(t, second)
	require.Equal(t, second.SHA256, h.newest(t)["default"].SHA256)
	outside := h.phrased(4)
	outside.Timestamp = time.Time{}
	h.save(t, domain.Saved, outside)
	h.same(t, plain, packed, other, outside)

	h.Decisions, h.Control = h.Reopen(t)
	require.Equal(t, second.SHA256, h.newest(t)["default"].SHA256)
	h.same(t, plain, packed, other, outside)
	h.save(t, domain.Duplicate, plain, packed, outside)
}

func (h *StoreHarness) newest(t *testing.T) map[string]domain.Dictionary {
	t.Helper()
	newest, err := h.Decisions.NewestDictionaries(t.Context())
	require.NoError(t, err)
	return newest
}

// Rows of both kinds are read alike, and the other kind is never written where this one is asked for.
func storeBothKinds(t *testing.T, h *StoreHarness) {
	h.add(t, dictionaryOf(phrase))
	var all []domain.Decision
	for n, json := range []bool{false, true, false, true} {
		h.JSON = json
		h.Decisions, h.Control = h.Reopen(t)
		d := h.phrased(n)
		h.save(t, domain.Saved, d)
		if json {
			require.Equal(t, len(d.Event), h.EventBytes(t, d.ID))
		} else {
			require.Less(t, h.EventBytes(t, d.ID), len(d.Event)-50)
		}
		all = append(all, d)
		h.same(t, all...)
		h.save(t, domain.Duplicate, all...)
	}
}

// What was restored from a backup lacks the dictionaries that were made since: a batch brings them along.
func storeLosesDictionaries(t *testing.T, h *StoreHarness) {
	h.add(t, dictionaryOf(phrase))
	h.Exec(t, `DELETE FROM dictionaries`)
	d := h.phrased(1)
	h.save(t, domain.Saved, d)
	h.same(t, d)
	h.Decisions, h.Control = h.Reopen(t)
	h.same(t, d)
}

// A dictionary that is lost or wrong is damage, and never other bytes.
func storeMissesDictionary(t *testing.T, h *StoreHarness) {
	h.add(t, dictionaryOf(phrase))
	d, plain := h.phrased(1), h.row(2, func(d *domain.Decision) { d.Tenant = "acme" })
	h.save(t, domain.Saved, d, plain)
	for _, c := range []struct{ name, sql string }{
		{"wrong", h.WrongDictionary}, {"gone", `DELETE FROM dictionaries`},
	} {
		h.Exec(t, strings.Split(c.sql, ";")...)
		h.Decisions, h.Control = h.Reopen(t)
		_, err := h.Decisions.Decisions(t.Context(), domain.AllTenants(), d.ID)
		require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%s: %v", c.name, err)
		require.ErrorContains(t, err, "dictionar")
		page, err := h.Decisions.StoredEvents(t.Context(), domain.AllTenants(), domain.Query{Limit: 10})
		require.NoError(t, err)
		for _, row := range page.Items {
			require.Equal(t, row.ID != d.ID, sha256.Sum256(row.Event) == row.SHA256, row.ID)
		}
		more := h.phrased(3 + len(c.name))
		h.save(t, domain.Saved, more)
		require.Equal(t, string(more.Event), string(h.get(t, more.ID)[0].Event), "what comes is kept without it")
	}
}

func storeLeases(t *testing.T, h *StoreHarness) {
	mine, theirs := domain.Lease{Name: "a", Owner: "me"}, domain.Lease{Name: "a", Owner: "they"}
	take := func(l domain.Lease, length time.Duration) bool {
		t.Helper()
		held, err := h.Decisions.TakeLease(t.Context(), l, length)
		require.NoError(t, err)
		return held
	}
	require.True(t, take(mine, time.Hour))
	require.False(t, take(theirs, time.Hour))
	require.True(t, take(mine, time.Hour), "it is renewed")
	require.True(t, take(domain.Lease{Name: "b", Owner: "they"}, time.Hour))
	require.True(t, take(mine, -time.Second), "it is given back")
	require.True(t, take(theirs, time.Hour))

	// Whoever has lost the lease adds nothing.
	added, err := h.Decisions.AddDictionary(t.Context(), mine, dictionaryOf(phrase))
	require.NoError(t, err)
	require.False(t, added)
	require.Empty(t, h.newest(t))
	added, err = h.Decisions.AddDictionary(t.Context(), theirs, dictionaryOf(phrase))
	require.NoError(t, err)
	require.True(t, added)
}
