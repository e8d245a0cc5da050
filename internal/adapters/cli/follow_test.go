package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFindFollows(t *testing.T) {
	line := func(decision string) string {
		var b bytes.Buffer
		require.NoError(t, json.Compact(&b, []byte(decision)))
		return "data: " + b.String() + "\n\n"
	}
	stream := ": hello\n\n" + line(denied) + ":\n\nevent: lagged\ndata: {\"missed\":7}\n\n" + line(failed) +
		"event: lagged\ndata: {\"missed\":null}\n\nevent: of the future\ndata: {\n\n" + line(failed)[:40]
	for _, form := range []string{"table", "json", "ndjson", "csv"} {
		t.Run(form, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			var query string
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if query != "" { // it comes again, once
					cancel()
					return
				}
				query = r.URL.Path + "?" + r.URL.RawQuery
				_, _ = w.Write([]byte(stream))
			}))
			defer s.Close()
			f := Find{
				Console: Console{Server: s.URL}, Form: Form{Output: form}, Wanted: Wanted{Query: []string{"outcome:denied"}},
				Follow: true, Limit: 100,
			}
			got, err := screen(func(o Out) error { return f.Run(ctx, o) })
			require.NoError(t, err)
			require.Equal(t, "/api/v1/decisions/tail?q=outcome%3Adenied&with_event=false", query)
			golden(t, "follow-"+form, got)
		})
	}
	t.Run("a time", func(t *testing.T) {
		f := Find{Wanted: Wanted{Since: "1h"}, Follow: true}
		_, err := screen(func(o Out) error { return f.Run(t.Context(), o) })
		require.Equal(t, ExitUsage, ExitCode(err))
	})
	t.Run("away from the beginning on", func(t *testing.T) {
		s := httptest.NewServer(http.NotFoundHandler())
		s.Close()
		f := Find{Console: Console{Server: s.URL}, Follow: true}
		_, err := screen(func(o Out) error { return f.Run(t.Context(), o) })
		require.Equal(t, ExitUnavailable, ExitCode(err))
		require.True(t, strings.Contains(err.Error(), "does not answer"), err)
	})
}
