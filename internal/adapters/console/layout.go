package console

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/a-h/templ"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/operate"
	"github.com/docket-project/docket/internal/search"
)

// pages are those that every page leads to.
var pages = []struct{ name, path string }{
	{"Overview", "/"},
	{"Decisions", "/decisions"},
	{"Contrast", "/contrast"},
	{"Policy replay", "/replay-policy"},
	{"Dead letters", "/dead-letters"},
	{"Jobs", "/jobs"},
	{"OPAs", "/opas"},
	{"Pipeline", "/pipeline"},
	{"Audit", "/audit"},
	{"Credentials", "/credentials"},
}

// sent sends what there is of a page, before something is waited for. templ.Flush renders the block it is given, and
// without one that of the component around it, again and again.
func sent() templ.Component {
	return templ.ComponentFunc(func(ctx context.Context, w io.Writer) error {
		return templ.Flush().Render(templ.ClearChildren(ctx), w)
	})
}

// isAt reports that the page is the one that a link leads to, or one below it.
func (v *view) isAt(path string) bool {
	return v.at == path || path != "/" && strings.HasPrefix(v.at, path+"/")
}

// problemText is what a person is told of an error.
func problemText(err error) string {
	var p *api.Problem
	var refusal *operate.Refusal
	var query *search.Error
	switch {
	case errors.As(err, &p):
		return p.Detail
	case errors.As(err, &refusal):
		return api.Word(refusal.Message)
	case errors.As(err, &query):
		return query.Error()
	}
	return err.Error()
}
