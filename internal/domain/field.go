package domain

import "slices"

// Field is a name that a filter can use. The names are a contract: the API, the CLI and the stored filters of jobs use
// them.
type Field string

// What decisions are searched by.
const (
	FieldOutcome     Field = "outcome"
	FieldPath        Field = "path"
	FieldTenant      Field = "tenant"
	FieldReason      Field = "reason"
	FieldPrincipal   Field = "principal"
	FieldAction      Field = "action"
	FieldResource    Field = "resource"
	FieldOPA         Field = "opa"
	FieldApp         Field = "app"
	FieldRevision    Field = "revision"
	FieldTraceID     Field = "trace_id"
	FieldBatchID     Field = "batch_decision_id"
	FieldRequestedBy Field = "requested_by"
	FieldError       Field = "error"
)

// What a search reads in the event itself. No table of fields has them.
const (
	// FieldEvent is a value in the event, at Expr.Path.
	FieldEvent Field = "event"
	// FieldText is the whole event; see OpText.
	FieldText Field = "text"
	// FieldLatency is how long the decision took, in nanoseconds.
	FieldLatency Field = "latency"
)

// What dead letters are searched by, besides tenant and path.
const (
	FieldID          Field = "id"
	FieldState       Field = "state"
	FieldClass       Field = "class"
	FieldCode        Field = "code"
	FieldFingerprint Field = "fingerprint"
	FieldCause       Field = "cause"
	FieldTopic       Field = "topic"
	FieldDecisionID  Field = "decision_id"
	FieldReplay      Field = "replay"
)

// Kind is what the values of a field are.
type Kind int

// The kinds of fields.
const (
	// Text is any text; "*" behind it means a prefix.
	Text Kind = iota
	// Enum is one of a few texts.
	Enum
	// Policy is a policy path, which is stored without a slash in front.
	Policy
	// Revisions are texts of which a row has several, one for each bundle.
	Revisions
)

// FieldInfo is what everybody who reads or writes a field has to know about it.
type FieldInfo struct {
	Name Field
	Kind Kind
	// Values lists what an Enum may be, and What names one for people.
	Values []string
	What   string
	// Column is where both stores keep it.
	Column string
	// Param says that the API takes it as a query parameter.
	Param bool
	// Facetable says that its values are few enough to be counted for people.
	Facetable bool
	// Counted says that dead letters are counted by it.
	Counted bool
}

// DecisionFields lists the fields of decisions: to add one, add a line here, its column to both schemas, and the text
// to TextColumns.
var DecisionFields = []FieldInfo{
	{
		Name:      FieldOutcome,
		Kind:      Enum,
		Values:    texts(Outcomes),
		What:      "outcome",
		Column:    "outcome",
		Param:     true,
		Facetable: true,
	},
	{Name: FieldPath, Kind: Policy, Column: "path", Param: true, Facetable: true},
	{Name: FieldTenant, Column: "tenant", Param: true, Facetable: true},
	{Name: FieldReason, Column: "reason"},
	{Name: FieldDecisionID, Column: "decision_id", Param: true},
	{Name: FieldPrincipal, Column: "principal", Param: true, Facetable: true},
	{Name: FieldAction, Column: "action", Param: true, Facetable: true},
	{Name: FieldResource, Column: "resource", Param: true, Facetable: true},
	{Name: FieldOPA, Column: "opa", Param: true, Facetable: true},
	{Name: FieldApp, Column: "app", Param: true, Facetable: true},
	{Name: FieldRevision, Kind: Revisions, Column: "bundles", Param: true, Facetable: true},
	{Name: FieldTraceID, Column: "trace_id", Param: true},
	{Name: FieldBatchID, Column: "batch_decision_id", Param: true},
	{Name: FieldRequestedBy, Column: "requested_by", Param: true},
	{Name: FieldError, Column: "error", Param: true},
}

// DeadLetterFields lists the fields of dead letters.
var DeadLetterFields = []FieldInfo{
	{
		Name: FieldState, Kind: Enum, Values: texts(DeadStates), What: "state of a dead letter", Column: "state", Param: true,
		Facetable: true,
	},
	{
		Name: FieldClass, Kind: Enum, Values: texts(Classes), What: "class", Column: "class", Param: true, Facetable: true,
		Counted: true,
	},
	{Name: FieldCode, Column: "code", Param: true, Facetable: true, Counted: true},
	{Name: FieldFingerprint, Column: "fingerprint", Param: true, Facetable: true, Counted: true},
	{Name: FieldCause, Column: "cause", Param: true, Facetable: true, Counted: true},
	{Name: FieldTenant, Column: "tenant", Param: true, Facetable: true, Counted: true},
	{Name: FieldPath, Kind: Policy, Column: "path", Param: true, Facetable: true, Counted: true},
	{Name: FieldTopic, Column: "topic", Param: true, Facetable: true, Counted: true},
	{Name: FieldDecisionID, Column: "decision_id", Param: true},
	{Name: FieldReplay, Column: "replay", Param: true},
	{Name: FieldID, Column: "id", Param: true},
}

// CountedFields are those by which dead letters are counted, besides their state.
var CountedFields = func() (out []Field) {
	for _, f := range DeadLetterFields {
		if f.Counted {
			out = append(out, f.Name)
		}
	}
	return out
}()

// FieldOf finds a field in a table.
func FieldOf(table []FieldInfo, name Field) (FieldInfo, bool) {
	if i := slices.IndexFunc(table, func(f FieldInfo) bool { return f.Name == name }); i >= 0 {
		return table[i], true
	}
	return FieldInfo{}, false
}

// TextColumn is a text that is projected from an event: where the stores keep it and where a Decision has it. A text
// that is "" is absent, and null in a store.
type TextColumn struct {
	Name string
	Of   func(*Decision) *string
}

// TextColumns lists the projected texts in the order in which both stores keep them. The stores make their statements
// of it, so that a new text is a line here, one in Projector.Project and one in each schema.
var TextColumns = []TextColumn{
	{"path", func(d *Decision) *string { return &d.Path }},
	{"reason", func(d *Decision) *string { return &d.Reason }},
	{"principal", func(d *Decision) *string { return &d.Principal }},
	{"action", func(d *Decision) *string { return &d.Action }},
	{"resource", func(d *Decision) *string { return &d.Resource }},
	{"opa", func(d *Decision) *string { return &d.OPA }},
	{"app", func(d *Decision) *string { return &d.App }},
	{"trace_id", func(d *Decision) *string { return &d.TraceID }},
	{"batch_decision_id", func(d *Decision) *string { return &d.BatchID }},
	{"requested_by", func(d *Decision) *string { return &d.RequestedBy }},
	{"error", func(d *Decision) *string { return &d.Error }},
	{"masked", func(d *Decision) *string { return &d.Masked }},
}

// TextColumnOf finds where a Decision has the text of a column; nil where it has none.
func TextColumnOf(column string) func(*Decision) *string {
	for _, c := range TextColumns {
		if c.Name == column {
			return c.Of
		}
	}
	return nil
}

func texts[T ~string](values []T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}
