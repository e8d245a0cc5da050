package events

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"
)

// The corpus is what the decisions are about: what repeats in it repeats as it does for a company with several kinds of
// policies, and what is random does not compress. What upload i asks is the same in every run, so that two builds get
// the same load; only ids and times are a run's own.
const (
	opas       = 200
	principals = 20_000
	denials    = 0.08 // share of decisions
	traced     = 0.7
	// Long decisions carry a list of what they are about: their share, and the longest list in bytes.
	long     = 0.0025
	longest  = 62 << 10
	revision = 6 * time.Hour // how long a bundle's revision lasts
	// DecisionBytes is how long decisions are on average.
	DecisionBytes = 1170
)

// policies are the paths that are asked, the most frequent first, and what their inputs look like.
var policies = func() (out []policy) {
	for i, name := range []string{
		"http/authz/allow", "envoy/authz/allow", "orders/api/allow", "payments/api/allow", "catalog/api/allow",
		"system/main", "carts/api/allow", "billing/api/allow", "data/filters/include", "kafka/authz/allow",
	} {
		out = append(out, policy{name, i % len(inputs), fmt.Sprintf("app-%02d", i)})
	}
	for i := len(out); i < 40; i++ {
		out = append(out, policy{fmt.Sprintf("team%02d/service/%s/allow", i, verbs[i%len(verbs)]), i % len(inputs),
			fmt.Sprintf("app-%02d", i%23)})
	}
	return out
}()

type policy struct {
	path  string
	input int
	app   string
}

var (
	verbs   = []string{"read", "write", "list", "export", "approve", "cancel"}
	methods = []string{"GET", "GET", "GET", "GET", "POST", "POST", "PUT", "DELETE"}
	roles   = []string{"employee", "manager", "auditor", "contractor", "support", "admin", "guest", "finance"}
	places  = []string{"finance", "engineering", "sales", "support", "legal", "marketing", "operations", "research"}
	agents  = []string{
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 " +
			"Safari/605.1.15",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0", "okhttp/5.1.0",
		"python-requests/2.32.5", "grpc-go/1.75.0", "curl/8.15.0",
	}
	reasons = []string{
		"user is not the owner", "user is not in the group hr", "the token has expired", "the network is not trusted",
		"a second person has to approve", "the tenant does not match", "the limit of the day is reached",
		"the role may only read",
	}
)

