package app

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func zipped(parts ...string) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, p)
		_ = z.Close()
	}
	return b.Bytes()
}

// bomb is n gigabytes of white space, behind what stands in front. It is made of one compressed gigabyte repeated as
// gzip members: several members are one stream.
func bomb(front string, gigabytes int) []byte {
	var member bytes.Buffer
	z, _ := gzip.NewWriterLevel(&member, gzip.BestCompression)
	spaces := bytes.Repeat([]byte(" "), 1<<20)
	for range 64 {
		_, _ = z.Write(spaces)
	}
	_ = z.Close()
	return append(zipped(front), bytes.Repeat(member.Bytes(), gigabytes*1024/64)...)
}

func nested(id string, depth int) string {
	return `{"decision_id":"` + id + `","d":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `}`
}

// contractBodies makes the request of every case in docs/upload-contract.md.
var contractBodies = map[string]func() (body []byte, encoding string){
	"one event":       plainBody(`[{"a":1}]`),
	"one event, gzip": gzipped(`[{"a":2}]`),
	"five events in several gzip members": func() ([]byte, string) {
		return zipped(`[{"m":1},{"m"`, `:2},{"m":3},`, `{"m":4},{"m":5}`, `]`), "gzip"
	},
	"empty body":                      plainBody(""),
	"empty body that says it is gzip": func() ([]byte, string) { return nil, "gzip" },
	"empty array":                     gzipped("[]"),
	"white space":                     plainBody(" \n "),
	"a byte order mark in front":      plainBody("\xEF\xBB\xBF" + `[{"bom":1}]`),
	"not gzip at all":                 func() ([]byte, string) { return []byte(`[{"a":1}]`), "gzip" },
	"gzip with a bad checksum": func() ([]byte, string) {
		b := zipped(`[{"crc":1},{"crc":2}]`)
		b[len(b)-8] ^= 1
		return b, "gzip"
	},
	"gzip with damaged data": func() ([]byte, string) {
		b := zipped(`[{"damaged":1},{"damaged":2}]`)
		b[10] = 0xff
		return b, "gzip"
	},
	"bytes behind the gzip stream": func() ([]byte, string) {
		return append(zipped(`[{"t":1},{"t":2}]`), "rubbish"...),
			"gzip"
	},
	"gzip cut off": func() ([]byte, string) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, `[{"cut":1},{"cut`)
		_ = z.Flush()
		return b.Bytes(), "gzip"
	},
	"gzip cut off in its header":                     func() ([]byte, string) { return zipped("[]")[:5], "gzip" },
	"JSON cut off in the third event":                gzipped(`[{"c":1},{"c":2},{"c":`),
	"not an array":                                   plainBody(`{"decision_id":"x"}`),
	"not JSON":                                       plainBody(`hello`),
	"a broken element between two good ones":         plainBody(`[{"b":1},{"b":},{"b":3}]`),
	"trailing bytes":                                 gzipped(`[{"tr":1},{"tr":2}] x`),
	"a second array behind the first":                plainBody(`[{"s":1},{"s":2}][{"s":3}]`),
	"a number, a string and null between two events": plainBody(`[{"n":1},7,"x",null,{"n":2}]`),
	"an event nested 10,000 deep between two":        gzipped(`[{"deep":1},` + nested("deep", 10_000) + `,{"deep":2}]`),
	"an event nested 100,000 deep between two":       gzipped(`[{"deeper":1},` + nested("deeper", 100_000) + `,{"deeper":2}]`),
	"an event nested 64 deep":                        plainBody(`[` + nested("d64", 64) + `]`),
	"an event nested 65 deep":                        plainBody(`[` + nested("d65", 65) + `]`),
	"invalid UTF-8 in one event of three":            plainBody("[{\"u\":1},{\"u\":\"\xff\xfe\"},{\"u\":3}]"),
	"lone surrogates":                                plainBody(`[{"path":"a\ud800b","x":"\udfff"}]`),
	"NUL in a string":                                plainBody(`[{"path":"a\u0000b"}]`),
	"duplicate keys":                                 plainBody(`[{"k":1,"k":2,"decision_id":"first","decision_id":"last"}]`),
	"numbers beyond every machine's range": plainBody(
		`[{"n":1e99999,"m":-0.000000000000000000000000000001e-99999,"o":123456789012345678901234567890}]`,
	),
	"decision_id empty":                    plainBody(`[{"decision_id":"","e":1}]`),
	"decision_id a number":                 plainBody(`[{"decision_id":42}]`),
	"decision_id of 10 KB":                 plainBody(`[{"decision_id":"` + strings.Repeat("x", 10<<10) + `"}]`),
	"decision_id like a path":              plainBody(`[{"decision_id":"a/../b/raw"}]`),
	"decision_id absent":                   plainBody(`[{"absent":true}]`),
	"timestamp absent":                     plainBody(`[{"decision_id":"no-timestamp"}]`),
	"timestamp odd":                        plainBody(`[{"decision_id":"odd-timestamp","timestamp":"half past nine"}]`),
	"timestamp 200 years ago":              plainBody(`[{"decision_id":"old","timestamp":"1826-01-01T00:00:00Z"}]`),
	"timestamp in the year 9000":           plainBody(`[{"decision_id":"new","timestamp":"9000-01-01T00:00:00Z"}]`),
	"an event of 1 MB":                     gzipped(`[{"decision_id":"mb1","x":"` + strings.Repeat("x", 1_000_000) + `"}]`),
	"an event of 4 MB":                     gzipped(`[{"decision_id":"mb4","x":"` + strings.Repeat("x", 4_000_000) + `"}]`),
	"an event of 5 MB beside a small one":  gzipped(`[{"x":"` + strings.Repeat("x", 5_000_000) + `"},{"five":1}]`),
	"an event of 20 MB beside a small one": gzipped(`[{"x":"` + strings.Repeat("x", 20_000_000) + `"},{"twenty":1}]`),
	"60,000 tiny events": func() ([]byte, string) {
		var b strings.Builder
		for i := range contractEvents * 6 / 5 {
			fmt.Fprintf(&b, `,{"i":%d}`, i)
		}
		return zipped("[" + b.String()[1:] + "]"), "gzip"
	},
	"64 MiB of as many events as there may be": func() ([]byte, string) {
		event := `{"x":"` + strings.Repeat("y", contractInflated/contractEvents-20) + `"}`
		return zipped("[" + strings.Repeat(event+",", contractEvents-1) + event + "]"), "gzip"
	},
	"a gzip bomb of 7 GB": func() ([]byte, string) { return bomb("", 7), "gzip" },
	"a gzip bomb of 10 GB, which is more than 8 MiB on the wire": func() ([]byte, string) { return bomb("", 10), "gzip" },
	"a gzip bomb behind two events": func() ([]byte,
		string) {
		return bomb(`[{"bomb":1},{"bomb":2},`, 1), "gzip"
	},
	"9 MiB on the wire": func() ([]byte,
		string) {
		return bytes.Repeat([]byte(" "), 9<<20), ""
	},
	"9 MiB on the wire, chunked": func() ([]byte,
		string) {
		return bytes.Repeat([]byte(" "), 9<<20), "chunked"
	},
	"an encoding that is not gzip":            func() ([]byte, string) { return []byte("[]"), "br" },
	"two events as gzip that does not say so": func() ([]byte, string) { return zipped(`[{"z":1},{"z":2}]`), "" },
	"gzip twice": func() ([]byte, string) {
		return zipped("[]"),
			"gzip, gzip"
	},
}

