package domain

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// outcomes has a case for every row of the table of shapes, and for what stands close beside it. Wrong is worse than
// unknown: an outcome of allowed has to be right.
var outcomes = []struct {
	name, event string
	want        Outcome
	reason      string
}{
	// Errors and undefined.
	{"absent is undefined", `{}`, OutcomeUndefined, ""},
	{"null is not undefined", `{"result":null}`, OutcomeUnknown, ""},
	{"error beats everything", `{"result":true,"error":{"code":"x"}}`, OutcomeError, ""},
	{"an empty error is one", `{"error":{}}`, OutcomeError, ""},
	{"even null is one", `{"result":true,"error":null}`, OutcomeError, ""},
	{"undefined as OPA's server says it", `{"error":{"code":"undefined_document","message":"x"}}`, OutcomeUndefined, ""},
	{"undefined as OPA's SDK says it", `{"error":{"code":"opa_undefined_error","message":"/a decision was undefined"}}`,
		OutcomeUndefined, ""},
	{"undefined as the Envoy plugin says it", `{"error":{"message":"undefined decision"}}`, OutcomeUndefined, ""},
	{"undefined as text", `{"error":"undefined decision"}`, OutcomeUndefined, ""},
	{"undefined as a code and text", `{"error":"opa_undefined_error: /a decision was undefined"}`, OutcomeUndefined, ""},
	{"an error that speaks of undefined", `{"error":"undefined function data.f"}`, OutcomeError, ""},
	{"an erased result", `{"erased":["/result"]}`, OutcomeUnknown, ""},
	{"a verdict that a star replaced", `{"result":{"allow":true},"masked":["/result/*"]}`, OutcomeUnknown, ""},
	{"a verdict under a star", `{"result":{"allow":{"allow":true}},"erased":["/result/*/deny"]}`, OutcomeUnknown, ""},
	{"a star beside the verdict", `{"result":{"allow":true,"users":{"a":{}}},"erased":["/result/users/*/email"]}`,
		OutcomeAllowed, ""},
	{"what a star erased from a deny set", `{"path":"a/deny","input":{},"result":{},"erased":["/result/*"]}`,
		OutcomeDenied, ""},

	// The compile API.
	{"compile: nothing fits", `{"path":"filters/include","custom":{"type":"open-policy-agent/compile"}}`, OutcomeDenied, ""},
	{"compile: an empty answer", `{"custom":{"type":"open-policy-agent/compile"},"result":{}}`, OutcomeDenied, ""},
	{"compile: everything fits", `{"custom":{"type":"open-policy-agent/compile"},"result":{"query":""}}`, OutcomeAllowed, ""},
	{"compile: everything fits, as a tree", `{"custom":{"type":"open-policy-agent/compile"},"result":{"query":{}}}`,
		OutcomeAllowed, ""},
	{"compile: everything, but masked", `{"custom":{"type":"open-policy-agent/compile"},"result":{"query":"","masks":{"a":{}}}}`,
		OutcomeUnknown, ""},
	{"compile: some", `{"custom":{"type":"open-policy-agent/compile"},"result":{"query":"WHERE a = 1"}}`, OutcomeUnknown, ""},
	{"compile: several targets", `{"custom":{"type":"open-policy-agent/compile"},"result":{"ucast":{"query":{}}}}`,
		OutcomeUnknown, ""},
	{"compile: erased", `{"custom":{"type":"open-policy-agent/compile"},"erased":["/result"]}`, OutcomeUnknown, ""},
	{"compile: the query is erased", `{"custom":{"type":"open-policy-agent/compile"},"result":{},"erased":["/result/query"]}`,
		OutcomeUnknown, ""},
	{"partial evaluation", `{"path":"a/allow","result":{"queries":[[]],"support":[]}}`, OutcomeUnknown, ""},

	// Booleans.
	{"true of nobody's", `{"result":true}`, OutcomeAllowed, ""},
	{"false of nobody's", `{"result":false}`, OutcomeDenied, ""},
	{"allow", `{"path":"a/allow","result":true}`, OutcomeAllowed, ""},
	{"allow is false", `{"path":"a/allow","result":false}`, OutcomeDenied, ""},
	{"is_allowed", `{"path":"a/is_allowed","result":false}`, OutcomeDenied, ""},
	{"isAllowed", `{"path":"a/isAllowed","result":true}`, OutcomeAllowed, ""},
	{"authz of the Terraform tutorial", `{"path":"terraform/analysis/authz","result":false}`, OutcomeDenied, ""},
	{"allow_read", `{"path":"a/allow_read","result":true}`, OutcomeAllowed, ""},
	{"can_read", `{"path":"a/can_read","result":false}`, OutcomeDenied, ""},
	{"can_not_read", `{"path":"a/can_not_read","result":true}`, OutcomeUnknown, ""},
	{"cannot", `{"path":"a/cannot_read","result":true}`, OutcomeUnknown, ""},
	{"deny is true", `{"path":"a/deny","result":true}`, OutcomeDenied, ""},
	{"deny is false", `{"path":"a/deny","result":false}`, OutcomeAllowed, ""},
	{"should_deny", `{"path":"a/should_deny","result":true}`, OutcomeDenied, ""},
	{"deny_all", `{"path":"a/deny_all","result":true}`, OutcomeDenied, ""},
	{"not_allowed", `{"path":"a/not_allowed","result":true}`, OutcomeDenied, ""},
	{"is_not_allowed", `{"path":"a/is_not_allowed","result":true}`, OutcomeDenied, ""},
	{"is-blocked", `{"path":"a/is-blocked","result":true}`, OutcomeDenied, ""},
	{"unauthorized", `{"path":"a/unauthorized","result":true}`, OutcomeDenied, ""},
	{"a flag", `{"path":"a/is_admin","result":true}`, OutcomeUnknown, ""},
	{"no flag", `{"path":"a/is_admin","result":false}`, OutcomeUnknown, ""},
	{"a warning", `{"path":"a/warn","result":true}`, OutcomeUnknown, ""},
	{"sample", `{"path":"spacelift/sample","result":true}`, OutcomeUnknown, ""},
	{"a query that names a rule", `{"query":"data.envoy.authz.allow","result":false}`, OutcomeDenied, ""},
	{"a query that names a deny rule", `{"query":"data.a[\"b-c\"].deny","result":true}`, OutcomeDenied, ""},
	{"a query with an object", `{"query":"data.envoy.authz.allow","result":{"allowed":false,"http_status":403}}`,
		OutcomeDenied, "HTTP 403"},
	{"a query of bindings", `{"query":"data.a.allow","result":[{}]}`, OutcomeUnknown, ""},
	{"a query of more", `{"query":"data.a.allow = x","result":[{"x":true}]}`, OutcomeUnknown, ""},
	{"a query of more, with a boolean", `{"query":"not data.a.allow","result":true}`, OutcomeUnknown, ""},

	// Sets at names.
	{"a deny set", `{"path":"a/deny","input":{},"result":["no tag","no owner"]}`, OutcomeDenied, "no tag; no owner"},
	{"an empty deny set", `{"path":"a/deny","input":{"a":1},"result":[]}`, OutcomeAllowed, ""},
	{"an empty deny set without an input", `{"path":"a/deny","result":[ ]}`, OutcomeUnknown, ""},
	{"an empty deny set with a null", `{"path":"a/deny","input":null,"result":[]}`, OutcomeUnknown, ""},
	{"an empty deny set with an erased input", `{"path":"a/deny","erased":["/input"],"result":[]}`, OutcomeAllowed, ""},
	{"violations as constraints have them",
		`{"path":"k8srequiredlabels/violation","input":{},"result":[{"msg":"you must provide labels: {\"gatekeeper\"}","details":{"missing_labels":["gatekeeper"]}}]}`,
		OutcomeDenied, `you must provide labels: {"gatekeeper"}`},
	{"an object that is a deny set", `{"path":"a/deny","input":{},"result":{"no-root":true,"no-host":true}}`, OutcomeDenied,
		"no-root; no-host"},
	{"a map of messages", `{"path":"a/violations","input":{},"result":{"r1":"runs as root"}}`, OutcomeDenied, "runs as root"},
	{"an empty object at deny", `{"path":"a/deny","input":{},"result":{}}`, OutcomeAllowed, ""},
	{"text at deny", `{"path":"a/deny","input":{},"result":"not on Sundays"}`, OutcomeDenied, "not on Sundays"},
	{"no text at deny", `{"path":"a/deny","input":{},"result":""}`, OutcomeUnknown, ""},
	{"allowed at deny", `{"path":"a/deny","input":{},"result":{"allow":true}}`, OutcomeUnknown, ""},
	{"a word for it at deny", `{"path":"a/deny","input":{},"result":"allow"}`, OutcomeUnknown, ""},
	{"denied at deny", `{"path":"a/deny","input":{},"result":{"allow":false,"reason":"x"}}`, OutcomeDenied, "x"},
	{"errors", `{"path":"a/errors","input":{},"result":["bad"]}`, OutcomeDenied, "bad"},
	{"no errors", `{"path":"a/errors","input":{},"result":[]}`, OutcomeUnknown, ""},
	{"failures", `{"path":"a/failures","input":{},"result":[]}`, OutcomeAllowed, ""},
	{"denials", `{"path":"a/denials","input":{},"result":[{"reason":"r"},{"description":"d"},"s"]}`, OutcomeDenied, "r; d; s"},
	{"warnings", `{"path":"a/warn","input":{},"result":["old image"]}`, OutcomeUnknown, "old image"},
	{"a set of anything", `{"path":"a/roles","input":{},"result":["a"]}`, OutcomeUnknown, ""},

	// Objects with booleans.
	{"allow in an object", `{"result":{"allow":true}}`, OutcomeAllowed, ""},
	{"allowed in an object", `{"result":{"allowed":false,"reasons":["a","b"]}}`, OutcomeDenied, "a; b"},
	{"any false", `{"result":{"allowed":true,"allow":false}}`, OutcomeDenied, ""},
	{"allow that is no boolean", `{"result":{"allow":"yes","allowed":true}}`, OutcomeAllowed, ""},
	{"capitals", `{"result":{"Allow":false,"Msg":"no"}}`, OutcomeDenied, "no"},
	{"the last of two results", `{"result":true,"result":false}`, OutcomeDenied, ""},
	{"the last of two objects", `{"result":{"allow":true},"result":{}}`, OutcomeUnknown, ""},
	{"the last of two members", `{"result":{"allow":true,"allow":false}}`, OutcomeDenied, ""},
	{"allow beside a deny", `{"input":{},"result":{"allow":true,"deny":["x"]}}`, OutcomeUnknown, "x"},
	{"allow beside a deny of its own name", `{"input":{},"result":{"allow":true,"deny_root":["x"]}}`, OutcomeUnknown, "x"},
	{"allow beside an empty deny", `{"result":{"allow":true,"deny":[]}}`, OutcomeAllowed, ""},
	{"allow beside the action that was asked about", `{"result":{"allow":true,"action":"read"}}`, OutcomeAllowed, ""},
	{"allow beside a word for deny", `{"result":{"allow":true,"decision":"deny"}}`, OutcomeUnknown, ""},
	{"not allowed beside an empty deny", `{"input":{},"result":{"allow":false,"deny":[]}}`, OutcomeDenied, ""},
	{"an AdmissionReview",
		`{"path":"system/main","result":{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"allowed":false,"status":{"message":"image comes from elsewhere"}}}}`,
		OutcomeDenied, "image comes from elsewhere"},
	{"an AdmissionReview that is allowed", `{"path":"system/main","result":{"response":{"allowed":true,"uid":"x"}}}`,
		OutcomeAllowed, ""},
	{"AuthZEN", `{"path":"a/x","result":{"decision":false,"context":{"reason_user":{"403":"Ask your administrator"}}}}`,
		OutcomeDenied, "Ask your administrator"},
	{"AuthZEN's reason for administrators", `{"result":{"decision":false,"context":{"reason_admin":{"en":"policy C076E82F"}}}}`,
		OutcomeDenied, "policy C076E82F"},
	{"Envoy's headers", `{"result":{"allowed":false,"headers":{"x-ext-auth-reason":"no role"},"http_status":401}}`,
		OutcomeDenied, "no role"},
	{"Envoy's body", `{"result":{"allowed":false,"body":"Unauthorized","http_status":401}}`, OutcomeDenied, "Unauthorized"},
	{"a status is no reason to allow", `{"result":{"allowed":true,"http_status":200}}`, OutcomeAllowed, ""},
	{"warnings of what is allowed", `{"result":{"allow":true,"warnings":["old client"]}}`, OutcomeAllowed, "old client"},
	{"an explanation", `{"result":{"granted":false,"explanation":"outside hours"}}`, OutcomeDenied, "outside hours"},
	{"an object that says nothing", `{"path":"a/allow","result":{"x":1}}`, OutcomeUnknown, ""},
	{"an empty object", `{"path":"a/allow","result":{}}`, OutcomeUnknown, ""},
	{"a package as a whole", `{"path":"httpapi/authz","input":{},"result":{"allow":false,"subordinates":{"bob":[]}}}`,
		OutcomeDenied, ""},

	// Words.
	{"a string", `{"path":"a/x","result":"Permit"}`, OutcomeAllowed, ""},
	{"XACML's deny", `{"result":"Deny"}`, OutcomeDenied, ""},
	{"NotApplicable", `{"result":"NotApplicable"}`, OutcomeUnknown, ""},
	{"a role", `{"path":"a/allow","result":"admin"}`, OutcomeUnknown, ""},
	{"Backstage", `{"result":{"result":"DENY"}}`, OutcomeDenied, ""},
	{"Backstage with a condition", `{"result":{"result":"CONDITIONAL","conditions":{"anyOf":[]}}}`, OutcomeUnknown, ""},
	{"an effect", `{"result":{"effect":"ALLOWED"}}`, OutcomeAllowed, ""},
	{"an effect with dashes", `{"result":{"Effect":"de-nied","reason":"r"}}`, OutcomeDenied, "r"},
	{"a challenge", `{"result":{"decision":"challenge"}}`, OutcomeUnknown, ""},
	{"allowed with a challenge", `{"result":{"decision":"allow","outcome":"challenge"}}`, OutcomeUnknown, ""},
	{"allowed to block", `{"result":{"decision":"allow","action":"block"}}`, OutcomeUnknown, ""},
	{"allowed to read", `{"result":{"decision":"allow","action":"read"}}`, OutcomeAllowed, ""},
	{"a word beside a deny set", `{"input":{},"result":{"decision":"allow","violations":["v"]}}`, OutcomeUnknown, "v"},
	{"a word beside false", `{"result":{"effect":"allow","allowed":false}}`, OutcomeDenied, ""},

	// Deny keys.
	{"a deny set in an object", `{"input":{},"result":{"deny":["a"],"warn":["b"]}}`, OutcomeDenied, "a"},
	{"an empty one", `{"input":{},"result":{"deny":[],"warn":["b"]}}`, OutcomeAllowed, "b"},
	{"an empty one without an input", `{"result":{"deny":[]}}`, OutcomeUnknown, ""},
	{"an empty one beside a verdict of another type", `{"input":{},"result":{"deny":[],"allow":"x"}}`, OutcomeUnknown, ""},
	{"an empty one beside something like a verdict", `{"input":{},"result":{"deny":[],"can_read":false}}`, OutcomeUnknown, ""},
	{"deny is true in an object", `{"result":{"deny":true}}`, OutcomeDenied, ""},
	{"denied is false", `{"input":{},"result":{"denied":false}}`, OutcomeAllowed, ""},
	{"one empty, one filled", `{"input":{},"result":{"deny":[],"violations":[{"msg":"m"}]}}`, OutcomeDenied, "m"},
	{"null is neither", `{"input":{},"result":{"deny":null}}`, OutcomeUnknown, ""},
	{"a set of a name of its own", `{"input":{},"result":{"deny_root":["r"],"deny_host":[]}}`, OutcomeDenied, "r"},
	{"empty sets of names of their own", `{"input":{},"result":{"deny_root":[],"deny_host":[]}}`, OutcomeAllowed, ""},
	{"several sets", `{"input":{},"result":{"deny":["a"],"violation_x":[{"msg":"b"}],"deny_y":["c"],"deny_z":[]}}`,
		OutcomeDenied, "a; b; c"},
	{"a list with a similar name", `{"input":{},"result":{"denylist":["a"]}}`, OutcomeUnknown, ""},

	// Reviews and results of several checks.
	{"a SubjectAccessReview", `{"result":{"kind":"SubjectAccessReview","status":{"allowed":true}}}`, OutcomeAllowed, ""},
	{"one that denies", `{"result":{"status":{"allowed":false,"denied":true,"reason":"blocked"}}}`, OutcomeDenied, "blocked"},
	{"one without an opinion", `{"result":{"status":{"allowed":false,"reason":"no opinion"}}}`, OutcomeUnknown, "no opinion"},
	{"evaluations", `{"result":{"evaluations":[{"decision":true},{"decision":false,"context":{"reason":"not yours"}}]}}`,
		OutcomeDenied, "[1] not yours"},
	{"evaluations that are all true", `{"result":{"evaluations":[{"decision":true},{"decision":true}]}}`, OutcomeAllowed, ""},
	{"evaluations of which one suffices",
		`{"input":{"options":{"evaluations_semantic":"permit_on_first_permit"}},"result":{"evaluations":[{"decision":false},{"decision":true}]}}`,
		OutcomeAllowed, "[0]"},
	{"evaluations of which none does",
		`{"input":{"options":{"evaluations_semantic":"permit_on_first_permit"}},"result":{"evaluations":[{"decision":false}]}}`,
		OutcomeDenied, "[0]"},
	{"no evaluations", `{"result":{"evaluations":[]}}`, OutcomeUnknown, ""},
	{"AuthZEN's search", `{"result":{"results":[{"type":"user","id":"a"}]}}`, OutcomeUnknown, ""},
	{"Styra's enforce", `{"path":"policy/enforce","result":[{"allowed":true,"message":"ok"},{"allowed":false,"message":"no"}]}`,
		OutcomeDenied, "no"},
	{"Styra's enforce without a denial", `{"path":"policy/enforce","result":[{"allowed":true}]}`, OutcomeUnknown, ""},
	{"Conftest's results",
		`{"path":"x/y","result":[{"filename":"a","successes":1},{"filename":"b","failures":[{"msg":"runs as root"}]}]}`,
		OutcomeDenied, "runs as root"},
	{"Trino's batch", `{"path":"trino/batch","input":{},"result":[0,2]}`, OutcomeUnknown, ""},
	{"Trino's row filters", `{"path":"trino/rowFilters","input":{},"result":[{"expression":"a > 1"}]}`, OutcomeUnknown, ""},
	{"Trino's column mask", `{"path":"trino/columnMask","input":{},"result":{"expression":"NULL"}}`, OutcomeUnknown, ""},
	{"a word of Trino's", `{"path":"trino/batch","input":{},"result":"allow"}`, OutcomeUnknown, ""},
	{"a number", `{"path":"a/allow","result":1}`, OutcomeUnknown, ""},

	// What a person may take for a no.
	{"an empty deny set beside isAllowed", `{"input":{},"result":{"isAllowed":false,"violations":[]}}`, OutcomeUnknown, ""},
	{"beside approved", `{"input":{},"result":{"approved":false,"violations":[]}}`, OutcomeUnknown, ""},
	{"beside compliant", `{"input":{},"result":{"violations":[],"compliant":false}}`, OutcomeUnknown, ""},
	{"beside should_deny", `{"input":{},"result":{"deny":[],"should_deny":true}}`, OutcomeDenied, ""},
	{"beside blocked", `{"input":{},"result":{"deny":[],"blocked":["x"]}}`, OutcomeDenied, "x"},
	{"beside denyReasons", `{"input":{},"result":{"violations":[],"denyReasons":["x"]}}`, OutcomeDenied, "x"},
	{"beside errors", `{"input":{},"result":{"deny":[],"errors":["x"]}}`, OutcomeUnknown, "x"},
	{"beside a status of denied", `{"input":{},"result":{"deny":[],"status":"denied"}}`, OutcomeUnknown, ""},
	{"beside 403", `{"input":{},"result":{"deny":[],"http_status":403}}`, OutcomeUnknown, "HTTP 403"},
	{"beside an evaluation", `{"input":{},"result":{"deny":[],"evaluations":[{"decision":false}]}}`, OutcomeDenied, "[0]"},
	{"beside enforce", `{"input":{},"result":{"deny":[],"enforce":[{"denied":true,"message":"m"}]}}`, OutcomeDenied, "m"},
	{"a word beside false", `{"result":{"effect":"allow","verdict":false}}`, OutcomeUnknown, ""},
	{"a word beside no", `{"result":{"action":"approve","allowed":"no"}}`, OutcomeUnknown, ""},
	{"a word beside is_allowed", `{"result":{"action":"grant","is_allowed":false}}`, OutcomeUnknown, ""},
	{"the action that was asked about", `{"input":{"action":"approve"},"result":{"action":"approve","reason":"not yours"}}`,
		OutcomeUnknown, "not yours"},
	{"allow beside a false verdict", `{"result":{"allow":true,"result":false}}`, OutcomeUnknown, ""},
	{"allow on a condition", `{"result":{"allow":true,"decision":"CONDITIONAL"}}`, OutcomeUnknown, ""},
	{"allow beside forbidden", `{"result":{"allow":true,"forbidden":true}}`, OutcomeUnknown, ""},
	{"allow beside is_denied", `{"result":{"allow":true,"isDenied":true}}`, OutcomeUnknown, ""},
	{"allow beside isAllowed", `{"result":{"allow":true,"isAllowed":false}}`, OutcomeUnknown, ""},
	{"allow beside an evaluation", `{"result":{"allow":true,"evaluations":[{"decision":false}]}}`, OutcomeUnknown, "[0]"},
	{"allow beside another permission", `{"result":{"allow":true,"can_delete":false}}`, OutcomeAllowed, ""},
	{"a word beside a verdict within", `{"result":{"effect":"allow","result":{"allow":false}}}`, OutcomeUnknown, ""},
	{"a review beside isAllowed", `{"result":{"status":{"allowed":true},"isAllowed":false}}`, OutcomeUnknown, ""},
	{"evaluations beside a condition", `{"result":{"evaluations":[{"decision":true}],"outcome":"pending"}}`, OutcomeUnknown, ""},
	{"a message twice", `{"result":{"allow":true,"message":"a","Message":"b"}}`, OutcomeAllowed, "b"},
	{"Allow and allow", `{"result":{"Allow":false,"allow":true}}`, OutcomeUnknown, ""},
	{"Deny and deny", `{"input":{},"result":{"Deny":["x"],"deny":[]}}`, OutcomeUnknown, ""},
	{"allow twice", `{"result":{"allow":false,"allow":true}}`, OutcomeUnknown, ""},
	{"allowed at errors", `{"path":"a/errors","result":"approved"}`, OutcomeUnknown, ""},
	{"allowed at denials", `{"path":"a/denials","input":{},"result":{"allow":true}}`, OutcomeUnknown, ""},
	{"a word at warn", `{"path":"a/warn","input":{},"result":"allow"}`, OutcomeUnknown, "allow"},
	{"an empty deny set at audit", `{"path":"a/audit","input":{},"result":{"deny":[]}}`, OutcomeUnknown, ""},
	{"allow_denied", `{"path":"a/allow_denied","result":true}`, OutcomeUnknown, ""},
	{"can_be_denied", `{"path":"a/can_be_denied","result":true}`, OutcomeUnknown, ""},
	{"deny_override", `{"path":"a/deny_override","result":false}`, OutcomeUnknown, ""},
	{"deny_missing_labels", `{"path":"a/deny_missing_labels","input":{},"result":["l"]}`, OutcomeDenied, "l"},
	{"violation_no_owner", `{"path":"a/violation_no_owner","input":{},"result":[{"msg":"m"}]}`, OutcomeDenied, "m"},
	{"a path that is none", `{"path":["x","deny"],"result":true}`, OutcomeUnknown, ""},
	{"a header's case", `{"result":{"allowed":false,"headers":{"X-Ext-Auth-Reason":"r"}}}`, OutcomeDenied, "r"},

	// Masks.
	{"an erased approved", `{"input":{},"result":{"violations":[]},"erased":["/result/approved"]}`, OutcomeUnknown, ""},
	{"an erased forbidden", `{"result":{"allow":true},"erased":["/result/forbidden"]}`, OutcomeUnknown, ""},
	{"an erased context", `{"result":{"evaluations":[{"decision":true}]},"erased":["/result/evaluations/0/context/reason_admin"]}`,
		OutcomeAllowed, ""},
	{"an evaluation that remains", `{"result":{"evaluations":[{"decision":false}]},"erased":["/result/evaluations/1"]}`,
		OutcomeDenied, "[0]"},
	{"an erased allow", `{"result":{"reasons":["r"]},"erased":["/result/allow"]}`, OutcomeUnknown, "r"},
	{"an erased deny beside allow", `{"result":{"allow":true},"erased":["/result/deny"]}`, OutcomeUnknown, ""},
	{"a deny that remains", `{"result":{"deny":["d"]},"input":{},"erased":["/result/allow"]}`, OutcomeDenied, "d"},
	{"a replaced allow", `{"result":{"allow":true},"masked":["/result/allow"]}`, OutcomeUnknown, ""},
	{"a replaced result", `{"result":true,"masked":["/result"]}`, OutcomeUnknown, ""},
	{"a replaced deny set", `{"input":{},"result":{"deny":"***"},"masked":["/result/deny"]}`, OutcomeUnknown, "***"},
	{"a replaced element", `{"input":{},"result":{"deny":["***"]},"masked":["/result/deny/0"]}`, OutcomeDenied, "***"},
	{"an erased element", `{"input":{},"result":{"deny":[]},"erased":["/result/deny/0"]}`, OutcomeDenied, ""},
	{"an erased element of a set at its name", `{"path":"a/deny","input":{},"result":[],"erased":["/result/0"]}`,
		OutcomeDenied, ""},
	{"percent-encoded", `{"result":{"allow":true},"erased":["/result/%64eny"]}`, OutcomeUnknown, ""},
	{"a parent of a verdict", `{"result":{"allow":true},"erased":["/result/response"]}`, OutcomeUnknown, ""},
	{"an erased verdict within", `{"result":{"allow":true,"response":{}},"erased":["/result/response/allowed"]}`,
		OutcomeUnknown, ""},
	{"an erased evaluation", `{"result":{"evaluations":[{"decision":true}]},"erased":["/result/evaluations/1"]}`,
		OutcomeUnknown, ""},
	{"a mask of something else", `{"result":{"allow":true},"erased":["/input/password","/result/obligations"]}`,
		OutcomeAllowed, ""},
}