// inputs are the kinds of input that policies are asked about.
var inputs = []func(dst []byte, d *draw) []byte{
	func(dst []byte, d *draw) []byte { // an HTTP API behind a library
		return fmt.Appendf(dst, `{"method":%q,"path":["accounts","%d","transactions","%08x"],"user":%q,"subject":{"id":%q,`+
			`"roles":[%q,%q],"department":%q,"clearance":%d},"source":{"address":"10.%d.%d.%d","port":%d},"headers":{`+
			`"accept":"application/json","user-agent":%q,"x-request-id":"%016x%016x","x-forwarded-for":"203.0.113.%d, `+
			`10.0.0.1"},"resource":{"type":"account","owner":%q,"sensitivity":"high","tags":["pii","payroll"]}}`,
			d.one(methods), d.IntN(1e6), d.Uint32(), d.who, d.who, d.one(roles), d.one(roles), d.one(places), d.IntN(5),
			d.IntN(32), d.IntN(256), d.IntN(256), 1024+d.IntN(60000), d.one(agents), d.Uint64(), d.Uint64(), d.IntN(256),
			d.name())
	},
	func(dst []byte, d *draw) []byte { // Envoy's external authorization
		return fmt.Appendf(dst, `{"attributes":{"source":{"address":{"socketAddress":{"address":"10.%d.%d.%d","portValue":%d}`+
			`},"principal":"spiffe://cluster.local/ns/%s/sa/%s"},"destination":{"address":{"socketAddress":{"address":`+
			`"10.96.%d.%d","portValue":8443}}},"request":{"time":"2026-11-20T10:%02d:%02d.%06dZ","http":{"id":"%d","method":%q,`+
			`"headers":{":authority":"%s.example.com","accept":"*/*","user-agent":%q,"x-forwarded-proto":"https",`+
			`"x-request-id":"%08x-%04x-4%03x-8%03x-%012x"},"path":"/v2/%s/%d?page=%d","host":"%s.example.com","scheme":"https",`+
			`"protocol":"HTTP/2"}}},"parsed_path":["v2",%q,"%d"],"user":%q,"truncated_body":false,"version":{"encoding":`+
			`"protojson","ext_authz":"v3"}}`,
			d.IntN(32), d.IntN(256), d.IntN(256), 1024+d.IntN(60000), d.one(places), d.who, d.IntN(256), d.IntN(256),
			d.IntN(60), d.IntN(60), d.IntN(1e6), d.Uint64(), d.one(methods), d.one(places), d.one(agents), d.Uint32(),
			d.Uint32()&0xffff, d.Uint32()&0xfff, d.Uint32()&0xfff, d.Uint64()>>16, d.one(places), d.IntN(1e5), d.IntN(40),
			d.one(places), d.one(places), d.IntN(1e5), d.who)
	},
	func(dst []byte, d *draw) []byte { // a service that asks about one action
		return fmt.Appendf(dst, `{"action":%q,"user":%q,"roles":[%q],"resource":{"type":%q,"id":"%08x-%04x"},"amount":%d.%02d,`+
			`"currency":"EUR","session":"%016x%016x","mfa":%t}`,
			d.one(verbs), d.who, d.one(roles), d.one(places), d.Uint32(), d.Uint32()&0xffff, d.IntN(1e4), d.IntN(100),
			d.Uint64(), d.Uint64(), d.IntN(3) > 0)
	},
	func(dst []byte, d *draw) []byte { // Kubernetes admission
		return fmt.Appendf(dst, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"%08x-%04x-4%03x`+
			`-9%03x-%012x","kind":{"group":"apps","version":"v1","kind":"Deployment"},"operation":"UPDATE","name":"web-%d",`+
			`"namespace":%q,"userInfo":{"username":%q,"groups":["system:authenticated",%q]},"object":{"metadata":{"labels":{`+
			`"app":"web-%d","team":%q},"resourceVersion":"%d"},"spec":{"replicas":%d,"template":{"spec":{"containers":[{"name":`+
			`"main","image":"registry.example.com/%s/web:%x","resources":{"limits":{"cpu":"500m","memory":"512Mi"}},`+
			`"securityContext":{"runAsNonRoot":true,"readOnlyRootFilesystem":true}}]}}}}}}`,
			d.Uint32(), d.Uint32()&0xffff, d.Uint32()&0xfff, d.Uint32()&0xfff, d.Uint64()>>16, d.IntN(400), d.one(places),
			d.who, d.one(roles), d.IntN(400), d.one(places), d.Uint64()>>30, d.IntN(20), d.one(places), d.Uint64())
	},
}

// draw is what one decision is drawn from.
type draw struct {
	*rand.Rand
	pcg *rand.PCG
	who string
}

func (d *draw) one(of []string) string { return of[d.IntN(len(of))] }

// zipf draws a number below n, a small one often: as 1/(k+shift).
func (d *draw) zipf(n int) int { return int(rand.NewZipf(d.Rand, 1.05, 4, uint64(n-1)).Uint64()) }

func (d *draw) name() string { return principal(d.zipf(principals)) }

// principal is the name of the n-th person or service, as scattered as real ones.
func principal(n int) string {
	h := uint32(n) * 2654435761
	if h%5 == 0 {
		return fmt.Sprintf("svc-%s-%x", places[h>>8%8], h>>12)
	}
	return fmt.Sprintf("%s.%x@example.com", places[h>>5%8][:3], h)
}

var draws = sync.Pool{New: func() any {
	pcg := rand.NewPCG(0, 0)
	return &draw{Rand: rand.New(pcg), pcg: pcg}
}}

