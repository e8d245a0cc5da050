package command

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPager(t *testing.T) {
	for name, c := range map[string]struct {
		pager, want string
		lines       int
	}{
		"less than a screen": {"sed s/^/p/", "1\n2\n", 2},
		"more than a screen": {"sed s/^/p/", "p1\np2\np3\np4\np5\n", 5},
		"none of that name":  {"/no/such/pager", "1\n2\n3\n4\n5\n", 5},
		"one that ends":      {"head -n 2", "1\n2\n", 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PAGER", c.pager)
			var out bytes.Buffer
			p := pagerOf(&out, 4)
			for n := range c.lines {
				_, err := fmt.Fprintf(p, "%d\n", n+1)
				require.NoError(t, err)
			}
			if name == "one that ends" {
				for range 100 {
					_, err := p.Write([]byte(strings.Repeat("x", 64<<10)))
					require.NoError(t, err)
				}
			}
			_ = p.Close() // of one that has ended
			require.Equal(t, c.want, out.String())
		})
	}
	for _, none := range []string{"", " ", "cat"} {
		t.Setenv("PAGER", none)
		require.Nil(t, pagerOf(&bytes.Buffer{}, 24))
	}
	require.True(t, isPaged("dlq list") && isPaged("show <ID>") && !isPaged("dlq replay") && !isPaged("status"))
}