func TestOutcome(t *testing.T) {
	for _, c := range outcomes {
		t.Run(c.name, func(t *testing.T) {
			p, err := NewProjector(nil)
			require.NoError(t, err)
			d, rule := p.Explain(Record{Value: []byte(c.event)})
			require.Equal(t, c.want, d.Outcome, "%s", rule)
			require.Equal(t, c.reason, d.Reason)
			require.NotEmpty(t, rule.Why)
		})
	}
}

func TestMappedOutcome(t *testing.T) {
	mappings := []Mapping{
		{Path: "custom/*", Allowed: []Condition{{Pointer: "/result/verdict/ok", When: WhenTrue}}, Undefined: OutcomeDenied,
			Reason: []string{"/result/why"}},
		{Path: "gate", Denied: []Condition{
			{Pointer: "/result/blocked", When: WhenTrue}, {Pointer: "/result/problems", When: WhenNonEmpty},
			{Pointer: "/result/level", When: WhenEquals, Equals: "9"},
		}},
		{Path: "both", Denied: []Condition{{Pointer: "/result/effect", When: WhenEquals, Equals: "Forbid"}},
			Allowed: []Condition{{Pointer: "/result/ok", When: WhenFalse}, {Pointer: "/result/fine", When: WhenNonEmpty}}},
	}
	for _, c := range []struct {
		name, event string
		want        Outcome
	}{
		{"the mapping", `{"path":"custom/a","result":{"verdict":{"ok":true},"allow":false}}`, OutcomeAllowed},
		{"the mapping beats the shapes", `{"path":"/custom/a","result":{"verdict":{"ok":false},"allow":true}}`, OutcomeDenied},
		{"the mapping leads nowhere", `{"path":"custom/a","result":{"allow":true}}`, OutcomeAllowed},
		{"the mapping leads to something else", `{"path":"custom/a","result":{"verdict":{"ok":"yes"}}}`, OutcomeUnknown},
		{"another path", `{"path":"other","result":{"verdict":{"ok":true},"allow":false}}`, OutcomeDenied},
		{"undefined", `{"path":"custom/a"}`, OutcomeDenied},
		{"undefined as an error", `{"path":"custom/a","error":"undefined decision"}`, OutcomeDenied},
		{"undefined, but erased", `{"path":"custom/a","erased":["/result"]}`, OutcomeUnknown},
		{"an error", `{"path":"custom/a","error":"x"}`, OutcomeError},
		{"a hidden verdict", `{"path":"custom/a","result":{"allow":true},"erased":["/result/verdict"]}`, OutcomeUnknown},
		{"a replaced verdict", `{"path":"custom/a","result":{"verdict":{"ok":true}},"masked":["/result/verdict/ok"]}`,
			OutcomeUnknown},
		{"a condition of denied holds", `{"path":"gate","result":{"blocked":false,"problems":["p"]}}`, OutcomeDenied},
		{"none of denied holds", `{"path":"gate","result":{"blocked":false,"problems":[]}}`, OutcomeAllowed},
		{"none of denied holds, one is hidden", `{"path":"gate","result":{"blocked":false},"erased":["/result/problems"]}`,
			OutcomeUnknown},
		{"an element was erased", `{"path":"gate","result":{"problems":[]},"erased":["/result/problems/0"]}`, OutcomeDenied},
		{"a number that is equal", `{"path":"gate","result":{"level":9}}`, OutcomeDenied},
		{"a number spelled otherwise", `{"path":"gate","result":{"level":9.0}}`, OutcomeDenied},
		{"a number with an exponent", `{"path":"gate","result":{"level":0.9e1}}`, OutcomeDenied},
		{"a number that is not says nothing", `{"path":"gate","result":{"level":8}}`, OutcomeUnknown},
		{"denied goes first", `{"path":"both","result":{"effect":"Forbid","ok":false}}`, OutcomeDenied},
		{"allowed when false", `{"path":"both","result":{"effect":"Permit","ok":false}}`, OutcomeAllowed},
		{"denied when true", `{"path":"both","result":{"ok":true}}`, OutcomeDenied},
		{"allowed when filled", `{"path":"both","result":{"fine":{"a":1}}}`, OutcomeAllowed},
		{"denied when empty", `{"path":"both","result":{"fine":""}}`, OutcomeDenied},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, project(t, c.event, mappings...).Outcome) })
	}
}

