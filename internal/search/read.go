package search

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// query makes filters of the parsed query: one, or two where a word looks like an id.
func (r *reader) query(q *query) (out Query, err error) {
	if out.Filter, err = r.filter(q); err != nil {
		return Query{}, err
	}
	out.Dated = r.hasSince || r.hasUntil
	if r.ids {
		again := reader{text: r.text, now: r.now, asText: true}
		otherwise, err := again.filter(q)
		if err != nil {
			return Query{}, err
		}
		out.Otherwise = &otherwise
	}
	return out, nil
}

func (r *reader) filter(q *query) (domain.Filter, error) {
	where := domain.Expr{}
	if q.Any != nil {
		var err error
		if where, err = r.any(q.Any, true, 0); err != nil {
			return domain.Filter{}, err
		}
	}
	f := domain.Filter{Since: r.since, Until: r.until, Where: where}
	if !r.hasSince && !asksForIDs(where) {
		f.Since = r.now.Add(-domain.DefaultSpan).UTC()
	}
	switch {
	case !r.hasUntil || !f.Until.Before(f.Since) && !f.Until.IsZero():
		return f, nil
	case !r.hasSince:
		return f, r.errorAt(
			r.untilAt,
			"a since as well, such as since:30d",
			"until lies before since, which is 24 hours ago where the query does not say",
		)
	default:
		return f, r.errorAt(r.untilAt, "a later time", "until lies before since")
	}
}

// asksForIDs reports that only decisions of certain ids can fit.
func asksForIDs(e domain.Expr) bool {
	ids := []domain.Field{domain.FieldDecisionID, domain.FieldTraceID, domain.FieldBatchID}
	isID := func(e domain.Expr) bool { return e.Op == domain.OpEqual && slices.Contains(ids, e.Field) }
	return slices.ContainsFunc(e.Conjuncts(), func(c domain.Expr) bool {
		return isID(c) || c.Op == domain.OpOr && len(c.Args) > 0 &&
			!slices.ContainsFunc(c.Args, func(a domain.Expr) bool { return !isID(a) })
	})
}

// any, all and negated make the tree. top says that all of it has to hold, so that times may stand there.
func (r *reader) any(a *anyOf, top bool, depth int) (domain.Expr, error) {
	var args []domain.Expr
	for _, part := range a.Args {
		e, err := r.all(part, top && len(a.Args) == 1, depth)
		if err != nil {
			return e, err
		}
		args = append(args, e)
	}
	return anyOfThese(args), nil
}

// anyOfThese is domain.AnyOf without an OR right within an OR, but for that of a word that looks like an id, which is
// spelled as the word.
func anyOfThese(args []domain.Expr) domain.Expr {
	var flat []domain.Expr
	for _, e := range args {
		if _, is := idWord(e); e.Op == domain.OpOr && !is {
			flat = append(flat, e.Args...)
		} else {
			flat = append(flat, e)
		}
	}
	return domain.AnyOf(flat...)
}

func (r *reader) all(a *allOf, top bool, depth int) (domain.Expr, error) {
	var args []domain.Expr
	for _, part := range a.Args {
		e, err := r.negated(part, top, depth)
		if err != nil {
			return e, err
		}
		args = append(args, e)
	}
	return domain.AllOf(args...), nil
}

func (r *reader) negated(n *negated, top bool, depth int) (domain.Expr, error) {
	if depth+len(n.Not) > MaxDepth {
		return domain.Expr{}, r.errorAt(n.Term.Pos.Offset, "fewer of them", "NOT nests deeper than %d", MaxDepth)
	}
	e, err := r.term(n.Term, top && len(n.Not) == 0, depth)
	return not(e, len(n.Not)), err
}

// not is the complement, so many times.
func not(e domain.Expr, times int) domain.Expr {
	if times%2 == 0 {
		return e
	}
	if e.Op == domain.OpNot {
		return e.Args[0]
	}
	return domain.Not(e)
}