// drawn lends the draw of an upload's k-th decision; give it back.
func drawn(upload int64, k int) *draw {
	d := draws.Get().(*draw)
	d.pcg.Seed(uint64(upload)+1, uint64(k)<<32|0x5eed)
	return d
}

// decision is what the corpus says of a decision without its id and time: the three pieces between which these stand.
type decision struct{ labels, about, measured []byte }

// read makes the k-th decision of an upload. All decisions of an upload are of one OPA, and an OPA has one application.
func (c *decision) read(upload int64, k int, at time.Time) {
	sender := drawn(upload, PerUpload)
	opa := sender.zipf(opas)
	draws.Put(sender)
	d := drawn(upload, k)
	defer draws.Put(d)
	d.who = d.name()
	p := policies[(opa+d.zipf(len(policies)))%len(policies)]
	c.labels = fmt.Appendf(c.labels[:0], `{"app":%q,"env":"prod","id":"%08x-6d1c-4a5e-9b1f-0000000000%02x","region":"eu-%d",`+
		`"version":"1.22.%d"}`, policies[opa%len(policies)].app, uint32(opa)*2246822519, opa, opa%3, opa%3)
	c.about = c.about[:0]
	if d.Float64() < traced {
		c.about = fmt.Appendf(c.about, `"trace_id":"%016x%016x","span_id":"%016x",`, d.Uint64(), d.Uint64(), d.Uint64())
	}
	c.about = fmt.Appendf(c.about, `"bundles":{"authz":{"revision":"%016x"}},"path":%q,"input":`,
		uint64(at.UnixNano()/int64(revision))*0x9e3779b97f4a7c15, p.path)
	c.about = inputs[p.input](c.about, d)
	if d.Float64() < long {
		c.about = append(c.about[:len(c.about)-1], `,"items":[`...)
		for size := len(c.about) + 1 + int(float64(longest)*d.Float64()*d.Float64()*d.Float64()); len(c.about) < size; {
			c.about = fmt.Appendf(c.about, `{"sku":"%08x","name":"%s %s","quantity":%d,"price":%d.%02d},`, d.Uint32(),
				d.one(places), d.one(verbs), d.IntN(20), d.IntN(1000), d.IntN(100))
		}
		c.about = append(c.about[:len(c.about)-1], `]}`...)
	}
	if d.Float64() < denials {
		c.about = fmt.Appendf(c.about, `,"result":{"allow":false,"reasons":[%q],"rule":"rule-%d"}`, d.one(reasons), d.IntN(60))
	} else {
		c.about = fmt.Appendf(c.about, `,"result":{"allow":true,"rule":"rule-%d"}`, d.IntN(60))
	}
	c.about = fmt.Appendf(c.about, `,"requested_by":"10.%d.%d.%d:%d"`, d.IntN(4), d.IntN(64), opa, 1024+d.IntN(60000))
	c.measured = fmt.Appendf(c.measured[:0], `"metrics":{"counter_server_query_cache_hit":1,"timer_rego_external_resolve_ns":%d,`+
		`"timer_rego_input_parse_ns":%d,"timer_rego_query_eval_ns":%d,"timer_server_handler_ns":%d},"req_id":%d}`,
		d.IntN(2000), 9000+d.IntN(60000), 30000+d.IntN(400000), 60000+d.IntN(700000), d.IntN(1e7))
}

var read = sync.Pool{New: func() any { return new(decision) }}

// AppendDecision appends the k-th decision of an upload, as OPA writes it, to dst.
func AppendDecision(dst []byte, id string, upload int64, k int, at time.Time) []byte {
	c := read.Get().(*decision)
	defer read.Put(c)
	c.read(upload, k, at)
	dst = append(append(dst, `{"labels":`...), c.labels...)
	dst = append(strconv.AppendQuote(append(dst, `,"decision_id":`...), id), ',')
	dst = append(append(dst, c.about...), `,"timestamp":"`...)
	dst = append(at.UTC().AppendFormat(dst, time.RFC3339Nano), `",`...)
	return append(dst, c.measured...)
}
