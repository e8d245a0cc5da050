package ingest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func gzipped(s string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s)
	_ = z.Close()
	return b.Bytes()
}

// TestAssemble has what uploads and replayed bodies come to: the same, whoever asks.
func TestAssemble(t *testing.T) {
	a := Assembler{Topics: topics, Limits: domain.DefaultLimits}
	for _, c := range []struct {
		name                      string
		body                      Body
		accepted, elements, whole int
		cause                     domain.Cause
	}{
		{"nothing", Body{Wire: []byte("[]")}, 0, 0, 0, ""},
		{"two events", Body{Wire: []byte(`[{"a":1},{}]`)}, 2, 0, 0, ""},
		{"two events in gzip", Body{Wire: gzipped(`[{"a":1},{}]`), Gzipped: true}, 2, 0, 0, ""},
		{"no gzip", Body{Wire: []byte(`[{"a":1}]`), Gzipped: true}, 0, 0, 1, domain.BadGzip},
		{"gzip that ends too early", Body{Wire: gzipped(`[{"a":1},{}]`)[:20], Gzipped: true}, 0, 0, 1, domain.Truncated},
		{"an element that is none", Body{Wire: []byte(`[7,{},8]`)}, 1, 2, 0, domain.NotObject},
		{"an element and the rest", Body{Wire: []byte(`[7,{},`)}, 1, 1, 1, domain.Truncated},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.body.Topic = topics.Parking
			c.body.Headers = domain.Headers{Tenant: "acme", Replay: "r-1", ReplayCount: 2, Upload: "u"}
			got, err := a.Assemble(t.Context(), c.body)
			require.NoError(t, err)
			require.Len(t, got.Accepted, c.accepted)
			require.Len(t, got.Elements, c.elements)
			require.Len(t, got.Whole, c.whole)
			require.Len(t, got.Records(), c.accepted+c.elements+c.whole)
			require.Equal(t, c.cause, got.Cause)
			require.Equal(t, c.accepted, got.Receipt.Accepted)
			for _, r := range got.Accepted {
				require.Equal(t, topics.Parking, r.Topic)
				require.Equal(t, c.body.Headers, r.Headers)
			}
			for _, r := range append(got.Elements, got.Whole...) {
				require.Equal(t, topics.DLQ, r.Topic)
				require.Equal(t, "acme", r.Headers.Tenant)
				require.Equal(t, domain.Invalid, r.Headers.ErrorClass)
				require.Empty(t, r.Headers.Replay, "a dead letter of its own, which no job has replayed")
			}
			for _, r := range got.Whole {
				require.Equal(t, c.body.Wire, r.Value, "the bytes as they came")
			}
		})
	}
}

// TestRepetitiveElementsArePacked has 90 KB of gzip that are 60 MiB of elements, all of which are quarantined.
func TestRepetitiveElementsArePacked(t *testing.T) {
	a := Assembler{Topics: topics, Limits: domain.DefaultLimits}
	deep := strings.Repeat(`{"a":`, 10_050) + "1" + strings.Repeat("}", 10_050)
	const elements = 1000
	got, err := a.Assemble(t.Context(), Body{
		Wire: gzipped("[" + strings.Repeat(deep+",", elements-1) + deep + "]"), Gzipped: true, Topic: topics.Decisions,
	})
	require.NoError(t, err)
	require.Len(t, got.Elements, elements)
	kept := 0
	for _, r := range got.Elements {
		kept += len(r.Value)
		require.Equal(t, domain.HashID([]byte(deep)), r.Key)
		require.Equal(t, deep, string(r.Unpacked().Value))
	}
	require.Less(t, kept, elements*len(deep)/100)
	got, err = a.Assemble(t.Context(), Body{Wire: []byte("[" + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "]")})
	require.NoError(t, err)
	require.Empty(t, got.Elements[0].Headers.Encoding, "a short one is kept as it is")
}

func TestAssembleStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := (Assembler{Topics: topics, Limits: domain.DefaultLimits}).Assemble(ctx, Body{Wire: []byte(`[{},{}]`)})
	require.ErrorIs(t, err, context.Canceled)
}

// TestChargeBoundsMemory has a budget that is refused at every point, and what is charged for a body.
func TestChargeBoundsMemory(t *testing.T) {
	a := Assembler{Topics: topics, Limits: domain.DefaultLimits}
	over := errors.New("over budget")
	body := `[{"a":"` + strings.Repeat("x", 100_000) + `"},{},7]`
	for name, b := range map[string]Body{
		"plain":            {Wire: []byte(body)},
		"gzip":             {Wire: gzipped(body), Gzipped: true},
		"gzip of a stream": {Wire: append(gzipped(body), gzipped("")...), Gzipped: true}, // its last length says nothing
	} {
		t.Run(name, func(t *testing.T) {
			charged, calls := 0, 0
			b.Charge = func(n int) error { charged, calls = charged+n, calls+1; return nil }
			_, err := a.Assemble(t.Context(), b)
			require.NoError(t, err)
			require.Equal(t, len(body)+3*recordOverhead, charged, "every byte once, and every record")
			for refused := 1; refused <= calls; refused++ {
				asked := 0
				b.Charge = func(int) error {
					if asked++; asked == refused {
						return over
					}
					return nil
				}
				_, err := a.Assemble(t.Context(), b)
				require.ErrorIs(t, err, over)
			}
		})
	}
}