func (r *reader) term(t *term, top bool, depth int) (domain.Expr, error) {
	switch {
	case t.Group != nil:
		return r.any(t.Group, top, depth+1)
	case t.Value != nil:
		return r.comparison(t, top, t.Value.Pos.Offset, t.Value.Text)
	case t.Values != nil:
		return r.anyValues(t, t.Values)
	default:
		if err := r.count(t.Pos.Offset); err != nil {
			return domain.Expr{}, err
		}
		return r.freeText(t.Text, top), nil
	}
}

// count refuses a query of too many terms.
func (r *reader) count(offset int) error {
	if r.terms++; r.terms > MaxTerms {
		return r.errorAt(offset, "fewer terms", "there are more than %d terms", MaxTerms)
	}
	return nil
}

func (r *reader) anyValues(t *term, a *anyValues) (domain.Expr, error) {
	var args []domain.Expr
	for _, part := range a.Args {
		var all []domain.Expr
		for _, n := range part.Args {
			e, err := r.negatedValue(t, n)
			if err != nil {
				return e, err
			}
			all = append(all, not(e, len(n.Not)))
		}
		args = append(args, domain.AllOf(all...))
	}
	return anyOfThese(args), nil
}

func (r *reader) negatedValue(t *term, n *negatedValue) (domain.Expr, error) {
	if len(n.Not) > MaxDepth {
		return domain.Expr{}, r.errorAt(n.Pos.Offset, "fewer of them", "NOT nests deeper than %d", MaxDepth)
	}
	if n.Group != nil {
		return r.anyValues(t, n.Group)
	}
	return r.comparison(t, false, n.Item.Pos.Offset, n.Item.Text)
}

// id is what decisions and traces are named by: a UUID, 32 hexadecimal digits, or a hash that docket made.
var id = regexp.MustCompile(
	`^(?i:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}|sha256:[0-9a-f]{64})$`,
)

// freeText makes the tree of a word. One that looks like an id is looked for as one first, where all of the query has
// to hold, and as both elsewhere.
func (r *reader) freeText(word string, top bool) domain.Expr {
	v := readValue(word)
	text := domain.Expr{Op: domain.OpText, Field: domain.FieldText, Value: domain.Glob(v.literals...)}
	if !id.MatchString(word) || top && r.asText {
		return text
	}
	ids := []domain.Expr{
		domain.Equals(domain.FieldDecisionID, word), domain.Equals(domain.FieldTraceID, word),
		domain.Equals(domain.FieldBatchID, word),
	}
	if top {
		r.ids = true
		return domain.AnyOf(ids...)
	}
	return domain.AnyOf(append(ids, text)...)
}

// written is a value as it was written.
type written struct {
	// literals are the texts between its stars.
	literals []string
	quoted   bool // some of it is in quotes
}

// piece is a part of a word, without the quotes that some of it may have stood in.
type piece struct {
	text   string
	quoted bool
}

// pieces cuts a word where a sign stands outside of quotes; they take its meaning away, and inside them a backslash
// that of quotes and of itself.
func pieces(word string, sign byte) (out []piece) {
	var b strings.Builder
	inside, quoted := false, false
	end := func() {
		out = append(out, piece{b.String(), quoted})
		b.Reset()
		quoted = false
	}
	for i := 0; i < len(word); i++ {
		switch ch := word[i]; {
		case ch == '"':
			inside, quoted = !inside, true
		case inside && ch == '\\' && (word[i+1] == '"' || word[i+1] == '\\'): // the lexer has seen what ends it
			i++
			b.WriteByte(word[i])
		case ch == sign && !inside:
			end()
		default:
			b.WriteByte(ch)
		}
	}
	end()
	return out
}

// readValue reads a value.
func readValue(word string) (v written) {
	for _, p := range pieces(word, '*') {
		v.literals = append(v.literals, p.text)
		v.quoted = v.quoted || p.quoted
	}
	if last := len(v.literals) - 1; last > 1 { // stars side by side are one
		between := slices.DeleteFunc(v.literals[1:last:last], func(text string) bool { return text == "" })
		v.literals = slices.Concat(v.literals[:1], between, v.literals[last:])
	}
	return v
}

