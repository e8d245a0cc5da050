package auth

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/docket-project/docket/internal/domain"
)

// Watched counts whom an Authenticator refuses, and logs the first of a minute: somebody guesses tokens, or an OPA has
// one that was revoked, and decisions pile up there.
type Watched struct {
	who      Authenticator
	listener string
	refused  prometheus.Counter
	logger   *slog.Logger
	say      rate.Sometimes
}

// NewRefusals registers the counter of refusals, which the listeners of a process share.
func NewRefusals(reg prometheus.Registerer) *prometheus.CounterVec {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "docket_auth_failures_total", Help: "Requests without credentials, or with unknown ones.",
	}, []string{"listener"})
	if reg != nil {
		reg.MustRegister(refused)
	}
	return refused
}

// Watch watches who at a listener.
func Watch(who Authenticator, listener string, refused *prometheus.CounterVec, logger *slog.Logger) *Watched {
	return &Watched{
		who: who, listener: listener, refused: refused.WithLabelValues(listener), logger: logger,
		say: rate.Sometimes{First: 1, Interval: time.Minute},
	}
}

// Authenticate asks the one that is watched.
func (w *Watched) Authenticate(r *http.Request) (domain.Caller, error) {
	caller, err := w.who.Authenticate(r)
	if err != nil && domain.ClassOf(err) != domain.Unavailable { // which is not the caller's fault
		w.Refused(r, err)
	}
	return caller, err
}

// Refused notes that whoever asks was refused.
func (w *Watched) Refused(r *http.Request, err error) {
	w.refused.Inc()
	w.say.Do(func() {
		w.logger.Error(
			"a request was refused for its credentials; docket_auth_failures_total counts those of the next minute. On the "+
				"upload listener it may be an OPA of yours, whose decisions wait there",
			"listener", w.listener, "from", r.RemoteAddr, "why", err,
		)
	})
}
