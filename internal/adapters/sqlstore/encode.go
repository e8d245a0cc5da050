package sqlstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// What stands in a column is a type of its own, so that a value of the domain can change while old rows are read.

// filterJSON is a filter as it is kept. The version changes with its meaning.
type filterJSON struct {
	Version int        `json:"v"`
	Since   *time.Time `json:"since,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
	Where   *exprJSON  `json:"where,omitempty"`
}

type exprJSON struct {
	Op    string     `json:"op"`
	Args  []exprJSON `json:"args,omitempty"`
	Field string     `json:"field,omitempty"`
	Value string     `json:"value,omitempty"`
}

const filterVersion = 1

// EncodeFilter spells a filter: the same filter always the same, so that two jobs that do the same are found.
func EncodeFilter(f domain.Filter) string {
	out := filterJSON{Version: filterVersion, Since: instant(f.Since), Until: instant(f.Until)}
	if f.Where.Op != "" {
		e := encodeExpr(f.Where)
		out.Where = &e
	}
	return encode(out)
}

// DecodeFilter reads what EncodeFilter wrote of fields in a table.
func DecodeFilter(text string, table []domain.FieldInfo) (f domain.Filter, err error) {
	if text == "" {
		return f, nil
	}
	var in filterJSON
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		return f, fmt.Errorf("read a stored filter: %w", err)
	}
	if in.Version != filterVersion {
		return f, domain.Errorf(
			domain.Misconfigured, "a stored filter has version %d: this docket reads version %d; update it", in.Version,
			filterVersion,
		)
	}
	f.Since, f.Until = at(in.Since), at(in.Until)
	if in.Where != nil {
		f.Where, err = decodeExpr(*in.Where, table)
	}
	return f, err
}

func encodeExpr(e domain.Expr) exprJSON {
	out := exprJSON{Op: string(e.Op), Field: string(e.Field), Value: e.Value}
	for _, a := range e.Args {
		out.Args = append(out.Args, encodeExpr(a))
	}
	return out
}

// decodeExpr refuses what this docket does not know: a Where has it fit nothing, so the "not" of it would fit every
// dead letter, and a job would replay or discard them all.
func decodeExpr(in exprJSON, table []domain.FieldInfo) (domain.Expr, error) {
	e := domain.Expr{Op: domain.Op(in.Op), Field: domain.Field(in.Field), Value: in.Value}
	known := false
	switch e.Op {
	case domain.OpAnd, domain.OpNot:
		known = len(in.Args) > 0
	case domain.OpOr: // of nothing fits nothing
		known = true
	case domain.OpEqual, domain.OpPrefix, domain.OpPresent:
		_, known = domain.FieldOf(table, e.Field)
	case domain.OpGlob, domain.OpLess, domain.OpAtMost, domain.OpAtLeast, domain.OpMore, domain.OpText: // no job has them
	}
	if !known {
		return domain.Expr{}, domain.Errorf(
			domain.Misconfigured, "a stored filter wants %q of %q, which this docket does not know; update it", in.Op, in.Field,
		)
	}
	for _, arg := range in.Args {
		a, err := decodeExpr(arg, table)
		if err != nil {
			return domain.Expr{}, err
		}
		e.Args = append(e.Args, a)
	}
	return e, nil
}

// EncodeScope spells the tenants of a scope as a JSON array; "" is all of them, and null in a store.
func EncodeScope(s domain.Scope) string {
	if s.All() {
		return ""
	}
	names := s.Names()
	if names == nil {
		names = []string{}
	}
	return encode(names)
}

// DecodeScope reads what EncodeScope wrote.
func DecodeScope(text string) (domain.Scope, error) {
	if text == "" {
		return domain.AllTenants(), nil
	}
	var names []string
	if err := json.Unmarshal([]byte(text), &names); err != nil {
		return domain.Scope{}, fmt.Errorf("read stored tenants: %w", err)
	}
	return domain.Tenants(names...), nil
}

type messageJSON struct {
	Code string         `json:"code"`
	Args map[string]any `json:"args,omitempty"`
}

// EncodeMessage spells a message; "" where it says nothing.
func EncodeMessage(m domain.Message) string {
	if m.Code == "" {
		return ""
	}
	return encode(messageJSON{m.Code, m.Args})
}

// DecodeMessage reads what EncodeMessage wrote.
func DecodeMessage(text string) (domain.Message, error) {
	if text == "" {
		return domain.Message{}, nil
	}
	var in messageJSON
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.UseNumber()
	if err := dec.Decode(&in); err != nil {
		return domain.Message{}, fmt.Errorf("read a stored message: %w", err)
	}
	for name, v := range in.Args {
		number, ok := v.(json.Number)
		if !ok {
			continue
		}
		if n, err := number.Int64(); err == nil {
			in.Args[name] = n
		} else if f, err := number.Float64(); err == nil {
			in.Args[name] = f
		}
	}
	return domain.Message{Code: in.Code, Args: in.Args}, nil
}

// EncodeTrouble spells what is not well with a process, by role.
func EncodeTrouble(trouble map[string][]domain.Message) string {
	out := map[string][]messageJSON{}
	for role, messages := range trouble {
		for _, m := range messages {
			out[role] = append(out[role], messageJSON{m.Code, m.Args})
		}
	}
	return encode(out)
}

// DecodeTrouble reads what EncodeTrouble wrote.
func DecodeTrouble(text string) (map[string][]domain.Message, error) {
	var in map[string][]json.RawMessage
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		return nil, fmt.Errorf("read what is not well with a process: %w", err)
	}
	out := map[string][]domain.Message{}
	for role, messages := range in {
		for _, raw := range messages {
			m, err := DecodeMessage(string(raw))
			if err != nil {
				return nil, err
			}
			out[role] = append(out[role], m)
		}
	}
	return out, nil
}

type reportJSON struct {
	Verdict   string         `json:"verdict"`
	Histogram []tallyJSON    `json:"histogram"`
	Tried     int            `json:"tried"`
	Of        int64          `json:"of"`
	Statuses  map[string]int `json:"statuses"`
	Failures  []failureJSON  `json:"failures"`
	Bodies    int            `json:"bodies"`
	Events    int            `json:"events"`
	Broken    int            `json:"broken"`
	Gone      int            `json:"gone"`
	Rows      int64          `json:"rows"`
	Changed   int64          `json:"changed"`
	Changes   []changeJSON   `json:"changes"`
	Letters   int64          `json:"letters,omitempty"`
	Unclear   int64          `json:"unclear,omitempty"`
	Expiries  []expiryJSON   `json:"expiries,omitempty"`
}

type expiryJSON struct {
	Topic string     `json:"topic"`
	At    *time.Time `json:"at"` // null for never
}

type changeJSON struct {
	Path   string `json:"path"`
	Column string `json:"column"`
	From   string `json:"from"`
	To     string `json:"to"`
	Rows   int64  `json:"rows"`
	Sample string `json:"sample"`
}

type tallyJSON struct {
	Cause   domain.Cause `json:"cause"`
	Path    string       `json:"path"`
	Class   domain.Class `json:"class"`
	Code    string       `json:"code"`
	Error   string       `json:"error"`
	Letters int64        `json:"letters"`
}

type failureJSON struct {
	Fingerprint string       `json:"fingerprint"`
	Class       domain.Class `json:"class"`
	Code        string       `json:"code"`
	Error       string       `json:"error"`
	Path        string       `json:"path"`
	Letters     int          `json:"letters"`
	Sample      string       `json:"sample"`
}

// EncodeReport spells what a dry run found; "" where there is nothing.
func EncodeReport(r *domain.DryRunReport) string {
	if r == nil {
		return ""
	}
	out := reportJSON{
		Verdict: r.Verdict, Tried: r.Tried, Of: r.Of, Statuses: map[string]int{}, Bodies: r.Bodies, Events: r.Events,
		Broken: r.Broken, Gone: r.Gone, Rows: r.Rows, Changed: r.Changed, Letters: r.Letters, Unclear: r.Unclear,
	}
	for _, e := range r.Expiries {
		out.Expiries = append(out.Expiries, expiryJSON{e.Topic, instant(e.At)})
	}
	for status, n := range r.Statuses {
		out.Statuses[string(status)] = n
	}
	for _, t := range r.Histogram {
		out.Histogram = append(out.Histogram, tallyJSON(t))
	}
	for _, f := range r.Failures {
		out.Failures = append(out.Failures, failureJSON(f))
	}
	for _, c := range r.Changes {
		out.Changes = append(out.Changes, changeJSON(c))
	}
	return encode(out)
}

// DecodeReport reads what EncodeReport wrote.
func DecodeReport(text string) (*domain.DryRunReport, error) {
	if text == "" {
		return nil, nil
	}
	var in reportJSON
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		return nil, fmt.Errorf("read a stored report: %w", err)
	}
	r := &domain.DryRunReport{
		Verdict: in.Verdict, Tried: in.Tried, Of: in.Of, Statuses: map[domain.SaveStatus]int{}, Bodies: in.Bodies,
		Events: in.Events, Broken: in.Broken, Gone: in.Gone, Rows: in.Rows, Changed: in.Changed, Letters: in.Letters,
		Unclear: in.Unclear,
	}
	for _, e := range in.Expiries {
		r.Expiries = append(r.Expiries, domain.Expiry{Topic: e.Topic, At: at(e.At)})
	}
	for status, n := range in.Statuses {
		r.Statuses[domain.SaveStatus(status)] = n
	}
	for _, t := range in.Histogram {
		r.Histogram = append(r.Histogram, domain.Tally(t))
	}
	for _, f := range in.Failures {
		r.Failures = append(r.Failures, domain.DryRunFailure(f))
	}
	for _, c := range in.Changes {
		r.Changes = append(r.Changes, domain.Change(c))
	}
	return r, nil
}

// JobTexts are the columns of a job that are texts of this package.
type JobTexts struct{ Filter, Tenants, Message, Report string }

// Into reads them into a job.
func (t JobTexts) Into(j *domain.Job) (err error) {
	if j.Filter, err = DecodeFilter(t.Filter, j.Kind.Fields()); err != nil {
		return err
	}
	if j.Tenants, err = DecodeScope(t.Tenants); err != nil {
		return err
	}
	if j.Message, err = DecodeMessage(t.Message); err != nil {
		return err
	}
	j.Report, err = DecodeReport(t.Report)
	return err
}

// AuditTexts are the columns of an audit entry that are texts of this package.
type AuditTexts struct{ Filter, Tenants, Outcome string }

// TextsOf spells them.
func TextsOf(e domain.AuditEntry) AuditTexts {
	t := AuditTexts{Tenants: EncodeScope(e.Tenants), Outcome: EncodeMessage(e.Outcome)}
	if f := e.Filter; !f.Since.IsZero() || !f.Until.IsZero() || f.Where.Op != "" {
		t.Filter = EncodeFilter(f)
	}
	return t
}

// Into reads them into an entry.
func (t AuditTexts) Into(e *domain.AuditEntry) (err error) {
	if e.Filter, err = DecodeFilter(t.Filter, e.Kind().Fields()); err != nil {
		return err
	}
	if e.Tenants, err = DecodeScope(t.Tenants); err != nil {
		return err
	}
	e.Outcome, err = DecodeMessage(t.Outcome)
	return err
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func at(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// encode spells texts, numbers and times, which cannot fail.
func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