// text is a value without stars.
func (v written) text() (string, bool) { return v.literals[0], len(v.literals) == 1 }

// any reports a lone star.
func (v written) any() bool {
	return len(v.literals) == 2 && v.literals[0] == "" && v.literals[1] == ""
}

var ops = map[string]domain.Op{
	"<": domain.OpLess, "<=": domain.OpAtMost, ">=": domain.OpAtLeast, ">": domain.OpMore,
}

// splitField takes the operator off a field, and quotes off its steps. whole is false where a step is missing: an empty
// key stands in quotes.
func splitField(token string) (steps []string, op string, whole bool) {
	end := len(token) - 1
	if strings.HasSuffix(token, "=") {
		end--
	}
	whole = true
	for _, p := range pieces(token[:end], '.') {
		steps = append(steps, p.text)
		whole = whole && (p.text != "" || p.quoted)
	}
	return steps, token[end:], whole
}

// comparison makes the tree of a field and a value.
func (r *reader) comparison(t *term, top bool, at int, word string) (domain.Expr, error) {
	if err := r.count(at); err != nil {
		return domain.Expr{}, err
	}
	steps, op, whole := splitField(t.Field)
	v := readValue(word)
	name := strings.Join(steps, ".")
	if text, plain := v.text(); name == "sha256" && op == ":" && plain && id.MatchString(t.Field+text) {
		return r.freeText(t.Field+text, top), nil // the colon is its own
	}
	if known := strings.ToLower(name); known == "since" || known == "until" {
		return domain.Expr{}, r.time(t, known, op, v, top, at)
	}
	f, err := r.field(t, steps, whole)
	if err != nil {
		return domain.Expr{}, err
	}
	if op != ":" {
		return r.ordered(t, f, ops[op], v, at)
	}
	return r.equal(f, v, at)
}

// time reads since and until.
func (r *reader) time(t *term, name, op string, v written, top bool, at int) error {
	into, has := &r.since, &r.hasSince
	if name == "until" {
		into, has, r.untilAt = &r.until, &r.hasUntil, at
	}
	switch {
	case op != ":":
		return r.errorAt(t.Pos.Offset, name+": with a colon", "%s is the time of the search", name)
	case !top:
		return r.errorAt(
			t.Pos.Offset, name+" beside all other terms: put these into parentheses, such as (a OR b) "+name+":2h",
			"%s stands under OR or NOT, or among values", name,
		)
	case *has:
		return r.errorAt(t.Pos.Offset, "one of them", "%s stands twice", name)
	}
	text, plain := v.text()
	if plain {
		var err error
		if *into, err = domain.ParseInstant(text, r.now); err == nil {
			*has = true
			return nil
		}
	}
	return r.errorAt(
		at,
		"a time such as 2026-07-31T10:00Z, or how long ago: 15m, 24h, 7d",
		"%.60q is no time",
		strings.Join(v.literals, "*"),
	)
}

// idName is how the language spells FieldDecisionID, which is its name as well.
const idName = "id"

// field finds the field of a comparison.
func (r *reader) field(t *term, steps []string, whole bool) (domain.Expr, error) {
	if !whole {
		return domain.Expr{}, r.errorAt(
			t.Pos.Offset, `a key on both sides of each dot, or "" for an empty one`, "%.60q has a step without a key", t.Field,
		)
	}
	if len(steps) == 1 {
		name := domain.Field(strings.ToLower(steps[0]))
		if name == idName {
			name = domain.FieldDecisionID
		}
		if _, known := domain.FieldOf(domain.DecisionFields, name); known || name == domain.FieldLatency {
			return domain.Expr{Field: name}, nil
		}
	}
	if path := eventPath(steps); path != nil {
		return domain.Expr{Field: domain.FieldEvent, Path: path}, nil
	}
	return domain.Expr{}, r.errorAt(t.Pos.Offset, knownFields, "there is no field %.60q", strings.Join(steps, "."))
}