// TestColumns has the inputs of what asks OPA.
func TestColumns(t *testing.T) {
	for _, c := range []struct{ name, input, principal, action, resource string }{
		{"OPA's tutorial", `{"user":"bob","method":"GET","path":["finance","salary","alice"]}`, "bob", "GET",
			"finance/salary/alice"},
		{"Envoy", `{"attributes":{"source":{"principal":"spiffe://a/b"},"request":{"http":{"method":"GET","path":"/people?x=1"}}}}`,
			"spiffe://a/b", "GET", "/people"},
		{"Kubernetes", `{"kind":"AdmissionReview","request":{"kind":{"kind":"Pod"},"namespace":"prod","name":"web","operation":"CREATE","userInfo":{"username":"jo"}}}`,
			"jo", "CREATE", "Pod/prod/web"},
		{"Kubernetes, without a name", `{"request":{"kind":{"kind":"Namespace"},"operation":"CREATE","name":""}}`, "", "CREATE",
			"Namespace"},
		{"a constraint", `{"review":{"kind":{"kind":"Pod"},"namespace":"a","name":"b","operation":"UPDATE","userInfo":{"username":"u"}}}`,
			"u", "UPDATE", "Pod/a/b"},
		{"a manifest", `{"kind":"Deployment","metadata":{"name":"web","namespace":"prod"}}`, "", "", "Deployment/prod/web"},
		{"something with a kind", `{"kind":"invoice"}`, "", "", ""},
		{"SubjectAccessReview", `{"kind":"SubjectAccessReview","spec":{"user":"jane","resourceAttributes":{"namespace":"a","verb":"get","resource":"pods","name":"p"}}}`,
			"jane", "get", "pods/a/p"},
		{"SubjectAccessReview of a path", `{"spec":{"user":"jane","nonResourceAttributes":{"verb":"get","path":"/debug"}}}`,
			"jane", "get", "/debug"},
		{"Kafka", `{"action":{"operation":"READ","resourcePattern":{"name":"orders","resourceType":"TOPIC"}},"requestContext":{"principal":{"principalType":"User","name":"svc"}}}`,
			"svc", "READ", "orders"},
		{"Trino", `{"context":{"identity":{"user":"jo","groups":[]}},"action":{"operation":"SelectFromColumns","resource":{"table":{"catalogName":"hive","schemaName":"web","tableName":"clicks"}}}}`,
			"jo", "SelectFromColumns", "hive.web.clicks"},
		{"Trino's schema", `{"action":{"operation":"ShowTables","resource":{"schema":{"catalogName":"hive","schemaName":"web"}}}}`,
			"", "ShowTables", "hive.web"},
		{"AuthZEN", `{"subject":{"type":"user","id":"alice"},"action":{"name":"can_read"},"resource":{"type":"todo","id":"7"}}`,
			"alice", "can_read", "7"},
		{"Docker", `{"User":"","Headers":{"Authz-User":"bob"},"Method":"POST","Path":"/v1.41/containers/create?x","PathPlain":"/v1.41/containers/create"}`,
			"bob", "POST", "/v1.41/containers/create"},
		{"Kong", `{"consumer":{"username":"c"},"request":{"http":{"method":"PUT","path":"/a"}}}`, "c", "PUT", "/a"},
		{"APISIX", `{"type":"http","request":{"method":"GET","path":"/get","host":"h"},"consumer":{"username":"jack"}}`, "jack",
			"GET", "/get"},
		{"Backstage", `{"permission":{"name":"catalog.entity.delete","resourceType":"catalog-entity"},"identity":{"user":"user:default/jo","claims":[]}}`,
			"user:default/jo", "catalog.entity.delete", "catalog-entity"},
		{"SSH", `{"sysinfo":{"pam_username":"ops"}}`, "ops", "", ""},
		{"Terraform", `{"resource_changes":[{"address":"aws_instance.a","change":{"actions":["delete","create"]}},{"address":"x","change":{"actions":["no-op"]}},{"address":"y","change":{"actions":["create"]}}]}`,
			"", "delete, create", "aws_instance.a, y"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := project(t, `{"path":"a/allow","input":`+c.input+`}`)
			require.Equal(t, []string{c.principal, c.action, c.resource}, []string{d.Principal, d.Action, d.Resource})
			require.False(t, d.Sanitised)
		})
	}
}

