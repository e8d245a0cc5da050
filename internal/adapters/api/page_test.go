package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// TestSpellPage has decisions whose columns become six times as long in JSON.
func TestSpellPage(t *testing.T) {
	var rows []domain.Decision
	for n := range 1000 {
		rows = append(rows, domain.Decision{
			ID: fmt.Sprint(n), Tenant: "t", Timestamp: time.Unix(int64(10_000-n), 0).UTC(),
			Bundles: []domain.Bundle{{Name: strings.Repeat("\x01", 4000), Revision: "r"}},
		})
	}
	seen := 0
	for pages := 1; ; pages++ {
		spelled := SpellPage(rows[seen:], nil, domain.CursorOf, DecisionOf)
		require.Less(t, len(spelled), maxPage+100)
		var page Page[Decision]
		require.NoError(t, json.Unmarshal(spelled, &page))
		require.NotEmpty(t, page.Items)
		seen += len(page.Items)
		last := page.Items[len(page.Items)-1]
		require.Equal(t, fmt.Sprint(seen-1), last.DecisionID)
		if page.NextCursor == "" {
			require.Equal(t, 3, pages)
			break
		}
		cursor, err := domain.ParseCursor(string(page.NextCursor))
		require.NoError(t, err)
		require.Equal(t, *domain.CursorOf(&rows[seen-1]), *cursor)
	}
	require.Len(t, rows, seen)
	empty := string(SpellPage([]domain.Decision{}, nil, domain.CursorOf, DecisionOf))
	require.Equal(t, `{"items":[],"next_cursor":null}`, empty)
}