func plainBody(s string) func() ([]byte, string) {
	return func() ([]byte, string) { return []byte(s), "" }
}
func gzipped(s string) func() ([]byte, string) {
	return func() ([]byte, string) { return zipped(s), "gzip" }
}

// contractRows reads the table with these columns.
func contractRows(t *testing.T, columns ...string) [][]string {
	b, err := os.ReadFile("../../docs/upload-contract.md")
	require.NoError(t, err)
	head := "| " + strings.Join(columns, " | ") + " |\n|" + strings.Repeat("---|", len(columns)) + "\n"
	_, cases, ok := strings.Cut(string(b), head)
	require.True(t, ok)
	cases, _, _ = strings.Cut(cases, "\n\n")
	var rows [][]string
	for line := range strings.SplitSeq(cases, "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		require.Len(t, cells, len(columns), line)
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows
}

func TestDoors(t *testing.T) {
	a := startApp(t, func(c *Config) { c.AllowedHosts = []string{"docket.example"} })
	listeners := map[string]string{"upload": a.UploadAddr(), "console": a.ConsoleAddr(), "admin": a.AdminAddr()}
	for _, row := range contractRows(t, "listener", "request", "headers", "status") {
		t.Run(strings.Join(row[:3], " "), func(t *testing.T) {
			addr := listeners[row[0]]
			method, path, _ := strings.Cut(row[1], " ")
			body := []byte(`[{"a":1}]`)
			if strings.Contains(row[2], "gzip") {
				body = zipped(string(body))
			}
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, bytes.NewReader(body))
			require.NoError(t, err)
			for header := range strings.SplitSeq(row[2], "; ") {
				name, value, _ := strings.Cut(header, ": ")
				if value = strings.ReplaceAll(value, "IP", addr); name == "Host" {
					req.Host = value
				} else if name != "" {
					req.Header.Add(name, value)
				}
			}
			resp, err := a.client.Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			answer, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, row[3], strconv.Itoa(resp.StatusCode), "%s", answer)
			require.Equal(t, method == http.MethodHead, len(answer) == 0, "%s", answer)
			require.Empty(t, resp.Header.Values("Access-Control-Allow-Origin"))
			require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
		})
	}
}