func TestPublishFailsAnUpload(t *testing.T) {
	s, _, _ := newService(nil)
	u := upload(`[{}]`)
	u.Charge = func(int) error { return io.ErrShortBuffer }
	_, err := s.Accept(t.Context(), u)
	require.ErrorIs(t, err, io.ErrShortBuffer, "and nothing is published")
}

func TestConfig(t *testing.T) {
	require.NoError(t, Default().Validate())
	for want, edit := range map[string]func(*Config){
		"publish_timeout":    func(c *Config) { c.PublishTimeout = 8 * time.Second },
		"max_depth":          func(c *Config) { c.MaxDepth = 1001 },
		"max_events has":     func(c *Config) { c.MaxEvents = 0 },
		"max_inflated_bytes": func(c *Config) { c.MaxInflatedBytes = -1 },
	} {
		c := Default()
		edit(&c)
		require.ErrorContains(t, c.Validate(), want)
	}
}

func TestInflate(t *testing.T) {
	zip := func(s string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, s)
		_ = z.Close()
		return b.Bytes()
	}
	cause := func(err error) domain.Cause {
		var be *domain.BodyError
		if errors.As(err, &be) {
			return be.Cause
		}
		return ""
	}
	good := zip("hello")
	for name, c := range map[string]struct {
		wire []byte
		text string
		want domain.Cause
	}{
		"empty":                {nil, "", ""},
		"one member":           {good, "hello", ""},
		"an empty member":      {zip(""), "", ""},
		"three members":        {bytes.Join([][]byte{good, zip(""), good}, nil), "hellohello", ""},
		"no gzip":              {[]byte("hello"), "", domain.BadGzip},
		"one byte of magic":    {good[:1], "", domain.Truncated},
		"one wrong byte":       {[]byte("x"), "", domain.BadGzip},
		"half a header":        {good[:7], "", domain.Truncated},
		"no trailer":           {good[:len(good)-8], "hello", domain.Truncated},
		"half a trailer":       {good[:len(good)-3], "hello", domain.Truncated},
		"rubbish behind":       {append(bytes.Clone(good), "xyz"...), "hello", domain.BadGzip},
		"zeros behind":         {append(bytes.Clone(good), 0, 0, 0), "hello", domain.BadGzip},
		"half a member behind": {append(bytes.Clone(good), good[:5]...), "hello", domain.Truncated},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time through the pool
				f := inflate(c.wire)
				text, err := io.ReadAll(f)
				require.Equal(t, c.want, cause(err), "%v", err)
				require.Equal(t, c.text, string(text))
				_, again := f.Read(make([]byte, 1))
				require.Error(t, again, "an error stays")
				f.release()
			}
		})
	}
}

func FuzzInflate(f *testing.F) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, "[{}]")
	_ = z.Close()
	f.Add(b.Bytes())
	f.Add(append(b.Bytes(), b.Bytes()...))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := inflate(wire)
		defer r.release()
		_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		var be *domain.BodyError
		if err != nil && !errors.As(err, &be) {
			t.Fatalf("%v is not the body's fault", err)
		}
		_ = sizeHint(wire, true, 1<<20)
	})
}

func TestSizeHint(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, strings.Repeat("ab", 100))
	_ = z.Close()
	require.Equal(t, 200, sizeHint(b.Bytes(), true, 1<<20))
	liar := append(bytes.Repeat([]byte{1}, 96), 0xff, 0xff, 0xff, 0xff)
	require.Equal(t, 100*maxRatio, sizeHint(liar, true, 1<<20), "a client's word is believed up to a point")
	require.Equal(t, 1<<10, sizeHint(liar, true, 1<<10))
	require.Equal(t, 100, sizeHint(liar, false, 1<<20))
	require.Zero(t, sizeHint([]byte{1}, true, 1<<20))
}

// TestLargeBodiesAsk: a body that takes LargeBody or more asks once, however it comes to it, and tells when it is done.
func TestLargeBodiesAsk(t *testing.T) {
	pad := strings.Repeat("x", LargeBody)
	refused := errors.New("not now")
	for _, c := range []struct {
		name    string
		wire    []byte
		gzipped bool
		refuse  error
		asked   int
	}{
		{"a small one", []byte(`[{"a":1}]`), false, nil, 0},
		{"a large one", []byte(`[{"a":"` + pad + `"}]`), false, nil, 1},
		{"that inflates to it", gzipped(`[{"a":"` + pad + `"}]`), true, nil, 1},
		{"in members that say nothing", append(gzipped(`[{"a":"`+pad+`"}`), gzipped("]")...), true, nil, 1},
		{"of many events", []byte("[" + strings.Repeat("{},", LargeBody/recordOverhead) + "{}]"), false, nil, 1},
		{"that has to wait for too long", []byte(`[{"a":"` + pad + `"}]`), false, refused, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked, working := 0, 0
			a := Assembler{Limits: domain.DefaultLimits}
			_, err := a.Assemble(t.Context(), Body{
				Wire: c.wire, Gzipped: c.gzipped, Charge: func(int) error { return nil },
				Large: func(context.Context) (func(), error) {
					asked++
					if c.refuse != nil {
						return nil, c.refuse
					}
					working++
					return func() { working-- }, nil
				},
			})
			require.ErrorIs(t, err, c.refuse)
			require.Equal(t, c.asked, asked)
			require.Zero(t, working)
		})
	}
}
