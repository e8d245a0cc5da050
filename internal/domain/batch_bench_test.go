package domain

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// sampleEvent is about 1.4 KB, shaped like what OPA's Envoy plugin logs.
func sampleEvent(n int) string {
	return fmt.Sprintf(
		`{"labels":{"app":"shop","env":"prod","id":"4f0c1d2e-9a1b-4c3d-8e5f-0123456789ab","version":"1.22.2"},"decision_id":"%08x-1111-4222-8333-444455556666","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7","bundles":{"authz":{"revision":"W3sibCI6InN5cy9jYXRhbG9nIiwicyI6NDA3MX1d"}},"path":"http/authz/allow","input":{"method":"GET","path":["finance","salary","user%d"],"user":"alice%d","subject":{"id":"alice","roles":["employee","manager","auditor"],"department":"finance","clearance":3},"source":{"address":"10.0.%d.%d","port":443},"headers":{"accept":"application/json","user-agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36","x-request-id":"%032x","x-forwarded-for":"203.0.113.7, 10.0.0.1"},"resource":{"type":"salary","owner":"bob","sensitivity":"high","tags":["pii","payroll"]}},"result":{"allow":false,"reasons":["user is not the owner","user is not in the group hr"],"obligations":[{"type":"log","level":"warn"}]},"requested_by":"10.0.12.7:51442","timestamp":"2026-11-20T12:34:56.%09dZ","metrics":{"counter_server_query_cache_hit":1,"timer_rego_input_parse_ns":32111,"timer_rego_query_eval_ns":187221,"timer_server_handler_ns":301232,"timer_rego_external_resolve_ns":1042},"req_id":%d}`,
		n, n, n, n%256, n%251, n, n%1000000000, n,
	)
}

func gz(tb testing.TB, s string) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// BenchmarkParseBatch reads gzip bodies as the upload API does: inflate through a reused reader, then split. Beside it
// stand its two parts, for the ratio in one run.
func BenchmarkParseBatch(b *testing.B) {
	for _, events := range []int{1, 3, 5, 100} {
		var s bytes.Buffer
		s.WriteByte('[')
		for i := range events {
			if i > 0 {
				s.WriteByte(',')
			}
			s.WriteString(sampleEvent(i))
		}
		s.WriteByte(']')
		wire := gz(b, s.String())
		src := bytes.NewReader(wire)
		zr, err := gzip.NewReader(src)
		if err != nil {
			b.Fatal(err)
		}
		rewind := func() {
			src.Reset(wire)
			if err := zr.Reset(src); err != nil {
				b.Fatal(err)
			}
		}
		parse := func(r io.Reader) {
			batch, err := ParseBatch(b.Context(), r, s.Len(), DefaultLimits)
			if err != nil || len(batch.Events) != events {
				b.Fatalf("%d events, %v", len(batch.Events), err)
			}
		}
		b.Run(fmt.Sprintf("gzip/events=%d", events), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(s.Len()))
			for b.Loop() {
				rewind()
				parse(zr)
			}
		})
		b.Run(fmt.Sprintf("plain/events=%d", events), func(b *testing.B) {
			plain := bytes.NewReader(nil)
			b.SetBytes(int64(s.Len()))
			for b.Loop() {
				plain.Reset(s.Bytes())
				parse(plain)
			}
		})
		b.Run(fmt.Sprintf("inflate-only/events=%d", events), func(b *testing.B) {
			buf := make([]byte, s.Len()+512)
			b.SetBytes(int64(s.Len()))
			for b.Loop() {
				rewind()
				if n, err := io.ReadFull(zr, buf); n != s.Len() {
					b.Fatal(n, err)
				}
			}
		})
	}
}
