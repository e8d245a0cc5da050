package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/docket-project/docket/internal/adapters/api"
)

// Credentials is `docket credentials`.
type Credentials struct {
	Console `embed:""`
	Form    `embed:""`
}

// Run lists credentials, the last used first.
func (c *Credentials) Run(ctx context.Context, out Out) error {
	answer, err := c.get(ctx, "/api/v1/credentials", nil)
	if err != nil {
		return err
	}
	list, err := read[api.Items[json.RawMessage]](answer)
	if err != nil {
		return err
	}
	if c.Output != "table" {
		return printItems(out.Stdout, list.Items, c.Output)
	}
	if len(list.Items) == 0 {
		fmt.Fprintln(out.Stderr, "There is none: nobody is asked who they are, or no process has told of its files yet.")
		return nil
	}
	t := newTable(
		out.Stdout, "LISTENER", "NAME", "KIND", "CREDENTIAL", "TENANT", "ROLE", "STATE", "LAST USED", "FROM", "USES",
		"EXPIRES",
	)
	for _, item := range list.Items {
		k, err := read[api.Credential](item)
		if err != nil {
			return err
		}
		t.row(
			k.Listener, k.Name, k.Kind, cut(t, string(k.Credential), 40), cmp.Or(string(k.Tenant), "all"), string(k.Role),
			string(k.State), t.when(k.LastUsed), string(k.LastAddress), count(k.Uses), t.when(k.ExpiresAt),
		)
	}
	return t.flush()
}