func TestUploadContract(t *testing.T) {
	a := startApp(t, func(c *Config) { c.Ingest.MaxEvents, c.Ingest.MaxInflatedBytes = contractEvents, contractInflated })
	seen := map[string]bool{}
	for _, row := range contractRows(t, "case", "status", "accepted", "quarantined", "reason") {
		name, status, accepted, quarantined, reason := row[0], row[1], row[2], row[3], row[4]
		seen[name] = true
		t.Run(name, func(t *testing.T) {
			request := contractBodies[name]
			require.NotNil(t, request, "the table has a case that this test cannot make")
			body, encoding := request()
			answer, got := postLogs(t, a, body, encoding)
			require.Equal(t, status, strconv.Itoa(got), "%s", answer)
			if got != http.StatusOK {
				require.Less(t, len(answer), 1024)
				var p struct {
					Status        int
					Title, Detail string
				}
				require.NoError(t, json.Unmarshal(answer, &p))
				require.Equal(t, got, p.Status)
				require.NotEmpty(t, p.Detail)
				return
			}
			var r struct {
				Accepted, Quarantined int
				Reasons               map[string]int
			}
			require.NoError(t, json.Unmarshal(answer, &r))
			if accepted == strconv.Itoa(domain.DefaultLimits.Events) {
				accepted = strconv.Itoa(contractEvents)
			}
			require.Equal(t, accepted, strconv.Itoa(r.Accepted), "%s", answer)
			require.Equal(t, quarantined, strconv.Itoa(r.Quarantined), "%s", answer)
			want := map[string]int{}
			if reason != "" {
				want[reason] = r.Quarantined
			}
			require.Equal(t, want, r.Reasons)
		})
	}
	for name := range contractBodies {
		require.True(t, seen[name], "%q is not in the table", name)
	}

	// What was accepted is there, whatever its id looks like, and the one that is too old is not.
	a.drained(t)
	for _, id := range []string{"last", "a/../b/raw", "no-timestamp", "odd-timestamp", "new", "mb4", "d64"} {
		require.Equal(t, http.StatusOK, a.status(t, id), id)
	}
	for _, id := range []string{"old", "first", "d65", "deep"} {
		require.Equal(t, http.StatusNotFound, a.status(t, id), id)
	}
}

// postLogs posts to /logs; the encoding "chunked" leaves the length out.
func postLogs(t *testing.T, a *running, body []byte, encoding string) ([]byte, int) {
	t.Helper()
	var r io.Reader = bytes.NewReader(body)
	if encoding == "chunked" {
		r, encoding = io.MultiReader(r), ""
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.UploadAddr()+"/logs", r)
	require.NoError(t, err)
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	resp, err := a.client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer, resp.StatusCode
}

func TestCutOffBodyGetsNoAnswer(t *testing.T) {
	a := startApp(t, nil)
	conn, err := net.Dial("tcp", a.UploadAddr())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(
		conn,
		"POST /logs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n[{\"decision_id\":\"cut\"}]",
	)
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	answer, _ := io.ReadAll(conn)
	require.Empty(t, string(answer))
	a.drained(t)
	require.Equal(t, http.StatusNotFound, a.status(t, "cut"))
	_, metrics := a.get(t, a.AdminAddr(), "/metrics")
	require.Contains(t, string(metrics), `docket_ingest_requests_total{code="499"} 1`)
}

func TestUploadPaths(t *testing.T) {
	a := startApp(t, nil)
	for _, path := range []string{"/logs", "/logs/", "/logs/tenant-a", "/logs/tenant-a/", "/logs/a/b", "/status",
		"/status/", "/status/x", "/status/x/"} {
		resp, err := a.client.Post("http://"+a.UploadAddr()+path, "application/json", strings.NewReader(`[]`))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode, path)
		require.Equal(t, path, resp.Request.URL.Path, "no redirect")
	}
	resp, err := a.client.Get("http://" + a.UploadAddr() + "/logs")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
}