// eventPath is where steps lead to in an event, or nil.
func eventPath(steps []string) []string {
	first, rest := strings.ToLower(steps[0]), steps[1:]
	if first == "input" || first == "result" {
		return append([]string{first}, rest...)
	}
	if len(rest) == 0 {
		return nil
	}
	switch first {
	case "event":
		return rest
	case "label", "labels":
		return []string{"labels", strings.Join(rest, ".")}
	case "bundle":
		return []string{"bundles", strings.Join(rest, "."), "revision"}
	case "bundles":
		if len(rest) > 1 && rest[len(rest)-1] == "revision" {
			return []string{"bundles", strings.Join(rest[:len(rest)-1], "."), "revision"}
		}
	}
	return nil
}

// fieldList lists them for people, but for the time.
var fieldList = func() string {
	names := []string{idName}
	for _, f := range domain.DecisionFields {
		names = append(names, string(f.Name))
	}
	return strings.Join(names, ", ") + ", latency, label.NAME, bundle.NAME, input.…, result.…, event.…"
}()

// knownFields is what may stand in front of a colon.
var knownFields = "one of " + fieldList + ", since, until; a text with a colon in it stands in quotes"

// equal makes the tree of field:value.
func (r *reader) equal(f domain.Expr, v written, at int) (domain.Expr, error) {
	text, plain := v.text()
	info, column := domain.FieldOf(domain.DecisionFields, f.Field)
	switch {
	case v.any():
		f.Op = domain.OpPresent
		return f, nil
	case f.Field == domain.FieldLatency:
		return r.ordered(nil, f, domain.OpEqual, v, at)
	case column && info.Kind == domain.Policy:
		v.literals[0] = strings.TrimLeft(v.literals[0], "/") // as it is stored
		text = v.literals[0]
	case column && info.Kind == domain.Enum:
		for i := range v.literals {
			v.literals[i] = strings.ToLower(v.literals[i])
		}
		if text = v.literals[0]; plain && !slices.Contains(info.Values, text) {
			return f, r.errorAt(at, "one of "+strings.Join(info.Values, ", "), "%.60q is no %s", text, info.What)
		}
	}
	switch {
	case plain && text == "" && column:
		return f, r.errorAt(at, "a text, or * for any", "the value is empty, which no decision's is")
	case plain:
		f.Op, f.Value, f.Quoted = domain.OpEqual, text, v.quoted && !column
	case len(v.literals) == 2 && v.literals[1] == "" && column:
		f.Op, f.Value = domain.OpPrefix, v.literals[0]
	default:
		f.Op, f.Value = domain.OpGlob, domain.Glob(v.literals...)
	}
	if f.Op == domain.OpPrefix && f.Value == "" { // a slash alone
		f.Op = domain.OpPresent
	}
	return f, nil
}

// ordered makes the tree of a comparison by order.
func (r *reader) ordered(t *term, f domain.Expr, op domain.Op, v written, at int) (domain.Expr, error) {
	f.Op = op
	text, plain := v.text()
	f.Value = text
	switch {
	case f.Field == domain.FieldLatency:
		d, err := time.ParseDuration(text)
		if err != nil || !plain || d < 0 {
			return f, r.errorAt(
				at,
				"a duration such as 10ms, 1.5s or 250us",
				"%.60q is no duration",
				strings.Join(v.literals, "*"),
			)
		}
		f.Value = d.String()
		return f, nil
	case f.Field != domain.FieldEvent:
		return f, r.errorAt(
			t.Pos.Offset,
			"a colon, or a field of the event such as input.amount",
			"%s is a text, which is not before or behind another",
			f.Field,
		)
	}
	if _, isNumber := number(text); plain && isNumber {
		return f, nil
	}
	if at, err := domain.ParseInstant(text, r.now); plain && err == nil && strings.Contains(text, "-") {
		f.Value = at.Format(time.RFC3339Nano)
		return f, nil
	}
	return f, r.errorAt(at, "a number such as 1000, or a time such as 2026-07-31T10:00Z", "%.60q is neither",
		strings.Join(v.literals, "*"))
}