// TestHostileEvents are read in bounded time and memory.
func TestHostileEvents(t *testing.T) {
	nested := strings.Repeat(`{"details":`, 60) + `[` + strings.Repeat("0,", 100_000) + `0]` + strings.Repeat("}", 60)
	d := project(t, `{"result":{"deny":[`+nested+`],"allow":false}}`)
	require.Equal(t, OutcomeDenied, d.Outcome)
	many := project(t, `{"result":{"allow":true},"masked":[`+strings.Repeat(`"/input/a",`, 5000)+`"/input/b"]}`)
	require.Equal(t, OutcomeUnknown, many.Outcome, "more masks than are read hide everything")
	long := project(t, `{"result":{"allow":true},"masked":["`+strings.Repeat("/", 100_000)+`x"]}`)
	require.Equal(t, OutcomeUnknown, long.Outcome)
	elsewhere := project(t, `{"result":{"allow":true},"masked":[`+strings.Repeat(`"/nd_builtin_cache/a",`, 5000)+`"/x"]}`)
	require.Equal(t, OutcomeAllowed, elsewhere.Outcome)
}

func TestMaskedColumns(t *testing.T) {
	for event, want := range map[string]string{
		`{"input":{"user":"***","action":"read"},"masked":["/input/user"]}`:                          "principal",
		`{"input":{"user":"a","path":["x","***"]},"masked":["/input/path/1"],"result":true}`:         "resource",
		`{"input":{"user":"a"},"masked":["/input/password"],"erased":["/input/user"]}`:               "",
		`{"input":"***","masked":["/input"]}`:                                                        "",
		`{"result":{"allow":false,"reason":"***"},"masked":["/result/reason"]}`:                      "reason",
		`{"input":{"user":{"id":"***"},"action":"***"},"masked":["/input/action","/input/user/id"]}`: "principal, action",
	} {
		require.Equal(t, want, project(t, event).Masked, event)
	}
}
