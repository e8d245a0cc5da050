package domain

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// source is where a column may come from: one pointer, or several whose texts are joined.
type source struct {
	// pointers lead to scalars, or arrays of them. One that ends in "?" need not lead anywhere.
	pointers []string
	join     string
	// read, unless it is nil, makes the text of what the only pointer leads to.
	read func(*capture, jsontext.Value) string
}

func at(pointer string) source { return source{pointers: []string{pointer}} }

func joined(join string, pointers ...string) source { return source{pointers: pointers, join: join} }

// The columns that builtin and plan.columns list.
const (
	columnPrincipal = iota
	columnAction
	columnResource
)

var columnNames = [...]string{columnPrincipal: "principal", columnAction: "action", columnResource: "resource"}

// separators part the scalars of an array, by column.
var separators = [...]string{columnPrincipal: ", ", columnAction: ", ", columnResource: "/"}

// builtin are the inputs of what asks OPA, by column: OPA's own tutorials and their cousins first, because theirs are
// the plainest names. The others say whose input it is.
var builtin = [...][]source{
	columnPrincipal: {
		at("/input/user"),
		at("/input/subject"),
		at("/input/principal"),
		at("/input/user/id"),
		at("/input/user/name"),
		at("/input/user/email"),
		at("/input/subject/id"), // AuthZEN
		at("/input/subject/name"),
		at("/input/subject/user"),
		at("/input/principal/id"),
		at("/input/principal/name"),
		at("/input/username"),
		at("/input/identity"),
		at("/input/token/sub"),
		at("/input/request/userInfo/username"),            // Kubernetes admission
		at("/input/review/userInfo/username"),             // constraints
		at("/input/attributes/source/principal"),          // Envoy
		at("/input/spec/user"),                            // SubjectAccessReview
		at("/input/requestContext/principal/name"),        // Kafka
		at("/input/context/identity/user"),                // Trino
		at("/input/User"),                                 // Docker
		at("/input/Headers/Authz-User"),                   // Docker
		at("/input/consumer/username"),                    // Kong, APISIX
		at("/input/identity/user"),                        // Backstage
		at("/input/sysinfo/pam_username"),                 // SSH
		at("/input/spacelift/request/triggered_by/login"), // Spacelift
	},
	columnAction: {
		at("/input/action"),
		at("/input/method"),
		at("/input/action/name"), // AuthZEN
		at("/input/operation"),
		at("/input/verb"),
		at("/input/request/operation"), // Kubernetes admission
		at("/input/review/operation"),  // constraints
		at("/input/request/method"),    // APISIX
		at("/input/attributes/request/http/method"),
		at("/input/spec/resourceAttributes/verb"),    // SubjectAccessReview
		at("/input/spec/nonResourceAttributes/verb"), // SubjectAccessReview
		at("/input/action/operation"),                // Kafka, Trino
		at("/input/Method"),                          // Docker
		at("/input/request/http/method"),             // Kong
		at("/input/permission/name"),                 // Backstage
		{pointers: []string{"/input/resource_changes"}, read: (*capture).plannedActions},
		{pointers: []string{"/input/plan/resource_changes"}, read: (*capture).plannedActions},      // Terraform Cloud
		{pointers: []string{"/input/terraform/resource_changes"}, read: (*capture).plannedActions}, // Spacelift
	},
	columnResource: {
		at("/input/resource"),
		at("/input/path"),
		at("/input/resource/id"), // AuthZEN
		at("/input/resource/name"),
		at("/input/resource/type"),
		at("/input/object"),
		at("/input/request/path"), // APISIX
		joined("/", "/input/request/kind/kind", "/input/request/namespace?", "/input/request/name?"),
		joined("/", "/input/review/kind/kind", "/input/review/namespace?", "/input/review/name?"),
		at("/input/request/name"),
		{pointers: []string{"/input/attributes/request/http/path"}, read: (*capture).pathOnly},
		joined("/", "/input/spec/resourceAttributes/resource", "/input/spec/resourceAttributes/namespace?",
			"/input/spec/resourceAttributes/name?"),
		at("/input/spec/nonResourceAttributes/path"),
		at("/input/action/resourcePattern/name"), // Kafka
		joined(".", "/input/action/resource/table/catalogName", "/input/action/resource/table/schemaName",
			"/input/action/resource/table/tableName"),
		joined(".", "/input/action/resource/column/catalogName", "/input/action/resource/column/schemaName",
			"/input/action/resource/column/tableName", "/input/action/resource/column/columnName"),
		joined(".", "/input/action/resource/schema/catalogName", "/input/action/resource/schema/schemaName"),
		at("/input/action/resource/catalog/name"),
		joined(".", "/input/action/resource/function/catalogName?", "/input/action/resource/function/schemaName?",
			"/input/action/resource/function/functionName"),
		at("/input/PathPlain"),               // Docker
		at("/input/Path"),                    // Docker
		at("/input/request/http/path"),       // Kong
		at("/input/permission/resourceType"), // Backstage
		{pointers: []string{"/input/resource_changes"}, read: (*capture).plannedResources},
		{pointers: []string{"/input/plan/resource_changes"}, read: (*capture).plannedResources},
		{pointers: []string{"/input/terraform/resource_changes"}, read: (*capture).plannedResources},
		joined("/", "/input/kind", "/input/metadata/namespace?", "/input/metadata/name"), // a Kubernetes manifest
	},
}

// pathOnly is a request's path without its query.
func (c *capture) pathOnly(v jsontext.Value) string {
	if v.Kind() != '"' {
		return ""
	}
	path, _, _ := strings.Cut(unquoted(v), "?")
	return c.clean(path, false)
}

// plannedActions are what a Terraform plan would do
// (https://developer.hashicorp.com/terraform/internals/json-format#change-representation), each once.
func (c *capture) plannedActions(changes jsontext.Value) string {
	var out []string
	c.changes(changes, func(_ string, actions []string) bool {
		for _, a := range actions {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
		return len(out) < 8 // more than Terraform knows
	})
	return c.clean(strings.Join(out, ", "), false)
}

// plannedResources are the addresses of what a Terraform plan would change.
func (c *capture) plannedResources(changes jsontext.Value) string {
	var b strings.Builder
	c.changes(changes, func(address string, _ []string) bool {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(address)
		return b.Len() <= maxText
	})
	return c.clean(b.String(), false)
}

// changes visits what a Terraform plan would change; what stays as it is, or is only read, is left out.
func (c *capture) changes(changes jsontext.Value, visit func(address string, actions []string) bool) {
	if changes.Kind() != '[' {
		return
	}
	each(changes, func(_, change jsontext.Value) bool {
		var found capture
		found.read(changePlan.plan, change)
		var actions []string
		each(found.value(changePlan.actions), func(_, action jsontext.Value) bool {
			if a := found.spell(action); a != "" && a != "no-op" && a != "read" {
				actions = append(actions, a)
			}
			return true
		})
		address := found.scalar(changePlan.address)
		return len(actions) == 0 || address == "" || visit(address, actions)
	})
}

var changePlan = func() (p struct {
	plan             *plan
	address, actions int
}) {
	root := &node{slot: -1}
	address, actions := root.at([]string{"address"}), root.at([]string{"change", "actions"})
	address.slot, actions.slot = 0, 0
	p.plan = &plan{root: root, slots: root.number(0)}
	p.address, p.actions = address.slot, actions.slot
	return p
}()
