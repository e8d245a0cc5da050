package app

import (
	"context"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/status"
)

// callers know who asks, on each listener.
type callers struct {
	upload, console auth.Authenticator
	uses            *auth.Uses
	known           map[string]*auth.Credentials // by listener
	// sessions are people's, where they log in; nil otherwise.
	sessions *auth.Sessions
}

// logins are the issuers whom people log in with.
func (c *Config) logins() bool {
	return slices.ContainsFunc(c.Sections.Issuers, func(i auth.Issuer) bool { return i.Login != nil })
}

// authenticators make the callers of the role's listeners: by what they show where something is granted to a
// credential, and otherwise everybody alike, which Config.Validate allows on loopback or when it is told to.
func (a *App) authenticators(ctx context.Context) (c callers, err error) {
	known, err := a.credentials(ctx)
	if err != nil {
		return c, err
	}
	c.uses, c.known = auth.NewUses(a.logger), known
	for listener, of := range known {
		of.Listener, of.Uses = listener, c.uses
		c.uses.List(listener, of.Tokens)
	}
	c.upload, c.console = auth.AnonymousUploader(), auth.AnonymousOperator()
	if upload := known[auth.UploadListener]; upload != nil {
		c.upload = upload
	}
	if console := known[auth.ConsoleListener]; console != nil {
		c.console = console
		if console.Tokens != nil || a.cfg.logins() {
			c.sessions, err = auth.NewSessions(
				console, a.cfg.Sections.Issuers, a.cfg.Console.SessionKeyFile, a.logger,
			)
			if err != nil {
				return c, err
			}
			c.console = c.sessions
		}
	}
	refused := auth.NewRefusals(a.reg)
	c.upload = auth.Watch(c.upload, auth.UploadListener, refused, a.logger)
	watched := auth.Watch(c.console, auth.ConsoleListener, refused, a.logger)
	c.console = watched
	if c.sessions != nil {
		c.sessions.Refused = watched.Refused
	}
	return c, nil
}

// callersEvery is how often docket looks whether it can know those who come.
const callersEvery = 5 * time.Second

// lookAtCallers tells the process's health of listeners that cannot know those who come, until ctx is done. Files that
// are broken while nobody comes are noticed by it as well.
func (a *App) lookAtCallers(ctx context.Context, known map[string]*auth.Credentials) {
	tick := time.NewTicker(callersEvery)
	defer tick.Stop()
	for {
		for listener, of := range known {
			role := status.Ingest
			if listener == auth.ConsoleListener {
				role = status.Console
			}
			var m *domain.Message
			if why, all := of.Trouble(); why != nil {
				said := domain.Say(status.CallersUnknown, domain.Args{
					"listener": listener, "error": why.Error(), "refusing": all,
				})
				m = &said
			}
			a.health.Callers(role, m)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// listenersOf are those of a role that ask who somebody is, with what a line in their file of tokens grants.
func listenersOf(role status.Role) map[string]auth.Grant {
	out := map[string]auth.Grant{}
	if role.Is(status.Ingest) {
		out[auth.UploadListener] = auth.Uploader
	}
	if role.Is(status.Console) {
		out[auth.ConsoleListener] = auth.ConsoleUser
	}
	return out
}

// credentials are those of each listener of the role that asks for some.
func (a *App) credentials(ctx context.Context) (map[string]*auth.Credentials, error) {
	var authorities *auth.Authorities
	var err error
	listeners := listenersOf(a.role)
	if a.cfg.TLSClientCAFile != "" && len(listeners) > 0 {
		authorities, err = auth.LoadAuthorities(a.cfg.TLSClientCAFile, a.cfg.TLSClientCRLFile, a.logger)
		if err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	a.onStop("keys of issuers", func(context.Context) error { cancel(); return nil })
	asked := slices.DeleteFunc(slices.Clone(a.cfg.Sections.Issuers), func(i auth.Issuer) bool {
		for listener := range listeners {
			if len(i.Audiences) > 0 && auth.Granted(listener, []auth.Issuer{i}, nil) {
				return false
			}
		}
		return true
	})
	keys, err := auth.LoadKeys(ctx, asked, a.reg, a.logger)
	if err != nil {
		return nil, err
	}
	out := map[string]*auth.Credentials{}
	for listener, grant := range listeners {
		if !a.cfg.asks(listener) {
			continue
		}
		known := &auth.Credentials{
			Issuers: auth.NewIssuers(listener, a.cfg.Sections.Issuers, keys),
			Certificates: auth.NewCertificates(
				authorities, listener, a.cfg.Sections.ClientCertificates, slices.Contains(a.cfg.TLSClientRequired, listener),
			),
		}
		if file := a.cfg.tokensFile(listener); file != "" {
			if known.Tokens, err = auth.LoadTokens(file, grant, a.logger); err != nil {
				return nil, err
			}
		}
		out[listener] = known
	}
	return out, nil
}
